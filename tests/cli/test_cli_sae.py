"""``sae train`` and ``sae score`` on a small pipeline's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from saeuron_guard.cli.sae import sae
from tests.tiny import HOOKPOINTS, make_pipeline

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
    """A folder with a pipeline and a prompt set."""
    folder = tmp_path_factory.mktemp("cli-sae")
    make_pipeline(folder / "tokenizer").save_pretrained(folder / "model")
    (folder / "small.yaml").write_text(PROMPT_SET)
    return folder


def _run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(sae, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_train_then_score(folder: Path) -> None:
    """Two coders are trained on the same images and scored into one statistics file for each method."""
    hookpoints = [part for name in HOOKPOINTS for part in ("--hookpoint", name)]
    code, out, progress = _run(
        "train", folder / "model", *hookpoints, "--prompts", folder / "small.yaml", "--out", folder / "saes",
        "--num-latents", 32, "--k", 4, "--steps", 20, "--batch-positions", 256, "--seeds", "0-1", *COMMON,
    )  # fmt: skip
    assert code == 0, out + progress
    rows = json.loads(out)
    assert [row["hookpoint"] for row in rows] == list(HOOKPOINTS)
    assert all(0 < row["fvu"] < 1.5 for row in rows)
    assert "step 20/20" in progress

    coders = [part for name in HOOKPOINTS for part in ("--sae", folder / "saes" / name)]
    code, out, progress = _run(
        "score", folder / "model", *coders, "--prompts", folder / "small.yaml", "--out", folder / "statistics",
        "--method", "paper", "--method", "difference", "--top", 5, *COMMON,
    )  # fmt: skip
    assert code == 0, out + progress
    files = [row["file"] for row in json.loads(out)]
    assert len(files) == 4
    assert all(load_file(file)["index"].shape == (4, 2, 5) for file in files)


def test_usage_mistakes_are_told(folder: Path) -> None:
    """Seeds that overlap, seeds that are no numbers, an unknown method and missing settings exit with 2 and advice."""
    train = ("train", folder / "model", "--hookpoint", HOOKPOINTS[0], "--prompts", folder / "small.yaml")
    train += ("--out", folder / "never")
    for arguments, message in (
        ((*train, *COMMON, "--seeds", "0,1000"), "held out"),
        ((*train, *COMMON, "--seeds", "one"), "expected whole numbers or ranges"),
        (train, "--denoising-steps"),
        (
            ("score", folder, "--sae", folder, "--prompts", folder / "small.yaml", "--out", folder, "--method", "best"),
            "paper, difference",
        ),
    ):
        code, _, errors = _run(*arguments)
        assert code == 2
        assert message in errors
    assert not (folder / "never").exists()
