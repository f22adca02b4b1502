"""What differs between two contents of the registry, by kind and name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from saeuron_guard.registry.manifest import Manifest

KINDS: Final = ("models", "saes", "concepts", "prompt_sets", "scoring_runs", "calibrations", "judges")
"""The parts of a manifest that are content; reviews are recorded, each for itself."""

Names = Mapping[str, tuple[str, ...]]
"""Kind -> names, sorted; without kinds that have none. See ``entries_of`` for the names."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new content adds, removes and changes."""

    added: Names
    removed: Names
    changed: Names

    @property
    def nothing(self) -> bool:
        """Whether both contents are equal."""
        return not (self.added or self.removed or self.changed)

    def to_json(self) -> dict[str, dict[str, list[str]]]:
        """The three as JSON values."""
        parts = dataclasses.asdict(self)
        return {part: {kind: list(names) for kind, names in found.items()} for part, found in parts.items()}


def content_changes(old: Manifest, new: Manifest) -> Changes:
    """Compare two contents record by record."""
    added, removed, changed = {}, {}, {}
    for kind in KINDS:
        before, after = entries_of(old, kind), entries_of(new, kind)
        added[kind] = tuple(sorted(after.keys() - before.keys()))
        removed[kind] = tuple(sorted(before.keys() - after.keys()))
        changed[kind] = tuple(sorted(name for name in after.keys() & before.keys() if after[name] != before[name]))
    return Changes(_without_empty(added), _without_empty(removed), _without_empty(changed))


def entries_of(manifest: Manifest, kind: str) -> dict[str, Any]:
    """The records of a kind by name: ``role/name`` for prompt sets, ``model/concept`` for calibrations."""
    if kind == "prompt_sets":
        return {f"{used.role}/{used.name}": used for used in manifest.prompt_sets}
    if kind == "calibrations":
        found = manifest.calibrations
        return {f"{manifest.model_of(calibration)}/{calibration.concept}": calibration for calibration in found}
    return {record.name: record for record in getattr(manifest, kind)}


def _without_empty(names: dict[str, tuple[str, ...]]) -> Names:
    return {kind: found for kind, found in names.items() if found}
