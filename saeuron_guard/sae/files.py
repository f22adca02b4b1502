"""Weights of sparse autoencoders as bytes: read with every check before use, written so that the digest holds.

A digest pins the bytes of ``sae.safetensors``.
Those bytes are the header (JSON, kept verbatim) and the tensors in the order of their offsets, so whoever holds header
and tensors can compute the digest again: that is how a compiled guard, which carries the tensors in a file of its own,
still answers to the digest that the registry recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from saeuron_guard.errors import ArtefactError
from saeuron_guard.sae.config import SparseCoderConfig

LARGEST_CONFIG = 1 << 16
LARGEST_HEADER = 1 << 20
LARGEST_WEIGHTS = 1 << 33
"""Bytes that are read at most: 64 KiB of cfg.json, 1 MiB of header, 8 GiB of weights (SD 1.5's SAEs have 0.2 GiB)."""

_LENGTH = 8
"""A safetensors file begins with the length of its header, 8 bytes, little-endian."""

STORED_DTYPES: dict[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights as stored: the header's text, and the tensors in their stored dtypes."""

    header: str
    tensors: dict[str, Tensor]


def expected_shapes(config: SparseCoderConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of ``sae.safetensors``."""
    return {
        "encoder.weight": (config.num_latents, config.d_in),
        "encoder.bias": (config.num_latents,),
        "W_dec": (config.num_latents, config.d_in),
        "b_dec": (config.d_in,),
    }


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of ``path``; ArtefactError when it is missing, not a file, or longer than ``limit``."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > limit:
        raise ArtefactError(f"{path}: longer than the {limit} bytes that are accepted")
    return data


def check_digest(data: bytes, expected: str, path: Path) -> None:
    """Raise ArtefactError unless the digest of ``data`` is ``expected``."""
    actual = "sha256:" + hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise ArtefactError(
            f"{path}: not the pinned file (expected {expected}, got {actual}); restore it, or record the new digest"
        )


def split_header(data: bytes, path: Path) -> str:
    """The text of the header of safetensors bytes."""
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > min(LARGEST_HEADER, len(data) - _LENGTH):
        raise ArtefactError(f"{path}: truncated, or not a safetensors file")
    try:
        return data[_LENGTH : _LENGTH + length].decode("utf-8")
    except UnicodeDecodeError:
        raise ArtefactError(f"{path}: not a safetensors file (its header is not text)") from None


def entries(header: str, place: str) -> dict[str, dict[str, Any]]:
    """The tensors that a header describes: name -> dtype, shape, data_offsets; ArtefactError when malformed."""
    try:
        fields = json.loads(header)
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
    return all(
        isinstance(numbers := entry.get(name), list) and all(isinstance(number, int) for number in numbers)
        for name in ("shape", "data_offsets")
    )


def check_layout(header: str, config: SparseCoderConfig, place: str) -> None:
    """Raise ArtefactError unless ``header`` describes exactly the tensors of ``config`` in dtypes that are read."""
    described = entries(header, place)
    shapes = expected_shapes(config)
    if set(described) != set(shapes):
        missing, extra = sorted(shapes.keys() - described.keys()), sorted(described.keys() - shapes.keys())
        raise ArtefactError(f"{place}: tensors {missing} missing and {extra} unexpected; expected sparsify's keys")
    for name, shape in shapes.items():
        if tuple(described[name]["shape"]) != shape:
            raise ArtefactError(f"{place}: {name} has shape {described[name]['shape']}, expected {list(shape)}")
        if described[name]["dtype"] not in STORED_DTYPES:
            raise ArtefactError(
                f"{place}: {name} is stored as {described[name]['dtype']}, expected one of {sorted(STORED_DTYPES)}"
            )


def parse_weights(data: bytes, config: SparseCoderConfig, path: Path) -> StoredWeights:
    """Turn the bytes of a ``sae.safetensors`` into tensors, after checking that they belong to ``config``."""
    header = split_header(data, path)
    check_layout(header, config, str(path))
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise ArtefactError(f"{path}: not a readable safetensors file ({error})") from None
    check_finite(tensors, str(path))
    return StoredWeights(header, tensors)


def check_finite(tensors: Mapping[str, Tensor], place: str) -> None:
    """Raise ArtefactError when a weight is infinite or not a number: such a guard would blank every image."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtefactError(f"{place}: {name} holds values that are not finite numbers")


def serialise(tensors: Mapping[str, Tensor]) -> StoredWeights:
    """The header that ``sae.safetensors`` gets for ``tensors``, with the tensors themselves."""
    data = save(dict(tensors))
    return StoredWeights(split_header(data, Path("sae.safetensors")), dict(tensors))


def digest_of_weights(stored: StoredWeights, place: str) -> str:
    """The digest of the ``sae.safetensors`` that has this header and these tensors, without making the file."""
    state = hashlib.sha256()
    for chunk in file_chunks(stored, place):
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def file_chunks(stored: StoredWeights, place: str) -> list[bytes | memoryview]:
    """The bytes of ``sae.safetensors`` in pieces: length, header, tensors in the order of their offsets."""
    header = stored.header.encode("utf-8")
    chunks: list[bytes | memoryview] = [len(header).to_bytes(_LENGTH, "little"), header]
    described = entries(stored.header, place)
    for name in sorted(described, key=lambda name: tuple(described[name]["data_offsets"])):
        tensor = stored.tensors.get(name)
        if tensor is None:
            raise ArtefactError(f"{place}: {name} is missing")
        raw: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        chunks.append(memoryview(raw))
    return chunks
