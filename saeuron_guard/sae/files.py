"""Weights of sparse autoencoders as bytes: read with every check before use, written so that the digest holds.

A digest pins the bytes of ``sae.safetensors``.
Those bytes are the header (JSON, kept verbatim) and the tensors in the order of their offsets, so whoever holds header
and tensors can compute the digest again: that is how a compiled guard, which carries the tensors in a file of its own,
still answers to the digest that the registry recorded.
"""

from __future__ import annotations

import hashlib
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
from saeuron_guard.sae.header import LENGTH, by_offset, check_layout, entries, split_header

STORED_DTYPES: dict[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights as stored: the header's text, and the tensors in their stored dtypes."""

    header: str
    tensors: dict[str, Tensor]


def check_digest(data: bytes, expected: str, path: Path) -> None:
    """Raise ArtefactError unless the digest of ``data`` is ``expected``."""
    actual = "sha256:" + hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise ArtefactError(
            f"{path}: not the pinned file (expected {expected}, got {actual}); restore it, or record the new digest"
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
    chunks: list[bytes | memoryview] = [len(header).to_bytes(LENGTH, "little"), header]
    described = entries(stored.header, place)
    for name in by_offset(described):
        tensor = stored.tensors.get(name)
        if tensor is None:
            raise ArtefactError(f"{place}: {name} is missing")
        raw: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        chunks.append(memoryview(raw))
    return chunks
