"""Pictures depend on their prompt and seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from saeuron_guard.pipelines.generation import generate
from saeuron_guard.prompts.model import Prompt
from tests.tiny import make_pipeline

PROMPTS = [Prompt(f"p{number}", f"a thing {number}", ()) for number in range(5)]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """The tiny pipeline."""
    return make_pipeline(tmp_path_factory.mktemp("tiny"))


def run(pipe: Any, prompts: list[Prompt], seed: int = 0, **settings: Any) -> np.ndarray:
    """Pictures of two steps."""
    return generate(pipe, prompts, seed, **({"steps": 2, "guidance": 5.0, "batch_size": 2} | settings))


def test_order_and_batches_do_not_matter(pipe: Any) -> None:
    """Whatever the order and the batch size, a prompt's picture is the same, up to rounding of one grey level."""
    pictures = run(pipe, PROMPTS)
    assert (pictures.shape, pictures.dtype) == ((5, 16, 16, 3), np.uint8)
    for other in (run(pipe, PROMPTS[::-1])[::-1], run(pipe, PROMPTS, batch_size=5), run(pipe, PROMPTS, batch_size=1)):
        assert np.abs(pictures.astype(int) - other).max() <= 1
    assert np.array_equal(pictures, run(pipe, PROMPTS))


def test_seed_and_prompt_matter(pipe: Any) -> None:
    """Another seed gives another picture; so do another id and another text."""
    (picture,) = run(pipe, PROMPTS[:1])
    others = [
        run(pipe, PROMPTS[:1], seed=1)[0],
        run(pipe, [Prompt("p9", PROMPTS[0].text, ())])[0],
        run(pipe, [Prompt("p0", "zzz", ())], guidance=20.0)[0],
    ]
    for other in others:
        assert not np.array_equal(picture, other)


def test_each_picture_is_reported_once(pipe: Any) -> None:
    """on_image gets every index once, in order, with its picture."""
    seen: list[tuple[int, np.ndarray]] = []
    pictures = run(pipe, PROMPTS, on_image=lambda index, picture: seen.append((index, picture)))
    assert [index for index, _ in seen] == [0, 1, 2, 3, 4]
    assert all(np.array_equal(picture, pictures[index]) for index, picture in seen)


def test_no_prompts_give_no_pictures(pipe: Any) -> None:
    """The empty list gives an empty array of the right size; a batch of nothing is a mistake."""
    assert run(pipe, []).shape == (0, 16, 16, 3)
    with pytest.raises(ValueError, match="batch_size is 0"):
        run(pipe, PROMPTS, batch_size=0)


def test_the_progress_bar_is_off_meanwhile_and_then_as_before(
    pipe: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's bar stays silent, and its settings come back, also after an error and when there were none."""
    monkeypatch.setattr(pipe, "_progress_bar_config", {"desc": "mine"})
    run(pipe, PROMPTS[:1])
    assert "mine" not in capsys.readouterr().err
    assert pipe._progress_bar_config == {"desc": "mine"}
    with pytest.raises(TypeError):
        run(pipe, PROMPTS[:1], steps="two")
    assert pipe._progress_bar_config == {"desc": "mine"}
    pipe("x", num_inference_steps=1)
    assert "mine" in capsys.readouterr().err
    monkeypatch.delattr(pipe, "_progress_bar_config")
    run(pipe, PROMPTS[:1])
    assert not hasattr(pipe, "_progress_bar_config")
