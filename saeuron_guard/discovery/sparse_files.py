"""The sparse statistics file: everything that a pass over the anchor prompts found out, as safetensors.

Single precision throughout, and counts as whole numbers: lossless, so that scores from the file are, bit for bit, those
from the statistics in memory. A cell takes 12 bytes while an autoencoder has at most 65,536 latents and a concept at
most 65,535 positions at a timestep, as SAeUron's have (2 for ``index``, 4 for ``mean``, 4 for ``second``, 2 for
``fired``), else up to 16. Half precision would save a third and let features change their ranks.

Equal statistics and provenance give equal bytes. The header states the digest of everything else in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeuron_guard.digests import canonical_json
from saeuron_guard.discovery.sparse import Collected, SparseStatistics
from saeuron_guard.discovery.sparse_checks import checked_provenance, checked_statistics, require
from saeuron_guard.errors import ArtefactError
from saeuron_guard.resources import write_whole

SPARSE_FORMAT: Final = "saeuron-guard/sparse-statistics-v1"
LARGEST_HEADER: Final = 1 << 24
LARGEST_FILE: Final = 1 << 35
"""Bytes that are read at most: 16 MiB of header, 32 GiB in all (SAeUron's 70 concepts take less than one)."""

_LENGTH: Final = 8
"""A safetensors file begins with the length of its header, 8 bytes, little-endian."""

_STORED: Final = {"int64": "I64", "float32": "F32", "uint32": "U32", "uint16": "U16"}
"""safetensors' names of the types that are written."""

Arrays = dict[str, npt.NDArray[Any]]


def write_sparse(statistics: SparseStatistics, path: Path, provenance: Mapping[str, Any]) -> str:
    """Write statistics with their provenance, whole or not at all; gives the file's digest.

    Tensors: ``indptr`` int64 [C * T + 1], ``index``, ``mean``, ``second`` and ``fired`` [cells], ``count`` int64
    [C, T], ``timesteps`` int64 [T]; see SparseStatistics.
    Metadata: ``format``, ``digest``, ``num_latents``, ``domains`` (JSON object, domain -> concepts) and ``provenance``
    (JSON object, as of Collected).
    Raises ArtefactError when the file cannot be written.
    """
    arrays = _arrays(statistics)
    metadata = {
        "format": SPARSE_FORMAT,
        "num_latents": str(statistics.num_latents),
        "domains": canonical_json(dict(zip(statistics.table.domains, statistics.table.concepts, strict=True))),
        "provenance": canonical_json(dict(provenance)),
    }
    layout = _layout(arrays)
    body = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    metadata["digest"] = _content_digest(layout, metadata, body)
    header = canonical_json({**layout, "__metadata__": metadata}).encode()
    header += b" " * (-len(header) % _LENGTH)
    chunks: list[bytes | memoryview] = [len(header).to_bytes(_LENGTH, "little"), header, *body]
    try:
        write_whole(path, chunks)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error.strerror or error})") from None
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def read_sparse(path: Path, digest: str | None = None) -> Collected[SparseStatistics]:
    """Read and check what ``write_sparse`` wrote.

    Raises ArtefactError when the file is missing, truncated, not the one that ``digest`` pins, changed since it was
    written, or says something that no statistics can.
    """
    data = _bytes_of(path)
    if digest is not None:
        actual = "sha256:" + hashlib.sha256(data).hexdigest()
        require(path, actual == digest, f"expected the file with digest {digest}, got {actual}")
    layout, metadata = _header(path, data)
    found = metadata.get("format")
    require(path, found == SPARSE_FORMAT, f"format is {found!r}, expected {SPARSE_FORMAT!r}")
    stated = metadata.pop("digest", None)
    body = memoryview(data)[_LENGTH + int.from_bytes(data[:_LENGTH], "little") :]
    try:
        actual = _content_digest(layout, metadata, [body])
    except ValueError:  # such as half a surrogate pair, which JSON can spell and UTF-8 cannot
        actual = "none"
    require(path, stated == actual, f"it states the digest {stated} of its contents, which have {actual}")
    provenance = checked_provenance(path, metadata)
    return Collected(checked_statistics(path, _tensors(path, data), metadata), provenance)


def _arrays(statistics: SparseStatistics) -> Arrays:
    """The tensors in the order in which they lie in the file: widest first, so that each is aligned."""
    arrays: Arrays = {
        "count": statistics.count,
        "indptr": statistics.indptr,
        "timesteps": np.asarray(statistics.timesteps, np.int64),
        "mean": statistics.mean,
        "second": statistics.second,
        "fired": statistics.fired,
        "index": statistics.index,
    }
    # Little-endian on every machine, as safetensors has it.
    plain = {name: np.ascontiguousarray(each, each.dtype.newbyteorder("<")) for name, each in arrays.items()}
    return dict(sorted(plain.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def _layout(arrays: Arrays) -> dict[str, Any]:
    """The header's entries of tensors that lie one after the other."""
    layout: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        layout[name] = {
            "dtype": _STORED[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    return layout


def _content_digest(layout: Mapping[str, Any], metadata: Mapping[str, str], data: Iterable[memoryview]) -> str:
    """``sha256:...`` of header and tensors, but for the digest that the header states."""
    state = hashlib.sha256(canonical_json([layout, metadata]).encode())
    for chunk in data:
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        require(path, size <= LARGEST_FILE, f"it has {size} bytes, expected at most {LARGEST_FILE}")
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(
            f"{path}: the statistics cannot be read ({error.strerror or error}); name a file that sae collect wrote"
        ) from None


def _header(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The header's entries of tensors, and its metadata."""
    length = int.from_bytes(data[:_LENGTH], "little")
    require(path, len(data) >= _LENGTH and length <= len(data) - _LENGTH, "it is truncated, or no safetensors file")
    require(path, length <= LARGEST_HEADER, f"its header has {length} bytes, expected at most {LARGEST_HEADER}")
    try:
        layout = json.loads(data[_LENGTH : _LENGTH + length])
        metadata = layout.pop("__metadata__")
        sound = isinstance(layout, dict) and all(isinstance(value, str) for value in metadata.values())
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        sound, layout, metadata = False, {}, {}
    require(path, sound, "it is no safetensors file with metadata")
    return layout, metadata


def _tensors(path: Path, data: bytes) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: Arrays = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtefactError(f"{path}: not a safetensors file: {error}; collect the statistics anew") from None
    return tensors
