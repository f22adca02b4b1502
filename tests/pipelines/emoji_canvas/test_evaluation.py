"""The figures are shares of right labels, for each judge, domain and group of pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saeuron_guard.pipelines.emoji_canvas.clip import zero_shot_accuracy, zero_shot_labels
from saeuron_guard.pipelines.emoji_canvas.evaluation import GUIDANCE, STEPS, Drawn, draw_all, figures
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.world import HELD_OUT, OBJECT_NAMES, STYLE_NAMES, combinations

CHANNEL = {("classifier", "object"): 0, ("classifier", "style"): 1, ("clip", "object"): 2, ("clip", "style"): 3}
"""The pixel of the first row in which a picture says what a judge is to take it for."""


def saying(**answers: list[int]) -> np.ndarray:
    """Pictures on which each judge gives the answers listed for it, such as ``classifier_object=[...]``."""
    pictures = np.zeros((len(next(iter(answers.values()))), 64, 64, 3), dtype=np.uint8)
    for name, labels in answers.items():
        judge, domain = name.split("_")
        pictures[:, 0, CHANNEL[judge, domain]] = np.array(labels)[:, None]
    return pictures


class FakeClassifier:
    """Is quite sure of the label that the picture says."""

    def __init__(self, domain: str, size: int) -> None:
        self.domain, self.size = domain, size

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """0.9 for that label."""
        others: np.ndarray = np.full((len(pictures), self.size), 0.1 / (self.size - 1), dtype=np.float32)
        others[np.arange(len(pictures)), pictures[:, 0, CHANNEL["classifier", self.domain], 0]] = 0.9
        return others


class FakeClip(torch.nn.Module):
    """A picture's embedding points at the captions of the labels that it says; captions point at their own number."""

    def encode_image(self, pixels: Tensor, *, normalize: bool) -> Tensor:
        """One axis for each object, and after them one for each style."""
        said = ((pixels[:, 0, 0] + 1) * 127.5).round().long()
        objects, styles = (said[:, CHANNEL["clip", domain]] for domain in ("object", "style"))
        return torch.eye(30)[objects] + torch.eye(30)[24 + styles]

    def encode_text(self, tokens: Tensor, *, normalize: bool) -> Tensor:
        """As many captions as there are objects are those of the objects, in their order."""
        return torch.eye(30)[:24] if len(tokens) == 24 else torch.eye(30)[24:]


CLASSIFIERS: Any = {"object": FakeClassifier("object", 24), "style": FakeClassifier("style", 6)}


def drawn(pictures: np.ndarray, objects: list[int], styles: list[int], held_out: list[bool]) -> Drawn:
    """Pictures with their truth."""
    return Drawn(pictures, np.array(objects), np.array(styles), np.array(held_out))


def test_figures_are_shares_of_each_group() -> None:
    """Each judge's share of right labels, of each domain, among trained and among held-out pairs."""
    pictures = saying(
        classifier_object=[5, 6, 7, 0, 9, 10],  # right, right, right, wrong; right, right
        classifier_style=[0, 1, 2, 3, 0, 0],  # all right; both wrong
        clip_object=[5, 0, 0, 0, 9, 0],  # right, wrong, wrong, wrong; right, wrong
        clip_style=[0, 1, 0, 0, 4, 5],  # right, right, wrong, wrong; both right
    )
    truth = drawn(pictures, [5, 6, 7, 8, 9, 10], [0, 1, 2, 3, 4, 5], [False] * 4 + [True] * 2)
    assert figures(truth, CLASSIFIERS, FakeClip()) == {
        "n": {"trained pairs": 4, "held-out pairs": 2},
        "classifier object": {"trained pairs": 0.75, "held-out pairs": 1.0},
        "classifier style": {"trained pairs": 1.0, "held-out pairs": 0.0},
        "clip object": {"trained pairs": 0.25, "held-out pairs": 0.5},
        "clip style": {"trained pairs": 0.5, "held-out pairs": 1.0},
    }


def test_groups_may_be_mixed() -> None:
    """Rows of both groups may follow each other in any order: their labels stay with their pictures."""
    order = np.random.default_rng(0).permutation(12)
    answers = np.where(np.arange(12) % 3 == 0, 23, np.arange(12))  # wrong at 0, 3, 6, 9
    pictures = saying(
        classifier_object=answers[order].tolist(), classifier_style=[0] * 12, clip_object=[1] * 12, clip_style=[0] * 12
    )
    truth = drawn(pictures, order.tolist(), [0] * 12, (order < 4).tolist())
    found = figures(truth, CLASSIFIERS, FakeClip())
    assert found["n"] == {"trained pairs": 8, "held-out pairs": 4}
    assert found["classifier object"] == {"trained pairs": 6 / 8, "held-out pairs": 2 / 4}
    assert found["clip object"] == {"trained pairs": 0.0, "held-out pairs": 1 / 4}


