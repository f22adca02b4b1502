"""Calibrations on disk while they are being found: one JSON file a concept, then all of them in the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from saeuron_guard.registry.records import Calibration, OperatingPoint
from saeuron_guard.resources import write_whole


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Keep one concept's calibration in ``folder``; gives the file."""
    path = folder / f"{calibration.concept}.json"
    write_whole(path, json.dumps(asdict(calibration), indent=2) + "\n")
    return path


def read_calibration(path: Path) -> Calibration:
    """Read what ``write_calibration`` wrote; raises ArtefactError when it is something else."""
    try:
        return _calibration(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(f"{path}: not a calibration ({error}); remove it and calibrate the concept anew") from None


def _calibration(fields: Any) -> Calibration:
    """The calibration in ``fields``, a JSON document; KeyError, TypeError or ValueError when it holds none."""
    concept, figures, provenance = fields["concept"], fields["figures"], fields["provenance"]
    points = tuple(OperatingPoint(**point) for point in fields["points"])
    if not isinstance(concept, str) or not isinstance(provenance, dict) or not isinstance(figures, dict):
        raise TypeError("concept is not text, or figures or provenance is no mapping")
    if not all(_is_number(figure) for figure in figures.values()):
        raise TypeError("a figure is not a number")
    if not points or not all(_is_point(point) for point in points):
        raise TypeError("there are no points, or one has something else in its fields")
    return Calibration(concept, points, figures, provenance)


def _is_point(point: Any) -> bool:
    named = isinstance(point.sae, str) and isinstance(point.run, str)
    return named and type(point.features) is int and _is_number(point.multiplier)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def merge_into_manifest(calibrations: Iterable[Calibration], path: Path) -> None:
    """Replace the calibrations of the same concepts and models in the manifest at ``path``, and add new ones."""
    manifest = load_manifest(path)
    fresh = {(manifest.model_of(found), found.concept): found for found in calibrations}
    known = {(manifest.model_of(found), found.concept): found for found in manifest.calibrations}
    write_manifest(replace(manifest, calibrations=tuple((known | fresh).values())), path)
