"""Statistics artefacts: the scores that a scoring run left in a safetensors file, read without torch.

Nothing is parsed before the file's digest is the expected one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError
from saeuron_guard.resources import inside

if TYPE_CHECKING:
    import numpy.typing as npt

    from saeuron_guard.registry.manifest import Manifest
    from saeuron_guard.registry.records import JudgeRecord, ModelRecord

    Array = npt.NDArray[Any]

FORMAT: Final = "saeuron-guard/statistics-v1"
FIGURES: Final = ("score", "mean", "mean_others", "threshold", "firing_rate")
"""Floating-point tensors [concepts, timesteps, features] of an artefact, beside ``index`` of the same shape."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """The best features of C concepts at T timesteps, K each, best score first.

    ``index``: int [C, T, K], feature ids.  ``figures``: the five FIGURES, float64 [C, T, K].
    """

    concepts: tuple[str, ...]
    timesteps: tuple[int, ...]
    index: Array
    figures: dict[str, Array]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ArtefactCheck:
    """One file that the manifest pins: what its digest should be and is (None when the file is missing)."""

    path: str
    owner: str
    expected: str
    actual: str | None

    @property
    def passed(self) -> bool:
        """Whether the file is the pinned one."""
        return self.actual == self.expected


def read_statistics(path: Path, digest: str, *, num_latents: int) -> Statistics:
    """Read and check an artefact; raises ArtefactError when it is missing, not the pinned one, or malformed."""
    data = _pinned_bytes(path, digest)
    metadata = _metadata(path, data)
    tensors = _tensors(path, data)
    _require(path, metadata.get("format") == FORMAT, f"format is {metadata.get('format')!r}, expected {FORMAT!r}")
    concepts, provenance = _json(path, metadata, "concepts"), _json(path, metadata, "provenance")
    _require(path, isinstance(concepts, list) and all(isinstance(name, str) for name in concepts), "concepts: no list")
    _require(path, isinstance(provenance, dict), "provenance: not a mapping")
    _check_tensors(path, tensors, len(concepts), num_latents)
    _require(path, len(set(concepts)) == len(concepts), "a concept is named twice")
    return Statistics(
        concepts=tuple(concepts),
        timesteps=tuple(int(timestep) for timestep in tensors["timesteps"].tolist()),
        index=tensors["index"],
        figures={name: tensors[name].astype("float64") for name in FIGURES},
        provenance=provenance,
    )


def verify_artefacts(manifest: Manifest, root: Path) -> tuple[ArtefactCheck, ...]:
    """Compare every pinned file below ``root`` with its digest; reports, and raises only for paths that lead outside.

    A model whose ``files`` are empty (a hub id) pins nothing here.
    """
    return tuple(_check(root, *pinned) for pinned in pinned_files(manifest))


def pinned_files(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """(path below the root, what it belongs to, digest) of every file that the manifest pins."""
    owners: tuple[ModelRecord | JudgeRecord, ...] = (*manifest.models, *manifest.judges)
    for owner in owners:
        yield from ((f"{owner.path}/{file}", owner.name, digest) for file, digest in sorted(owner.files.items()))
    yield from ((f"{sae.path}/sae.safetensors", sae.name, sae.digest) for sae in manifest.saes)
    yield from ((run.statistics_path, run.name, run.statistics_digest) for run in manifest.scoring_runs)


def _check(root: Path, relative: str, owner: str, expected: str) -> ArtefactCheck:
    path = inside(root, relative)
    actual = digest_of_file(path) if path.is_file() else None
    return ArtefactCheck(path=relative, owner=owner, expected=expected, actual=actual)


def _pinned_bytes(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError(f"{path}: the statistics file is missing; restore it from the release") from None
    except OSError as error:
        raise ArtefactError(f"{path}: the statistics file cannot be read: {error}") from error
    actual = "sha256:" + hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise ArtefactError(
            f"{path}: not the statistics that the manifest pins: expected {expected}, got {actual}; "
            "restore the file from the release, or score anew and record the new digest"
        )
    return data


def _metadata(path: Path, data: bytes) -> dict[str, str]:
    """The header's ``__metadata__``: a safetensors file starts with its header's length (8 bytes) and its JSON."""
    try:
        length = int.from_bytes(data[:8], "little")
        return dict(json.loads(data[8 : 8 + length]).get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtefactError(f"{path}: not a safetensors file: {error}") from error


def _tensors(path: Path, data: bytes) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, Array] = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtefactError(f"{path}: not a safetensors file: {error}") from error
    return tensors


def _json(path: Path, metadata: dict[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError) as error:
        raise ArtefactError(f"{path}: metadata {key!r} is missing or not JSON") from error


def _check_tensors(path: Path, tensors: dict[str, Array], concepts: int, num_latents: int) -> None:
    import numpy as np

    expected = {"index", "timesteps", *FIGURES}
    _require(path, set(tensors) == expected, f"tensors are {sorted(tensors)}, expected {sorted(expected)}")
    index, timesteps = tensors["index"], tensors["timesteps"]
    _require(path, timesteps.ndim == 1 and timesteps.size > 0, f"timesteps has shape {timesteps.shape}, expected [T]")
    _require(path, index.dtype.kind == "i" and timesteps.dtype.kind == "i", "index and timesteps must be integers")
    shape = (concepts, timesteps.size)
    _require(
        path, index.ndim == 3 and index.shape[:2] == shape, f"index has shape {index.shape}, expected {(*shape, 'K')}"
    )
    for name in FIGURES:
        figure = tensors[name]
        _require(path, figure.shape == index.shape, f"{name} has shape {figure.shape}, expected {index.shape}")
        _require(path, figure.dtype.kind == "f", f"{name} is {figure.dtype}, expected floating point")
        _require(path, bool(np.isfinite(figure).all()), f"{name} has a value that is not a finite number")
    _require(path, bool((np.diff(timesteps) < 0).all()), "timesteps do not count down")
    _require(path, bool(((index >= 0) & (index < num_latents)).all()), f"index is outside 0..{num_latents - 1}")
    _require(path, bool((np.diff(np.sort(index, axis=2), axis=2) > 0).all()), "index repeats a feature")
    _require(path, bool((np.diff(tensors["score"], axis=2) <= 0).all()), "score is not in falling order")


def _require(path: Path, condition: bool, problem: str) -> None:
    if not condition:
        raise ArtefactError(f"{path}: not a statistics file of this version: {problem}")
