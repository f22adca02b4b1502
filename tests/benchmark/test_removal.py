"""The benchmark: rivals' settings come from the calibration side, figures from the audit side, and sums are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeuron_guard.benchmark.removal import (
    PAPER_MULTIPLIERS,
    RIVAL_BUDGET,
    STEERING_FACTORS,
    Contest,
    Outcome,
    describe,
    summarise,
)
from saeuron_guard.discovery.calibration import Calibrator, Grid
from saeuron_guard.discovery.concept_statistics import ConceptStatistics
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.search import Budget, Candidate
from saeuron_guard.discovery.workbench import Effect, Labels, Share, Workbench
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.interface import Images, Judge
from saeuron_guard.names import REMOVAL_METHODS
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import Calibration, OperatingPoint
from saeuron_guard.registry.store import FeatureRegistry
from tests.discovery.atlas import ELSE, NO_SETTING, Atlas, AtlasJudge, Does, World, draw_atlas, open_world
from tests.registry.synthetic import Synthetic, write_synthetic_registry
from tests.tiny import make_coder
from tests.verify.world import PROMPTS

HOME = {"object": "tiny.objects", "style": "tiny.styles"}
HOOKPOINTS = ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")
SETTINGS_SEEDS, AUDIT_SEEDS = (1, 2), (8, 9)
BUDGET = replace(RIVAL_BUDGET, seeds=SETTINGS_SEEDS, screening=2, targets=2, retains=2)
CALIBRATION = Calibration(
    "pistol", (OperatingPoint("tiny.styles", "tiny.styles.paper", 8, -4.0),), {"ua": 1.0}, {"made_by": "a test"}
)
CALIBRATED = "tiny.styles n=8 x-4"
PISTOL_IN_NOTO, PISTOL_IN_NEON, CAT_IN_NOTO, CAT_IN_NEON = (prompt.id for prompt in PROMPTS.prompts)


def effect_of(ua: int, ira: int = 10, cra: int = 10, survival: int = 10, *, of: int = 10, **base: int) -> Effect:
    """An effect on ``of`` images each; ``base`` replaces some of the unguarded hits, which are otherwise all."""
    return Effect(
        ua=Share(ua, of),
        ua_base=Share(base.get("ua_base", 0), of),
        survival=Share(survival, of),
        survival_base=Share(base.get("survival_base", of), of),
        ira=Share(ira, of),
        ira_base=Share(base.get("ira_base", of), of),
        cra=Share(cra, of),
        cra_base=Share(base.get("cra_base", of), of),
    )


def outcome_of(concept: str, effect: Effect, *, domain: str = "object", method: str = "guard") -> Outcome:
    """What a method did to a concept."""
    return Outcome(concept, domain, method, "as a test wants it", effect)


def test_a_summary_is_for_each_domain_and_method_in_their_order() -> None:
    """Outcomes of other domains and methods don't mix, whatever order they come in."""
    outcomes = [
        outcome_of("Neon", effect_of(4), domain="style"),
        outcome_of("cat", effect_of(10)),
        outcome_of("cat", effect_of(6), method="published"),
        outcome_of("Noto", effect_of(8), domain="style"),
        outcome_of("dog", effect_of(5)),
    ]
    found = summarise(outcomes)
    assert [(each.domain, each.method, each.concepts) for each in found] == [
        ("style", "guard", 2),
        ("object", "guard", 2),
        ("object", "published", 1),
    ]
    assert [each.ua for each in found] == pytest.approx([0.6, 0.75, 0.6])
    assert summarise([]) == []


def test_a_summary_is_the_mean_over_concepts_relative_to_the_unguarded_images() -> None:
    """Every concept counts the same, however many images it has; retention is that of what was right before."""
    outcomes = [
        outcome_of("cat", effect_of(10, ira=6, ira_base=8, cra=10, cra_base=5, survival=2, survival_base=8)),
        outcome_of("dog", effect_of(50, ira=100, cra=20, survival=100, cra_base=40, of=100)),
    ]
    (summary,) = summarise(outcomes)
    assert summary.ua == pytest.approx((1 + 0.5) / 2)
    assert summary.ira == pytest.approx((0.75 + 1) / 2)
    assert summary.cra == pytest.approx((1 + 0.5) / 2)
    assert summary.survival == pytest.approx((0.25 + 1) / 2)


