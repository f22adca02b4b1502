"""Judges are found by name, folder or published name, and checked against the registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, CannotEvaluate
from saeuron_guard.judges.classifier import ClassifierJudge
from saeuron_guard.judges.clip import ClipJudge
from saeuron_guard.judges.load import audit_judge, load_calibration_judge, load_judge
from saeuron_guard.pipelines.emoji_canvas.classifier import ResidualClassifier
from saeuron_guard.registry.records import ConceptRecord, JudgeRecord
from saeuron_guard.registry.store import FeatureRegistry

LABELS = {"object": ("cat", "pistol"), "style": ("Neon", "Noto")}
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


@dataclass
class FewRecords:
    """The part of a registry that judges are looked up in."""

    artefact_root: Path
    records: list[JudgeRecord] = field(default_factory=list)

    def judges(self) -> list[JudgeRecord]:
        """All judges."""
        return self.records

    def concepts(self) -> list[ConceptRecord]:
        """The concepts of LABELS."""
        return [ConceptRecord(name, domain, name, "") for domain, names in LABELS.items() for name in names]


@pytest.fixture
def classifiers(tmp_path: Path) -> Path:
    """A folder of an object and a style classifier with random weights."""
    torch.manual_seed(0)
    for domain, labels in LABELS.items():
        ResidualClassifier(domain, labels, width=8).save(tmp_path / "models" / "networks" / domain)
    return tmp_path / "models" / "networks"


@pytest.fixture
def registry(tmp_path: Path, clip_folder: Path, classifiers: Path) -> Any:
    """A registry with the random CLIP as audit judge and the classifiers for calibration."""
    shutil.copytree(clip_folder, tmp_path / "models" / "tiny-clip")
    return FewRecords(
        tmp_path,
        [_record(tmp_path, "tiny-clip", "clip", "audit"), _record(tmp_path, "networks", "classifier", "calibration")],
    )


def _record(root: Path, name: str, kind: str, role: str) -> JudgeRecord:
    folder = root / "models" / name
    files = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in folder.rglob("*") if path.is_file()}
    return JudgeRecord(name, kind, role, f"models/{name}", files, LABELS)


def test_registered_judges_load_by_name(registry: Any) -> None:
    """Each name gives a judge of its kind, with the registered labels."""
    clip, networks = load_judge("tiny-clip", registry), load_judge("networks", registry)
    assert (type(clip), type(networks)) == (ClipJudge, ClassifierJudge)
    for judge in (clip, networks):
        assert judge.labels("style") == LABELS["style"]
        assert len(judge.classify(IMAGES, "object")) == 4


def test_a_folder_loads_with_the_registrys_concepts(registry: Any, clip_folder: Path) -> None:
    """A CLIP that nobody registered tells the registry's concepts apart."""
    assert load_judge(clip_folder, registry).labels("object") == LABELS["object"]


def test_the_audit_judge_is_the_only_one_with_that_role(registry: Any) -> None:
    """One is found; none or two are an error that says what to do."""
    assert audit_judge(registry).name == "tiny-clip"
    for records in ([], [registry.records[0]] * 2):
        with pytest.raises(CannotEvaluate, match="--judge"):
            audit_judge(FewRecords(registry.artefact_root, records))  # type: ignore[arg-type]


def test_an_unknown_name_names_the_nearest(registry: Any) -> None:
    """A mistyped name gets a suggestion."""
    with pytest.raises(CannotEvaluate, match="Did you mean 'tiny-clip'"):
        load_judge("tiny-clpi", registry)


def change(folder: Path) -> None:
    """Change one byte of a setting."""
    path = folder / "open_clip_config.json"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change, "not the registered file"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "does not know"),
        (lambda folder: (folder / "open_clip_model.safetensors").unlink(), "missing"),
    ],
)
def test_a_judge_that_is_not_the_pinned_one_is_refused(
    registry: Any, damage: Callable[[Path], None], message: str
) -> None:
    """Changed, added and missing files are told; a README beside them is not one of them."""
    folder = registry.artefact_root / "models" / "tiny-clip"
    (folder / "README.md").write_text("a judge", encoding="utf-8")
    load_judge("tiny-clip", registry)
    damage(folder)
    with pytest.raises(ArtefactError, match=message):
        load_judge("tiny-clip", registry)


def test_a_path_that_leads_outside_is_refused(registry: Any) -> None:
    """A manifest cannot point a judge to a folder elsewhere on the machine."""
    outside = JudgeRecord("outside", "clip", "audit", "../elsewhere", {}, LABELS)
    with pytest.raises(ArtefactError, match="leads outside"):
        load_judge("outside", FewRecords(registry.artefact_root, [outside]))  # type: ignore[arg-type]


def test_registered_labels_must_be_the_judges_own(registry: Any) -> None:
    """A classifier registered for concepts that it was not trained on is refused."""
    record = registry.records[1]
    wrong = JudgeRecord(record.name, record.kind, record.role, record.path, record.files, {"object": ("cat", "dog")})
    with pytest.raises(ArtefactError, match="registered for cat, dog"):
        load_judge("networks", FewRecords(registry.artefact_root, [wrong]))  # type: ignore[arg-type]


def test_the_classifier_names_the_most_probable_label(classifiers: Path) -> None:
    """Scores are the network's probabilities, labels their maximum, and other domains are refused."""
    judge = ClassifierJudge.load(classifiers)
    expected = ResidualClassifier.load(classifiers / "object").probabilities(IMAGES)
    scores = judge.scores(IMAGES, "object")
    np.testing.assert_array_equal(scores, expected)
    assert judge.classify(IMAGES, "object") == [LABELS["object"][row.argmax()] for row in scores]
    assert judge.scores(IMAGES[:0], "object").shape == (0, 2)
    with pytest.raises(CannotEvaluate, match="it knows: object, style"):
        judge.classify(IMAGES, "mood")


def test_two_classifiers_of_one_domain_are_refused(classifiers: Path) -> None:
    """Which of them should judge would be a guess."""
    shutil.copytree(classifiers / "object", classifiers / "other")
    with pytest.raises(ArtefactError, match="two classifiers"):
        ClassifierJudge.load(classifiers)
    with pytest.raises(ArtefactError, match="no classifier"):
        ClassifierJudge.load(classifiers.parent.parent)


def test_no_setting_is_chosen_with_the_audit_judge() -> None:
    """By its registered name and by its folder; the registry's calibration judge is taken."""
    with FeatureRegistry.open() as registry:
        record = audit_judge(registry)
        for name in (record.name, str(registry.artefact_root / record.path)):
            with pytest.raises(CannotEvaluate, match=r"is kept for audits.* there is: emoji-canvas-judges"):
                load_calibration_judge(name, registry)
        assert load_calibration_judge("emoji-canvas-judges", registry).name == "emoji-canvas-judges"
