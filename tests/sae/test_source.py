"""Checkpoints are read from folders and from the hub, and only the two files that they consist of."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.manifest import load_manifest
from saeuron_guard.sae import source as module
from saeuron_guard.sae.importing import import_sae
from saeuron_guard.sae.source import read_checkpoint
from tests.sae import checkpoints as made
from tests.sae.hub import FakeHub

OWNER = "someone/Saes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, with a repository of one folder for each hookpoint, one in a subfolder, and a pickle."""
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    for seed, name in enumerate((made.HOOKPOINT, made.OTHER, "coco")):
        made.write_sparsify(fake.remote / OWNER / name, made.random_weights(seed=seed))
    (fake.remote / OWNER / made.HOOKPOINT / "optimizer.pt").write_bytes(pickle.dumps("not wanted"))
    return fake


def read(folder: Path | str, hookpoint: str = made.HOOKPOINT) -> module.Checkpoint:
    """Read a checkpoint for a model with two hookpoints."""
    return read_checkpoint(str(folder), hookpoint, made.WIDTHS)


def test_the_hub_is_asked_for_what_is_read_and_no_more(tmp_path: Path, hub: FakeHub) -> None:
    """One hookpoint's two files arrive, through the cache's links, with the commit in provenance."""
    manifest = made.write_registry(tmp_path / "registry")
    import_sae(made.request(f"{OWNER}@v1.0", manifest))
    provenance = load_manifest(manifest).saes[0].provenance
    assert (provenance["source"], provenance["revision"]) == (f"{OWNER}/{made.HOOKPOINT}", FakeHub.commit)
    assert "huggingface_hub" in str(provenance["libraries"])
    (asked,) = hub.asked
    assert (asked["repo_id"], asked["revision"]) == (OWNER, "v1.0")
    assert {Path(name).name for name in asked["allow_patterns"]} == {
        "cfg.json", "sae.safetensors", "sae_weights.safetensors",
    }  # fmt: skip
    fetched = [path.relative_to(hub.cache) for path in hub.cache.rglob("*") if path.is_symlink()]
    assert sorted(path.name for path in fetched) == ["cfg.json", "sae.safetensors"]


def test_a_subfolder_of_the_hub(hub: FakeHub) -> None:
    """``owner/name/subfolder`` without a revision reads that folder at the default branch."""
    checkpoint = read(f"{OWNER}/coco")
    assert checkpoint.source == f"{OWNER}/coco"
    assert checkpoint.weights == (hub.remote / OWNER / "coco" / "sae.safetensors").read_bytes()
    assert hub.asked[0]["revision"] is None


def test_what_the_hub_cannot_give(hub: FakeHub) -> None:
    """An unknown repository, an empty place in a known one, and paths that climb: each is an error, not a guess."""
    with pytest.raises(ArtefactError, match=r"nobody/none: no such folder, and the hub did not give it: .*404"):
        read("nobody/none")
    with pytest.raises(ArtefactError, match=f"nothing of a checkpoint there at commit {FakeHub.commit}"):
        read(f"{OWNER}/nowhere")
    with pytest.raises(ArtefactError, match=r"has neither cfg\.json nor a subfolder"):
        read(OWNER, "unet.mid_block.attentions.0")
    asked = len(hub.asked)
    for name in (f"{OWNER}/../x", "../x", "/no/such/folder", "one-word", "a b/c"):
        with pytest.raises(ArtefactError, match="no such folder, and not a hub id"):
            read(name)
    assert len(hub.asked) == asked


def test_a_snapshot_without_a_commit_is_refused(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hands over some other folder would leave provenance without a revision."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ArtefactError, match="of which commit this is, is unknown"):
        read(OWNER)


@pytest.mark.parametrize("suffix", ["pt", "bin", "pkl", "pth", "ckpt"])
def test_pickles_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """A folder with pickles alone is refused in words, whose weights beside safetensors are passed over."""

    def loads(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(torch, "load", loads)
    monkeypatch.setattr(pickle, "load", loads)
    made.write_sparsify(tmp_path / "source")
    (tmp_path / "source" / f"sae.{suffix}").write_bytes(pickle.dumps([1]))
    assert read(tmp_path / "source").format == "sparsify"
    (tmp_path / "source" / "sae.safetensors").unlink()
    with pytest.raises(ArtefactError, match=rf"sae\.{suffix}: pickled weights can run code and are not read"):
        read(tmp_path / "source")
    (tmp_path / "source" / "cfg.json").unlink()
    with pytest.raises(ArtefactError, match="pickled weights can run code"):
        read(tmp_path / "source")


@pytest.mark.parametrize("name", ["cfg.json", "sae.safetensors"])
def test_links_stay_inside(tmp_path: Path, name: str) -> None:
    """A link to another file of the source is followed, one out of it is not; nor is a linked subfolder."""
    made.write_sparsify(tmp_path / "source" / made.HOOKPOINT)
    inner = tmp_path / "source" / made.HOOKPOINT / name
    shutil.move(inner, tmp_path / "source" / "moved")
    inner.symlink_to(tmp_path / "source" / "moved")
    assert read(tmp_path / "source").format == "sparsify"
    shutil.move(tmp_path / "source" / "moved", tmp_path / "outside")
    inner.unlink()
    inner.symlink_to(tmp_path / "outside")
    with pytest.raises(ArtefactError, match=rf"{name}: is a link out of"):
        read(tmp_path / "source")
    made.write_sparsify(tmp_path / "elsewhere")
    (tmp_path / "source" / made.OTHER).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ArtefactError, match="is a link out of"):
        read(tmp_path / "source", made.OTHER)


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration of a megabyte and weights above the limit are refused by their size; at the limit they pass."""
    made.write_sparsify(tmp_path / "source")
    size = (tmp_path / "source" / "sae.safetensors").stat().st_size
    monkeypatch.setattr(module, "LARGEST_WEIGHTS", size)
    assert len(read(tmp_path / "source").weights) == size
    monkeypatch.setattr(module, "LARGEST_WEIGHTS", size - 1)
    with pytest.raises(ArtefactError, match=rf"sae\.safetensors: has {size} bytes, expected at most {size - 1}"):
        read(tmp_path / "source")
    os.truncate(tmp_path / "source" / "cfg.json", 1 << 20)
    with pytest.raises(ArtefactError, match=r"cfg\.json: has 1048576 bytes, expected at most 65536"):
        read(tmp_path / "source")


def test_incomplete_folders(tmp_path: Path) -> None:
    """Nothing at all, no configuration, no weights, weights of two formats, another hookpoint's folder only."""
    made.write_sparsify(tmp_path / "whole")
    files = {name: (tmp_path / "whole" / name).read_bytes() for name in ("cfg.json", "sae.safetensors")}
    for number, (names, message) in enumerate(
        (
            ((), "has neither cfg.json nor a subfolder"),
            (("sae.safetensors",), "cfg.json: missing beside the weights"),
            (("cfg.json",), "holds no weights; expected cfg.json and one of sae.safetensors, sae_weights.safetensors"),
            (("cfg.json", "sae.safetensors", "sae_weights.safetensors"), "of two formats; keep the one"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(files.get(name, b""))
        with pytest.raises(ArtefactError, match=message):
            read(folder)
    made.write_sparsify(tmp_path / "several" / made.OTHER)
    with pytest.raises(ArtefactError, match=rf"It has {made.OTHER}\. Did you mean '{made.OTHER}'\?"):
        read(tmp_path / "several")
