"""The workbench draws no picture more often than it must, and counts every answer of the judge where it belongs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saeuron_guard.discovery.workbench import Effect, Share, Workbench
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.interface import Images
from saeuron_guard.pipelines.generation import generate
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import ModelRecord
from tests.discovery.stamps import (
    CAT_IN_NEON,
    CAT_IN_NOTO,
    IMAGES,
    KNOWN,
    NEON,
    PISTOL,
    PISTOL_IN_NEON,
    PROMPTS,
    SEEDS,
    Question,
    StampingPipeline,
    StampJudge,
    editing,
)
from tests.tiny import make_guard, make_pipeline

MODEL = ModelRecord("tiny", "sd1", "", "sha256:" + "0" * 64, 16, 2, 3.0, "DDIMScheduler")


def bench_of(answers: Mapping[Question, str] | None = None, *, batch_size: int = 4) -> Workbench:
    """A workbench with a fresh stamping pipeline."""
    return Workbench(StampingPipeline(), MODEL, StampJudge(answers), PROMPTS, batch_size=batch_size)


def shares(**changes: Share) -> Effect:
    """An effect on ten images each, all right."""
    return Effect(**{field.name: Share(10, 10) for field in fields(Effect)} | changes)


def test_shares_add_their_counts_and_not_their_values() -> None:
    """1 of 1 and 0 of 3 are 1 of 4; no images are a share of 1 that changes nothing it is added to."""
    assert (Share(1, 1) + Share(0, 3)).value == 0.25
    assert Share(0, 0).value == 1.0
    assert Share(0, 0) + Share(2, 5) == Share(2, 5)
    assert Share(0, 5).value == 0.0


@given(st.lists(st.integers(0, 50), min_size=32, max_size=32))
def test_effects_add_part_by_part(numbers: list[int]) -> None:
    """Each of the eight shares of a sum is the sum of the two shares of the same name."""
    parts = [Share(*numbers[at : at + 2]) for at in range(0, 32, 2)]
    one, other = Effect(*parts[:8]), Effect(*parts[8:])
    total = one + other
    for field in fields(Effect):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert astuple(getattr(total, field.name)) == (mine.hits + theirs.hits, mine.n + theirs.n)


def test_retention_is_relative_to_the_unguarded_images() -> None:
    """Half of what was right before is 0.5, however little that was; what was never right can't be lost."""
    effect = shares(ira=Share(3, 10), ira_base=Share(6, 10), cra=Share(3, 10), survival=Share(1, 10))
    assert effect.kept == (0.5, 0.3)
    assert effect.survived == 0.1
    assert shares(survival=Share(1, 10), survival_base=Share(4, 10)).survived == 0.25
    assert shares(ira=Share(0, 10), ira_base=Share(0, 10), cra=Share(0, 10)).kept == (1.0, 0.0)


@given(after=st.integers(0, 40), before=st.integers(1, 40))
def test_retention_is_capped_at_1(after: int, before: int) -> None:
    """A guard that makes images better than before keeps 1, not more; one that makes them worse keeps less."""
    effect = shares(
        ira=Share(after, 40), ira_base=Share(before, 40), cra=Share(before, 40), cra_base=Share(after, 40),
        survival=Share(after, 40), survival_base=Share(before, 40),
    )  # fmt: skip
    ira, cra = effect.kept
    assert ira == effect.survived == pytest.approx(min(1.0, after / before))
    assert (ira < 1) == (after < before)
    assert (cra < 1) == (before < after)


def test_every_image_counts_where_it_belongs() -> None:
    """Of a removed object and of a removed style: how many labels each share is over when the judge is always right."""
    bench = bench_of()
    pistol = bench.effect("pistol", "object", editing, IMAGES)
    # Two seeds: of two prompts with a pistol one has a style; of three others two have an object and three a style.
    assert (pistol.ua, pistol.survival, pistol.ira, pistol.cra) == (Share(0, 4), Share(2, 2), Share(4, 4), Share(6, 6))
    assert (pistol.survival_base, pistol.ira_base, pistol.cra_base) == (Share(2, 2), Share(4, 4), Share(6, 6))
    neon = bench.effect("Neon", "style", editing, IMAGES)
    # Of three prompts in Neon two have an object; of two others both have an object and one a style.
    assert (neon.ua, neon.survival, neon.ira, neon.cra) == (Share(0, 6), Share(4, 4), Share(2, 2), Share(4, 4))
    assert (neon.survival_base, neon.ira_base, neon.cra_base) == (Share(4, 4), Share(2, 2), Share(4, 4))


