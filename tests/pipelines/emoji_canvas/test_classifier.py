"""Classifiers come back as they were saved, a spoilt folder is one clear error, and the shipped ones know their job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saeuron_guard.errors import ArtefactError
from saeuron_guard.pipelines.emoji_canvas import classifier
from saeuron_guard.pipelines.emoji_canvas.classifier import ResidualClassifier, accuracy, augment, train_classifier
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.training import Recipe
from saeuron_guard.pipelines.emoji_canvas.world import OBJECT_NAMES, STYLE_NAMES

LABELS = ("left", "right", "neither")


@pytest.fixture(scope="module")
def network() -> ResidualClassifier:
    """An untrained narrow classifier."""
    torch.manual_seed(0)
    return ResidualClassifier("side", LABELS, width=8).eval()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Seven pictures of noise."""
    return np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)


def renders_of(pictures: np.ndarray) -> Renders:
    """Renders whose labels do not matter."""
    nothing = np.zeros(len(pictures), dtype=np.int64)
    return Renders(pictures, nothing, nothing, nothing)


def test_a_classifier_comes_back_as_it_was_saved(
    network: ResidualClassifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    """Domain, labels in order, and weights rounded to float16; probabilities differ by that rounding only."""
    folder = tmp_path / "new" / "side"
    network.save(folder)
    loaded = ResidualClassifier.load(folder)
    assert (loaded.domain, loaded.labels, loaded.width) == ("side", LABELS, 8)
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, network.state_dict()[name].half().float())
    assert loaded.probabilities(pictures) == pytest.approx(network.probabilities(pictures), abs=2e-3)
    torch.manual_seed(1)
    other = ResidualClassifier("side", LABELS, width=8).eval()
    assert loaded.probabilities(pictures) != pytest.approx(other.probabilities(pictures), abs=2e-3)


def test_saving_again_writes_the_same_files(network: ResidualClassifier, tmp_path: Path) -> None:
    """What was loaded and saved again is the same, byte by byte, so digests stay."""
    network.save(tmp_path / "first")
    ResidualClassifier.load(tmp_path / "first").save(tmp_path / "second")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_probabilities_belong_to_their_pictures(network: ResidualClassifier, pictures: np.ndarray) -> None:
    """They sum to 1, do not depend on the batch, follow the order of the pictures, and are none for no picture."""
    found = network.probabilities(pictures)
    assert (found.shape, found.dtype) == ((7, 3), np.dtype(np.float32))
    assert found.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    assert network.probabilities(pictures, batch=2) == pytest.approx(found, abs=1e-5)
    assert network.probabilities(pictures[::-1]) == pytest.approx(found[::-1], abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-5)
    nothing = network.probabilities(pictures[:0])
    assert (nothing.shape, nothing.dtype) == ((0, 3), np.dtype(np.float32))


def change_config(**fields: Any) -> Callable[[Path], object]:
    """Writes other settings; None takes one away."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | fields
        config = {name: value for name, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return change


def write_config(content: bytes) -> Callable[[Path], object]:
    """Writes a configuration file that holds something else."""
    return lambda folder: (folder / "config.json").write_bytes(content)


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Writes other weights."""

    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return write


def cut_weights(folder: Path) -> None:
    """Leaves the first half of the weights' file."""
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


