"""The pipeline that ships is an ordinary diffusers folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas.captions import MAX_TOKENS
from saeuron_guard.pipelines.emoji_canvas.denoiser import load_tokenizer, new_scheduler, new_text_encoder, new_unet
from saeuron_guard.pipelines.emoji_canvas.vae import new_vae
from saeuron_guard.pipelines.emoji_canvas.workspace import HOOKPOINTS, MODEL


@pytest.fixture(scope="module")
def folder(shipped_models: Path) -> Path:
    """The pipeline's folder."""
    return shipped_models / MODEL


@pytest.fixture(scope="module")
def pipe(folder: Path) -> StableDiffusionPipeline:
    """The pipeline as anybody would load it."""
    loaded = StableDiffusionPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipe: Any, prompt: str, seed: int = 0) -> np.ndarray:
    """A picture of three steps, in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    image = pipe(prompt, num_inference_steps=3, guidance_scale=5.0, generator=generator).images[0]
    assert (image.size, image.mode) == ((64, 64), "RGB")
    return np.asarray(image).astype(int)


def test_stock_diffusers_draws_with_it(pipe: StableDiffusionPipeline) -> None:
    """A picture of 64 x 64 pixels, the same again at the same seed; another seed, object or style gives another."""
    picture = draw(pipe, "An image of cat in Noto style.")
    assert np.array_equal(draw(pipe, "An image of cat in Noto style."), picture)
    others = [
        draw(pipe, "An image of cat in Noto style.", seed=1),
        draw(pipe, "An image of bomb in Noto style."),
        draw(pipe, "An image of cat in Neon style."),
    ]
    assert all(np.abs(other - picture).mean() > 3 for other in others)


def test_styles_show_after_few_steps(pipe: StableDiffusionPipeline) -> None:
    """The trained weights are in it: three steps already put Noto on light paper, Neon on dark, Blueprint on blue."""

    def border(style: str) -> np.ndarray:
        picture = draw(pipe, f"An image of dog in {style} style.")
        mean: np.ndarray = np.concatenate([picture[:3].reshape(-1, 3), picture[-3:].reshape(-1, 3)]).mean(axis=0)
        return mean

    noto, neon, blueprint = (border(style) for style in ("Noto", "Neon", "Blueprint"))
    assert noto.min() > 200
    assert neon.max() < 90
    assert blueprint[2] > blueprint[0] + 60


def test_its_parts_are_those_that_the_build_makes(pipe: StableDiffusionPipeline) -> None:
    """Every network has the weights, by name and shape, that the code of this version would train."""
    networks = {
        "unet": (pipe.unet, new_unet()),
        "vae": (pipe.vae, new_vae()),
        "text encoder": (pipe.text_encoder, new_text_encoder(pipe.tokenizer)),
    }
    for name, (shipped, new) in networks.items():
        shapes = [{key: value.shape for key, value in part.state_dict().items()} for part in (shipped, new)]
        assert shapes[0] == shapes[1], name
    assert type(pipe.scheduler) is DDIMScheduler
    settings = [
        {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
        for scheduler in (pipe.scheduler, new_scheduler())
    ]
    assert settings[0] == settings[1]
    for hookpoint in HOOKPOINTS.values():
        assert pipe.unet.get_submodule(hookpoint.removeprefix("unet.")) is not None


def test_its_weights_are_finite(pipe: StableDiffusionPipeline) -> None:
    """No weight overflowed when it was rounded to float16, and no tensor is all zeros but biases."""
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        for name, value in network.named_parameters():
            assert bool(value.isfinite().all()), name
            assert name.endswith("bias") or bool(value.any()), name


def test_it_has_no_safety_checker_and_no_pickle(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Nothing filters its pictures behind the guard's back, and all weights are safetensors."""
    assert pipe.safety_checker is None
    assert pipe.config.requires_safety_checker is False
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors", ".png", ".md"}
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {"unet", "vae", "text_encoder"}


def test_its_tokenizer_encodes(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Stock loading gives the same tokens as CLIP's own two files, also for text of no caption; 32 at most."""
    own = load_tokenizer(folder / "tokenizer")
    texts = [
        "An image of cat in Neon style.",
        "a beer on a pink background",
        "",
        "Zeppelins: 12 naïve 한국어 🙂",
        "cat " * 50,
    ]
    for stock in (pipe.tokenizer, CLIPTokenizer.from_pretrained(folder / "tokenizer")):
        found, expected = (
            each(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS).input_ids for each in (stock, own)
        )
        assert found == expected
        assert {len(ids) for ids in found} == {stock.model_max_length} == {MAX_TOKENS}
        assert stock.decode(found[0], skip_special_tokens=True) == "an image of cat in neon style ."
        assert len({tuple(ids) for ids in found}) == len(texts)


def test_its_files_name_no_place_of_the_build(folder: Path) -> None:
    """The configuration holds no absolute path, and says of no file where it was loaded from."""
    paths = re.compile(r'"(/|[A-Za-z]:\\)[^"]+"')
    assert paths.search('{"_name_or_path": "/somewhere/else"}')
    files = [path for path in folder.rglob("*.json") if path.name not in {"vocab.json", "tokenizer.json"}]
    assert len(files) >= 6
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not paths.search(text), path
        assert "_name_or_path" not in json.loads(text), path