@pytest.mark.parametrize(
    "bad",
    [effect_of(3), effect_of(10, ira=3), effect_of(10, cra=3), effect_of(10, ira=6, cra=3), effect_of(9, ira=3, cra=6)],
)
def test_the_worst_concept_is_the_one_with_the_worst_single_figure(bad: Effect) -> None:
    """One bad UA, IRA or CRA makes a concept the worst, be the others as good as they may, wherever it stands."""
    good = [outcome_of(name, effect_of(6, 7, 8)) for name in ("cat", "dog")]
    for place in range(3):
        outcomes = [*good[:place], outcome_of("bomb", bad), *good[place:]]
        (summary,) = summarise(outcomes)
        assert summary.worst_concept == "bomb"
        assert summary.worst == pytest.approx(0.3)
    (summary,) = summarise(good)
    assert summary.worst_concept == "cat"
    assert summary.worst == pytest.approx(0.6)


def test_survival_is_no_part_of_the_worst_figure() -> None:
    """What happens to a target's own other domain is told beside it; what was bad before is not the method's fault."""
    (summary,) = summarise([outcome_of("cat", effect_of(9, survival=0)), outcome_of("dog", effect_of(8))])
    assert (summary.worst_concept, summary.worst, summary.survival) == ("dog", 0.8, 0.5)
    (summary,) = summarise([outcome_of("cat", effect_of(9, ira=1, ira_base=1)), outcome_of("dog", effect_of(8))])
    assert summary.worst_concept == "dog"


def test_an_outcome_in_words_has_its_figures_and_how_many_images_they_are_of() -> None:
    """Shares, relative retention, both counts, method and setting stand in one line."""
    outcome = outcome_of("pistol", effect_of(9, ira=6, ira_base=8, cra=5, survival=2), method="published")
    line = describe(replace(outcome, effect=replace(outcome.effect, ua=Share(18, 20))))
    words = "pistol published UA 90.0% (n=20) IRA 75.0% CRA 50.0% (n=10) survival 20.0% as a test wants it"
    assert " ".join(line.split()) == words


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A random pipeline and its registry."""
    opened = open_world(tmp_path_factory.mktemp("world"))
    yield opened
    opened.registry.close()


class OneWord:
    """A judge that calls everything the same."""

    name = "one word"
    digest = "sha256:" + "6" * 64

    def labels(self, domain: str) -> tuple[str, ...]:
        """Its one word."""
        return ("thing",)

    def scores(self, images: Images, domain: str) -> Any:
        """It is certain."""
        return np.ones((len(images), 1), np.float32)

    def classify(self, images: Images, domain: str) -> list[str]:
        """The same for every image."""
        return ["thing"] * len(images)


class NotingBench(Workbench):
    """A workbench that notes which images its interventions were measured on."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.measured: list[list[tuple[Prompt, int]]] = []

    def compared(
        self, concept: str, domain: str, guarded: list[Labels], images: Sequence[tuple[Prompt, int]]
    ) -> Effect:
        """Note the images, and compare them as always."""
        self.measured.append(list(images))
        return super().compared(concept, domain, guarded, images)


def contest_of(world: World, settings_judge: Judge, audit_judge: Judge, **changes: Any) -> Contest:
    """A contest on the tiny pipeline in which one image is drawn at a time."""
    settings = Workbench(world.pipe, world.model, settings_judge, PROMPTS.prompts, batch_size=1)
    grid = Grid(arrangements=())
    values: dict[str, Any] = {
        "settings": settings,
        "audit": NotingBench(world.pipe, world.model, audit_judge, PROMPTS.prompts, batch_size=1),
        "calibrator": Calibrator(
            settings, world.registry, world.coders, world.runs, grid=grid, budget=Budget(), log=lambda _: None
        ),
        "coders": world.coders,
        "hookpoints": world.hookpoints,
        "home": HOME,
        "statistics": {hookpoint: statistics_of(seed) for seed, hookpoint in enumerate(HOOKPOINTS)},
        "seeds": AUDIT_SEEDS,
        "targets": 4,
        "retains": 4,
        "budget": BUDGET,
    }
    return Contest(**(values | changes))


def statistics_of(seed: int) -> ConceptStatistics:
    """Random means of raw activations of the prompts' concepts."""
    table = ConceptTable.of(PROMPTS.prompts)
    mean = np.random.default_rng(seed).normal(size=(len(table.names), 3, 16)).astype(np.float32)
    count = np.ones(mean.shape[:2], np.int64)
    return ConceptStatistics(table, (901, 501, 101), count, mean, mean**2, np.zeros_like(mean))


