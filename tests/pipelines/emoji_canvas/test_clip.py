"""The judge of the release check is an ordinary open_clip model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saeuron_guard.pipelines.emoji_canvas.clip import (
    CONFIG,
    CONTEXT,
    MEAN,
    OBJECT_CAPTIONS,
    PAIR_CAPTIONS,
    STD,
    STYLE_CAPTIONS,
    save_clip,
    zero_shot_accuracy,
)
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.stages import load_clip
from saeuron_guard.pipelines.emoji_canvas.vae import to_pixels
from saeuron_guard.pipelines.emoji_canvas.workspace import Workspace
from saeuron_guard.pipelines.emoji_canvas.world import OBJECT_NAMES, STYLE_NAMES

FLOAT16 = 5e-4
"""The tolerance of embeddings of length 1, whose weights were rounded to 11 bits."""


def untrained(seed: int) -> Any:
    """A model as training starts from, after a look at some pictures that sets its running statistics."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG)
    for name, parameter in model.visual.attnpool.named_parameters():
        if name.endswith("bias") or name == "positional_embedding":
            torch.nn.init.zeros_(parameter)  # at random, these constants drown the picture
    with torch.no_grad():
        for _ in range(3):
            model.encode_image(torch.rand(8, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Any:
    """The model that is saved."""
    return untrained(0)


@pytest.fixture(scope="module")
def space(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in whose registry the model was saved."""
    root = tmp_path_factory.mktemp("build")
    made = Workspace(root / "work", root / "registry", lambda line: None)
    save_clip(model, made.clip)
    return made


@pytest.fixture(scope="module")
def loaded(space: Workspace) -> Any:
    """The model as open_clip reads it from its folder."""
    return load_clip(space)


@torch.no_grad()
def embeddings(model: Any) -> tuple[Tensor, Tensor]:
    """Embeddings of some pictures and captions, of length 1."""
    pictures = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    pictures[1, :, ::8] = 255
    pictures[2] = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures[3] = (255, 200, 0)
    captions = ["An image of cat.", "Neon style", "a Pixel dog", ""]
    return (
        model.encode_image(to_pixels(pictures), normalize=True),
        model.encode_text(open_clip.tokenize(captions, CONTEXT), normalize=True),
    )


def test_a_saved_model_embeds_as_before(model: Any, loaded: Any) -> None:
    """Loaded through ``local-dir:``, pictures and texts have the same embeddings, up to float16."""
    assert not loaded.training
    for before, after in zip(embeddings(model), embeddings(loaded), strict=True):
        assert after.dtype == torch.float32
        torch.testing.assert_close(after.norm(dim=-1), torch.ones(4))
        torch.testing.assert_close(after, before, rtol=0, atol=FLOAT16)


def test_the_tolerance_tells_models_and_inputs_apart(model: Any, loaded: Any) -> None:
    """Controls: another model's embeddings, and those of the next picture or text, lie far beyond the tolerance."""
    for mine, other, again in zip(embeddings(model), embeddings(untrained(1)), embeddings(loaded), strict=True):
        assert ((other - again).abs().amax(dim=-1) > 10 * FLOAT16).all()
        assert ((mine.roll(1, 0) - again).abs().amax(dim=-1) > 3 * FLOAT16).all()


def test_weights_are_stored_in_half_precision(model: Any, space: Workspace, loaded: Any) -> None:
    """Every floating tensor is float16, counters stay integers, and what open_clip holds is exactly what was stored."""
    stored = load_file(space.clip / "open_clip_model.safetensors")
    assert stored.keys() == model.state_dict().keys() == loaded.state_dict().keys()
    for name, value in model.state_dict().items():
        expected = value.half() if value.is_floating_point() else value
        assert stored[name].dtype == expected.dtype
        assert torch.equal(stored[name], expected)
        assert torch.equal(loaded.state_dict()[name], expected.to(value.dtype))
    counters = [value for name, value in stored.items() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == 3 for counter in counters)


def test_the_folder_says_how_pictures_are_prepared(space: Workspace) -> None:
    """open_clip's own preprocessing of the folder gives the pixels that the model was trained on."""
    from PIL import Image

    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{space.clip}")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (MEAN, STD) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    torch.testing.assert_close(preprocess(Image.fromarray(picture)), to_pixels(picture[None])[0])
    assert preprocess(Image.fromarray(picture[:32])).shape == (3, 64, 64)


def test_the_folder_holds_the_captions_of_both_domains(space: Workspace) -> None:
    """The templates that a judge reads from the folder are those of training, each with the domain's place in it."""
    config = json.loads((space.clip / "open_clip_config.json").read_text(encoding="utf-8"))
    assert config["zero_shot_templates"] == {"object": list(OBJECT_CAPTIONS), "style": list(STYLE_CAPTIONS)}
    assert all(caption.count("{object}") == 1 for caption in OBJECT_CAPTIONS + PAIR_CAPTIONS)
    assert all(caption.count("{style}") == 1 for caption in STYLE_CAPTIONS + PAIR_CAPTIONS)


def test_no_caption_is_too_long_for_the_text_tower() -> None:
    """Each caption of each pair keeps its end token within the context, so no name is cut off; a long one loses it."""
    captions = {
        caption.format(object=thing, style=style)
        for caption in OBJECT_CAPTIONS + STYLE_CAPTIONS + PAIR_CAPTIONS
        for thing in OBJECT_NAMES
        for style in STYLE_NAMES
    }
    assert len(captions) == 5 * 24 + 4 * 6 + 4 * 24 * 6
    wide = open_clip.tokenize(sorted(captions), 77)
    assert not wide[:, CONTEXT:].any()
    assert open_clip.tokenize(["An image of cat in Neon style. " * 3], 77)[:, CONTEXT:].any()


def test_the_shipped_judge_names_the_shipped_samples(shipped_models: Path, shipped_samples: Renders) -> None:
    """On one sample of every pair the nearest caption is right nine times in ten; against a shifted order, seldom."""
    judge = load_clip(Workspace(Path("unused"), shipped_models.parent, lambda line: None))
    shifted = Renders(
        shipped_samples.pictures,
        np.roll(shipped_samples.objects, 7),
        np.roll(shipped_samples.styles, 7),
        shipped_samples.backgrounds,
    )
    for domain in ("object", "style"):
        assert zero_shot_accuracy(judge, shipped_samples, domain) > 0.9, domain
        assert zero_shot_accuracy(judge, shifted, domain) < 0.3, domain
