"""``sae train``, ``sae collect`` and ``sae score`` on a small pipeline's folder."""

from __future__ import annotations

import getpass
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from saeuron_guard.cli import origin
from saeuron_guard.cli.main import program
from saeuron_guard.digests import digest_of_file
from saeuron_guard.discovery.sparse_files import read_sparse
from saeuron_guard.registry.artefact import read_statistics
from tests.tiny import HOOKPOINTS, LATENTS, K, make_coder, make_pipeline

PROMPT_SET = """\
apiVersion: saeuron-guard/v1
kind: PromptSet
metadata: {name: small, role: anchor, model: small}
expand:
  - templates: ["{object} in {style}"]
    labels: {object: [bomb, cat], style: [Neon, Pixel]}
"""
COMMON = ("--denoising-steps", "2", "--guidance", "5", "--format", "json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline, a prompt set and an autoencoder for each hookpoint."""
    folder = tmp_path_factory.mktemp("cli-sae")
    make_pipeline(folder / "tokenizer").save_pretrained(folder / "model")
    (folder / "small.yaml").write_text(PROMPT_SET)
    for seed, hookpoint in enumerate(HOOKPOINTS):
        make_coder(seed).save(folder / "coders" / hookpoint)
    return folder


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are at the same second, so that their provenance is the same, too."""
    monkeypatch.setattr(origin, "utc_now", lambda: "2025-01-02T03:04:05Z")


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and messages of ``saeuron-guard sae``."""
    result = CliRunner().invoke(program, ["sae", *(str(argument) for argument in arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def rows(*arguments: object) -> list[dict[str, Any]]:
    """What a command that must succeed prints as JSON."""
    code, out, progress = run(*arguments)
    assert code == 0, out + progress
    found: list[dict[str, Any]] = json.loads(out)
    return found


def asked(folder: Path, out: str) -> tuple[object, ...]:
    """What ``collect`` and ``score`` need to collect from the small pipeline."""
    coders = [part for name in HOOKPOINTS for part in ("--sae", folder / "coders" / name)]
    return (folder / "model", *coders, "--prompts", folder / "small.yaml", "--out", folder / out, *COMMON)


def test_train(folder: Path) -> None:
    """Two coders are trained on the same images, and can be scored."""
    hookpoints = [part for name in HOOKPOINTS for part in ("--hookpoint", name)]
    code, out, progress = run(
        "train", folder / "model", *hookpoints, "--prompts", folder / "small.yaml", "--out", folder / "saes",
        "--num-latents", 32, "--k", 4, "--steps", 20, "--batch-positions", 256, "--seeds", "0-1", *COMMON,
    )  # fmt: skip
    assert code == 0, out + progress
    found = json.loads(out)
    assert [row["hookpoint"] for row in found] == list(HOOKPOINTS)
    assert all(0 < row["fvu"] < 1.5 for row in found)
    assert "step 20/20" in progress
    trained = ("--sae", folder / "saes" / HOOKPOINTS[0], "--prompts", folder / "small.yaml", "--top", 5)
    (row,) = rows("score", folder / "model", *trained, "--out", folder / "trained", *COMMON)
    assert load_file(row["file"])["index"].shape == (4, 2, 5)


def test_collecting_and_scoring_apart_gives_what_both_at_once_gives(folder: Path) -> None:
    """One statistics file for each hookpoint and method, the same bytes by either way, without the model by one."""
    methods = ("--method", "paper", "--method", "difference", "--top", 5)
    at_once = rows("score", *asked(folder, "at-once"), *methods)
    collected = rows("collect", *asked(folder, "collected"))
    assert [(row["hookpoint"], row["digest"]) for row in collected] == [
        (name, digest_of_file(folder / "collected" / f"{name}.statistics.safetensors")) for name in HOOKPOINTS
    ]
    files = [part for row in collected for part in ("--statistics", row["file"])]
    apart = rows("score", *files, "--out", folder / "apart", *methods, "--format", "json")
    assert [row | {"file": ""} for row in apart] == [row | {"file": ""} for row in at_once]
    assert len({row["digest"] for row in apart}) == 4
    for row in apart:
        assert digest_of_file(Path(row["file"])) == row["digest"]
        assert read_statistics(Path(row["file"]), row["digest"], num_latents=LATENTS).index.shape == (4, 2, 5)


def test_what_is_collected_says_where_it_comes_from(folder: Path) -> None:
    """Model, autoencoder, prompts, seeds, sampling, precision, versions, revision, who and when; scores keep it all."""
    (row, _) = rows("collect", *asked(folder, "by-me"), "--by", "me", "--seeds", "3")
    found = read_sparse(Path(row["file"]), row["digest"])
    provenance = found.provenance
    assert provenance["sae_digest"] == make_coder(0).digest
    expected = {"hookpoint": HOOKPOINTS[0], "seeds": [3], "steps": 2, "guidance": 5.0, "scheduler": "DDIMScheduler"}
    expected |= {"dtype": "float32", "by": "me", "when": "2025-01-02T03:04:05Z", "prompt_set": "small"}
    assert expected.items() <= provenance.items()
    assert {"model_fingerprint", "prompt_set_digest", "git_revision", "batch_size", "rows"} <= set(provenance)
    assert {"diffusers", "numpy", "safetensors", "torch", "transformers"} <= set(provenance["libraries"])
    assert found.statistics.num_latents == LATENTS
    assert 0 < found.statistics.fired.sum() <= K * found.statistics.count.sum()
    (scored,) = rows("score", "--statistics", row["file"], "--out", folder / "by-me", "--format", "json")
    kept = read_statistics(Path(scored["file"]), scored["digest"], num_latents=LATENTS).provenance
    assert kept == {**provenance, "method": "paper", "domains": {"object": ["bomb", "cat"], "style": ["Neon", "Pixel"]}}


def test_the_login_name_answers_for_what_nobody_puts_a_name_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the default of --by; where there is none, the message says to give one, before any image is made."""
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    (row, _) = rows("collect", *asked(folder, "login"))
    assert read_sparse(Path(row["file"])).provenance["by"] == "somebody"

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    code, _, errors = run("collect", *asked(folder, "nobody"))
    assert (code, "--by" in errors) == (2, True)
    assert not (folder / "nobody").exists()


def test_usage_mistakes_are_told(folder: Path) -> None:
    """Seeds that overlap or are no numbers, unknown methods, settings missing or at odds: exit 2 and advice."""
    train = ("train", folder / "model", "--hookpoint", HOOKPOINTS[0], "--prompts", folder / "small.yaml")
    train += ("--out", folder / "never")
    out = ("--out", folder / "never")
    (row, _) = rows("collect", *asked(folder, "mistakes"))
    for arguments, message in (
        ((*train, *COMMON, "--seeds", "0,1000"), "held out"),
        ((*train, *COMMON, "--seeds", "one"), "expected whole numbers or ranges"),
        (train, "--denoising-steps"),
        (("score", "--statistics", row["file"], *out, "--method", "best"), "paper, difference"),
        (("score", "--statistics", row["file"], "--statistics", row["file"], *out), "same hookpoint"),
        (("score", "--statistics", row["file"], *out, "--seeds", "1"), "--seeds says how statistics are collected"),
        (("score", folder / "model", "--statistics", row["file"], *out), "MODEL says how statistics are collected"),
        (("score", *out), "MODEL, --sae, --prompts missing"),
        (("score", folder / "model", "--prompts", folder / "small.yaml", *out), ": --sae missing"),
        (("collect", folder / "model", "--prompts", folder / "small.yaml", *out), "Missing option '--sae'"),
    ):
        code, _, errors = run(*arguments)
        assert code == 2
        assert message in " ".join(errors.split())
    assert not (folder / "never").exists()


def test_a_file_of_scores_is_not_taken_for_statistics(folder: Path) -> None:
    """Exit 3 with what the file is and what was expected."""
    (row, _) = rows("collect", *asked(folder, "confused"))
    (scored,) = rows("score", "--statistics", row["file"], "--out", folder / "confused", "--format", "json")
    code, _, errors = run("score", "--statistics", scored["file"], "--out", folder / "confused")
    assert code == 3
    assert "format is 'saeuron-guard/statistics-v1', expected 'saeuron-guard/sparse-statistics-v1'" in errors


def test_the_revision_of_a_checkout_is_told(tmp_path: Path) -> None:
    """A commit's digest where there is a checkout with one, else nothing, also below somebody else's checkout."""
    assert origin.git_revision(tmp_path) is None
    git = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert origin.git_revision(tmp_path) is None
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "one"], check=True)
    found = origin.git_revision(tmp_path)
    assert found is not None
    assert re.fullmatch("[0-9a-f]{40}", found)
    (tmp_path / "file").write_text("two")
    assert origin.git_revision(tmp_path) == f"{found}-dirty"
    (tmp_path / "package").mkdir()
    assert origin.git_revision(tmp_path / "package") is None
