"""``verify`` and ``generate`` as users call them: what stands where, and which exit code tells what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from saeuron_guard.cli.main import program
from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.errors import CannotEvaluate, GuardNotEffective
from saeuron_guard.verify import run
from saeuron_guard.verify.result import Pinned, VerifyResult
from tests.verify.samples import concept_of, result_of
from tests.verify.world import random_pipeline, write_registry

POLICY = """apiVersion: saeuron-guard/v1
kind: Policy
metadata: {name: no-pistol, version: 1.0.0, owner: tests}
target: {model: tiny}
concepts:
  - {concept: pistol}
retain: {domains: [object, style]}
audit: {prompts: audit.yaml, seeds: [1, 2], minimum_n: 2}
"""

PROMPTS = """apiVersion: saeuron-guard/v1
kind: PromptSet
metadata: {name: tiny-audit, role: audit, model: tiny}
expand:
  - templates: ["a {object} in {style}"]
    labels: {object: [pistol, cat], style: [Noto, Neon]}
"""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose registry has a model that can be loaded from its folder."""
    home = tmp_path_factory.mktemp("home")
    pipe = random_pipeline()
    manifest = write_registry(home / "registry", pipe)
    pipe.save_pretrained(home / "registry" / "models" / "tiny", safe_serialization=True)
    document = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    document["models"][0]["files"] = {}
    manifest.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    (home / "policy.yaml").write_text(POLICY, encoding="utf-8")
    (home / "audit.yaml").write_text(PROMPTS, encoding="utf-8")
    (home / "policies" / "prompts").mkdir(parents=True)
    (home / "migrations").symlink_to(Path(__file__).parents[2] / "migrations")
    return home


@pytest.fixture
def home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That home, as the program's."""
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(shared_home))
    monkeypatch.chdir(shared_home)
    return shared_home


def call(*arguments: str) -> Result:
    """The program's answer."""
    return CliRunner().invoke(program, list(arguments))


def answer_with(monkeypatch: pytest.MonkeyPatch, result: VerifyResult | Exception) -> list[dict[str, Any]]:
    """Replace the run by a known result of the compiled policy; gives the arguments it was called with."""
    called: list[dict[str, Any]] = []

    def known(policy: Any, registry: Any, **arguments: Any) -> VerifyResult:
        called.append(arguments)
        arguments["on_progress"]("drawing", 1, 2)
        if isinstance(result, Exception):
            raise result
        pinned = Pinned(policy.name, policy.digest)
        return replace(result, policy=pinned, guard_digest=compile_policy(policy, registry).digest)

    monkeypatch.setattr(run, "run_verify", known)
    return called


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (result_of(), 0),
        (result_of(concepts=(concept_of(guarded_shown=40),)), 1),
        (result_of(concepts=(concept_of(base_shown=0),)), 3),
        (result_of(notes=("a smaller budget",), strict=True), 4),
    ],
)
def test_the_exit_code_is_the_results(
    home: Path, monkeypatch: pytest.MonkeyPatch, result: VerifyResult, code: int
) -> None:
    """Text and JSON leave with the code that they state; JSON is one object and nothing else on stdout."""
    answer_with(monkeypatch, result)
    text, value = call("verify", "policy.yaml"), call("verify", "policy.yaml", "--format", "json")
    assert (text.exit_code, value.exit_code) == (code, code)
    assert text.stdout.rstrip().endswith(f"(exit code {code})")
    assert without_pins(json.loads(value.stdout)) == without_pins(json.loads(json.dumps(result.to_json())))
    assert "drawing: 1 of 2" in value.stderr


def without_pins(stated: dict[str, Any]) -> dict[str, Any]:
    """A result without what the compiled policy replaced in it."""
    return {name: value for name, value in stated.items() if name not in ("policy", "guard")}


