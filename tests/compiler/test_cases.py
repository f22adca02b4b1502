"""Behaviour cases: each folder of ``cases`` holds a policy and a registry, and the guard or the problems to come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.files import guard_json, parse_guard_json
from saeuron_guard.errors import CompileError
from saeuron_guard.policy.load import load_policy
from tests.compiler.pretend import pretend_registry

CASES = sorted((Path(__file__).parent / "cases").iterdir())
COMPILING = [case for case in CASES if (case / "guard.json").exists()]
FAILING = [case for case in CASES if (case / "problems.txt").exists()]


def compile_case(case: Path) -> str:
    """The case's guard as the text of a file."""
    registry = pretend_registry(json.loads((case / "registry.json").read_text(encoding="utf-8")))
    return guard_json(compile_policy(load_policy(case / "policy.yaml"), registry))


def test_every_case_says_what_it_expects() -> None:
    """Each case folder has a guard or problems, and there are cases of both kinds."""
    assert sorted([*COMPILING, *FAILING]) == CASES
    assert COMPILING
    assert FAILING


@pytest.mark.parametrize("case", COMPILING, ids=lambda case: case.name)
def test_policy_compiles_to_the_expected_guard(case: Path) -> None:
    """The guard is the expected one in everything but its digests, which are checked elsewhere."""
    guard = json.loads(compile_case(case))
    del guard["digest"], guard["policy_digest"]
    assert guard == json.loads((case / "guard.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", COMPILING, ids=lambda case: case.name)
def test_guard_file_reads_back(case: Path) -> None:
    """What the compiler writes is sound, and reading and writing it again changes no byte."""
    text = compile_case(case)
    assert guard_json(parse_guard_json(text, "guard.json")) == text


@pytest.mark.parametrize("case", FAILING, ids=lambda case: case.name)
def test_policy_fails_with_the_expected_problems(case: Path) -> None:
    """All problems come at once, each with its place in the policy."""
    with pytest.raises(CompileError) as caught:
        compile_case(case)
    got = str(caught.value).replace(str(case / "policy.yaml"), "policy.yaml")
    assert got == (case / "problems.txt").read_text(encoding="utf-8").strip()
    assert caught.value.exit_code == 2