SPOILT: dict[str, Callable[[Path], object]] = {
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "not JSON": write_config(b"{"),
    "not text": write_config(b"\xff\xfe{}"),
    "not an object": write_config(b"[]"),
    "nested too deep": write_config(b"[" * 100_000),
    "no labels": change_config(labels=None),
    "labels not a list": change_config(labels=3),
    "a label too many": change_config(labels=[*LABELS, "above"]),
    "no domain": change_config(domain=None),
    "another width": change_config(width=16),
    "a width of no group": change_config(width=12),
    "a width below zero": change_config(width=-8),
    "a width without end": change_config(width=float("inf")),
    "a width in words": change_config(width="wide"),
    "weights cut short": cut_weights,
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights of another kind": lambda folder: (folder / "model.safetensors").write_bytes(b"PK\3\4" * 100),
    "a weight missing": change_weights(lambda weights: weights.pop("head.bias")),
    "a weight too many": change_weights(lambda weights: weights.update(more=torch.zeros(1))),
    "a weight of another shape": change_weights(lambda weights: weights.update({"head.bias": torch.zeros(1)})),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_folder_is_one_clear_error(
    network: ResidualClassifier, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """Whatever is wrong with the files comes as an ArtefactError that names the folder and what to do."""
    network.save(tmp_path)
    ResidualClassifier.load(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ArtefactError, match="not a classifier of EmojiCanvas") as caught:
        ResidualClassifier.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert str(caught.value).endswith("reinstall or rebuild it")


def test_a_missing_folder_is_said_to_be(tmp_path: Path) -> None:
    """A folder that is not there is the same clear error."""
    with pytest.raises(ArtefactError, match="not a classifier of EmojiCanvas"):
        ResidualClassifier.load(tmp_path / "none")


def test_accuracy_is_the_share_of_right_labels(network: ResidualClassifier, pictures: np.ndarray) -> None:
    """All right is 1, all wrong is 0, and two of seven changed is five sevenths."""
    guesses = network.probabilities(pictures).argmax(axis=1)
    renders = renders_of(pictures)
    assert accuracy(network, renders, guesses) == 1.0
    assert accuracy(network, renders, (guesses + 1) % 3) == 0.0
    assert accuracy(network, renders, np.where(np.arange(7) < 2, (guesses + 1) % 3, guesses)) == pytest.approx(5 / 7)


def test_a_classifier_learns_and_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps tell bright from dark pictures; a second call reads the same weights from the checkpoint."""
    monkeypatch.setattr(classifier, "BATCH", 8)
    monkeypatch.setattr(classifier, "Recipe", lambda **fields: Recipe(**{**fields, "steps": 12, "warmup": 2}))
    shades = np.random.default_rng(0).integers(0, 100, (16, 1, 1, 1), dtype=np.uint8)
    pictures = np.broadcast_to(shades, (16, 64, 64, 3)).copy()
    targets = np.arange(16) % 2
    pictures[targets == 1] += 155
    first = train_classifier("shade", ("dark", "bright"), renders_of(pictures), targets, 1, tmp_path, lambda line: None)
    assert not first.training
    assert accuracy(first, renders_of(pictures), targets) == 1.0
    second = train_classifier("shade", ("dark", "bright"), renders_of(pictures), targets, 1, tmp_path, lambda _: None)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_augmentation_changes_pictures_within_their_range() -> None:
    """A seed repeats it, another one does not; pixels stay in [-1, 1]; about half of the pictures are mirrored."""
    pixels = torch.zeros(200, 3, 64, 64)
    pixels[..., :32] = -0.8
    pixels[..., 32:] = 0.8
    before = pixels.clone()
    found = augment(pixels, torch.Generator().manual_seed(0))
    assert torch.equal(pixels, before)
    assert found.shape == pixels.shape
    assert found.abs().max() <= 1
    assert torch.equal(found, augment(pixels, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, augment(pixels, torch.Generator().manual_seed(1)))
    left, right = found[..., :32].mean(dim=(1, 2, 3)), found[..., 32:].mean(dim=(1, 2, 3))
    assert 0.35 < float((left > right).float().mean()) < 0.65
    assert (left - right).abs().min() > 0.8


def test_the_shipped_classifiers_know_all_concepts(shipped_models: Path) -> None:
    """One classifier a domain, with the labels of the tables in their order."""
    for domain, labels in (("object", OBJECT_NAMES), ("style", STYLE_NAMES)):
        loaded = ResidualClassifier.load(shipped_models / "emoji-canvas-judges" / domain)
        assert (loaded.domain, loaded.labels) == (domain, labels)


def test_the_shipped_classifiers_name_the_shipped_samples(shipped_models: Path, shipped_samples: Renders) -> None:
    """On one sample of every pair they are right nine times in ten; against a shifted order, seldom."""
    for domain, targets in (("object", shipped_samples.objects), ("style", shipped_samples.styles)):
        loaded = ResidualClassifier.load(shipped_models / "emoji-canvas-judges" / domain)
        assert accuracy(loaded, shipped_samples, targets) > 0.9, domain
        assert accuracy(loaded, shipped_samples, np.roll(targets, 7)) < 0.3, domain