@pytest.mark.parametrize("error", [CannotEvaluate("no such judge"), GuardNotEffective("a step without the guard")])
def test_errors_exit_with_3_and_no_verdict(home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What goes wrong on the way is told on stderr and never looks like a verdict."""
    answer_with(monkeypatch, error)
    result = call("verify", "policy.yaml", "--format", "json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert str(error) in result.stderr


def test_options_reach_the_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds, prompts, limits, judge and strictness are passed on as given, and None when not."""
    called = answer_with(monkeypatch, result_of())
    call("verify", "policy.yaml")
    call(
        "verify", "policy.yaml", "--seeds", "3, 1,3", "--prompts", "other.yaml", "--max-images-per-concept", "5",
        "--max-retain-images", "7", "--judge", "me", "--strict",
    )  # fmt: skip
    for arguments in called:
        del arguments["on_progress"]
    names = ("judge", "prompts", "seeds", "max_per_concept", "max_retain")
    assert called[0] == {**dict.fromkeys(names), "strict": False}
    assert called[1] == {
        "judge": "me", "prompts": "other.yaml", "seeds": (3, 1), "max_per_concept": 5, "max_retain": 7, "strict": True,
    }  # fmt: skip


def test_what_was_verified_is_recorded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy, guard and each run with its verdict; nothing with --no-record, and none of a guard that is another."""

    def runs() -> list[Any]:
        stated = json.loads(call("registry", "history", "no-pistol", "--format", "json").stdout)
        return [event["payload"] for event in stated if event["kind"] == "verification"]

    answer_with(monkeypatch, result_of())
    call("verify", "policy.yaml")
    before = runs()
    call("verify", "policy.yaml", "--no-record")
    assert runs() == before
    answer_with(monkeypatch, result_of(concepts=(concept_of(guarded_shown=40),)))
    assert call("verify", "policy.yaml").exit_code == 1
    *others, last = runs()
    assert others == before
    assert (last["verdict"], last["exit_code"], last["images"], last["seeds"]) == ("fail", 1, 4, [1])
    (guard,) = json.loads(call("registry", "guards", "--format", "json").stdout)
    assert (guard["verification"]["verdict"], guard["digest"]) == ("fail", last["guard_digest"])
    assert guard["verification"]["figures"]["concepts"][0]["concept"] == "pistol"
    monkeypatch.setattr(run, "run_verify", lambda *_, **__: result_of())
    stale = call("verify", "policy.yaml")
    assert stale.exit_code == 3
    assert "it changed meanwhile, and nothing was recorded" in stale.stderr
    assert runs() == [*before, last]


@pytest.mark.parametrize(
    "arguments", [("--seeds", "1,x"), ("--seeds", ""), ("--max-images-per-concept", "0"), ("--format", "xml")]
)
def test_wrong_options_are_usage_errors(home: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2, before anything is drawn."""
    assert call("verify", "policy.yaml", *arguments).exit_code == 2


def test_pages_and_images_are_written(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--html writes the page, --out the JSON, the page and every image, into folders that are made."""
    result = result_of()
    answer_with(monkeypatch, result)
    page, out = tmp_path / "new" / "page.html", tmp_path / "out"
    assert call("verify", "policy.yaml", "--html", str(page), "--out", str(out)).exit_code == 0
    assert page.read_text(encoding="utf-8") == (out / "report.html").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["verdict"] == "pass"
    assert result.images is not None
    assert np.array_equal(np.asarray(Image.open(out / "images" / "0001-with.png")), result.images.guarded[1])
    assert len(list((out / "images").iterdir())) == 4


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where a folder should be is an error before minutes of drawing."""
    called = answer_with(monkeypatch, result_of())
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = call("verify", "policy.yaml", "--html", str(tmp_path / "file" / "page.html"))
    assert result.exit_code == 3
    assert "cannot be made into a folder" in result.stderr
    assert called == []


def test_verify_from_files_to_verdict(home: Path) -> None:
    """Nothing replaced: policy, prompts, registry and model come from files, and a judge that is not there is told."""
    result = call("verify", "policy.yaml", "--judge", "nobody")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no judge 'nobody'" in result.stderr


def test_generate_writes_the_pair_and_the_report(home: Path, tmp_path: Path) -> None:
    """Both pictures differ, the report names guard and prompt, and the same seed gives the same pictures again."""
    first, again = tmp_path / "first", tmp_path / "again"
    arguments = ("generate", "--policy", "policy.yaml", "--prompt", "a pistol in Neon", "--seed", "3", "--out")
    result = call(*arguments, str(first), "--format", "json")
    assert result.exit_code == 0, result.stderr
    names = {"without.png", "with.png", "side_by_side.png", "heat.png", "report.json"}
    assert {path.name for path in first.iterdir()} == names
    report = json.loads((first / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads(result.stdout)
    assert (report["prompt"], report["seed"], report["policy"]["name"]) == ("a pistol in Neon", 3, "no-pistol")
    assert report["guard"]["report"]["concepts"][0]["fired"] is True
    without, guarded = (np.asarray(Image.open(first / name)) for name in ("without.png", "with.png"))
    assert without.shape == guarded.shape == (16, 16, 3)
    assert not np.array_equal(without, guarded)
    text = call(*arguments, str(again))
    assert "pistol: fired in 3 of 3 steps" in text.stdout
    assert all((again / name).read_bytes() == (first / name).read_bytes() for name in names)


def test_generate_needs_a_valid_policy(home: Path, tmp_path: Path) -> None:
    """A policy with a mistake is exit code 2 with its place, and writes nothing."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("pistol}", "pistol, strenght: 1}"), encoding="utf-8")
    result = call("generate", "--policy", str(bad), "--prompt", "x", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert f"{bad}:6:" in result.stderr
    assert not (tmp_path / "out").exists()
