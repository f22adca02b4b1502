"""What ``cfg.json`` of each format that is imported says: sparsify's (and SAeUron's), and SAELens's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

from saeuron_guard.errors import ArtefactError
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.conversion import Plan
from saeuron_guard.sae.header import expected_shapes
from saeuron_guard.wording import one_of

_SPARSIFY_NAMES: Final = {name: (name, False) for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")}
_SAELENS_NAMES: Final = {
    "W_enc": ("encoder.weight", True),
    "b_enc": ("encoder.bias", False),
    "W_dec": ("W_dec", False),
    "b_dec": ("b_dec", False),
}

_REFUSED: Final = {
    "gated": "a gate of its own decides which latents fire",
    "jumprelu": "each latent has a threshold of its own in place of the k largest; SAELens saves BatchTopK as this, so "
    "import the training checkpoint instead, whose architecture is batchtopk",
    "transcoder": "it predicts another activation than it reads",
    "skip_transcoder": "it predicts another activation than it reads",
}
_FORWARD: Final = {
    "normalize_activations": (None, "none", False),
    "reshape_activations": (None, "none"),
    "finetuning_scaling_factor": (None, False),
}
"""Fields of SAELens that change what is computed, with the values that leave it as it is."""


def plan_of(format_name: str, text: str, place: str, k: int | None) -> Plan:
    """The plan for a configuration's ``text``; ``k`` in place of the one that it states, if given.

    Raises ArtefactError, naming ``place``, for what this package's SAE cannot compute, saying what it is and why.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{place}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ArtefactError(f"{place}: expected a JSON object")
    plan = _sparsify(text, place) if format_name == "sparsify" else _saelens(fields, place, k)
    if k is None or k == plan.config.k:
        return plan
    try:
        config = dataclasses.replace(plan.config, k=k)
    except ArtefactError as error:
        raise ArtefactError(f"{place}: {error}") from None
    return dataclasses.replace(plan, config=config, notes={**plan.notes, "k_of_source": plan.config.k})


def stated_hookpoint(text: str) -> str:
    """The hookpoint that a configuration (a JSON object) names, or an empty string."""
    fields = json.loads(text)
    metadata = fields.get("metadata")
    named = [fields.get("hookpoint"), fields.get("hook_name"), _mapping(metadata).get("hook_name")]
    return next((name for name in named if isinstance(name, str)), "")


def _sparsify(text: str, place: str) -> Plan:
    config = SparseCoderConfig.parse(text, place)
    return Plan(
        config=config,
        architecture="batchtopk" if config.batch_topk else "topk",
        training_top_k="batch" if config.batch_topk else "position",
        names=_SPARSIFY_NAMES,
        shapes=expected_shapes(config),
    )


def _saelens(fields: Mapping[str, Any], place: str, k: int | None) -> Plan:
    for name, accepted in _FORWARD.items():
        if fields.get(name) not in accepted:
            raise ArtefactError(
                f"{place}: {name} is {fields[name]!r}, expected {accepted[-1]!r}: "
                "inputs and latents that are scaled or reshaped on the way are not supported"
            )
    architecture = _architecture(fields, place)
    d_in, latents = _whole(fields, "d_in", place), _whole(fields, "d_sae", place)
    batch = architecture == "batchtopk"
    try:
        config = SparseCoderConfig(
            d_in=d_in,
            num_latents=latents,
            k=latents if architecture == "standard" else _k(fields, place, k),
            batch_topk=batch,
        )
    except ArtefactError as error:
        raise ArtefactError(f"{place}: {error}") from None
    shapes = {"W_enc": (d_in, latents), "b_enc": (latents,), "W_dec": (latents, d_in), "b_dec": (d_in,)}
    return Plan(
        config=config,
        architecture=architecture,
        training_top_k={"standard": "none", "topk": "position", "batchtopk": "batch"}[architecture],
        names=_SAELENS_NAMES,
        shapes=shapes,
        optional={"scaling_factor": (latents,), **({"topk_threshold": ()} if batch else {})},
        selects=architecture != "standard",
        subtracts_bias=_flag(fields, "apply_b_dec_to_input", place, default=True),
        rescales=architecture != "standard" and _flag(fields, "rescale_acts_by_decoder_norm", place, default=False),
    )


def _architecture(fields: Mapping[str, Any], place: str) -> str:
    """``standard``, ``topk`` or ``batchtopk``; before SAELens 6, a standard SAE with activation topk was a TopK one."""
    architecture = fields.get("architecture", "standard")
    if architecture in ("topk", "batchtopk"):
        return str(architecture)
    if architecture != "standard":
        reason = _REFUSED.get(str(architecture), "this package's SAE does not compute it")
        known = one_of(["topk", "batchtopk", "standard"])
        raise ArtefactError(f"{place}: architecture is {architecture!r}, expected {known}: {reason}")
    activation = fields.get("activation_fn", fields.get("activation_fn_str", "relu"))
    if activation not in ("relu", "topk"):
        raise ArtefactError(f"{place}: activation_fn is {activation!r}, expected relu or topk")
    return "topk" if activation == "topk" else "standard"


def _k(fields: Mapping[str, Any], place: str, given: int | None) -> int:
    """How many latents fire at a position: as stated, or as given where no whole number is (BatchTopK's mean)."""
    stated = fields.get("k", _mapping(fields.get("activation_fn_kwargs")).get("k"))
    if isinstance(stated, int | float) and not isinstance(stated, bool) and float(stated).is_integer():
        return int(stated)
    if given is not None:
        return given
    raise ArtefactError(f"{place}: k is {stated!r}, expected a whole number; say how many latents fire with --k")


def _whole(fields: Mapping[str, Any], name: str, place: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArtefactError(f"{place}: {name} is {value!r}, expected a whole number; is this SAELens's cfg.json?")
    return value


def _flag(fields: Mapping[str, Any], name: str, place: str, *, default: bool) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise ArtefactError(f"{place}: {name} is {value!r}, expected true or false")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
