"""What is said about each faulty policy: ``cases/<name>/policy.yaml`` and, line by line, ``expected.txt``."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from saeuron_guard.errors import PolicyError
from saeuron_guard.policy.load import load_policy

TODAY = date(2026, 11, 1)
CASES = sorted(path.parent for path in Path(__file__).parent.glob("cases/*/policy.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_policy_is_answered_as_expected(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem of the file is told, each with its place, and a valid policy has none."""
    monkeypatch.chdir(case)
    try:
        answer = f"valid {load_policy('policy.yaml', today=TODAY).digest}"
    except PolicyError as error:
        answer = str(error)
    assert answer + "\n" == Path("expected.txt").read_text(encoding="utf-8")


def test_there_are_valid_and_faulty_cases() -> None:
    """Neither a loader that refuses everything nor one that takes everything passes this module."""
    valid = [case.name for case in CASES if case.name.startswith("valid-")]
    assert len(valid) == 4
    assert len(CASES) - len(valid) > 60
    for case in CASES:
        expected = (case / "expected.txt").read_text(encoding="utf-8")
        assert expected.startswith("valid sha256:") == (case.name in valid)
