"""Measures at which modules of a pipeline's denoiser an SAE may sit, and how wide the activations are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from saeuron_guard.errors import CannotEvaluate, GuardNotEffective, ModelMismatch
from saeuron_guard.guard.layout import activation_of

DENOISERS: Final = ("unet", "transformer")
"""What diffusers calls a pipeline's denoiser."""

_ATTENTION: Final = "Attention"
_BLOCK: Final = ("TransformerBlock", "Transformer2DModel", "TransformerSpatioTemporalModel")
"""How diffusers' classes of attention modules and of transformer blocks end."""

_FEED_FORWARD: Final = "FeedForward"
"""The last part of a transformer block; its output is the block's but for what is added to it."""


class _Captured(Exception):
    """The denoiser's inputs are known, so the rest of the pipeline call is of no use."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def denoiser_of(pipe: Any) -> tuple[str, Any]:
    """The name and the module (with its ``config``) of a pipeline's denoiser; raises ModelMismatch when it has none."""
    for name in DENOISERS:
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            return name, module
    raise ModelMismatch(
        f"{type(pipe).__name__} has no denoiser; expected a pipeline with one of {', '.join(DENOISERS)}"
    )


def measure_hookpoints(pipe: Any) -> dict[str, int]:
    """Candidate hookpoints -> channels: attention modules and transformer blocks that a guard can edit.

    Of a block that it cannot edit (the two streams of SD3's and FLUX's), the feed-forward modules stand in.

    The pipeline is called until it calls its denoiser; with the very inputs that it gives, a copy of the denoiser
    without weights runs on PyTorch's meta device, where nothing is computed but shapes, and each candidate's output is
    looked at. Left out are modules that give several activations, that run more or less often than once, or whose
    output is neither a map nor tokens.
    Raises CannotEvaluate when the pipeline cannot be called with a prompt or no candidate is left.
    """
    name, denoiser = denoiser_of(pipe)
    inputs = _inputs(pipe, denoiser)
    try:
        with torch.device("meta"):
            twin = type(denoiser).from_config(denoiser.config)
        widths = _widths(twin.eval(), _Inputs(_on_meta(inputs.args), _on_meta(inputs.kwargs)))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        # Some denoisers look at values on the way, and a tensor on the meta device has none: run the real one.
        widths = _widths(denoiser, inputs)
    if not widths:
        raise CannotEvaluate(f"{type(denoiser).__name__} has no attention module or transformer block with one output")
    return {f"{name}.{path}": width for path, width in widths.items()}


def _inputs(pipe: Any, denoiser: nn.Module) -> _Inputs:
    """What the pipeline calls its denoiser with, first."""
    captured: list[_Inputs] = []

    def capture(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.append(_Inputs(args, kwargs))
        raise _Captured

    handle = denoiser.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        with _without_bar(pipe):
            pipe("a picture", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    except _Captured:
        return captured[0]
    except Exception as error:
        first_line = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        raise CannotEvaluate(
            f"{type(pipe).__name__} cannot be called with a prompt alone, so its hookpoints cannot be measured "
            f"({first_line}); expected a text-to-image pipeline"
        ) from error
    finally:
        handle.remove()
    raise CannotEvaluate(f"{type(pipe).__name__} never called its denoiser, so its hookpoints cannot be measured")


@contextmanager
def _without_bar(pipe: Any) -> Iterator[None]:
    before = dict(getattr(pipe, "_progress_bar_config", None) or {})
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**{"disable": False, **before})


def _widths(denoiser: nn.Module, inputs: _Inputs) -> dict[str, int]:
    """Path below the denoiser -> channels, of candidates that gave one activation, once; in the modules' order."""
    seen: dict[str, list[int]] = {}
    kinds = {path: type(module).__name__ for path, module in denoiser.named_modules() if path}
    with ExitStack() as stack, torch.no_grad():
        for path, module in denoiser.named_modules():
            if kinds.get(path, "").endswith((_ATTENTION, *_BLOCK, _FEED_FORWARD)):
                seen[path] = []
                stack.callback(module.register_forward_hook(_keeper(path, seen[path])).remove)
        denoiser(*inputs.args, **inputs.kwargs)
    found = {path: widths[0] for path, widths in seen.items() if len(widths) == 1 and widths[0] > 0}
    spare = {path for path, kind in kinds.items() if kind.endswith(_FEED_FORWARD) and path.rpartition(".")[0] in found}
    return {path: width for path, width in found.items() if path not in spare}


def _keeper(path: str, widths: list[int]) -> Callable[..., None]:
    def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        widths.append(_width(output, path))

    return keep


def _width(output: Any, path: str) -> int:
    """Channels of a map (batch, channels, height, width) or of tokens (batch, pos, channels); 0 for anything else."""
    try:
        activation = activation_of(output, path)
    except GuardNotEffective:
        return 0
    return {4: activation.shape[1], 3: activation.shape[-1]}.get(activation.ndim, 0)


def _on_meta(value: Any) -> Any:
    """The same structure with every tensor on the meta device."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, Mapping):
        return {key: _on_meta(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_on_meta(inner) for inner in value)
    return value
