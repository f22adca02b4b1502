"""``cfg.json``: what a sparse autoencoder is, beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from saeuron_guard.errors import ArtefactError

LARGEST_DIMENSION = 1 << 22
"""Bound on ``d_in`` and ``num_latents``, far above any published dictionary."""

# Fields that change what the encoder computes. A file with another value would be read, and give other latents.
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "activation": (("topk",), "only TopK latents are read"),
    "input_unit_norm": ((False,), "inputs that are normalised position by position are not supported"),
    "transcode": ((False,), "a transcoder predicts another activation than it reads"),
    "skip_connection": ((False,), "skip weights are not supported"),
    "embed_skip": ((False,), "skip weights are not supported"),
    "gram_lookup": ((False,), "a table of means subtracted from the input is not supported"),
    "signed": ((False,), "latents that are chosen by size and keep their sign are not supported"),
    "sample_topk": ((False,), "latents chosen per sample are not supported"),
}


@dataclass(frozen=True, slots=True)
class SparseCoderConfig:
    """Sizes of an SAE and how it was trained.

    ``k`` latents fire at each position at inference, also when ``batch_topk`` says that training chose ``k`` per
    position on average over the batch.
    """

    d_in: int
    num_latents: int
    k: int
    normalize_decoder: bool = True
    batch_topk: bool = False
    multi_topk: bool = False

    def __post_init__(self) -> None:
        for name in ("d_in", "num_latents", "k"):
            value = getattr(self, name)
            if not 1 <= value <= LARGEST_DIMENSION:
                raise ArtefactError(f"{name} is {value}; expected 1 to {LARGEST_DIMENSION}")
        if self.k > self.num_latents:
            raise ArtefactError(f"k is {self.k}, but there are only {self.num_latents} latents")

    @classmethod
    def parse(cls, text: str, file: str) -> SparseCoderConfig:
        """Read the text of a ``cfg.json``; ``num_latents`` 0 or missing means ``d_in * expansion_factor``.

        Fields that say nothing about the forward pass are ignored, as sparsify itself does.
        Raises ArtefactError, naming ``file``, for JSON that is not a configuration or asks for another forward pass.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtefactError(f"{file}: not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise ArtefactError(f"{file}: expected an object with d_in, num_latents and k")
        for name, (accepted, reason) in _UNSUPPORTED.items():
            if name in fields and fields[name] not in accepted:
                raise ArtefactError(f"{file}: {name} is {fields[name]!r}, expected {accepted[0]!r}: {reason}")
        d_in, k = _whole(fields, "d_in", file), _whole(fields, "k", file)
        latents = _whole(fields, "num_latents", file, 0) or d_in * _whole(fields, "expansion_factor", file)
        try:
            return cls(
                d_in=d_in,
                num_latents=latents,
                k=k,
                normalize_decoder=bool(fields.get("normalize_decoder", True)),
                batch_topk=bool(fields.get("batch_topk", False)),
                multi_topk=bool(fields.get("multi_topk", False)),
            )
        except ArtefactError as error:
            raise ArtefactError(f"{file}: {error}") from None

    def text(self) -> str:
        """The text of ``cfg.json``."""
        return json.dumps({"activation": "topk", **asdict(self)}, indent=2, sort_keys=True) + "\n"


def _whole(fields: dict[str, Any], name: str, file: str, default: int | None = None) -> int:
    """A whole number of a configuration; ArtefactError when it is missing without a default, or something else."""
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        got = "missing" if name not in fields else repr(value)
        raise ArtefactError(f"{file}: {name} is {got}, expected a whole number; is this sparsify's cfg.json?")
    return value
