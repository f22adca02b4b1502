"""A model's record says what the pipeline is, and pins what can be pinned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from saeuron_guard.digests import digest_of_file
from saeuron_guard.discovery import model_entry as module
from saeuron_guard.discovery.model_entry import Defaults, family_of, model_entry
from saeuron_guard.errors import ArtefactError, CannotEvaluate
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.pipelines.load import load_pipeline
from tests.tiny import HOOKPOINTS, make_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's folder with a saved pipeline in ``models/tiny``."""
    root = tmp_path_factory.mktemp("registry")
    make_pipeline(root.parent / "tokenizer-source").save_pretrained(root / "models" / "tiny")
    return root


def entry(root: Path, source: Path | str, **defaults: Any) -> Any:
    """The record of the pipeline in the registry's folder, as if loaded from ``source``."""
    pipe = load_pipeline(root / "models" / "tiny", dtype=torch.bfloat16)
    return model_entry(pipe, "tiny", str(source), root, Defaults(**defaults), {"added_by": "a person"})


def test_a_folder_below_the_registry_is_pinned(saved: Path) -> None:
    """Every file that loading reads has its digest, and the rest is read from the pipeline."""
    record = entry(saved, saved / "models" / "tiny")
    folder = saved / "models" / "tiny"
    present = {
        path.relative_to(folder).as_posix(): digest_of_file(path) for path in folder.rglob("*") if path.is_file()
    }
    assert record.files == present
    assert "unet/diffusion_pytorch_model.safetensors" in present
    assert (record.path, record.family, record.resolution) == ("models/tiny", "sd1", 16)
    assert (record.steps, record.guidance, record.scheduler) == (50, 7.5, "DDIMScheduler")
    assert set(HOOKPOINTS) < set(record.hookpoints)
    assert record.provenance["added_by"] == "a person"


def test_the_fingerprint_is_that_of_full_precision(saved: Path) -> None:
    """Loading in bfloat16 to save memory gives the fingerprint that a guard will compare with."""
    record = entry(saved, saved / "models" / "tiny")
    assert record.fingerprint == fingerprint(load_pipeline(saved / "models" / "tiny"))
    assert record.fingerprint != fingerprint(make_pipeline(saved.parent / "other", seed=1))


def test_other_places_are_recorded_without_pins(saved: Path, tmp_path: Path) -> None:
    """A folder elsewhere by its absolute path, a hub id as it is: nothing there is the registry's to pin."""
    shutil.copytree(saved / "models" / "tiny", tmp_path / "copy")
    outside = entry(saved, tmp_path / "copy")
    assert (outside.path, outside.files) == (str(tmp_path / "copy"), {})
    hub = entry(saved, "owner/tiny")
    assert (hub.path, hub.files, hub.provenance["source"]) == ("owner/tiny", {}, "owner/tiny")


def test_what_is_given_goes_before_what_is_found(saved: Path) -> None:
    """Family, steps, guidance (also 0) and resolution of the options stand in the record."""
    record = entry(saved, "owner/tiny", steps=4, guidance=0.0, resolution=24, family="mine")
    assert (record.steps, record.guidance, record.resolution, record.family) == (4, 0.0, 24, "mine")


def test_a_link_out_of_the_folder_is_not_pinned(saved: Path, tmp_path: Path) -> None:
    """A digest of a file that lies elsewhere would promise too much."""
    folder = tmp_path / "models" / "linked"
    shutil.copytree(saved / "models" / "tiny", folder)
    assert module._files(folder)
    shutil.move(folder / "unet" / "config.json", tmp_path / "elsewhere.json")
    (folder / "unet" / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ArtefactError, match=r"config\.json: is a link out of"):
        module._files(folder)


class _Config:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def _pretend(kind: str, **config: Any) -> Any:
    """A pipeline whose class has this name."""
    denoiser = torch.nn.Identity()
    denoiser.config = _Config(**config)
    pipe = type(kind, (), {"__call__": lambda self, prompt: prompt})()
    pipe.transformer = denoiser
    return pipe


@pytest.mark.parametrize(
    ("kind", "config", "family"),
    [
        ("StableDiffusionPipeline", {"cross_attention_dim": 768}, "sd1"),
        ("StableDiffusionPipeline", {"cross_attention_dim": 1024}, "sd2"),
        ("StableDiffusionXLPipeline", {"cross_attention_dim": 2048}, "sdxl"),
        ("StableDiffusion3Pipeline", {}, "sd3"),
        ("FluxPipeline", {}, "flux"),
        ("PixArtSigmaPipeline", {}, "pixart"),
        ("QwenImagePipeline", {}, "qwen-image"),
        ("NewThing2Pipeline", {}, "new-thing2"),
    ],
)
def test_families_follow_from_classes(kind: str, config: dict[str, Any], family: str) -> None:
    """Known classes have the family's usual name, unknown ones their own."""
    assert family_of(_pretend(kind, **config)) == family


def test_what_cannot_be_found_is_asked_for() -> None:
    """A pipeline that says neither its resolution nor its steps: the message names the option."""
    pipe = _pretend("OddPipeline")
    with pytest.raises(CannotEvaluate, match="give --resolution"):
        module._resolution(pipe)
    with pytest.raises(CannotEvaluate, match="no default for num_inference_steps; give --steps"):
        module._call_default(pipe, "num_inference_steps", "--steps")
    assert module._call_default(StableDiffusionPipeline.__new__(StableDiffusionPipeline), "guidance_scale", "") == 7.5
