"""What a removal benchmark found, on disk: the settings it was measured with, then one outcome a concept and method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saeuron_guard.benchmark.removal import Outcome
from saeuron_guard.discovery.workbench import Effect, Share
from saeuron_guard.errors import ArtefactError

Settings = Mapping[str, Any]
"""Everything that decides what a method does to a concept, in plain JSON values."""


def write_outcomes(path: Path, settings: Settings, outcomes: Sequence[Outcome]) -> None:
    """Write the file, or leave the one that is there as it is."""
    document = {"settings": settings, "outcomes": [asdict(outcome) for outcome in outcomes]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)  # hours of drawing are in it


def read_outcomes(path: Path, settings: Settings | None = None) -> list[Outcome]:
    """The outcomes that ``write_outcomes`` wrote.

    Raises ArtefactError when the file holds something else, or was measured with other ``settings``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        measured_with = document["settings"]
        outcomes = [_outcome(row) for row in document["outcomes"]]
        differing = sorted(name for name in settings or {} if measured_with.get(name) != (settings or {})[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtefactError(
            f"{path}: not what a removal benchmark writes, an object with settings and outcomes; "
            "remove it or write to another file"
        ) from None
    if settings is not None and differing:
        name = differing[0]
        raise ArtefactError(
            f"{path}: measured with {name} {measured_with.get(name)!r}, asked for {settings[name]!r}; "
            "figures of different settings are not comparable: write to another file"
        )
    return outcomes


def _outcome(row: dict[str, Any]) -> Outcome:
    effect = Effect(**{name: Share(**share) for name, share in row["effect"].items()})
    return Outcome(**{**row, "effect": effect})