def rungs(ladders: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    """All candidates of some ladders."""
    return [candidate for ladder in ladders for candidate in ladder]


ALONE, TOGETHER = HOOKPOINTS[0], "+".join(HOOKPOINTS)
HERE, EVERYWHERE = f"{ALONE} conditional", f"{TOGETHER} all"
KNOWN_BEST: dict[str, Does] = {
    f"{HERE} x4": {f"{HERE} x1": (False, True), f"{HERE} x2": (False, True), f"{HERE} x4": (True, True)},
    f"{EVERYWHERE} x1": {f"{EVERYWHERE} x1": (True, True)},
}
"""Steering that removes the pistol and keeps the rest, with what gentler factors do; what is not named ruins images."""


@pytest.fixture(scope="module")
def steering_atlas(world: World) -> Atlas:
    """All pictures that the search for a steering can draw with the settings' seeds."""
    contest = contest_of(world, OneWord(), OneWord())
    return draw_atlas(world, SETTINGS_SEEDS, rungs(contest._steering(world.pistol, lambda _: None)))


@pytest.mark.parametrize("best", KNOWN_BEST)
def test_a_rivals_setting_is_chosen_by_one_judge_and_measured_by_the_other(
    world: World, steering_atlas: Atlas, best: str
) -> None:
    """The setting that the settings' judge likes is the one that the audit measures, and its judge sees no other.

    Each judge fails on a picture that it doesn't know: that of the settings knows the settings' seeds alone, that of
    the audit the audit's seeds under the chosen setting alone.
    """
    candidates = rungs(contest_of(world, OneWord(), OneWord())._steering(world.pistol, lambda _: None))
    audit_atlas = draw_atlas(world, AUDIT_SEEDS, [each for each in candidates if each.name == best])
    lapses = [
        (best, PISTOL_IN_NEON, 9, "object"),
        (best, CAT_IN_NOTO, 8, "style"),
        (best, CAT_IN_NOTO, 9, "style"),
        (NO_SETTING, CAT_IN_NEON, 9, "style"),
        (NO_SETTING, PISTOL_IN_NOTO, 8, "style"),
    ]
    audit_judge = AtlasJudge(audit_atlas, KNOWN_BEST[best], lapses)
    contest = contest_of(world, AtlasJudge(steering_atlas, KNOWN_BEST[best]), audit_judge)
    log: list[str] = []
    (outcome,) = contest.outcomes(world.pistol, None, ["mean-difference"], log.append)
    assert outcome == Outcome(
        "pistol",
        "object",
        "mean-difference",
        best,
        Effect(
            ua=Share(3, 4),
            ua_base=Share(0, 4),
            survival=Share(4, 4),
            survival_base=Share(3, 4),
            ira=Share(4, 4),
            ira_base=Share(4, 4),
            cra=Share(2, 4),
            cra_base=Share(3, 4),
        ),
        {ELSE: 3, "pistol": 1},
    )
    assert log[-1] == describe(outcome)
    assert world.hooks == 0


def test_the_guard_comes_with_its_calibration_and_without_a_search(world: World) -> None:
    """Its pictures are those of the calibration, and the settings' judge, who knows no picture, is never asked."""
    candidate = contest_of(world, OneWord(), OneWord()).calibrator.candidate_of(CALIBRATION)
    atlas = draw_atlas(world, AUDIT_SEEDS, [candidate])
    contest = contest_of(world, AtlasJudge({}, {}), AtlasJudge(atlas, {CALIBRATED: (True, True)}))
    (outcome,) = contest.outcomes(world.pistol, CALIBRATION, ["guard"], lambda _: None)
    assert (outcome.method, outcome.setting, outcome.effect.ua) == ("guard", CALIBRATED, Share(4, 4))
    with pytest.raises(KeyError):
        list(contest.outcomes(world.pistol, CALIBRATION, ["mean-difference"], lambda _: None))


def test_a_guard_without_a_calibration_cannot_be_evaluated(world: World) -> None:
    """The error names the concept and the command; with a calibration the same contest has an outcome."""
    contest = contest_of(world, OneWord(), OneWord())
    with pytest.raises(CannotEvaluate, match="pistol has no calibration; run sae calibrate first"):
        list(contest.outcomes(world.pistol, None, ["guard"], lambda _: None))
    assert len(list(contest.outcomes(world.pistol, CALIBRATION, ["guard"], lambda _: None))) == 1


def test_all_methods_are_measured_on_the_same_images(world: World) -> None:
    """One outcome a method, in the order asked for, each on the same prompts at the audit's seeds."""
    contest = contest_of(world, OneWord(), OneWord())
    outcomes = list(contest.outcomes(world.pistol, CALIBRATION, REMOVAL_METHODS[::-1], lambda _: None))
    assert [outcome.method for outcome in outcomes] == ["mean-difference", "published", "guard-all-branches", "guard"]
    assert len({outcome.setting for outcome in outcomes}) == 3  # two are the same calibration
    assert isinstance(contest.audit, NotingBench)
    first, *others = contest.audit.measured
    assert others == [first, first, first]
    assert sorted((prompt.id, seed) for prompt, seed in first) == sorted(
        (prompt.id, seed) for prompt in PROMPTS.prompts for seed in AUDIT_SEEDS
    )


@pytest.mark.parametrize(
    ("targets", "retains", "wanted"), [(4, 4, (4, 4)), (2, 4, (2, 4)), (4, 3, (4, 2)), (1, 1, (2, 2)), (99, 2, (4, 2))]
)
def test_images_are_shared_out_among_the_seeds(
    world: World, targets: int, retains: int, wanted: tuple[int, int]
) -> None:
    """Each seed gets its part, rounded down but at least one, and no prompt twice with one seed."""
    contest = contest_of(world, OneWord(), OneWord(), targets=targets, retains=retains)
    (outcome,) = contest.outcomes(world.pistol, CALIBRATION, ["guard"], lambda _: None)
    assert (outcome.effect.ua.n, outcome.effect.ira.n) == wanted
    assert isinstance(contest.audit, NotingBench)
    (images,) = contest.audit.measured
    assert len(set(images)) == len(images) == sum(wanted)
    assert {seed for _, seed in images} == set(AUDIT_SEEDS)


def test_the_published_ladders_are_the_papers_percentiles_of_the_dictionary(world: World, tmp_path: Path) -> None:
    """Of 2000 latents the 99th, 99.5th and 99.9th percentile leave 20, 10 and 2 features, at the domain's own SAE."""
    manifest = write_synthetic_registry(tmp_path, Synthetic(num_latents=2000, features=24))
    coders = {sae: make_coder(d_in=16, num_latents=2000) for sae in HOME.values()}
    with FeatureRegistry.open(manifest=manifest) as registry:
        contest = contest_of(replace(world, registry=registry), OneWord(), OneWord(), coders=coders)
        found = {name: contest._published(registry.concept(name), lambda _: None) for name in ("pistol", "Neon")}
    for concept, home in (("pistol", HOME["object"]), ("Neon", HOME["style"])):
        assert [rung.name for rung in rungs(found[concept])] == [
            f"{home} p{percentile} x{multiplier:g}"
            for percentile in ("99", "99.5", "99.9")
            for multiplier in PAPER_MULTIPLIERS
        ]
        for ladder, features in zip(found[concept], (20, 10, 2), strict=True):
            for rung, multiplier in zip(ladder, PAPER_MULTIPLIERS, strict=True):
                (point,) = rung.intervention.keywords["config"].hookpoints  # type: ignore[attr-defined]
                (rule,) = point.rules
                assert (point.sae, rule.multiplier, len(rule.features)) == (home, multiplier, features)


def test_steering_is_tried_at_home_and_at_all_hookpoints(world: World) -> None:
    """At the domain's own hookpoint and everywhere, on either choice of branches, from projecting out to pushing."""
    contest = contest_of(world, OneWord(), OneWord())
    for concept, home in (("pistol", HOOKPOINTS[0]), ("Neon", HOOKPOINTS[1])):
        ladders = contest._steering(world.registry.concept(concept), lambda _: None)
        places = [f"{where} {branches}" for where in (home, TOGETHER) for branches in ("conditional", "all")]
        for ladder, place in zip(ladders, places, strict=True):
            assert [rung.name for rung in ladder] == [f"{place} x{factor:g}" for factor in STEERING_FACTORS]
    assert sorted(STEERING_FACTORS) == list(STEERING_FACTORS)
    assert sorted(PAPER_MULTIPLIERS, reverse=True) == list(PAPER_MULTIPLIERS)