def test_an_empty_group_has_no_shares() -> None:
    """Without held-out pairs their number is 0 and no share is made up; the other group is complete."""
    pictures = saying(classifier_object=[1, 2], classifier_style=[1, 2], clip_object=[1, 2], clip_style=[1, 2])
    for held_out, present, absent in (
        (False, "trained pairs", "held-out pairs"),
        (True, "held-out pairs", "trained pairs"),
    ):
        found = figures(drawn(pictures, [1, 2], [1, 2], [held_out] * 2), CLASSIFIERS, FakeClip())
        assert found.pop("n") == {present: 2, absent: 0}
        assert list(found.values()) == [{present: 1.0}] * 4


def test_the_nearest_caption_is_the_label() -> None:
    """Zero-shot labels are those of the nearest captions, also beyond one batch; the accuracy counts the right ones."""
    objects, styles = np.arange(300) % 24, np.arange(300) % 6
    pictures = saying(clip_object=objects.tolist(), clip_style=styles.tolist())
    assert np.array_equal(zero_shot_labels(FakeClip(), pictures, "object"), objects)
    assert np.array_equal(zero_shot_labels(FakeClip(), pictures, "style"), styles)
    wrong = np.where(np.arange(300) < 75, (objects + 1) % 24, objects)
    truth = Renders(pictures, wrong, styles, styles)
    assert zero_shot_accuracy(FakeClip(), truth, "object") == pytest.approx(0.75)
    assert zero_shot_accuracy(FakeClip(), truth, "style") == 1.0


class FakePipe:
    """Draws each prompt as one colour that says which object and style its text names; notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def set_progress_bar_config(self, **settings: Any) -> None:
        """As pipelines have it."""
        self._progress_bar_config = settings

    def __call__(self, *, prompt: list[str], generator: list[torch.Generator], **settings: Any) -> Any:
        """Pictures in the shape of the real ones, with some noise of each generator."""
        self.calls.append(settings | {"prompts": prompt})
        pictures = np.zeros((len(prompt), 64, 64, 3))
        for picture, text, own in zip(pictures, prompt, generator, strict=True):
            words = text.rstrip(".").split()
            (thing,) = [number for number, name in enumerate(OBJECT_NAMES) if name in words]
            (style,) = [number for number, name in enumerate(STYLE_NAMES) if name in words]
            picture[:] = (thing / 255, style / 255, float(torch.rand((), generator=own)))
        return SimpleNamespace(images=pictures)


def test_every_pair_is_drawn_once_a_seed_with_its_labels() -> None:
    """Pictures, labels and marks stay together over seeds and batches; a seed changes the noise and nothing else."""
    pipe = FakePipe()
    found = draw_all(pipe, (501, 502), batch_size=10)
    assert found.pictures.shape == (2 * 143, 64, 64, 3)
    assert np.array_equal(found.pictures[:, 0, 0, 0], found.objects)
    assert np.array_equal(found.pictures[:, 0, 0, 1], found.styles)
    names = [
        (OBJECT_NAMES[thing], STYLE_NAMES[style]) for thing, style in zip(found.objects, found.styles, strict=True)
    ]
    assert names == [(thing.name, style.name) for thing, style in combinations()] * 2
    assert found.held_out.tolist() == [name in HELD_OUT for name in names]
    assert found.held_out.sum() == 14
    noise = found.pictures[:, 0, 0, 2].reshape(2, 143)
    assert (noise[0] != noise[1]).mean() > 0.9
    assert all((call["num_inference_steps"], call["guidance_scale"]) == (STEPS, GUIDANCE) for call in pipe.calls)
    assert max(len(call["prompts"]) for call in pipe.calls) == 10


@pytest.mark.parametrize(("held_out", "count"), [(True, 7), (False, 136)])
def test_a_group_can_be_drawn_alone(held_out: bool, count: int) -> None:
    """Held-out or trained pairs alone are the same pictures as among all."""
    alone, everything = (draw_all(FakePipe(), (7,), held_out=choice) for choice in (held_out, None))
    assert len(alone.pictures) == count
    assert (alone.held_out == held_out).all()
    assert np.array_equal(alone.pictures, everything.pictures[everything.held_out == held_out])
