"""Proves at attach time that the installed hooks compute what the policy says, by a way of their own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saeuron_guard.compiler.config import FeatureEdit, HookpointConfig, Rule
from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.attach import Attachment
from saeuron_guard.guard.roster import Assignment
from saeuron_guard.names import GATES
from saeuron_guard.sae.sparse_coder import SparseCoder

_FEATURES = 16
"""Features probed at each hookpoint; enough to meet every kind of rule, few enough to be instant."""

_LEAST_COSINE = 0.1
"""A direction that is nearly at right angles to the encoder's would have to be enormous."""


def sing(attachment: Attachment, coders: Mapping[str, SparseCoder]) -> None:
    """Run every hookpoint's installed hook on activations that are known to contain each policy's features.

    Raises GuardNotEffective when a hook is not there, changes an activation otherwise than ``expected`` does, or
    changes one that no policy is to guard.
    """
    roster = attachment.roster
    for name, config in roster.configs.items():
        for point in config.hookpoints:
            coder = coders[point.hookpoint]
            x, timesteps = probes(point, coder)
            assignment = None if roster.single else roster.assign(name)
            output = _hooked(attachment, point.hookpoint, x, timesteps, assignment)
            compare(x, output, expected(x, timesteps, point, coder, attachment.options.gate), point)
            if roster.single:
                continue
            if not torch.equal(_hooked(attachment, point.hookpoint, x, timesteps, roster.assign(None)), x):
                raise GuardNotEffective(f"{point.hookpoint}: the hook changes an activation that no policy guards")


def _hooked(
    attachment: Attachment, hookpoint: str, x: Tensor, timesteps: Tensor, assignment: Assignment | None
) -> Tensor:
    """What the installed hook makes of ``x`` (rows, d_in), each row an image of one position."""
    block, handle = attachment.site.blocks[hookpoint], attachment.handles[hookpoint]
    hook = (handle.hooks_dict_ref() or {}).get(handle.id)
    if hook is None:
        raise GuardNotEffective(f"{hookpoint}: the hook could not be installed")
    device = next((p.device for p in block.parameters() if not p.is_meta), torch.device("cpu"))
    with attachment.runtime.denoiser_call(timesteps.to(device), assignment):
        output: Tensor = hook(block, (), x[:, None].to(device))
    return output[:, 0].cpu()


def probes(point: HookpointConfig, coder: SparseCoder) -> tuple[Tensor, Tensor]:
    """Activations (rows, d_in) that point along a feature, each with a timestep (rows,) at which it is active.

    Twice for each feature, along its row of the encoder and of the decoder, so that its pre-activation is well above
    its threshold and, in one of the two, few other latents are larger.
    """
    rows, timesteps = [], []
    for _, edit, time in active_edits(point)[:_FEATURES]:
        encoder = coder.encoder.weight[edit.index].detach().cpu()
        wanted = 2 * max(edit.threshold[time], 0.0) + 1 - float(coder.encoder.bias[edit.index])
        for direction in (encoder, coder.W_dec[edit.index].detach().cpu()):
            alignment = float(direction @ encoder)
            if alignment > _LEAST_COSINE * float(direction.norm() * encoder.norm()):
                rows.append(coder.b_dec.detach().cpu() + wanted / alignment * direction)
                timesteps.append(float(point.timesteps[time]))
    if not rows:
        raise GuardNotEffective(f"{point.hookpoint}: no feature of the guard is ever active, so it would do nothing")
    return torch.stack(rows), torch.tensor(timesteps)


def active_edits(point: HookpointConfig) -> list[tuple[Rule, FeatureEdit, int]]:
    """Every feature that is ever active, with its rule and the first of its timesteps (as an index)."""
    return [(rule, edit, edit.active.index(True)) for rule in point.rules for edit in rule.features if any(edit.active)]


def expected(x: Tensor, timesteps: Tensor, point: HookpointConfig, coder: SparseCoder, gate: str = GATES[0]) -> Tensor:
    """What the formulas make of ``x`` (rows, d_in), each row an image of one position, written plainly."""
    inputs = x[None].to(coder.b_dec.device)
    latents = (coder.encode(inputs) if gate == "exact" else coder.pre_activations(inputs).relu())[0].cpu()
    decoder, mean = coder.W_dec.detach().cpu(), coder.b_dec.detach().cpu()
    output = x.clone()
    for row, timestep in enumerate(timesteps.tolist()):
        time = min(range(len(point.timesteps)), key=lambda index: abs(point.timesteps[index] - timestep))
        for rule in point.rules:
            firing = [edit for edit in rule.features if fires(float(latents[row, edit.index]), time, edit)]
            if not firing or rule.applied == 0:
                continue
            if rule.action == "replace":  # an image of one position has no other to take from
                output[row] += rule.applied * (mean - x[row])
            elif rule.action == "reflect":
                added = torch.stack([latents[row, edit.index] * decoder[edit.index] for edit in firing]).sum(dim=0)
                output[row] += mirrored(x[row], added / added.norm(), rule.applied) - x[row]
            else:
                for edit in firing:
                    latent = float(latents[row, edit.index])
                    change = rule.applied * (rule.multiplier * edit.mean[time] * latent - latent)
                    output[row] += change * decoder[edit.index]
    return output


def fires(latent: float, time: int, edit: FeatureEdit) -> bool:
    """Whether a feature with this latent is edited at a calibrated timestep."""
    return edit.active[time] and latent > 0 and latent > edit.threshold[time]


def mirrored(x: Tensor, unit: Tensor, strength: float) -> Tensor:
    """``x`` mirrored along ``unit``, at the norm that it had."""
    along = max(float(x @ unit), 0.0)
    moved = x - 2 * strength * along * unit
    return moved * (x.norm() / moved.norm())


def compare(x: Tensor, output: Tensor, wanted: Tensor, point: HookpointConfig) -> None:
    """Raise GuardNotEffective unless ``output`` is ``wanted``, and the probes show an effect where one is due."""
    effect = float((wanted - x).abs().max())
    due = any(
        rule.applied and (rule.action != "scale" or rule.multiplier * edit.mean[time] != 1)
        for rule, edit, time in active_edits(point)
    )
    if effect == 0 and due:
        raise GuardNotEffective(
            f"{point.hookpoint}: none of the guard's features can be made to fire, so it would do nothing; the SAE or "
            "its statistics are not what the policy was compiled from"
        )
    error = float((output - wanted).abs().max())
    if not error <= 1e-3 * effect + 1e-5 * float(x.abs().max()):
        raise GuardNotEffective(
            f"{point.hookpoint}: the canary failed: an activation with a known feature changed by other than the "
            f"formula says (largest difference {error:.3g}, effect {effect:.3g}); the guard was not attached"
        )
