"""The matrix's rows about offload, dtypes, devices and memory formats."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_module

from saeuron_guard.pipelines.fingerprint import fingerprint
from tests.guard.matrix.stage import Case, keys, play
from tests.tiny import draw, make_guard

CPU = torch.device("cpu")


def models(pipe: Any) -> list[Any]:
    """The components with weights."""
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def model_offload(pipe: Any) -> None:
    """What enable_model_cpu_offload() does on a machine with an accelerator."""
    hook = None
    for model in models(pipe):
        _, hook = accelerate.cpu_offload_with_hook(model, CPU, prev_module_hook=hook)


def sequential_offload(pipe: Any) -> None:
    """What enable_sequential_cpu_offload() does on a machine with an accelerator."""
    for model in models(pipe):
        accelerate.cpu_offload(model, CPU, offload_buffers=True)


def offload_and_back(pipe: Any) -> None:
    """Sequential offload, switched off again as loading a LoRA does."""
    sequential_offload(pipe)
    for model in models(pipe):
        remove_hook_from_module(model, recurse=True)


def group_offload(pipe: Any) -> None:
    """The UNet by blocks, the VAE by layers."""
    for model, kind in ((pipe.unet, "block_level"), (pipe.vae, "leaf_level")):
        groups = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        model.enable_group_offload(CPU, offload_device=CPU, offload_type=kind, **groups)


def layerwise_casting(pipe: Any) -> None:
    """Weights in half precision, computed with in single."""
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def to(dtype: torch.dtype) -> Any:
    """Casts all models."""
    return lambda pipe: pipe.to(dtype)


def channels_last(pipe: Any) -> None:
    """Another order of the UNet's numbers in memory."""
    pipe.unet.to(memory_format=torch.channels_last)


def on_meta(pipe: Any) -> Any:
    """Draws with models that have shapes and no numbers."""
    return pipe.unet(*(torch.zeros(shape, device="meta") for shape in ((1, 4, 8, 8), (), (1, 16, 32))))


CASES = {
    "model-offload": Case(after=model_offload),
    "model-offload-before": Case(before=model_offload),
    "sequential-offload": Case(after=sequential_offload),
    "sequential-offload-before": Case(before=sequential_offload),
    "offload-removed": Case(after=offload_and_back),
    "group-offload": Case(after=group_offload),
    "layerwise-casting": Case(after=layerwise_casting),
    "bfloat16": Case(after=to(torch.bfloat16), alike=0.2),
    "float64": Case(after=to(torch.float64)),
    "unet-bfloat16": Case(before=to(torch.bfloat16), alike=0.2),
    "channels-last": Case(before=channels_last),
    "to-cpu": Case(after=lambda pipe: pipe.to("cpu")),
    "meta": Case(after=lambda pipe: pipe.unet.to("meta"), call=on_meta),
}


@keys(CASES)
def test_moves(pipe: Any, key: str) -> None:
    """However the weights are kept and moved: as the matrix says."""
    play(key, CASES[key], pipe)


def test_sequential_fingerprint(pipe: Any) -> None:
    """The row sequential-fingerprint: the guard's model can't be told when its weights are on disk or set aside."""
    named = partial(make_guard, fingerprint=fingerprint(pipe))
    play("sequential-fingerprint", Case(before=sequential_offload, guard=named, call=draw), pipe)


def test_the_model_is_told_before_it_is_offloaded(pipe: Any) -> None:
    """Control: attached before, the same guard is effective under sequential offload."""
    named = partial(make_guard, fingerprint=fingerprint(pipe))
    play("sequential-offload", Case(after=sequential_offload, guard=named), pipe)


def test_offload_needs_an_accelerator(pipe: Any) -> None:
    """Why the rows about offload install the hooks by hand."""
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    with pytest.raises(RuntimeError, match="requires accelerator"):
        copy.deepcopy(pipe).enable_model_cpu_offload()
