"""``registry/manifest.yaml``, the reviewable truth about what the registry holds: read, checked, written."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from saeuron_guard.documents import Document, document_problems, draft_document
from saeuron_guard.errors import ManifestError, Problem
from saeuron_guard.names import API_VERSION
from saeuron_guard.registry.consistency import consistency_problems
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    JudgeRecord,
    ModelRecord,
    OperatingPoint,
    PromptSetRecord,
    Review,
    SaeRecord,
    ScoringRun,
)
from saeuron_guard.registry.schema import KIND, MANIFEST_SCHEMA
from saeuron_guard.strict_yaml import read_yaml

MANIFEST_VARIABLE: Final = "SAEURON_GUARD_MANIFEST"
"""Names the manifest of a registry of one's own, to use in place of the shipped one."""

LARGEST_MANIFEST: Final = 8 << 20
"""Bytes. The embedded model's manifest is a hundredth of it."""

SIGNIFICANT_DIGITS: Final = 6
"""Of floating-point numbers as written: more than any figure here means, few enough to read."""

_MAYBE: Final = "float | None"
"""The annotation of a number that may be unknown: the manifest leaves it out then."""

_HEADER: Final = """\
# What this registry holds and how it came about: models, sparse autoencoders, concepts, scores, calibrations, judges.
# The program writes this file; people review it. README.md beside it explains the fields.
"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that the manifest says, always sorted by name.

    Prompt sets are sorted by role and name, calibrations by model and concept, reviews by feature and time.
    Reviews of one feature within one second stay in the order that they were given in: the last one counts.
    """

    models: tuple[ModelRecord, ...] = ()
    saes: tuple[SaeRecord, ...] = ()
    concepts: tuple[ConceptRecord, ...] = ()
    prompt_sets: tuple[PromptSetRecord, ...] = ()
    scoring_runs: tuple[ScoringRun, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    judges: tuple[JudgeRecord, ...] = ()
    reviews: tuple[Review, ...] = ()

    def __post_init__(self) -> None:
        for part in ("models", "saes", "concepts", "scoring_runs", "judges"):
            object.__setattr__(self, part, tuple(sorted(getattr(self, part), key=lambda record: str(record.name))))
        object.__setattr__(
            self, "prompt_sets", tuple(sorted(self.prompt_sets, key=lambda used: (used.role, used.name)))
        )
        by_place = sorted(self.calibrations, key=lambda calibration: (self.model_of(calibration), calibration.concept))
        object.__setattr__(self, "calibrations", tuple(by_place))
        in_order = sorted(self.reviews, key=lambda review: (review.sae, review.index, review.when))
        object.__setattr__(self, "reviews", tuple(in_order))

    def model_of(self, calibration: Calibration) -> str:
        """The model that a calibration is for: that of its SAEs; empty when they are unknown."""
        models = {sae.name: sae.model for sae in self.saes}
        return models.get(calibration.points[0].sae, "") if calibration.points else ""


def configured_manifest() -> Path | None:
    """The manifest that the environment asks for, or None; raises ManifestError when there is no such file."""
    named = os.environ.get(MANIFEST_VARIABLE)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        raise ManifestError([Problem(named, 0, 0, f"there is no such manifest, but {MANIFEST_VARIABLE} names it")])
    return path


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest; raises ManifestError with all problems of the file, each with line and column."""
    document = draft_document(path, max_bytes=LARGEST_MANIFEST, error=ManifestError)
    problems = document_problems(document, MANIFEST_SCHEMA, KIND) or consistency_problems(document)
    if problems:
        raise ManifestError(problems)
    return _manifest(document)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write ``manifest`` so that equal content gives equal bytes, replacing the file in one step.

    Floating-point numbers are rounded to SIGNIFICANT_DIGITS.  What ``load_manifest`` would refuse raises its
    ManifestError and leaves the old file as it was.
    """
    text = _HEADER + yaml.dump(
        _document(manifest), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        load_manifest(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _manifest(document: Document) -> Manifest:
    value = document.value
    return Manifest(
        models=_records(ModelRecord, value["models"]),
        saes=_records(SaeRecord, value["saes"]),
        concepts=_records(ConceptRecord, value["concepts"]),
        prompt_sets=_records(PromptSetRecord, value.get("prompt_sets", [])),
        scoring_runs=_records(ScoringRun, value.get("scoring_runs", [])),
        calibrations=tuple(_calibration(entry) for entry in value.get("calibrations", [])),
        judges=_records(JudgeRecord, value.get("judges", [])),
        reviews=_records(Review, value.get("reviews", [])),
    )


def _records(kind: type[Any], entries: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(_record(kind, entry) for entry in entries)


def _record(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    """A record from a checked entry: whole numbers become floats and lists tuples where the record says so."""
    values = dict(entry)
    for field in dataclasses.fields(kind):
        if field.name in values and field.type in {"float", _MAYBE}:
            values[field.name] = float(values[field.name])
        elif field.type == _MAYBE:
            values[field.name] = None
    for name in ("timesteps", "aliases"):
        if name in values:
            values[name] = tuple(values[name])
    if "labels" in values:
        values["labels"] = {domain: tuple(names) for domain, names in values["labels"].items()}
    return kind(**values)


def _calibration(entry: Mapping[str, Any]) -> Calibration:
    return Calibration(
        concept=entry["concept"],
        points=tuple(_record(OperatingPoint, point) for point in entry["points"]),
        figures={name: float(figure) for name, figure in entry["figures"].items()},
        provenance=entry["provenance"],
    )


def _document(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    for field in dataclasses.fields(manifest):
        document[field.name] = [_entry(record) for record in getattr(manifest, field.name)]
    if not manifest.reviews:
        del document["reviews"]
    document["calibrations"] = [
        {"concept": calibration.concept, "model": manifest.model_of(calibration) or "unknown", **_entry(calibration)}
        for calibration in manifest.calibrations
    ]
    return document


def _entry(record: Any) -> dict[str, Any]:
    """A record's fields in their order, with the keys inside of them sorted.

    Fields that have their default are left out, and numbers that nobody knows.
    """
    values = {field: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {field.name: rounded(value) for field, value in values.items() if not _is_default(field, value)}


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    if field.type == _MAYBE:
        return value is None
    return field.default_factory is not dataclasses.MISSING and bool(value == field.default_factory())


def rounded(value: Any) -> Any:
    """A record or value as it is written: plain lists and mappings, keys sorted, SIGNIFICANT_DIGITS of numbers."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # + 0.0: no "-0.0" for a rounded nothing
    if isinstance(value, Mapping):
        return {str(key): rounded(value[key]) for key in sorted(value)}
    if dataclasses.is_dataclass(value):
        return _entry(value)
    if isinstance(value, tuple | list):
        return [rounded(part) for part in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Safe YAML whose every value the strict reader reads as it was, with lists of numbers on one line."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write equal values out every time: the strict reader refuses aliases."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML follows YAML 1.1 and leaves 123e4 bare, which YAML 1.2 takes for a number.
    plain = read_yaml(text, "").value == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


def _represent_list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    numbers = all(isinstance(value, int | float) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=numbers)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
