"""The model card's tables say what the measured files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.cli import card


def outcome(concept: str, method: str, ua: int, ira: int) -> dict[str, Any]:
    """One outcome as ``benchmark removal`` writes it, of 10 images a group."""
    full = {"hits": 10, "n": 10}
    effect = dict.fromkeys(("ua_base", "survival", "survival_base", "ira_base", "cra", "cra_base"), full)
    effect |= {"ua": {"hits": ua, "n": 10}, "ira": {"hits": ira, "n": 10}}
    return {"concept": concept, "domain": "object", "method": method, "setting": "sae n=1 x-1", "effect": effect,
            "became": {"cat": 7, "dog": 2, "pig": 1, "car": 1}}  # fmt: skip


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of two methods, one of which was measured on one concept more."""
    rows = [
        outcome("pistol", "guard", 10, 8),
        outcome("pistol", "published", 10, 5),
        outcome("cat", "guard", 9, 10),
    ]
    path = tmp_path / "removal.json"
    path.write_text(json.dumps({"settings": {}, "outcomes": rows}), encoding="utf-8")
    monkeypatch.setattr(card, "_REMOVAL", path)


@pytest.mark.usefixtures("measured")
def test_methods_are_compared_on_the_same_concepts() -> None:
    """The concept that one method was not measured on is left out of the comparison, not out of the guard's table."""
    assert card.removal_table().splitlines()[2:] == [
        "| object | guard | 1 | 100.0 % | 80.0 % | 100.0 % | 100.0 % | 80.0 % (pistol) |",
        "| object | published | 1 | 100.0 % | 50.0 % | 100.0 % | 100.0 % | 50.0 % (pistol) |",
    ]
    assert card.concepts_table().splitlines()[2:] == [
        "| pistol | 10 / 10 | 100.0 % | 80.0 % | 100.0 % | 100.0 % | cat 7, dog 2, pig 1 | `sae n=1 x-1` |",
        "| cat | 10 / 10 | 90.0 % | 100.0 % | 100.0 % | 100.0 % | cat 7, dog 2, pig 1 | `sae n=1 x-1` |",
    ]


def test_shipped_figures_are_tabled() -> None:
    """Pictures, judges and SAEs: a row each, with numbers."""
    assert "clip object" in card.pictures_table()
    assert card.judges_table().count("100.0 %") == 4
    assert card.saes_table().count("supervised") == 2
