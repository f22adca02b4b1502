"""A tiny open_clip model with random weights, in the layout of a judge's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``open_clip_config.json`` and half-precision ``open_clip_model.safetensors`` of a random tiny CLIP."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG["model_cfg"])
    # At random initialisation constants drown the image, and all images would get almost the same features.
    for name, parameter in model.visual.attnpool.named_parameters():
        if name.endswith("bias") or name == "positional_embedding":
            torch.nn.init.zeros_(parameter)
    folder = tmp_path_factory.mktemp("judges") / "tiny-clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    return folder
