"""Finds a judge by its registered name, its folder, or open_clip's published name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saeuron_guard.errors import ArtefactError, CannotEvaluate
from saeuron_guard.judges import classifier, clip
from saeuron_guard.judges.folder import check_files
from saeuron_guard.judges.interface import Judge
from saeuron_guard.registry.records import JudgeRecord
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.resources import inside
from saeuron_guard.wording import did_you_mean


def load_judge(name_or_path: str | Path, registry: FeatureRegistry) -> Judge:
    """Load a judge.

    ``name_or_path``: a judge of the registry (its files are compared with their recorded digests), a folder with
    ``open_clip_config.json`` or with classifiers, or ``open_clip:ARCHITECTURE:WEIGHTS`` for a published model, which
    open_clip may have to download. A judge that is not registered tells the registry's concepts apart.

    Raises CannotEvaluate for a name that nothing answers to, ArtefactError for files that are missing, malformed or
    not the pinned ones.
    """
    source = str(name_or_path)
    if source.startswith(clip.STOCK):
        architecture, _, weights = source.removeprefix(clip.STOCK).partition(":")
        return clip.ClipJudge.stock(architecture, weights, _concepts(registry))
    records = {record.name: record for record in registry.judges()}
    if source in records:
        return _registered(records[source], registry.artefact_root)
    folder = Path(source)
    if folder.is_dir():
        return _folder(folder, folder.resolve().name, _concepts(registry))
    raise CannotEvaluate(
        f"no judge {source!r}.{did_you_mean(source, records)} Give a judge of the registry "
        f"({', '.join(sorted(records)) or 'it has none'}), a folder, or {clip.STOCK}ARCHITECTURE:WEIGHTS"
    )


def load_calibration_judge(name_or_path: str, registry: FeatureRegistry) -> Judge:
    """As ``load_judge``, for a judge that settings are chosen with.

    Raises CannotEvaluate for one that the registry keeps for audits, by whatever name or folder it is given: what
    chose a setting cannot say how well the setting does.
    """
    judge = load_judge(name_or_path, registry)
    for record in registry.judges():
        if record.role == "audit" and judge.digest == _registered(record, registry.artefact_root).digest:
            others = ", ".join(other.name for other in registry.judges() if other.role == "calibration")
            raise CannotEvaluate(
                f"judge {record.name!r} is kept for audits, so no setting may be chosen with it; "
                f"for calibration there is: {others or 'none yet'}"
            )
    return judge


def audit_judge(registry: FeatureRegistry) -> JudgeRecord:
    """The registry's one judge with the role ``audit``; raises CannotEvaluate when there is none or a choice."""
    names = [record for record in registry.judges() if record.role == "audit"]
    if len(names) != 1:
        found = ", ".join(record.name for record in names) or "none"
        raise CannotEvaluate(f"the registry should name one judge with the role audit, found {found}; give --judge")
    return names[0]


def _registered(record: JudgeRecord, root: Path) -> Judge:
    folder = inside(root, record.path)
    check_files(folder, record.files)
    judge = _folder(folder, record.name, record.labels)
    for domain, labels in record.labels.items():
        if set(judge.labels(domain)) != set(labels):
            raise ArtefactError(
                f"{folder}: tells {', '.join(judge.labels(domain))} apart in the domain {domain!r}, "
                f"but is registered for {', '.join(labels)}"
            )
    return judge


def _folder(folder: Path, name: str, concepts: Mapping[str, tuple[str, ...]]) -> Judge:
    if (folder / clip.CONFIG).is_file():
        return clip.ClipJudge.load(folder, concepts, name=name)
    if classifier.classifier_folders(folder):
        return classifier.ClassifierJudge.load(folder, name=name)
    raise ArtefactError(
        f"{folder} is not a judge: it holds neither {clip.CONFIG} nor classifiers ({classifier.CONFIG})"
    )


def _concepts(registry: FeatureRegistry) -> dict[str, tuple[str, ...]]:
    concepts: dict[str, list[str]] = {}
    for record in registry.concepts():
        concepts.setdefault(record.domain, []).append(record.name)
    return {domain: tuple(sorted(names)) for domain, names in sorted(concepts.items())}
