"""Which images are drawn: the right ones, evenly, and the same ones everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeuron_guard.prompts.model import PromptSet
from saeuron_guard.verify.plan import RETAIN_IMAGES, Shot, make_plan
from tests.verify.world import PROMPTS, policy_of, prompt

OBJECTS = ("pistol", "cat", "dog", "car", "house")
STYLES = ("Noto", "Neon", "Pixel")
LARGE = replace(
    PROMPTS,
    prompts=(
        *(prompt(f"a {thing} in {style}", object=thing, style=style) for thing, style in product(OBJECTS, STYLES)),
        *(prompt(f"a {thing}", object=thing) for thing in OBJECTS),
        prompt("something in Noto", style="Noto"),
        prompt("nothing"),
    ),
)


def shown(shots: tuple[Shot, ...], domain: str) -> Counter[str | None]:
    """How many shots ask for each concept of ``domain``."""
    return Counter(shot.prompt.concept(domain) for shot in shots)


def test_targets_and_retain_prompts_are_told_apart() -> None:
    """All target prompts are drawn; retain prompts ask for none of the concepts and for something to keep."""
    plan = make_plan(policy_of(), LARGE, (1, 2))
    targets = [shot for shot in plan.shots if shot.targets]
    assert {shot.prompt.concept("object") for shot in targets} == {"pistol"}
    assert len(targets) == 2 * 4
    kept = [shot for shot in plan.shots if not shot.targets]
    assert not any(shot.prompt.shows("pistol") for shot in kept)
    assert "nothing" not in {shot.prompt.text for shot in kept}
    assert plan.skipped == 0


def test_only_what_the_policy_retains_is_drawn() -> None:
    """With a single retained concept, prompts about others are left out."""
    policy = policy_of()
    policy = replace(policy, retain=replace(policy.retain, domains=(), concepts=("cat",)))
    kept = [shot for shot in make_plan(policy, LARGE, (1,)).shots if not shot.targets]
    assert {shot.prompt.concept("object") for shot in kept} == {"cat"}


def test_retain_images_are_a_sample_that_grows_with_the_policys_minimum() -> None:
    """By default as many are drawn as bounds need, and enough for the policy's minimum_n."""
    seeds = tuple(range(40))
    for minimum, expected in ((10, RETAIN_IMAGES), (64, RETAIN_IMAGES), (100, 150)):
        plan = make_plan(policy_of(minimum_n=minimum), LARGE, seeds)
        assert sum(not shot.targets for shot in plan.shots) == expected
        assert sum(bool(shot.targets) for shot in plan.shots) == 4 * len(seeds)


def test_a_sample_is_spread_evenly() -> None:
    """Each object, each style, and prompts without a style get their share, give or take one or two."""
    plan = make_plan(policy_of(), LARGE, tuple(range(40)))
    kept = tuple(shot for shot in plan.shots if not shot.targets)
    styles, objects = shown(kept, "style"), shown(kept, "object")
    assert max(styles.values()) - min(styles.values()) <= 2
    named = [objects[name] for name in OBJECTS if name != "pistol"]
    assert max(named) - min(named) <= 2


@given(st.integers(1, 12), st.integers(1, 4))
def test_max_per_concept_holds_for_every_concept(limit: int, count: int) -> None:
    """No removed and no retained concept is drawn more often, and what is left out of the targets is counted."""
    plan = make_plan(policy_of(), LARGE, tuple(range(count)), max_per_concept=limit)
    targets = sum(bool(shot.targets) for shot in plan.shots)
    assert targets == min(limit, 4 * count)
    assert plan.skipped == 4 * count - targets
    kept = tuple(shot for shot in plan.shots if not shot.targets)
    for domain in ("object", "style"):
        assert all(number <= limit for name, number in shown(kept, domain).items() if name is not None)


@given(st.permutations(LARGE.prompts))
def test_the_choice_does_not_depend_on_the_order_of_the_prompts(prompts: list[object]) -> None:
    """A prompt file with its lines exchanged gives the same pairs."""
    shuffled: PromptSet = replace(LARGE, prompts=tuple(prompts))  # type: ignore[arg-type]
    chosen = [
        {(shot.prompt.id, shot.seed) for shot in make_plan(policy_of(), each, (1, 2, 3), max_per_concept=2).shots}
        for each in (LARGE, shuffled)
    ]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("seeds", [(1, 2), (2, 1, 2)])
def test_shots_come_in_order_of_seeds_each_once(seeds: tuple[int, ...]) -> None:
    """Seeds given twice are drawn once, and images of a seed stand together."""
    drawn = [shot.seed for shot in make_plan(policy_of(), PROMPTS, seeds).shots]
    assert drawn == [seed for seed in dict.fromkeys(seeds) for _ in PROMPTS.prompts]


def test_without_targets_nothing_is_drawn() -> None:
    """Prompts that never ask for the concept can't verify anything, so no time is spent on them."""
    assert make_plan(policy_of(), replace(PROMPTS, prompts=PROMPTS.prompts[2:]), (1,)).shots == ()
