"""Forward hooks that write down what passes a pipeline's hookpoints, one entry a call of the denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saeuron_guard.errors import CannotEvaluate, ModelMismatch
from saeuron_guard.guard.denoisers import Arguments
from saeuron_guard.guard.layout import activation_of, positions_of

_MAP = 4
"""Axes of an activation map (batch, d_in, height, width); tokens have three."""


def find_module(pipe: Any, hookpoint: str) -> nn.Module:
    """The module of ``pipe`` at a dotted path; raises ModelMismatch when there is none."""
    name, _, rest = hookpoint.partition(".")
    root = getattr(pipe, name, None)
    if isinstance(root, nn.Module) and rest:
        try:
            return root.get_submodule(rest)
        except AttributeError:
            pass
    raise ModelMismatch(
        f"{type(pipe).__name__} has no module {hookpoint!r}; give a dotted path such as unet.up_blocks.1.attentions.1"
    )


@dataclass(slots=True)
class Call:
    """One call of the denoiser: the scheduler's ``timestep``, rounded, and per hookpoint (rows, pos, d_in) float32."""

    timestep: int
    rows: slice
    activations: dict[str, Tensor] = field(default_factory=dict)


class Recorder:
    """Records the conditional rows of a pipeline call on ``images`` prompts.

    The number of rows tells the layout: as many as images, all are conditional; twice as many, the second half is
    (diffusers' [unconditional, conditional]).
    Anything else, and guidance by two calls a step, is refused: which rows are conditional would be a guess.
    """

    def __init__(self, hookpoints: tuple[str, ...], images: int, *, guided: bool) -> None:
        self._hookpoints = hookpoints
        self._images = images
        self._guided = guided
        self.calls: list[Call] = []

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[None]:
        """Record while inside; every hook is gone afterwards. Raises CannotEvaluate when a hookpoint stayed silent."""
        denoisers = {hookpoint.partition(".")[0] for hookpoint in self._hookpoints}
        if len(denoisers) != 1:
            raise CannotEvaluate(f"hookpoints of several modules ({', '.join(sorted(denoisers))}); run them one by one")
        with ExitStack() as stack:
            denoiser = getattr(pipe, denoisers.pop())
            begin = self._beginner(Arguments.of(denoiser))
            stack.callback(denoiser.register_forward_pre_hook(begin, with_kwargs=True).remove)
            for hookpoint in self._hookpoints:
                stack.callback(find_module(pipe, hookpoint).register_forward_hook(self._keeper(hookpoint)).remove)
            yield
        for call in self.calls:
            if silent := set(self._hookpoints) - set(call.activations):
                raise CannotEvaluate(
                    f"{', '.join(sorted(silent))} did not run at timestep {call.timestep}; "
                    "switch off caching or compilation that skips modules"
                )
        if not self.calls:
            raise CannotEvaluate("the pipeline never called its denoiser; nothing was recorded")

    def _beginner(self, arguments: Arguments) -> Any:
        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            sample = arguments.sample(args, kwargs)
            if not isinstance(sample, Tensor):
                raise CannotEvaluate(f"the denoiser was given a {type(sample).__name__} to denoise, expected a tensor")
            times = arguments.timestep(args, kwargs)
            if (times != times[0]).any():
                raise CannotEvaluate("the rows of a batch are at different timesteps; make one image at a time")
            rows = self._conditional_rows(len(sample))
            at = round(float(times[0]))
            self._refuse_two_calls(at, rows)
            self.calls.append(Call(at, rows))

        return begin

    def _conditional_rows(self, rows: int) -> slice:
        if rows == self._images:
            return slice(0, rows)
        if rows == 2 * self._images:
            return slice(self._images, rows)
        raise CannotEvaluate(
            f"the denoiser got {rows} rows for {self._images} prompts; expected {self._images} or {2 * self._images}, "
            "so which rows are conditional is unknown"
        )

    def _refuse_two_calls(self, timestep: int, rows: slice) -> None:
        unsplit = rows.start == 0
        if self._guided and unsplit and self.calls and self.calls[-1].timestep == timestep:
            raise CannotEvaluate(
                f"the denoiser ran twice at timestep {timestep}: this pipeline guides by two calls, "
                "and which of them is conditional is unknown; set guidance to 1"
            )

    def _keeper(self, hookpoint: str) -> Any:
        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            call = self.calls[-1]
            if hookpoint in call.activations:
                raise CannotEvaluate(f"{hookpoint} ran twice in one denoiser call; choose a module that runs once")
            # A copy, because blocks further on may write into this tensor.
            activation = activation_of(output, hookpoint)[call.rows].detach()
            d_in = activation.shape[1 if activation.ndim == _MAP else -1]
            values = positions_of(activation, d_in, hookpoint)
            call.activations[hookpoint] = values.to(device="cpu", dtype=torch.float32, copy=True)

        return keep
