"""What a benchmark measured survives the disk; what was measured otherwise, or is something else, is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.benchmark.files import read_outcomes, write_outcomes
from saeuron_guard.benchmark.removal import Outcome
from saeuron_guard.discovery.workbench import Effect, Share
from saeuron_guard.errors import ArtefactError

SETTINGS = {"seeds": [1, 2], "audit_judge": {"name": "a judge", "digest": "sha256:00"}}
EFFECT = Effect(*(Share(number, 10 + number) for number in range(len(fields(Effect)))))
OUTCOMES = [Outcome("pistol", "object", "guard", "sae n=1 x-1", EFFECT, {"cat": 3, "dog": 1})]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with ``OUTCOMES``, in a folder that writing had to make."""
    path = tmp_path / "new" / "removal.json"
    write_outcomes(path, SETTINGS, OUTCOMES)
    return path


def test_outcomes_come_back_as_they_were(path: Path) -> None:
    """With the settings of the measurement, and for a reader who asks for none; nothing half-written stays behind."""
    assert read_outcomes(path, SETTINGS) == read_outcomes(path) == OUTCOMES
    assert [each.name for each in path.parent.iterdir()] == ["removal.json"]


@pytest.mark.parametrize(("name", "value"), [("seeds", [1, 2, 3]), ("audit_judge", {"name": "a judge"}), ("new", 1)])
def test_other_settings_are_refused(path: Path, name: str, value: Any) -> None:
    """One setting that differs, or that the file says nothing about, is named with both values; the file stays."""
    before = path.read_bytes()
    with pytest.raises(ArtefactError, match=f"measured with {name} .* asked for .*write to another file"):
        read_outcomes(path, SETTINGS | {name: value})
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [
    lambda _: [],
    lambda _: "a text",
    lambda document: document | {"outcomes": 7},
    lambda document: {"outcomes": document["outcomes"]},
    lambda document: document | {"settings": []},
    lambda document: document | {"outcomes": [{"concept": "pistol"}]},
    lambda document: document | {"outcomes": [document["outcomes"][0] | {"effect": {"ua": {"hits": 1, "n": 1}}}]},
    lambda document: document | {"outcomes": [document["outcomes"][0] | {"surplus": 1}]},
])  # fmt: skip
def test_another_document_is_refused(path: Path, change: Any) -> None:
    """Whatever part is of another kind, missing or too many, the error names the file and what to do."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ArtefactError, match=r"removal\.json: not what a removal benchmark writes.*remove it"):
        read_outcomes(path, SETTINGS)


def test_what_is_no_json_or_no_file_is_refused(path: Path) -> None:
    """Text, bytes that are no text, and a folder."""
    for content in (b"half a file {", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match="not what a removal benchmark writes"):
            read_outcomes(path)
    with pytest.raises(ArtefactError, match="not what a removal benchmark writes"):
        read_outcomes(path.parent)
