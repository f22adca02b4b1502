"""The CLIP judge on a random model: what it computes, and what it refuses to load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from saeuron_guard.errors import ArtefactError, CannotEvaluate
from saeuron_guard.judges.clip import ClipJudge
from saeuron_guard.judges.interface import ImageTextJudge, Judge

CONCEPTS = {"object": ("cat", "pistol", "rocket"), "style": ("Neon", "Noto")}
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def judge(clip_folder: Path) -> ClipJudge:
    """The judge of the random model."""
    return ClipJudge.load(clip_folder, CONCEPTS)


def test_it_is_a_judge_that_compares_texts(judge: ClipJudge) -> None:
    """The class keeps both protocols."""
    assert isinstance(judge, Judge)
    assert isinstance(judge, ImageTextJudge)
    assert judge.name == "tiny-clip"
    assert judge.labels("object") == CONCEPTS["object"]


def test_features_are_those_of_open_clip(judge: ClipJudge, clip_folder: Path) -> None:
    """Image and text features equal what open_clip computes from the same folder with its own transform."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    model.eval()
    with torch.no_grad():
        pixels = torch.stack([transform(Image.fromarray(image)) for image in IMAGES])
        images = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1).numpy()
        texts = torch.nn.functional.normalize(model.encode_text(tokenizer(["a cat", "a house"])), dim=-1).numpy()
    np.testing.assert_allclose(judge.image_features(IMAGES), images, atol=1e-5)
    np.testing.assert_allclose(judge.text_features(["a cat", "a house"]), texts, atol=1e-5)
    similarity = judge.text_similarity(IMAGES[:3], ["a cat", "a house", "a cat"])
    np.testing.assert_allclose(
        similarity, [images[0] @ texts[0], images[1] @ texts[1], images[2] @ texts[0]], atol=1e-5
    )


def test_scores_are_cosines_with_the_mean_caption(clip_folder: Path) -> None:
    """A concept's feature is the normalised mean over its captions, other domains' concepts filled in."""
    settings = {"zero_shot_templates": {"object": ["a {object}", "{object}, {style}"]}}
    judge = ClipJudge.load(_copy(clip_folder, "templates", settings), CONCEPTS)
    captions = ["a pistol", "pistol, Neon", "pistol, Noto"]
    mean = judge.text_features(captions).mean(axis=0)
    expected = judge.image_features(IMAGES) @ (mean / np.linalg.norm(mean))
    scores = judge.scores(IMAGES, "object")
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores[:, CONCEPTS["object"].index("pistol")], expected, atol=1e-5)
    assert judge.classify(IMAGES, "object") == [CONCEPTS["object"][row.argmax()] for row in scores]


def test_an_image_is_recognised_by_its_caption(clip_folder: Path) -> None:
    """Positive control: a model whose text features are the image's features names that image."""
    judge = ClipJudge.load(clip_folder, CONCEPTS)
    images = np.zeros((3, 64, 64, 3), np.uint8)
    images[0, :32], images[1, :, 16:48], images[2, 20:30, 20:30] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    judge._text["object"] = judge.image_features(images)
    assert judge.classify(images, "object") == list(CONCEPTS["object"])
    assert judge.classify(images[::-1], "object") == list(CONCEPTS["object"])[::-1]


def test_one_image_at_a_time_gives_the_same(judge: ClipJudge) -> None:
    """Judgements don't depend on the batch, and no images give no judgements."""
    whole = judge.scores(IMAGES, "style")
    np.testing.assert_allclose(
        np.concatenate([judge.scores(IMAGES[i : i + 1], "style") for i in range(5)]), whole, atol=1e-5
    )
    assert judge.scores(IMAGES[:0], "style").shape == (0, 2)
    assert judge.classify(IMAGES[:0], "style") == []


def test_the_digest_covers_weights_settings_and_labels(judge: ClipJudge, clip_folder: Path) -> None:
    """The same folder and labels give the same digest; a changed label, caption or weight another one."""
    again = ClipJudge.load(clip_folder, CONCEPTS).digest
    other_labels = ClipJudge.load(clip_folder, CONCEPTS | {"style": ("Noto",)}).digest
    captions = ClipJudge.load(_copy(clip_folder, "c", {"zero_shot_templates": {"style": ["{style}"]}}), CONCEPTS).digest
    assert again == judge.digest
    assert len({judge.digest, other_labels, captions}) == 3


def test_unknown_domains_and_wrong_images_are_errors(judge: ClipJudge) -> None:
    """Nothing is judged that can't be."""
    with pytest.raises(CannotEvaluate, match="'mood'"):
        judge.classify(IMAGES, "mood")
    with pytest.raises(CannotEvaluate, match="float32"):
        judge.classify(IMAGES.astype(np.float32), "object")  # type: ignore[arg-type]


def test_damaged_weights_never_judge(clip_folder: Path) -> None:
    """Scores that are no numbers are an error instead of the first label."""
    judge = ClipJudge.load(clip_folder, CONCEPTS)
    judge._text["style"] = np.full((2, 128), np.nan, np.float32)
    with pytest.raises(CannotEvaluate, match="finite"):
        judge.classify(IMAGES, "style")


def _copy(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    """A copy of the folder with other top-level settings."""
    target = folder.parent / name
    shutil.copytree(folder, target, dirs_exist_ok=True)
    path = target / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    return target


def break_weights(folder: Path) -> None:
    """Cut the weights short."""
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def add_pickle(folder: Path) -> None:
    """Put pickled weights beside the others."""
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04.")


def name_hub_text(folder: Path) -> None:
    """Ask for a text tower of the hub."""
    path = folder / "open_clip_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model_cfg"]["text_cfg"]["hf_model_name"] = "someone/something"
    path.write_text(json.dumps(settings), encoding="utf-8")


def break_templates(folder: Path) -> None:
    """Give captions that don't name their concept."""
    path = folder / "open_clip_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"zero_shot_templates": {"object": ["a thing"]}}
    path.write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_weights, "cannot load"),
        (add_pickle, "only safetensors"),
        (name_hub_text, "downloaded"),
        (break_templates, "does not contain"),
        (lambda folder: (folder / "open_clip_config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "open_clip_config.json").write_text("[]"), "JSON object"),
        (lambda folder: (folder / "open_clip_model.safetensors").unlink(), "no safetensors"),
        (shutil.rmtree, "no judge"),
    ],
)
def test_a_folder_that_is_not_right_is_refused(clip_folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    """Each fault of the folder is one clear error; the folder without it loads (the fixture of all other tests)."""
    folder = tmp_path / "judge"
    shutil.copytree(clip_folder, folder)
    damage(folder)
    with pytest.raises(ArtefactError, match=message):
        ClipJudge.load(folder, CONCEPTS)


def test_an_unknown_published_model_is_an_error() -> None:
    """A name that open_clip doesn't publish is refused before anything is fetched."""
    with pytest.raises(CannotEvaluate, match="publishes no"):
        ClipJudge.stock("ViT-B-32", "made-up", CONCEPTS)
