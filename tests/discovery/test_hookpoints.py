"""Widths of hookpoints are what flows there, measured without computing it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusionPipeline
from torch import nn

from saeuron_guard.discovery import hookpoints
from saeuron_guard.discovery.hookpoints import measure_hookpoints
from saeuron_guard.errors import CannotEvaluate, ModelMismatch
from saeuron_guard.guard.layout import activation_of
from tests.tiny import CHANNELS, HOOKPOINTS, draw, make_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """A small pipeline."""
    return make_pipeline(tmp_path_factory.mktemp("hookpoints"))


def test_widths_are_those_of_a_real_call(pipe: StableDiffusionPipeline) -> None:
    """Hooks on every measured module see as many channels when a picture is drawn."""
    measured = measure_hookpoints(pipe)
    assert measured[HOOKPOINTS[0]] == CHANNELS
    assert measured["unet.mid_block.attentions.0"] == 64
    assert f"{HOOKPOINTS[0]}.transformer_blocks.0.attn2" in measured
    assert not [path for path in measured if path.endswith(".ff")]
    seen: dict[str, int] = {}
    handles = [
        pipe.unet.get_submodule(path.partition(".")[2]).register_forward_hook(_keeper(path, seen)) for path in measured
    ]
    draw(pipe, steps=1)
    for handle in handles:
        handle.remove()
    assert seen == measured


def _keeper(path: str, seen: dict[str, int]) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        activation = activation_of(output, path)
        seen[path] = activation.shape[1 if activation.ndim == 4 else 2]

    return keep


def test_measuring_leaves_no_trace(pipe: StableDiffusionPipeline) -> None:
    """No hook is left, the progress bar is as it was, and the pipeline draws the same picture as before."""
    before = draw(pipe, steps=2)
    measure_hookpoints(pipe)
    assert not [
        name for name, module in pipe.unet.named_modules() if module._forward_hooks or module._forward_pre_hooks
    ]
    assert pipe._progress_bar_config == {"disable": True}
    assert torch.equal(draw(pipe, steps=2), before)


def test_the_real_denoiser_is_never_run(pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of billions of weights is measured as fast; where shapes alone do not do, the real one runs instead."""
    expected = measure_hookpoints(pipe)
    runs: list[str] = []
    shapes_do = True
    kind = type(pipe.unet)
    real = kind.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.conv_in.weight.device.type)
        if runs[-1] == "meta" and not shapes_do:
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    assert measure_hookpoints(pipe) == expected
    assert runs == ["meta"]
    shapes_do = False
    assert measure_hookpoints(pipe) == expected
    assert runs == ["meta", "meta", "cpu"]


@pytest.mark.parametrize(
    ("kind", "sizes", "inputs", "expected"),
    [
        (
            SD3Transformer2DModel,
            {"sample_size": 8, "num_layers": 2, "attention_head_dim": 4, "num_attention_heads": 3,
             "joint_attention_dim": 6, "caption_projection_dim": 12, "pooled_projection_dim": 5},
            {"hidden_states": (2, 16, 8, 8), "encoder_hidden_states": (2, 7, 6), "pooled_projections": (2, 5),
             "timestep": (2,)},
            {"transformer_blocks.0.ff": 12, "transformer_blocks.0.ff_context": 12, "transformer_blocks.1.ff": 12},
        ),
        (
            FluxTransformer2DModel,
            {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
             "num_attention_heads": 2, "joint_attention_dim": 6, "pooled_projection_dim": 5,
             "axes_dims_rope": (4, 2, 2)},
            {"hidden_states": (1, 9, 4), "encoder_hidden_states": (1, 7, 6), "pooled_projections": (1, 5),
             "timestep": (1,), "img_ids": (9, 3), "txt_ids": (7, 3)},
            {"transformer_blocks.0.ff": 16, "transformer_blocks.0.ff_context": 16,
             "single_transformer_blocks.0.attn": 16},
        ),
    ],
)  # fmt: skip
def test_blocks_of_two_streams_are_left_out(
    kind: Any, sizes: dict[str, Any], inputs: dict[str, tuple[int, ...]], expected: dict[str, int]
) -> None:
    """Of SD3's and FLUX's blocks a guard edits the parts with one output, so those are offered."""
    with torch.device("meta"):
        denoiser = kind(**sizes).eval()
    given = {name: torch.zeros(shape, device="meta") for name, shape in inputs.items()}
    assert hookpoints._widths(denoiser, hookpoints._Inputs((), given)) == expected


def test_pipelines_that_cannot_be_measured(pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a denoiser, and one that does not take a prompt alone, are told from one that does."""

    class Upscaler:
        unet = pipe.unet

        def set_progress_bar_config(self, **_: Any) -> None:
            pass

        def __call__(self, prompt: str, *, image: Any = None, **_: Any) -> Any:
            if image is None:
                raise ValueError("`image` has to be given")

    with pytest.raises(
        ModelMismatch, match="object has no denoiser; expected a pipeline with one of unet, transformer"
    ):
        measure_hookpoints(object())
    with pytest.raises(CannotEvaluate, match=r"Upscaler cannot be called with a prompt alone.*`image` has to be given"):
        measure_hookpoints(Upscaler())
    assert measure_hookpoints(pipe)
