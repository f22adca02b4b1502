"""A build keeps its files apart from what ships, its figures together, and stops at a command that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saeuron_guard.errors import ArtefactError
from saeuron_guard.pipelines.emoji_canvas.workspace import HOOKPOINTS, MODEL, Workspace


@pytest.fixture
def lines() -> list[str]:
    """What was logged."""
    return []


@pytest.fixture
def space(tmp_path: Path, lines: list[str]) -> Workspace:
    """A workspace in two folders that do not exist yet."""
    return Workspace(tmp_path / "work", tmp_path / "registry", lines.append)


def test_what_ships_lies_in_the_registry_and_the_rest_does_not(space: Workspace) -> None:
    """Models, SAEs and statistics have their places in the registry; artwork, renders and checkpoints do not."""
    shipping = [space.model, space.classifiers, space.clip, space.saes, space.statistics]
    assert [path.relative_to(space.registry).as_posix() for path in shipping] == [
        "models/emoji-canvas",
        "models/emoji-canvas-judges",
        "models/emoji-canvas-clip",
        "saes/emoji-canvas",
        "statistics/emoji-canvas",
    ]
    own = [space.artwork, space.checkpoints, space.renders("clip"), space.renders("pipeline")]
    assert len(set(own)) == 4
    assert all(path.is_relative_to(space.work) for path in own)


def test_the_shipped_files_are_where_a_build_writes_them(shipped_models: Path) -> None:
    """The registry of the package has the model and the classifiers at the places that the stages write to."""
    shipped = Workspace(Path("unused"), shipped_models.parent, lambda line: None)
    assert (shipped.model / "model_index.json").is_file()
    assert (shipped.classifiers / "object" / "config.json").is_file()
    assert shipped.model.name == MODEL
    assert len(HOOKPOINTS) == 2


def test_figures_of_all_stages_are_kept_together(space: Workspace, lines: list[str]) -> None:
    """A stage adds its figures to the file, replaces its own earlier ones, and says them."""
    space.record("vae", {"psnr_db": 30.0})
    space.record("judges", {"n": 8})
    space.record("vae", {"psnr_db": 31.5})
    path = space.model / "figures.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"judges": {"n": 8}, "vae": {"psnr_db": 31.5}}
    assert path.read_text(encoding="utf-8").index("judges") < path.read_text(encoding="utf-8").index("vae")
    assert lines == ['vae: {"psnr_db": 30.0}', 'judges: {"n": 8}', 'vae: {"psnr_db": 31.5}']


def test_a_command_that_fails_stops_the_build(
    space: Workspace, lines: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error names the command and its exit code, after the command's own words; one that works raises none."""
    space.command("policy", "--help")
    assert "Usage" in capfd.readouterr().out
    missing = str(tmp_path / "none.yaml")
    with pytest.raises(ArtefactError, match=r"^saeuron-guard policy validate ended with exit code [23]$"):
        space.command("policy", "validate", missing)
    assert "none.yaml: there is no such file" in capfd.readouterr().out
    assert lines == ["saeuron-guard policy --help", f"saeuron-guard policy validate {missing}"]
