"""Calibrations on disk while they are being found: one JSON file a concept, then all of them in the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from saeuron_guard.registry.records import Calibration, OperatingPoint


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Keep one concept's calibration in ``folder``; gives the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{calibration.concept}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")
    partial.replace(path)  # a run killed while writing leaves no half-written file behind
    return path


def read_calibration(path: Path) -> Calibration:
    """Read what ``write_calibration`` wrote; raises ArtefactError when it is something else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(OperatingPoint(**point) for point in fields["points"])
        return Calibration(fields["concept"], points, fields["figures"], fields["provenance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path}: not a calibration ({error}); remove it and calibrate the concept anew") from None


def merge_into_manifest(calibrations: Iterable[Calibration], path: Path) -> None:
    """Replace the calibrations of the same concepts and models in the manifest at ``path``, and add new ones."""
    manifest = load_manifest(path)
    fresh = {(manifest.model_of(found), found.concept): found for found in calibrations}
    known = {(manifest.model_of(found), found.concept): found for found in manifest.calibrations}
    write_manifest(replace(manifest, calibrations=tuple((known | fresh).values())), path)