ROLES: dict[Prompt, dict[str, tuple[str | None, str | None]]] = {
    PISTOL_IN_NEON: {"object": ("ua", "ua_base"), "style": ("survival", "survival_base")},
    PISTOL: {"object": ("ua", "ua_base")},
    CAT_IN_NEON: {"object": ("ira", "ira_base"), "style": ("cra", "cra_base")},
    CAT_IN_NOTO: {"object": ("ira", "ira_base"), "style": ("cra", "cra_base")},
    NEON: {"style": ("cra", "cra_base")},
}
"""What a wrong answer about an edited and about an unedited picture changes when the pistol is removed."""


@pytest.mark.parametrize("edited", [True, False])
@pytest.mark.parametrize("domain", ["object", "style"])
@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.id)
def test_one_other_answer_changes_one_count_by_one(prompt: Prompt, domain: str, edited: bool) -> None:
    """A wrong answer about one picture and domain adds a removal or takes away one hit, of the share it belongs to."""
    right = bench_of().effect("pistol", "object", editing, IMAGES)
    answers = {(prompt.id, SEEDS[0], edited, domain): "something else"}
    found = bench_of(answers).effect("pistol", "object", editing, IMAGES)
    counted = ROLES[prompt].get(domain, (None, None))[0 if edited else 1]
    for field in fields(Effect):
        before, after = getattr(right, field.name), getattr(found, field.name)
        change = 0 if field.name != counted else (1 if counted in ("ua", "ua_base") else -1)
        assert (after.hits - before.hits, after.n) == (change, before.n), field.name


def test_a_target_that_became_another_known_concept_is_removed() -> None:
    """Removal asks whether the picture is still called the target, not what it is called instead."""
    answers = {(PISTOL.id, SEEDS[0], True, "object"): "cat", (PISTOL.id, SEEDS[1], True, "object"): "pistol"}
    assert bench_of(answers).effect("pistol", "object", editing, IMAGES).ua == Share(1, 4)


def test_unguarded_pictures_are_drawn_once() -> None:
    """A second look at the same images draws only the guarded ones anew; a new image is drawn, and it alone."""
    bench = bench_of()
    images = IMAGES[:6]
    for _ in range(2):
        bench.effect("pistol", "object", editing, images)
    wanted = sorted((prompt.id, seed) for prompt, seed in images)
    assert sorted(bench.pipe.drawn(edited=False)) == wanted
    assert sorted(bench.pipe.drawn(edited=True)) == sorted(wanted * 2)
    bench.effect("cat", "object", editing, [*images, IMAGES[6]])
    prompt, seed = IMAGES[6]
    assert bench.pipe.drawn(edited=False)[6:] == [(prompt.id, seed)]


def test_what_is_remembered_belongs_to_its_prompt_and_seed() -> None:
    """Remembered answers come back in the order of the images that are asked for, whatever order they were drawn in."""
    answers = {(prompt.id, seed, False, "object"): f"{prompt.id} {seed}" for prompt, seed in IMAGES}
    bench = bench_of(answers)
    bench.base(IMAGES)
    count = len(bench.pipe.calls)
    found = bench.base(IMAGES[::-1])
    assert [labels["object"] for labels in found] == [f"{prompt.id} {seed}" for prompt, seed in IMAGES[::-1]]
    assert len(bench.pipe.calls) == count


@given(images=st.permutations(IMAGES), batch_size=st.integers(1, 6))
def test_answers_are_in_the_order_of_the_images(images: list[tuple[Prompt, int]], batch_size: int) -> None:
    """However seeds are mixed and whatever the batch size, row i is about image i; no image is drawn twice."""
    answers = {
        (prompt.id, seed, True, domain): f"{prompt.id} {seed} {domain}"
        for prompt, seed in images
        for domain in ("object", "style")
    }
    bench = bench_of(answers, batch_size=batch_size)
    assert bench.judged(editing, images) == [
        {domain: f"{prompt.id} {seed} {domain}" for domain in ("object", "style")} for prompt, seed in images
    ]
    assert sorted(bench.pipe.drawn(edited=True)) == sorted((prompt.id, seed) for prompt, seed in images)
    assert max(len(call.texts) for call in bench.pipe.calls) <= batch_size


