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
from saeuron_guard.resources import write_whole

Settings = Mapping[str, Any]
"""Everything that decides what a method does to a concept, in plain JSON values."""


def write_outcomes(path: Path, settings: Settings, outcomes: Sequence[Outcome]) -> None:
    """Write the file, or leave the one that is there as it is: hours of drawing are in it."""
    write_whole(path, json.dumps(document_of(settings, outcomes), indent=1) + "\n")


def document_of(settings: Settings, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the file holds, as JSON values."""
    return {"settings": settings, "outcomes": [asdict(outcome) for outcome in outcomes]}


def read_outcomes(path: Path, settings: Settings | None = None) -> list[Outcome]:
    """The outcomes that ``write_outcomes`` wrote.

    Raises ArtefactError when the file holds something else, or was measured with other ``settings``.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        measured_with = document["settings"]
        outcomes = [_outcome(row) for row in document["outcomes"]]
        asked = {} if settings is None else settings
        differing = sorted(name for name in asked if measured_with.get(name) != asked[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtefactError(
            f"{path}: not what a removal benchmark writes, an object with settings and outcomes; "
            "remove it or write to another file"
        ) from None
    if differing:
        name = differing[0]
        raise ArtefactError(
            f"{path}: measured with {name} {measured_with.get(name)!r}, asked for {asked[name]!r}; "
            "figures of different settings are not comparable: write to another file"
        )
    return outcomes


def _outcome(row: dict[str, Any]) -> Outcome:
    effect = Effect(**{name: Share(**share) for name, share in row["effect"].items()})
    return Outcome(**{**row, "effect": effect})
