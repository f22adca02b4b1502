"""The search for settings: it finds the gentlest one that removes a concept, and prefers what harms less."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from saeuron_guard.discovery.search import Budget, Candidate, search, spread
from saeuron_guard.discovery.workbench import Effect, Intervention, Share
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import ConceptRecord

PISTOL = ConceptRecord("pistol", "object", "Pistol", "A pistol.")
PROMPTS = tuple(
    Prompt(f"{name}-{number}", f"{name} {number}", (("object", name),))
    for name in ("pistol", "cat", "dog")
    for number in range(30)
)


class FakeBench:
    """Knows what each setting does without drawing: (removal, retention) by setting, as whole percents.

    ``missed``: percent of the unguarded target images in which the judge doesn't see the target.
    """

    def __init__(self, does: dict[Any, tuple[int, int]], missed: int = 0) -> None:
        self.does = does
        self.missed = missed
        self.drawn: list[Any] = []

    def targets(self, concept: str) -> tuple[Prompt, ...]:
        """The prompts that ask for the concept."""
        return tuple(prompt for prompt in PROMPTS if prompt.shows(concept))

    def retained(self, concept: str) -> tuple[Prompt, ...]:
        """The other prompts."""
        return tuple(prompt for prompt in PROMPTS if not prompt.shows(concept))

    def effect(
        self, concept: str, _domain: str, intervention: Intervention, images: Sequence[tuple[Prompt, int]]
    ) -> Effect:
        """What the setting is known to do, for as many images as were asked for."""
        setting = intervention.setting  # type: ignore[attr-defined]
        self.drawn.append(setting)
        removed, kept = self.does[setting]
        targets = sum(prompt.shows(concept) for prompt, _ in images)
        retains = len(images) - targets
        all_right = Share(100 * retains, 100 * retains)
        return Effect(
            ua=Share(removed * targets, 100 * targets),
            ua_base=Share(self.missed * targets, 100 * targets),
            survival=Share(0, 0),
            survival_base=Share(0, 0),
            ira=Share(kept * retains, 100 * retains),
            ira_base=all_right,
            cra=all_right,
            cra_base=all_right,
        )


class Act:
    """An intervention that says which setting it is."""

    def __init__(self, setting: Any) -> None:
        self.setting = setting

    def __call__(self, _pipe: Any) -> Any:
        """Nothing is attached."""
        return nullcontext()


def ladder(*settings: Any) -> list[Candidate]:
    """Candidates from gentle to hard."""
    return [Candidate(str(setting), Act(setting), setting) for setting in settings]


def find(does: dict[Any, tuple[int, int]], *ladders: list[Candidate], margin: int = 0) -> tuple[Any, FakeBench]:
    """The chosen setting, and the bench that was searched on."""
    bench = FakeBench(does)
    best = search(bench, PISTOL, ladders, Budget(margin=margin), lambda _line: None)  # type: ignore[arg-type]
    return best.candidate.setting, bench


@pytest.mark.parametrize("gentlest", range(7))
def test_gentlest_rung_that_removes_is_found(gentlest: int) -> None:
    """Of a ladder on which removal sets in at some rung, that rung is chosen, in at most three looks."""
    does = {rung: (100 if rung >= gentlest else 10, 100) for rung in range(7)}
    chosen, bench = find(does, ladder(*range(7)))
    assert chosen == gentlest
    assert len(set(bench.drawn)) <= 3


def test_less_harm_beats_another_ladder() -> None:
    """Of two ladders that both remove the concept, the one that keeps more of the rest is chosen, in either order."""
    does = {"rough": (100, 60), "fine": (100, 99)}
    assert find(does, ladder("rough"), ladder("fine"))[0] == "fine"
    assert find(does, ladder("fine"), ladder("rough"))[0] == "fine"


def test_best_removal_is_given_when_nothing_is_enough() -> None:
    """A ladder whose rungs all fail still gives its best, with figures that say so."""
    does = {0: (0, 100), 1: (20, 100), 2: (70, 100)}
    assert find(does, ladder(0, 1, 2))[0] == 2


@pytest.mark.parametrize(
    ("kept", "chosen"),
    [((100, 100, 100), 3), ((100, 100, 50), 2), ((100, 50, 100), 3), ((100, 50, 50), 1)],
)
def test_a_harder_rung_is_taken_as_a_margin_where_it_harms_nothing(kept: tuple[int, ...], chosen: int) -> None:
    """Removal sets in at rung 1: up to two rungs above it the hardest that still keeps the rest is chosen."""
    does = {0: (10, 100)} | {rung: (100, share) for rung, share in enumerate(kept, start=1)} | {4: (100, 100)}
    assert find(does, ladder(*range(5)), margin=2)[0] == chosen
    assert find(does, ladder(*range(5)))[0] == 1


@pytest.mark.parametrize(("missed", "chosen"), [(0, 2), (10, 2), (11, 3), (30, 3)])
def test_the_margin_is_wider_where_the_judge_misses_the_concept_anyway(missed: int, chosen: int) -> None:
    """What the judge no longer sees tells less when it misses more than a tenth of the unguarded images."""
    bench = FakeBench(dict.fromkeys(range(5), (100, 100)), missed)
    budget = Budget(margin=2, doubtful_margin=3)
    best = search(bench, PISTOL, [ladder(*range(5))], budget, lambda _line: None)  # type: ignore[arg-type]
    assert best.candidate.setting == chosen


def test_a_good_ladder_ends_the_search() -> None:
    """The complex ladder is not even looked at when the simple one does well enough; it is when that does not."""
    does = {"simple": (100, 100), "complex": (100, 100), "weak": (50, 100)}
    _, bench = find(does, ladder("simple"), ladder("complex"))
    assert set(bench.drawn) == {"simple"}
    chosen, bench = find(does, ladder("weak"), ladder("complex"))
    assert (chosen, set(bench.drawn)) == ("complex", {"weak", "complex"})


def test_a_step_is_taken_towards_what_falls_short() -> None:
    """Screening stops at the first rung that removes; if that harms the rest, a gentler one that harms less wins."""
    does = {0: (10, 100), 1: (96, 99), 2: (100, 60), 3: (100, 40)}
    assert find(does, ladder(0, 1, 2, 3))[0] == 1


def test_spread_covers_every_seed_with_different_prompts() -> None:
    """Each seed gets the same number of images, and several seeds look at more prompts than one does."""
    images = spread(PROMPTS, 10, (1, 2, 3))
    assert [sum(seed == wanted for _, seed in images) for wanted in (1, 2, 3)] == [10, 10, 10]
    assert len({prompt.id for prompt, _ in images}) == 30
    assert len(spread(PROMPTS, 1000, (1,))) == len(PROMPTS)
