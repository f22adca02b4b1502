"""The statistics file that the registry reads: scored features of one run, as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from saeuron_guard.digests import canonical_json, digest_of_file
from saeuron_guard.discovery.concept_statistics import StatisticsSource
from saeuron_guard.discovery.scoring import score_features
from saeuron_guard.errors import ArtefactError
from saeuron_guard.resources import write_whole

STATISTICS_FORMAT: Final = "saeuron-guard/statistics-v1"
TOP: Final = 48
"""Features kept for each concept and timestep: several times more than any calibration has wanted."""


def write_statistics(
    statistics: StatisticsSource, method: str, path: Path, provenance: Mapping[str, Any], *, top: int = TOP
) -> str:
    """Score by ``method`` and write the file of one scoring run; gives its digest.

    Tensors ``index`` int32, ``score``, ``mean``, ``mean_others``, ``threshold`` and ``firing_rate`` float32, all
    [concepts, timesteps, K] with the best score first, and ``timesteps`` int64, descending.
    Metadata: ``format``, ``concepts`` (JSON list of names, domain by domain) and ``provenance`` (JSON).
    Raises ArtefactError when the file cannot be written.
    """
    scored = score_features(statistics, method, top)
    tensors = {
        "index": scored.index,
        "score": scored.score,
        "mean": scored.mean,
        "mean_others": scored.mean_others,
        "threshold": scored.threshold,
        "firing_rate": scored.firing_rate,
        "timesteps": np.asarray(statistics.timesteps, dtype=np.int64),
    }
    metadata = {
        "format": STATISTICS_FORMAT,
        "concepts": json.dumps(list(statistics.table.names), ensure_ascii=False),
        "provenance": canonical_json({**provenance, "method": method, "domains": _domains(statistics)}),
    }
    try:
        data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata=metadata)
        write_whole(path, [sorted_header(data)])
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error.strerror or error})") from None
    return digest_of_file(path)


def sorted_header(data: bytes) -> bytes:
    """A safetensors file with the same contents and its header's keys in order.

    safetensors writes metadata in an order of its own, anew in every process, and a digest would tell.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = canonical_json(json.loads(data[8:end])).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _domains(statistics: StatisticsSource) -> dict[str, list[str]]:
    """Whose prompts counted as the others of a concept: those of its own domain."""
    table = statistics.table
    return {domain: list(group) for domain, group in zip(table.domains, table.concepts, strict=True)}
