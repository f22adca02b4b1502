"""What the stages leave: a folder that stock diffusers reads, and the judges' pictures with their reconstructions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas import stages
from saeuron_guard.pipelines.emoji_canvas.denoiser import TextAndDenoiser, assemble, new_text_encoder, new_unet
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.stages import _RENDERS, EVALUATION_SEEDS
from saeuron_guard.pipelines.emoji_canvas.vae import new_vae, to_pixels
from saeuron_guard.pipelines.emoji_canvas.workspace import Workspace
from saeuron_guard.pipelines.generation import without_progress_bar


def draw(pipe: Any) -> np.ndarray:
    """One picture of two steps, as floats."""
    with without_progress_bar(pipe):
        generator = torch.Generator().manual_seed(3)
        picture: np.ndarray = pipe("a cat", num_inference_steps=2, generator=generator, output_type="np").images[0]
    return picture


@pytest.fixture(scope="module")
def saved(
    tokenizer: CLIPTokenizer, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, np.ndarray]:
    """An untrained pipeline in the folder that ships, and what it drew before it was saved."""
    root = tmp_path_factory.mktemp("build")
    space = Workspace(root / "work", root / "registry", lambda line: None)
    shutil.copytree(tokenizer_folder, space.checkpoints / "tokenizer")
    torch.manual_seed(0)
    new_vae().save_pretrained(space.work / "vae")
    vae = AutoencoderKL.from_pretrained(space.work / "vae")  # as the stages pass it on
    made = assemble(vae, tokenizer, TextAndDenoiser(new_text_encoder(tokenizer), new_unet())).to("cpu")
    picture = draw(made)
    stages._save_pipeline(made, space)
    return space, picture


def test_the_saved_pipeline_draws_as_before(saved: tuple[Workspace, np.ndarray], tokenizer: CLIPTokenizer) -> None:
    """Stock diffusers reads the folder, with the same tokens, and draws the same picture up to float16."""
    space, picture = saved
    pipe = StableDiffusionPipeline.from_pretrained(space.model)
    assert pipe.safety_checker is None
    assert pipe.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert pipe.tokenizer.model_max_length == tokenizer.model_max_length
    assert np.abs(draw(pipe) - picture).max() < 0.02
    assert picture.std() > 0.05


def test_weights_are_half_as_large_but_for_the_text_encoder(saved: tuple[Workspace, np.ndarray]) -> None:
    """Denoiser and autoencoder are stored in float16, the text encoder in float32, and nothing as a pickle."""
    space, _ = saved
    dtypes = {
        path.parent.name: {value.dtype for value in load_file(path).values()}
        for path in space.model.glob("*/*.safetensors")
    }
    assert dtypes == {"unet": {torch.float16}, "vae": {torch.float16}, "text_encoder": {torch.float32}}
    assert {path.suffix for path in space.model.rglob("*") if path.is_file()} == {".json", ".safetensors", ".txt"}


def test_the_folder_tells_nothing_of_the_builders_disk(saved: tuple[Workspace, np.ndarray]) -> None:
    """No file names the folder of the build, though diffusers would write it; every JSON file is still JSON."""
    space, _ = saved
    vae = AutoencoderKL.from_pretrained(space.work / "vae")
    vae.save_pretrained(space.work / "control")
    assert str(space.work) in (space.work / "control" / "config.json").read_text(encoding="utf-8")
    files = sorted(space.model.rglob("*.json"))
    assert len(files) >= 6
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert str(space.work) not in text, path
        assert isinstance(json.loads(text), dict)


def test_both_forms_of_the_tokenizer_are_there(saved: tuple[Workspace, np.ndarray], tokenizer_folder: Path) -> None:
    """CLIP's own two files lie beside the newer one, unchanged, for versions of transformers that read only these."""
    space, _ = saved
    assert (space.model / "tokenizer" / "tokenizer.json").is_file()
    for name in ("vocab.json", "merges.txt"):
        assert (space.model / "tokenizer" / name).read_bytes() == (tokenizer_folder / name).read_bytes()


def test_reconstructions_follow_their_originals() -> None:
    """All renders come first, unchanged; then every other one as the autoencoder restores it, with its labels."""
    torch.manual_seed(0)
    vae = new_vae().eval()
    rng = np.random.default_rng(0)
    numbers = np.arange(5, dtype=np.int64)
    renders = Renders(rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8), numbers, numbers + 10, numbers - 1)
    found = stages._with_reconstructions(vae, renders)
    assert np.array_equal(found.pictures[:5], renders.pictures)
    assert found.objects.tolist() == [0, 1, 2, 3, 4, 0, 2, 4]
    assert found.styles.tolist() == [10, 11, 12, 13, 14, 10, 12, 14]
    assert found.backgrounds.tolist() == [-1, 0, 1, 2, 3, -1, 1, 3]
    assert (found.pictures.dtype, found.pictures.shape) == (np.dtype(np.uint8), (8, 64, 64, 3))
    with torch.no_grad():
        restored = vae.decode(vae.encode(to_pixels(renders.pictures[[2]])).latent_dist.mean).sample.clamp(-1, 1)
    assert (to_pixels(found.pictures[[6]]) - restored).abs().max() <= 1.01 / 255


def test_no_two_sets_of_renders_share_a_seed() -> None:
    """Training and test sets are different pictures; only the judges see held-out pairs."""
    assert len({arguments["seed"] for arguments in _RENDERS.values()}) == len(_RENDERS)
    assert {name for name, arguments in _RENDERS.items() if arguments["held_out"] is False} == {
        "pipeline",
        "pipeline-test",
    }
    assert len(set(EVALUATION_SEEDS)) == len(EVALUATION_SEEDS)


def test_sets_that_were_rendered_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage renders what is missing and nothing twice, so a stopped build goes on."""
    rendered: list[int] = []
    nothing = np.zeros(1, dtype=np.int64)

    def fake(artwork: Path, **arguments: Any) -> Renders:
        rendered.append(arguments["seed"])
        return Renders(np.zeros((1, 64, 64, 3), dtype=np.uint8), nothing, nothing, nothing)

    monkeypatch.setattr(stages, "render_variants", fake)
    space = Workspace(tmp_path / "work", tmp_path / "registry", lambda line: None)
    stages.data(space)
    assert rendered == [1, 2, 3, 4, 5]
    space.renders("clip").unlink()
    stages.data(space)
    assert rendered == [1, 2, 3, 4, 5, 4]
