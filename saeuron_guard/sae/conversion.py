"""From the tensors of a foreign checkpoint to those of this package's SAE, the function unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from saeuron_guard.errors import ArtefactError
from saeuron_guard.sae import files
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.header import entries

ROUNDING: Final = 1e-5
"""Norms of decoder rows that differ by less are equal: float32 sums of a thousand squares agree no better."""

DRIFT: Final = 0.02
"""How far from 1 a decoder row's norm may be and still count as unit norm.

Trainers normalise before a step, not after it, and bfloat16 keeps eight bits: both leave rows off by a few thousandths.
"""

_DTYPES: Final[dict[str, torch.dtype]] = {**files.STORED_DTYPES, "F64": torch.float64}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a foreign configuration says, and so what has to be done.

    ``names``: foreign name -> (sparsify's name, whether it is stored transposed).
    ``shapes``: shape of each foreign tensor; ``optional``: the same of tensors that may be missing.
    ``selects``: the k largest pre-activations are chosen, so their sizes relative to each other matter.
    ``subtracts_bias``: ``b_dec`` is subtracted from the input.  ``rescales``: pre-activations are multiplied by the
    norms of their decoder rows before they are chosen, and latents divided by them.
    ``training_top_k``: over what k was chosen in training: ``position``, ``batch``, or ``none``.
    """

    config: SparseCoderConfig
    architecture: str
    training_top_k: str
    names: Mapping[str, tuple[str, bool]]
    shapes: Mapping[str, tuple[int, ...]]
    optional: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    selects: bool = True
    subtracts_bias: bool = True
    rescales: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Converted:
    """Tensors by sparsify's names, and what was done to them, in words; ``notes`` for provenance."""

    tensors: dict[str, Tensor]
    steps: tuple[str, ...]
    notes: dict[str, Any]


def check_header(header: str, plan: Plan, place: str) -> None:
    """Raise ArtefactError with every tensor that is missing, unknown, of another shape or not floating point."""
    described = entries(header, place)
    known = {**plan.optional, **plan.shapes}
    problems = [f"{name} is missing" for name in sorted(plan.shapes.keys() - described.keys())]
    problems += [f"{name} is not known" for name in sorted(described.keys() - known.keys())]
    for name in sorted(known.keys() & described.keys()):
        shape, dtype = described[name]["shape"], described[name]["dtype"]
        if shape != list(known[name]):
            problems.append(f"{name} has shape {shape}, expected {list(known[name])}")
        if dtype not in _DTYPES:
            problems.append(f"{name} is stored as {dtype}, expected one of {', '.join(sorted(_DTYPES))}")
    if problems:
        raise ArtefactError(f"{place}: {'; '.join(problems)}")


def convert(plan: Plan, stored: Mapping[str, Tensor], place: str) -> Converted:
    """The checkpoint in sparsify's form, giving the same reconstructions.

    Weights that need no arithmetic keep their bits and dtype (float64 becomes float32); others become float32.
    Raises ArtefactError when a value is not a finite number, or when no SAE of this package computes the same.
    """
    files.check_finite(stored, place)
    notes = {**plan.notes, **_optional_notes(stored, place)}
    tensors = {ours: _plain(stored[name], transposed) for name, (ours, transposed) in plan.names.items()}
    steps = [f"{name} transposed" for name, (_, transposed) in plan.names.items() if transposed]
    if not plan.subtracts_bias:
        tensors["encoder.bias"] = _shifted_bias(tensors)
        steps.append("b_enc + b_dec W_enc in place of b_enc: the source does not subtract b_dec from its input")
    norms = torch.linalg.vector_norm(tensors["W_dec"], dim=1, dtype=torch.float64)
    notes["decoder_norms"] = [float(norms.min()), float(norms.max())]
    if _folds(plan, norms, place):
        tensors |= _folded(tensors, norms)
        steps.append("decoder rows given unit norm, their encoder rows and biases multiplied by what they had")
    files.check_finite(tensors, place)
    return Converted(tensors, tuple(steps), notes)


def _plain(tensor: Tensor, transposed: bool) -> Tensor:
    turned = tensor.T if transposed else tensor
    return (turned.float() if turned.dtype == torch.float64 else turned).contiguous()


def _shifted_bias(tensors: Mapping[str, Tensor]) -> Tensor:
    """``W_enc x + b = W_enc (x - b_dec) + (b + W_enc b_dec)``, float32 (num_latents)."""
    weight, b_dec = tensors["encoder.weight"].double(), tensors["b_dec"].double()
    return (tensors["encoder.bias"].double() + weight @ b_dec).float()


def _folds(plan: Plan, norms: Tensor, place: str) -> bool:
    """Whether the decoder's norms go into the encoder; ArtefactError where that would choose other latents."""
    off = float((norms - 1).abs().max())
    if off <= ROUNDING:
        return False
    if plan.rescales or not plan.selects:
        return True
    lowest, highest = float(norms.min()), float(norms.max())
    if lowest > 0 and highest / lowest - 1 <= ROUNDING:
        return True
    if off <= DRIFT:
        return False
    raise ArtefactError(
        f"{place}: decoder rows have norms from {lowest:.4g} to {highest:.4g}, expected 1 (up to {DRIFT:g}). "
        "Latents are compared with each other as lengths along unit directions, and to rescale these rows would "
        f"change which {plan.config.k} latents are chosen; train with a normalised decoder "
        "(sparsify: normalize_decoder, SAELens: rescale_acts_by_decoder_norm)"
    )


def _folded(tensors: Mapping[str, Tensor], norms: Tensor) -> dict[str, Tensor]:
    """Unit decoder rows, with the norms in the encoder; a row of zeros silences its latent."""
    scale = norms.float()
    inverse = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms)).float()
    return {
        "encoder.weight": tensors["encoder.weight"].float() * scale[:, None],
        "encoder.bias": tensors["encoder.bias"].float() * scale,
        "W_dec": tensors["W_dec"].float() * inverse[:, None],
    }


def _optional_notes(stored: Mapping[str, Tensor], place: str) -> dict[str, Any]:
    """What the optional tensors say; a scaling factor other than 1 would be part of the function."""
    factor = stored.get("scaling_factor")
    if factor is not None and bool((factor != 1).any()):
        raise ArtefactError(f"{place}: scaling_factor is not 1 everywhere; latents that are scaled are not supported")
    threshold = stored.get("topk_threshold")
    return {} if threshold is None else {"topk_threshold_of_training": float(threshold)}
