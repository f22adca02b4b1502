"""The header of a safetensors file that holds SAEs: which tensors there are, of what kind, and where. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from saeuron_guard.errors import ArtefactError
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.strict_json import read_json
from saeuron_guard.wording import quote

LARGEST_CONFIG: Final = 1 << 16
LARGEST_HEADER: Final = 1 << 20
LARGEST_WEIGHTS: Final = 1 << 33
"""Bytes that are read at most: 64 KiB of cfg.json, 1 MiB of header, 8 GiB of weights (SD 1.5's SAEs have 0.2 GiB)."""

LENGTH: Final = 8
"""A safetensors file begins with the length of its header, 8 bytes, little-endian."""

_EXPONENTS: Final = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Of each dtype that is read: as which unsigned numbers to look at it, and the bits that are all set in inf and NaN."""

READ_DTYPES: Final = tuple(sorted(_EXPONENTS))
"""The dtypes, by safetensors' names, in which weights are stored."""

_AT_ONCE: Final = 1 << 20
"""Values that are looked at together; bounds the memory that a check takes."""


def expected_shapes(config: SparseCoderConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of ``sae.safetensors``."""
    return {
        "encoder.weight": (config.num_latents, config.d_in),
        "encoder.bias": (config.num_latents,),
        "W_dec": (config.num_latents, config.d_in),
        "b_dec": (config.d_in,),
    }


def split_header(data: bytes, path: Path) -> str:
    """The text of the header of safetensors bytes."""
    length = int.from_bytes(data[:LENGTH], "little")
    if len(data) < LENGTH or length > min(LARGEST_HEADER, len(data) - LENGTH):
        raise ArtefactError(f"{path}: truncated, or not a safetensors file")
    try:
        return data[LENGTH : LENGTH + length].decode("utf-8")
    except UnicodeDecodeError:
        raise ArtefactError(f"{path}: not a safetensors file (its header is not text)") from None


def entries(header: str, place: str) -> dict[str, dict[str, Any]]:
    """The tensors that a header describes: name -> dtype, shape, data_offsets; ArtefactError when malformed."""
    try:
        fields = read_json(header)
        described = {name: entry for name, entry in fields.items() if name != "__metadata__"}
        sound = all(_is_entry(entry) for entry in described.values())
    except (ValueError, AttributeError):
        sound, described = False, {}
    if not sound:
        raise ArtefactError(f"{place}: not a safetensors file (its header is malformed)")
    return described


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    return _are_sizes(shape) and _are_sizes(offsets) and isinstance(offsets, list) and len(offsets) == 2


def _are_sizes(numbers: object) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def check_layout(header: str, config: SparseCoderConfig, place: str) -> None:
    """Raise ArtefactError unless ``header`` describes exactly the tensors of ``config`` in dtypes that are read."""
    described = entries(header, place)
    shapes = expected_shapes(config)
    if set(described) != set(shapes):
        missing, extra = sorted(shapes.keys() - described.keys()), sorted(described.keys() - shapes.keys())
        shown = ", ".join(quote(name) for name in extra[:4])
        raise ArtefactError(f"{place}: tensors {missing} missing and [{shown}] unexpected; expected sparsify's keys")
    for name, shape in shapes.items():
        check_tensor(described[name], shape, f"{place}: {name}")


def check_tensor(entry: Mapping[str, Any], shape: tuple[int, ...], place: str) -> None:
    """Raise ArtefactError unless a header's ``entry`` is a tensor of this shape in a dtype that is read."""
    if tuple(entry["shape"]) != shape:
        raise ArtefactError(f"{place} has shape {entry['shape'][:4]}, expected {list(shape)}")
    if entry["dtype"] not in READ_DTYPES:
        raise ArtefactError(f"{place} is stored as {quote(entry['dtype'])}, expected one of {list(READ_DTYPES)}")


def check_offsets(described: Mapping[str, Mapping[str, Any]], size: int, place: str) -> None:
    """Raise ArtefactError unless the tensors lie one after another and take all of ``size`` bytes.

    Tensors that overlap, or bytes that belong to none, would be read as something else than what was digested.
    """
    at = 0
    for name in by_offset(described):
        entry = described[name]
        begin, end = entry["data_offsets"]
        width = int(_EXPONENTS[entry["dtype"]][0][-1])
        if begin != at or end != begin + width * prod(entry["shape"]):
            raise ArtefactError(
                f"{place}: {quote(name)} takes the bytes {begin} to {end}, expected {width * prod(entry['shape'])} "
                f"bytes from {at} on; the file is damaged"
            )
        at = end
    if at != size:
        raise ArtefactError(f"{place}: holds {size} bytes of tensors, expected {at}; the file is damaged")


def by_offset(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the tensors in the order in which they lie in the file."""
    return sorted(described, key=lambda name: tuple(described[name]["data_offsets"]))


def all_finite(values: memoryview, dtype: str) -> bool:
    """Whether no value is infinite or not a number."""
    kind, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(values, dtype=kind)
    return not any(
        bool(((bits[start : start + _AT_ONCE] & exponent) == exponent).any()) for start in range(0, bits.size, _AT_ONCE)
    )