def test_pictures_are_drawn_as_the_model_is_registered() -> None:
    """Steps, guidance, texts and noise are those of the model's record and of the images; batches are full."""
    bench = bench_of(batch_size=4)
    bench.judged(nullcontext, IMAGES)
    texts = {prompt.id: prompt.text for prompt in PROMPTS}
    assert {(call.steps, call.guidance) for call in bench.pipe.calls} == {(MODEL.steps, MODEL.guidance)}
    assert [len(call.texts) for call in bench.pipe.calls] == [4, 1, 4, 1]
    for call in bench.pipe.calls:
        assert list(call.texts) == [texts[KNOWN[seed][0]] for seed in call.noise]


def test_prompts_are_targets_or_retained() -> None:
    """Every prompt is one or the other, in the order of the set, by any domain of its labels."""
    bench = bench_of()
    assert bench.domains == ("object", "style")
    assert bench.targets("pistol") == (PISTOL_IN_NEON, PISTOL)
    assert bench.retained("pistol") == (CAT_IN_NEON, CAT_IN_NOTO, NEON)
    assert bench.targets("Noto") == (CAT_IN_NOTO,)


def test_a_concept_that_no_prompt_asks_for_cannot_be_evaluated() -> None:
    """The error names the concept and what to do; a text that merely mentions it is no prompt that asks for it."""
    mentioned = (*PROMPTS, Prompt("dog", "a dog", ()))
    bench = Workbench(StampingPipeline(), MODEL, StampJudge(), mentioned)
    with pytest.raises(CannotEvaluate, match="no prompt asks for 'dog'; add some to the prompt set"):
        bench.targets("dog")
    assert bench.targets("cat") == (CAT_IN_NEON, CAT_IN_NOTO)
    assert bench.retained("dog") == mentioned


def test_the_pipeline_is_left_unedited_when_the_judge_fails() -> None:
    """An error of the judge ends the intervention, which was in place when the pictures were drawn."""

    class Blind(StampJudge):
        def classify(self, images: Images, domain: str) -> list[str]:
            raise CannotEvaluate("blind")

    bench = Workbench(StampingPipeline(), MODEL, Blind(), PROMPTS)
    with pytest.raises(CannotEvaluate, match="blind"):
        bench.effect("pistol", "object", editing, IMAGES)
    assert [call.edited for call in bench.pipe.calls] == [True]
    assert not bench.pipe.edited


class NamesByBytes(StampJudge):
    """Calls each picture by the digest of its bytes: equal names are equal pictures."""

    def classify(self, images: Images, domain: str) -> list[str]:
        """A digest a picture."""
        return [_digest(image) for image in images]


def _digest(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    """A small pipeline of real diffusers classes."""
    return make_pipeline(tmp_path_factory.mktemp("tiny"))


def test_a_real_guard_edits_the_guarded_pictures_and_no_others(pipe: Any) -> None:
    """The judge sees, bit for bit, what ``generate`` draws with the guard on, and as base what it draws without."""

    @contextmanager
    def guarded(each: Any) -> Iterator[None]:
        guard = make_guard().attach(each)
        try:
            yield
        finally:
            guard.detach()

    images = IMAGES[:4]
    bench = Workbench(pipe, MODEL, NamesByBytes(), PROMPTS, batch_size=1)
    edited, base = _names(bench.judged(guarded, images)), _names(bench.base(images))
    with guarded(pipe):
        assert edited == _drawn(pipe, images)
    assert base == _drawn(pipe, images)
    assert len({*edited, *base}) == 2 * len(images)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.unet.modules())


def _names(labels: Sequence[Mapping[str, str]]) -> list[str]:
    return [each["object"] for each in labels]


def _drawn(pipe: Any, images: Sequence[tuple[Prompt, int]]) -> list[str]:
    settings = {"steps": MODEL.steps, "guidance": MODEL.guidance, "batch_size": 1}
    return [_digest(generate(pipe, [prompt], seed, **settings)[0]) for prompt, seed in images]  # type: ignore[arg-type]
