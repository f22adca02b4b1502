"""The denoisers that a guard knows, and how their ``timestep`` argument relates to the scheduler's timesteps.

A guard looks up what to do by the scheduler's timestep, a number from 0 to 1000 or so. Some denoisers are given
another number, so a table read with that number would give the row of some other step, and nobody would notice.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from saeuron_guard.errors import GuardNotEffective, ModelMismatch

_TIMESTEPS_PER_UNIT = {
    "UNet2DConditionModel": 1.0,
    "SD3Transformer2DModel": 1.0,
    "PixArtTransformer2DModel": 1.0,
    "SanaTransformer2DModel": 1.0,
    "FluxTransformer2DModel": 1000.0,
}
"""By what a denoiser's ``timestep`` is to be multiplied to get the scheduler's; all classes that are tested."""


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
