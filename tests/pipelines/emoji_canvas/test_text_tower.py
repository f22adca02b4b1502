"""The text encoder learns every caption with the labels that its words have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas import text_tower
from saeuron_guard.pipelines.emoji_canvas.denoiser import new_text_encoder
from saeuron_guard.pipelines.emoji_canvas.text_tower import train_text_encoder
from saeuron_guard.pipelines.emoji_canvas.world import BACKGROUNDS, OBJECT_NAMES, STYLE_NAMES


def only(words: list[str], names: Sequence[str]) -> int:
    """1 + the number of the one name among the words, 0 when there is none."""
    (number,) = [1 + names.index(word) for word in words if word in names] or [0]
    return number


def test_every_caption_has_the_labels_of_its_words() -> None:
    """The object, the style or none, the background or none, and each caption once."""
    captions, labels = text_tower._labelled_captions()
    assert len(captions) == len(set(captions)) == len(labels) == 24 * 5 * (6 * 10 + 4)
    for caption, (thing, style, background) in zip(captions, labels, strict=True):
        words = re.findall(r"\w+", caption)
        assert thing + 1 == only(words, OBJECT_NAMES)
        assert style == only(words, STYLE_NAMES)
        assert background == only(words, list(BACKGROUNDS))


def test_all_labels_are_met() -> None:
    """Every combination of object, style or none, and background or none occurs."""
    _, labels = text_tower._labelled_captions()
    assert len(set(labels)) == len(OBJECT_NAMES) * (len(STYLE_NAMES) + 1) * (len(BACKGROUNDS) + 1)


def test_training_teaches_in_place(tokenizer: CLIPTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps change the given encoder, lower its loss below that of guessing, and repeat exactly."""
    monkeypatch.setattr(text_tower, "RECIPE", replace(text_tower.RECIPE, steps=60, warmup=10))
    monkeypatch.setattr(text_tower, "BATCH", 16)
    results, losses = [], []
    for run in ("first", "second"):
        torch.manual_seed(0)
        encoder = new_text_encoder(tokenizer)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        lines: list[str] = []
        train_text_encoder(encoder, tokenizer, tmp_path / run, lines.append)
        after = encoder.state_dict()
        assert any(not torch.equal(after[name], value) for name, value in before.items())
        results.append(after)
        losses.append([float(line.split()[3]) for line in lines])
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
    guessing = float(torch.log(torch.tensor([24.0, 7.0, 5.0])).sum())
    assert losses[0][0] < guessing + 0.3
    assert losses[0][-1] < 0.8 * losses[0][0]
