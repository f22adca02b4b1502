"""Pipelines load from a registry name, a folder or the hub, and only from files that are as they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from safetensors.torch import load_file

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, RegistryError
from saeuron_guard.pipelines.load import load_pipeline
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import MODEL, write_synthetic_registry
from tests.tiny import draw, make_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A saved tiny pipeline, and a picture that it drew before."""
    folder = tmp_path_factory.mktemp("saved")
    pipe = make_pipeline(folder / "tokenizer-source")
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline", draw(pipe)


@pytest.fixture
def folder(saved: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    """A copy of the saved pipeline that a test may spoil."""
    shutil.copytree(saved[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def registered(saved: tuple[Path, torch.Tensor], tmp_path: Path) -> Iterator[FeatureRegistry]:
    """A registry in which the saved pipeline is the model "tiny", its files pinned."""
    manifest = write_synthetic_registry(tmp_path / "registry")
    model = tmp_path / "registry" / "models" / MODEL
    shutil.rmtree(model)
    shutil.copytree(saved[0], model)
    document = yaml.safe_load(manifest.read_text())
    document["models"][0]["files"] = {
        path.relative_to(model).as_posix(): digest_of_file(path) for path in sorted(model.rglob("*")) if path.is_file()
    }
    manifest.write_text(yaml.safe_dump(document, sort_keys=False))
    with FeatureRegistry.open(manifest=manifest) as registry:
        yield registry


def drawn(pipe: Any) -> torch.Tensor:
    """The picture of a loaded pipeline, without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return draw(pipe)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_loads(saved: tuple[Path, torch.Tensor], kind: Callable[[Path], str | Path]) -> None:
    """A local folder gives the pipeline that was saved, in float32, without a safety checker."""
    pipe = load_pipeline(kind(saved[0]))
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert pipe.safety_checker is None
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert torch.equal(drawn(pipe), saved[1])


def test_dtype_and_device_are_applied(saved: tuple[Path, torch.Tensor]) -> None:
    """All components get the dtype that is asked for."""
    pipe = load_pipeline(saved[0], dtype=torch.bfloat16, device="cpu")
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


def test_a_registry_name_loads(saved: tuple[Path, torch.Tensor], registered: FeatureRegistry) -> None:
    """A registered model loads by its name, from below the registry's own folder."""
    assert torch.equal(drawn(load_pipeline(MODEL, registry=registered)), saved[1])


def test_a_registry_name_wins_over_a_folder(
    registered: FeatureRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name in the working directory does not stand in for the registered model."""
    (tmp_path / MODEL).mkdir()
    monkeypatch.chdir(tmp_path)
    load_pipeline(MODEL, registry=registered)
    with pytest.raises(ArtefactError, match=r"model_index\.json"):
        load_pipeline(f"./{MODEL}/.", registry=registered)


def test_an_unknown_name_is_said_to_be(registered: FeatureRegistry) -> None:
    """A name that nothing answers to is the registry's error, with a suggestion."""
    with pytest.raises(RegistryError, match="tiny"):
        load_pipeline("tinny", registry=registered)


def test_changed_missing_and_added_files_are_refused(registered: FeatureRegistry) -> None:
    """One bit of a registered model's weights, a file less or a file more: refused before anything is loaded."""
    model = registered.artefact_root / "models" / MODEL
    weights = model / UNET
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtefactError, match="not the registered file"):
        load_pipeline(MODEL, registry=registered)
    weights.unlink()
    with pytest.raises(ArtefactError, match="missing"):
        load_pipeline(MODEL, registry=registered)
    weights.write_bytes(data)
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ArtefactError, match="does not know this file"):
        load_pipeline(MODEL, registry=registered)
    shutil.rmtree(model)
    with pytest.raises(ArtefactError, match="there is no folder"):
        load_pipeline(MODEL, registry=registered)


def test_pickled_weights_are_refused(folder: Path) -> None:
    """A component with a pickle and no safetensors file is refused by name; beside one, the pickle is not read."""
    pickle = folder / "unet" / "diffusion_pytorch_model.bin"
    pickle.write_bytes(b"never read")
    load_pipeline(folder)
    (folder / UNET).unlink()
    with pytest.raises(ArtefactError, match="pickled weights can run code"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), r"model_index\.json: cannot be read"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "expected a JSON object"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read"),
        (lambda folder: rename_class(folder, "EvilPipeline"), "'EvilPipeline' is not a pipeline"),
        (lambda folder: (folder / UNET).write_bytes(b"short"), "cannot be loaded as a pipeline"),
        (lambda folder: (folder / UNET).unlink(), "cannot be loaded as a pipeline"),
    ],
)
def test_a_spoilt_folder_is_one_clear_error(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    """Whatever is wrong with a folder comes as an ArtefactError of one line that names the place."""
    load_file(folder / UNET)
    spoil(folder)
    with pytest.raises(ArtefactError, match=message) as caught:
        load_pipeline(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def rename_class(folder: Path, name: str) -> None:
    """Have ``model_index.json`` ask for another pipeline class."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    """What can only be a path is an error at once."""
    for path in (tmp_path / "none", "./none", str(tmp_path / "a" / "b")):
        with pytest.raises(ArtefactError, match="no such folder"):
            load_pipeline(path)


def test_a_hub_id_is_downloaded(saved: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """owner/name is fetched as safetensors and loaded like a folder; without network the error says what to do."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(name: str, **settings: Any) -> str:
        asked.append((name, settings))
        if name == "owner/gone":
            raise ConnectionError("no route to host\nand a stack of details")
        return str(saved[0])

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    assert torch.equal(drawn(load_pipeline("owner/name")), saved[1])
    assert asked == [("owner/name", {"use_safetensors": True, "safety_checker": None})]
    with pytest.raises(ArtefactError, match="check the name, the network") as caught:
        load_pipeline("owner/gone")
    assert "details" not in str(caught.value)
