"""The denoisers that a guard knows, and how their ``timestep`` argument relates to the scheduler's timesteps.

A guard looks up what to do by the scheduler's timestep, a number from 0 to 1000 or so. Some denoisers are given
another number, so a table read with that number would give the row of some other step, and nobody would notice.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from saeuron_guard.errors import GuardNotEffective, ModelMismatch

_TIMESTEPS_PER_UNIT = {
    "UNet2DConditionModel": 1.0,
    "SD3Transformer2DModel": 1.0,
    "PixArtTransformer2DModel": 1.0,
    "SanaTransformer2DModel": 1.0,
    "FluxTransformer2DModel": 1000.0,
}
"""By what a denoiser's ``timestep`` is to be multiplied to get the scheduler's; all classes that are tested."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Finds in a denoiser's arguments what it denoises and when.

    ``names``: those of its positional arguments; the first is what it denoises.
    ``timesteps_per_unit``: what its ``timestep`` is to be multiplied with to get the scheduler's.
    """

    names: tuple[str, ...]
    timesteps_per_unit: float

    @classmethod
    def of(cls, denoiser: nn.Module) -> Arguments:
        """Those of ``denoiser``, which torch.compile may have wrapped; ModelMismatch for one that nobody knows."""
        original = getattr(denoiser, "_orig_mod", denoiser)
        names = tuple(inspect.signature(type(original).forward).parameters)[1:]
        if "timestep" not in names:
            raise ModelMismatch(f"{type(denoiser).__name__} takes no timestep; expected a diffusers denoiser")
        return cls(names, timesteps_per_unit(original))

    def sample(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call denoises."""
        return self._value(self.names[0], args, kwargs)

    def timestep(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device | None = None
    ) -> Float32[Tensor, " rows"]:
        """The scheduler's timestep of a call, one for all rows or one for each; pipelines give numbers and tensors."""
        given = torch.as_tensor(self._value("timestep", args, kwargs), device=device)
        return given.detach().to(torch.float32).reshape(-1) * self.timesteps_per_unit

    def _value(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        position = self.names.index(name)
        if name in kwargs:
            return kwargs[name]
        if len(args) > position:
            return args[position]
        raise GuardNotEffective(f"the denoiser was called without a {name}, so the guard cannot look up what to do")


def timesteps_per_unit(denoiser: nn.Module) -> float:
    """What to multiply ``denoiser``'s timestep argument with; ModelMismatch when nobody has looked that up."""
    kinds = [kind.__name__ for kind in type(denoiser).__mro__]
    known = next((kind for kind in kinds if kind in _TIMESTEPS_PER_UNIT), None)
    config = getattr(denoiser, "config", None)
    if known is None:
        raise ModelMismatch(
            f"{kinds[0]} is none of the denoisers that a guard knows ({', '.join(sorted(_TIMESTEPS_PER_UNIT))}), so "
            "the unit of its timestep is unknown and the guard cannot tell one denoising step from another"
        )
    if known == "SanaTransformer2DModel":
        if getattr(config, "guidance_embeds", False):
            raise ModelMismatch(
                f"{kinds[0]} with guidance_embeds (SANA-Sprint) counts time in angles, not in timesteps as the guard's "
                "tables do; expected a SANA model without it"
            )
        return 1.0 / float(getattr(config, "timestep_scale", 1.0))
    return _TIMESTEPS_PER_UNIT[known]


def refuse_other_time(pipe: Any) -> None:
    """Raise GuardNotEffective when the scheduler gives the denoiser noise levels for timesteps.

    The schedulers of EDM, and Euler's with ``timestep_type="continuous"``, have ``log(sigma) / 4``, about -2 to 2:
    near enough to the calibrated timestep 1 to be taken for it in every step.
    """
    scheduler = getattr(pipe, "scheduler", None)
    config = getattr(scheduler, "config", None) or {}
    if "sigma_data" in config or config.get("timestep_type") == "continuous":
        raise GuardNotEffective(
            f"{type(scheduler).__name__} gives the denoiser noise levels in place of timesteps (expected: timesteps "
            "from 0 to about 1000, as the guard was calibrated with); images are withheld. Use another scheduler, such "
            "as DPMSolverMultistepScheduler."
        )
