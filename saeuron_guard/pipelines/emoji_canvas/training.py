"""One resumable training loop for every network of EmojiCanvas.

Batches are drawn from generators seeded with (seed, step), so a run that was stopped and resumed
sees exactly the batches of a run that was not. Checkpoints are safetensors files.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Loss = Callable[[torch.Generator], Tensor]
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained: AdamW, linear warm-up, cosine decay, averaged weights."""

    steps: int
    peak: float
    seed: int
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998
    save_every: int = 200

    def rate(self, step: int) -> float:
        """Learning rate at ``step``."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def fit(module: nn.Module, loss: Loss, recipe: Recipe, checkpoint: Path, log: Log) -> nn.Module:
    """Train ``module`` in place, resuming from ``checkpoint`` if it exists; ends with the averaged weights.

    ``loss(generator)`` computes the batch's loss; everything random in it comes from ``generator``.
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=recipe.peak, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    average = {name: value.detach().clone() for name, value in module.state_dict().items()}
    start = _resume(checkpoint, module, optimizer, average) if checkpoint.exists() else 0
    begun, shown = time.monotonic(), start
    running = 0.0
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        value = loss(torch.Generator().manual_seed(recipe.seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
        optimizer.step()
        _follow(average, module, min(recipe.average, (1 + step) / (10 + step)))
        running += float(value.detach())
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            pace = (time.monotonic() - begun) / (step + 1 - start)
            log(f"step {step + 1}/{recipe.steps}  loss {running / (step + 1 - shown):.4f}  {pace:.3f} s/step")
            running, shown = 0.0, step + 1
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            _save(checkpoint, step + 1, module, optimizer, average)
    module.load_state_dict(average)
    return module


def _follow(average: dict[str, Tensor], module: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - keep)
            else:
                average[name].copy_(value)


def _save(
    path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()}, partial, {"step": json.dumps(step)}
    )
    partial.replace(path)  # a run killed while saving keeps its earlier checkpoint


def _resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    with safe_open(path, framework="pt") as stored:
        step = int(json.loads(stored.metadata()["step"]))
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    module.load_state_dict({n.removeprefix("module."): v for n, v in tensors.items() if n.startswith("module.")})
    average.update({n.removeprefix("average."): v for n, v in tensors.items() if n.startswith("average.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
