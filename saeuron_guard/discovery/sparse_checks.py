"""What must hold of a sparse statistics file before anything is computed from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.sparse import MOST_POSITIONS, SparseStatistics, narrow
from saeuron_guard.errors import ArtefactError

LARGEST_DICTIONARY: Final = 1 << 22
"""Bound on ``num_latents``, as for autoencoders themselves."""

_METADATA: Final = {"format", "num_latents", "domains", "provenance"}
_HOOKPOINT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""A dotted module path: files are named after it, so it must not lead anywhere."""


def require(path: Path, condition: object, problem: str) -> None:
    """Raise ArtefactError about the file at ``path`` unless ``condition`` holds."""
    if not condition:
        raise ArtefactError(
            f"{path}: not a sound file of sparse statistics: {problem}. Restore it, or collect the statistics anew "
            'with "saeuron-guard sae collect".'
        )


def checked_provenance(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Where a file says that its statistics come from; ArtefactError when its metadata are others than expected."""
    require(path, set(metadata) == _METADATA, f"metadata are {sorted(metadata)}, expected {sorted(_METADATA)}")
    provenance = _json(path, metadata, "provenance")
    require(path, isinstance(provenance, dict), "provenance is no JSON object")
    found: dict[str, Any] = provenance
    hookpoint = found.get("hookpoint")
    sound = isinstance(hookpoint, str) and _HOOKPOINT.fullmatch(hookpoint)
    require(path, sound, f"hookpoint is {hookpoint!r}, expected a dotted module path")
    return found


def checked_statistics(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> SparseStatistics:
    """The statistics in a file's tensors and metadata; ArtefactError when they contradict themselves or the format.

    ``metadata`` have the keys that ``checked_provenance`` asks for.
    """
    stated = metadata["num_latents"]
    latents = int(stated) if re.fullmatch(r"[1-9][0-9]{0,7}", stated) else 0
    require(path, 0 < latents <= LARGEST_DICTIONARY, f"num_latents is {stated!r}, expected 1 to {LARGEST_DICTIONARY}")
    table = _table(path, metadata)
    _check_types(path, tensors, len(table.names), latents)
    _check_rows(path, tensors, latents)
    _check_figures(path, tensors)
    return SparseStatistics(
        table=table,
        timesteps=tuple(int(timestep) for timestep in tensors["timesteps"].tolist()),
        num_latents=latents,
        **{name: tensor for name, tensor in tensors.items() if name != "timesteps"},
    )


def _json(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError):
        raise ArtefactError(f"{path}: {key} is not JSON; collect the statistics anew") from None


def _table(path: Path, metadata: Mapping[str, str]) -> ConceptTable:
    domains = _json(path, metadata, "domains")
    sound = isinstance(domains, dict) and all(isinstance(group, list) and group for group in domains.values())
    names = [name for group in domains.values() for name in group] if sound else []
    sound = sound and bool(names) and all(isinstance(name, str) for name in names)
    require(path, sound, "domains is no JSON object of domain -> list of concepts")
    require(path, len(set(names)) == len(names), "a concept is named twice")
    ordered = list(domains) == sorted(domains) and all(group == sorted(group) for group in domains.values())
    require(path, ordered, "domains or concepts are not in alphabetical order")
    return ConceptTable(tuple(domains), tuple(tuple(group) for group in domains.values()))


def _check_types(path: Path, tensors: Mapping[str, npt.NDArray[Any]], concepts: int, latents: int) -> None:
    """Names, types and shapes: ``index`` and ``fired`` are as narrow as what they count to allows."""
    expected = {"count", "fired", "index", "indptr", "mean", "second", "timesteps"}
    require(path, set(tensors) == expected, f"tensors are {sorted(tensors)}, expected {sorted(expected)}")
    steps, cells = tensors["timesteps"].size, tensors["index"].size
    shapes = {
        "count": (concepts, steps),
        "fired": (cells,),
        "index": (cells,),
        "indptr": (concepts * steps + 1,),
        "mean": (cells,),
        "second": (cells,),
        "timesteps": (steps,),
    }
    types: dict[str, type[np.generic]] = {"count": np.int64, "indptr": np.int64, "timesteps": np.int64}
    types |= {"mean": np.float32, "second": np.float32, "index": narrow(latents - 1)}
    for name, kind in types.items():
        _check_type(path, tensors, name, kind)
    _check_type(path, tensors, "fired", narrow(int(tensors["count"].max(initial=0))))
    for name, shape in shapes.items():
        got = tensors[name].shape
        require(path, got == shape, f"{name} has shape {list(got)}, expected {list(shape)}")
    require(path, steps > 0, "it has no timesteps")


def _check_type(path: Path, tensors: Mapping[str, npt.NDArray[Any]], name: str, kind: type[np.generic]) -> None:
    got = tensors[name].dtype
    require(path, got == np.dtype(kind), f"{name} is {got}, expected {np.dtype(kind)}")


def _check_rows(path: Path, tensors: Mapping[str, npt.NDArray[Any]], latents: int) -> None:
    indptr, index, timesteps = tensors["indptr"], tensors["index"], tensors["timesteps"]
    require(path, (np.diff(timesteps) < 0).all(), "timesteps do not count down")
    bounds = f"{int(indptr[0])} to {int(indptr[-1])}"
    require(path, indptr[0] == 0 and indptr[-1] == index.size, f"indptr goes from {bounds}, expected 0 to {index.size}")
    require(path, (np.diff(indptr) >= 0).all(), "indptr does not rise")
    largest = int(index.max(initial=0))
    require(path, largest < latents, f"index holds {largest}, expected 0 to {latents - 1}")
    # Between the last cell of a row and the first of the next, the index may fall.
    rising = index[1:] > index[:-1]
    firsts = indptr[1:-1]
    rising[firsts[(firsts > 0) & (firsts < index.size)] - 1] = True
    require(path, rising.all(), "the index of a row repeats a feature or does not rise")


def _check_figures(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    count, fired = tensors["count"], tensors["fired"]
    require(
        path,
        count.min() > 0 and count.max() <= MOST_POSITIONS,
        f"count goes from {count.min()} to {count.max()}, expected 1 to {MOST_POSITIONS} positions",
    )
    for name in ("mean", "second"):
        figure = tensors[name]
        require(path, np.isfinite(figure).all(), f"{name} has a value that is not a finite number")
        require(path, (figure >= 0).all(), f"{name} has a value below 0")
    positions = np.repeat(count.reshape(-1).astype(np.uint32), np.diff(tensors["indptr"]))
    require(path, (fired > 0).all() and (fired <= positions).all(), "fired is outside 1 to the number of positions")
