"""Pictures that say what they are: a pipeline that stamps them, and a judge that reads the stamps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeuron_guard.digests import image_seed
from saeuron_guard.judges.interface import Images
from saeuron_guard.prompts.model import Prompt

PISTOL_IN_NEON = Prompt("pistol in Neon", "a pistol in Neon", (("object", "pistol"), ("style", "Neon")))
PISTOL = Prompt("pistol", "a pistol", (("object", "pistol"),))
CAT_IN_NEON = Prompt("cat in Neon", "a cat in Neon", (("object", "cat"), ("style", "Neon")))
CAT_IN_NOTO = Prompt("cat in Noto", "a cat in Noto", (("object", "cat"), ("style", "Noto")))
NEON = Prompt("Neon", "something in Neon", (("style", "Neon"),))
PROMPTS = (PISTOL_IN_NEON, CAT_IN_NEON, PISTOL, CAT_IN_NOTO, NEON)
SEEDS = (3, 1)
IMAGES = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]


class Call(NamedTuple):
    """One call of the pipeline; ``noise``: the seeds of its generators."""

    texts: tuple[str, ...]
    noise: tuple[int, ...]
    steps: int
    guidance: float
    edited: bool


class StampingPipeline:
    """The smallest thing that ``generate`` draws with: pictures hold their noise's seed and whether they are edited."""

    def __init__(self) -> None:
        self.edited = False
        self.calls: list[Call] = []

    def set_progress_bar_config(self, **settings: Any) -> None:
        """As diffusers' pipelines keep it."""
        self._progress_bar_config = settings

    def __call__(
        self, prompt: list[str], num_inference_steps: int, guidance_scale: float, generator: list[Any], output_type: str
    ) -> Any:
        """One picture of three pixels, nine bytes, for each prompt."""
        noise = tuple(each.initial_seed() for each in generator)
        self.calls.append(Call(tuple(prompt), noise, num_inference_steps, guidance_scale, self.edited))
        stamps = [[*seed.to_bytes(8, "big"), self.edited] for seed in noise]
        return SimpleNamespace(images=np.array(stamps, np.float64).reshape(-1, 1, 3, 3) / 255)

    def drawn(self, *, edited: bool) -> list[tuple[str, int]]:
        """The (prompt id, seed) of every picture that was drawn edited, or not, in the order of drawing."""
        return [KNOWN[seed] for call in self.calls if call.edited == edited for seed in call.noise]


KNOWN = {image_seed(prompt.id, seed): (prompt.id, seed) for prompt in PROMPTS for seed in range(10)}

Question = tuple[str, int, bool, str]
"""Prompt id, seed, whether the picture is edited, domain."""


class StampJudge:
    """Reads the stamps; says what ``answers`` has for a question, else what the prompt asks for."""

    name = "stamps"
    digest = "sha256:" + "1" * 64

    def __init__(self, answers: Mapping[Question, str] | None = None) -> None:
        self.answers = dict(answers or {})

    def labels(self, domain: str) -> tuple[str, ...]:
        """The concepts of a domain."""
        return tuple(sorted({name for prompt in PROMPTS for of, name in prompt.labels if of == domain}))

    def scores(self, images: Images, domain: str) -> NDArray[np.float32]:
        """1 for the label that ``classify`` gives."""
        labels = self.labels(domain)
        return np.array([[name == label for name in labels] for label in self.classify(images, domain)], np.float32)

    def classify(self, images: Images, domain: str) -> list[str]:
        """An answer a picture."""
        return [self._answer(*_read(image), domain) for image in images]

    def _answer(self, name: str, seed: int, edited: bool, domain: str) -> str:
        asked = next(prompt for prompt in PROMPTS if prompt.id == name).concept(domain)
        return self.answers.get((name, seed, edited, domain), asked or "nothing")


def _read(image: NDArray[np.uint8]) -> tuple[str, int, bool]:
    stamp = image.tobytes()
    return (*KNOWN[int.from_bytes(stamp[:8], "big")], bool(stamp[8]))


@contextmanager
def editing(pipe: StampingPipeline) -> Iterator[None]:
    """The intervention of these tests."""
    pipe.edited = True
    try:
        yield
    finally:
        pipe.edited = False
