"""The tokenizer, learnt once for all tests of EmojiCanvas, and the shipped model with the sheet of its samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas.captions import write_tokenizer
from saeuron_guard.pipelines.emoji_canvas.denoiser import load_tokenizer
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.world import OBJECT_NAMES, STYLE_NAMES, combinations
from saeuron_guard.resources import data_folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``vocab.json`` and ``merges.txt`` as learnt from the captions."""
    folder = tmp_path_factory.mktemp("emoji-canvas") / "tokenizer"
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> CLIPTokenizer:
    """The tokenizer of ``tokenizer_folder``."""
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def shipped_models() -> Path:
    """The registry's folder of models."""
    return data_folder("registry") / "models"


@pytest.fixture(scope="session")
def shipped_samples(shipped_models: Path) -> Renders:
    """The sheet that ships beside the pipeline, cut up: one picture that it drew of every pair, in table order."""
    with Image.open(shipped_models / "emoji-canvas" / "samples.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    rows, columns = pixels.shape[0] // 64, pixels.shape[1] // 64
    tiles = pixels.reshape(rows, 64, columns, 64, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 64, 64, 3)
    pairs = combinations()
    objects = np.array([OBJECT_NAMES.index(thing.name) for thing, _ in pairs])
    styles = np.array([STYLE_NAMES.index(style.name) for _, style in pairs])
    return Renders(tiles[: len(pairs)], objects, styles, np.full(len(pairs), -1))
