"""Calibration proposes guards that the compiler would make, and keeps the setting that the judge likes best."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.compiler.compile import compile_policy
from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.discovery.calibration import Calibrator, Grid, Proposal, Setting
from saeuron_guard.discovery.calibration_files import merge_into_manifest
from saeuron_guard.discovery.runs import prompts_digest
from saeuron_guard.discovery.search import Budget, Candidate
from saeuron_guard.discovery.workbench import Workbench
from saeuron_guard.errors import CannotEvaluate, CompileError
from saeuron_guard.guard.guard import Guard
from saeuron_guard.judges.interface import Images, Judge
from saeuron_guard.policy.model import Retain
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import Calibration, OperatingPoint
from saeuron_guard.registry.store import FeatureRegistry
from tests.discovery.atlas import NO_SETTING, Atlas, AtlasJudge, Does, Lapse, World, draw_atlas, draw_one, open_world
from tests.verify.world import PLACE, PROMPTS, policy_of

OBJECTS, STYLES = ("tiny.objects",), ("tiny.styles",)
BOTH = OBJECTS + STYLES
GRID = Grid(arrangements=(OBJECTS, BOTH), features=(2, 8), multipliers=(-1.0, -4.0, -16.0))
BUDGET = Budget(seeds=(1, 2), screening=2, targets=2, retains=2, margin=0)
PISTOL_IN_NOTO, PISTOL_IN_NEON, CAT_IN_NOTO, CAT_IN_NEON = (prompt.id for prompt in PROMPTS.prompts)


class Asked(Exception):
    """A picture was drawn, and the judge was asked about it."""


class Tripwire(AtlasJudge):
    """A judge for tests in which nothing, or just a first picture, is drawn."""

    def classify(self, images: Images, domain: str) -> list[str]:
        """Tells that it was asked."""
        raise Asked


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A random pipeline and its registry."""
    opened = open_world(tmp_path_factory.mktemp("world"))
    yield opened
    opened.registry.close()


@pytest.fixture(scope="module")
def atlas(world: World) -> Atlas:
    """All pictures that a calibration on ``GRID`` can draw."""
    ladders = calibrator_of(world)._ladders(world.pistol)
    return draw_atlas(world, BUDGET.seeds, [candidate for ladder in ladders for candidate in ladder])


def calibrator_of(
    world: World,
    judge: Judge | None = None,
    *,
    grid: Grid = GRID,
    prompts: Sequence[Prompt] = PROMPTS.prompts,
    log: list[str] | None = None,
) -> Calibrator:
    """A calibrator that draws one image at a time; without a judge it is not meant to draw any."""
    bench = Workbench(world.pipe, world.model, judge or Tripwire({}, {}), prompts, batch_size=1)
    lines = [] if log is None else log
    return Calibrator(bench, world.registry, world.coders, world.runs, grid=grid, budget=BUDGET, log=lines.append)


def calibration_at(world: World, setting: Setting) -> Calibration:
    """A calibration for the pistol at ``setting``, with some figures."""
    points = [OperatingPoint(sae, world.runs[sae], setting.features, setting.multiplier) for sae in setting.saes]
    return Calibration("pistol", tuple(points), {"ua": 1.0}, {"made_by": "a test"})


def test_the_grid_becomes_ladders_from_gentle_to_hard(world: World) -> None:
    """Each arrangement with each number of features is one ladder, whose rungs are the grid's multipliers in order."""
    ladders = calibrator_of(world)._ladders(world.pistol)
    assert [[rung.setting for rung in ladder] for ladder in ladders] == [
        [Setting(saes, features, multiplier) for multiplier in (-1.0, -4.0, -16.0)]
        for saes in (OBJECTS, BOTH)
        for features in (2, 8)
    ]
    names = [rung.name for ladder in ladders for rung in ladder]
    assert names[:4] == [
        "tiny.objects n=2 x-1", "tiny.objects n=2 x-4", "tiny.objects n=2 x-16", "tiny.objects n=8 x-1"
    ]  # fmt: skip
    assert names[-1] == "tiny.objects+tiny.styles n=8 x-16"
    assert len(set(names)) == 12


def test_settings_that_select_too_much_are_left_out_and_told(world: World) -> None:
    """More features than the run keeps, 8, leave the ladder out with a line that says why; the others stay."""
    log: list[str] = []
    ladders = calibrator_of(world, grid=replace(GRID, features=(8, 9)), log=log)._ladders(world.pistol)
    assert {rung.setting.features for ladder in ladders for rung in ladder} == {8}
    assert len(ladders) == len(GRID.arrangements)
    assert [line.partition(":")[2].partition(" is left out: ")[0] for line in log] == [
        " tiny.objects n=9",
        " tiny.objects+tiny.styles n=9",
    ]
    assert all("asks for the 9 best features" in line and "keeps only 8" in line for line in log)


def test_a_concept_that_no_setting_selects_a_feature_for_cannot_be_evaluated(world: World) -> None:
    """When every ladder is left out, the error says which concept and what to do; with fewer features it is drawn."""
    impossible = calibrator_of(world, grid=replace(GRID, features=(9, 64)))
    with pytest.raises(CannotEvaluate, match="no setting selects a feature for 'pistol'; score the concept anew"):
        impossible.calibrate(world.pistol)
    with pytest.raises(Asked):
        calibrator_of(world).calibrate(world.pistol)


def test_a_concept_that_no_prompt_asks_for_cannot_be_calibrated(world: World) -> None:
    """The error names the concept; with the prompts that ask for it the same calibrator goes on to draw."""
    without = calibrator_of(world, prompts=PROMPTS.prompts[2:])
    with pytest.raises(CannotEvaluate, match="no prompt asks for 'pistol'"):
        without.calibrate(world.pistol)
    with pytest.raises(Asked):
        calibrator_of(world).calibrate(world.pistol)


SETTINGS = [
    Setting(OBJECTS, 2, -1.0),
    Setting(STYLES, 8, -64.0),
    Setting(BOTH, 5, -2.5),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_configuration_is_what_a_policy_with_that_calibration_compiles_to(
    world: World, tmp_path: Path, setting: Setting
) -> None:
    """A registry that really holds the calibration compiles a policy to the same guard; the old one to another."""
    manifest = write_manifest_with(world, tmp_path, calibration_at(world, setting))
    policy = replace(policy_of(), retain=Retain((), (), 0.0, PLACE))
    with FeatureRegistry.open(manifest=manifest) as registry:
        wanted = compile_policy(policy, registry)
    found = calibrator_of(world).configuration(world.pistol, setting)
    assert anonymous(found) == anonymous(wanted)
    assert [point.sae for point in found.hookpoints] == list(setting.saes)
    assert anonymous(found) != anonymous(compile_policy(policy, world.registry))


def write_manifest_with(world: World, folder: Path, calibration: Calibration) -> Path:
    """A copy of the world's registry in which ``calibration`` is merged; the manifest's path."""
    shutil.copytree(world.registry.artefact_root, folder, dirs_exist_ok=True)
    merge_into_manifest([calibration], folder / "manifest.yaml")
    return folder / "manifest.yaml"


def anonymous(config: GuardConfig) -> GuardConfig:
    """Without the policy's name and digests, which the calibration's policy cannot share."""
    return replace(config, policy_name="", policy_version="", policy_digest="", digest="")


def test_a_candidate_is_the_guard_that_the_calibration_describes(world: World) -> None:
    """It draws what a guard of the compiled configuration draws, bit for bit, and no hook stays behind."""
    calibration = calibration_at(world, Setting(BOTH, 8, -4.0))
    calibrator = calibrator_of(world)
    candidate = calibrator.candidate_of(calibration)
    assert (candidate.name, candidate.setting) == ("tiny.objects n=8 x-4+tiny.styles n=8 x-4", calibration)
    prompt = PROMPTS.prompts[0]
    plain = draw_one(world, prompt, 1)
    with candidate.intervention(world.pipe):
        drawn = draw_one(world, prompt, 1)
        assert world.hooks > 0
    config = calibrator.configuration(world.pistol, Setting(BOTH, 8, -4.0))
    guard = Guard(config, {world.hookpoints[sae]: world.coders[sae] for sae in BOTH}).attach(world.pipe)
    wanted = draw_one(world, prompt, 1)
    guard.detach()
    assert (drawn == wanted).all()
    assert not (drawn == plain).all()
    assert world.hooks == 0
    assert (draw_one(world, prompt, 1) == plain).all()


def test_a_candidate_lets_go_of_the_pipeline_after_an_error(world: World) -> None:
    """An error inside the block takes the guard off, and it can be put on again."""
    candidate = calibrator_of(world).candidate_of(calibration_at(world, Setting(OBJECTS, 2, -1.0)))

    def fail_inside() -> None:
        with candidate.intervention(world.pipe):
            raise RuntimeError(f"with {world.hooks} hooks")

    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"with [1-9] hooks"):
            fail_inside()
        assert world.hooks == 0


def test_a_proposal_shows_its_calibration_for_its_concept_only(world: World) -> None:
    """Other concepts have none, also those that the registry has one for; all else is the registry's."""
    proposed = calibration_at(world, Setting(STYLES, 5, -2.0))
    proposal = Proposal(world.registry, proposed)
    assert proposal.calibration("tiny", "pistol") is proposed
    assert world.registry.calibration("tiny", "pistol") != proposed
    assert world.registry.calibration("tiny", "cat") is not None
    assert proposal.calibration("tiny", "cat") is None
    assert proposal.models() == world.registry.models()
    assert proposal.concepts() == world.registry.concepts()
    assert [concept.name for concept in proposal.concepts("style")] == ["Neon", "Noto"]
    for name, run in world.runs.items():
        assert proposal.sae(name) == world.registry.sae(name)
        assert proposal.run(run) == world.registry.run(run)
        assert len(proposal.scores(run, "cat", max_rank=2)) == 2 * 3
        assert proposal.scores(run, "cat") == world.registry.scores(run, "cat")


def test_a_policy_cannot_borrow_other_concepts_from_a_proposal(world: World) -> None:
    """A rule for a concept without a proposed calibration does not compile; for the proposed one it does."""
    proposal = Proposal(world.registry, calibration_at(world, Setting(OBJECTS, 2, -1.0)))
    policy = policy_of()
    assert compile_policy(policy, proposal).hookpoints[0].rules[0].multiplier == -1.0
    with pytest.raises(CompileError, match="'cat' has no calibration"):
        compile_policy(replace(policy, concepts=(replace(policy.concepts[0], concept="cat"),)), proposal)


KNOWN_BEST: dict[str, Does] = {
    "tiny.objects n=8 x-1": {"tiny.objects n=8 x-1": (True, True)},
    "tiny.objects n=2 x-4": {"tiny.objects n=2 x-1": (False, True), "tiny.objects n=2 x-4": (True, True)},
    "tiny.objects+tiny.styles n=8 x-16": {
        "tiny.objects+tiny.styles n=8 x-1": (False, True),
        "tiny.objects+tiny.styles n=8 x-4": (False, True),
        "tiny.objects+tiny.styles n=8 x-16": (True, True),
    },
}
"""Settings that remove the pistol and keep the rest, with what gentler ones do; all settings not named ruin images."""


@pytest.mark.parametrize("best", KNOWN_BEST)
def test_the_setting_that_removes_and_keeps_is_calibrated(world: World, atlas: Atlas, best: str) -> None:
    """Whichever setting the judge likes, hookpoints, number of features and multiplier are those of that setting."""
    setting = next(each for each in candidates(world) if each.name == best).setting
    calibration = calibrator_of(world, AtlasJudge(atlas, KNOWN_BEST[best])).calibrate(world.pistol)
    assert calibration.concept == "pistol"
    assert calibration.points == calibration_at(world, setting).points
    assert calibration.figures == {
        "ua": 1.0, "ua_base": 0.0, "n_target": 4.0, "ira": 1.0, "ira_base": 1.0, "cra": 1.0, "cra_base": 1.0,
        "n_retain": 4.0, "survival": 1.0, "survival_base": 1.0,
    }  # fmt: skip
    assert world.hooks == 0


def candidates(world: World) -> list[Candidate]:
    """Every setting of ``GRID``."""
    return [candidate for ladder in calibrator_of(world)._ladders(world.pistol) for candidate in ladder]


def lapses_of(setting: str, count: dict[tuple[str, str], int]) -> list[Lapse]:
    """The judge's lapses about a setting: of how many seeds, the last first, for each prompt and domain."""
    return [
        (setting, prompt, seed, domain) for (prompt, domain), few in count.items() for seed in BUDGET.seeds[::-1][:few]
    ]


@pytest.fixture(scope="module")
def imperfect(world: World, atlas: Atlas) -> Calibration:
    """What is calibrated when the best setting makes some mistakes, and the pipeline some others without a guard."""
    guarded = {
        (PISTOL_IN_NEON, "style"): 1,
        (CAT_IN_NOTO, "object"): 1,
        (CAT_IN_NEON, "object"): 1,
        (CAT_IN_NOTO, "style"): 2,
        (CAT_IN_NEON, "style"): 1,
    }
    base = {
        (CAT_IN_NOTO, "object"): 1,
        (CAT_IN_NOTO, "style"): 1,
        (CAT_IN_NEON, "style"): 1,
        (PISTOL_IN_NOTO, "style"): 2,
        (PISTOL_IN_NOTO, "object"): 1,
        (PISTOL_IN_NEON, "style"): 1,
    }
    best = "tiny.objects n=2 x-4"
    lapses = [*lapses_of(best, guarded), *lapses_of(NO_SETTING, base)]
    judge = AtlasJudge(atlas, KNOWN_BEST[best], lapses, name="a calibration judge")
    return calibrator_of(world, judge).calibrate(world.pistol)


def test_figures_are_those_of_the_confirmation(world: World, imperfect: Calibration) -> None:
    """Each figure is the share of the four images it is about, counted over all seeds, beside the unguarded one."""
    assert imperfect.points == calibration_at(world, Setting(OBJECTS, 2, -4.0)).points
    assert imperfect.figures == {
        "ua": 1.0,
        "ua_base": 0.25,
        "n_target": 4.0,
        "ira": 0.5,
        "ira_base": 0.75,
        "cra": 0.25,
        "cra_base": 0.5,
        "n_retain": 4.0,
        "survival": 0.75,
        "survival_base": 0.25,
    }


def test_provenance_tells_how_to_repeat_the_calibration(imperfect: Calibration) -> None:
    """Judge, prompts, seeds, grid, budget, library versions and the time are there, as plain JSON."""
    provenance: dict[str, Any] = dict(imperfect.provenance)
    age = datetime.now(UTC) - datetime.strptime(provenance.pop("when"), "%Y-%m-%dT%H:%M:%S%z")
    assert timedelta() <= age < timedelta(minutes=10)
    assert provenance == {
        "judge": {"name": "a calibration judge", "digest": AtlasJudge.digest},
        "prompts_digest": prompts_digest(PROMPTS.prompts),
        "branches": "conditional",
        "threshold": "midpoint",
        "seeds": [1, 2],
        "features_tried": [2, 8],
        "multipliers_tried": [-1.0, -4.0, -16.0],
        "arrangements_tried": ["tiny.objects", "tiny.objects+tiny.styles"],
        "budget": {
            "removed": 0.95,
            "screening": 2,
            "targets": 2,
            "retains": 2,
            "steps": 3,
            "margin": 0,
            "doubtful_margin": 3,
            "missed": 0.1,
        },
        "libraries": {name: version(name) for name in ("diffusers", "torch", "transformers")},
    }
    assert json.loads(json.dumps(provenance)) == provenance
    assert prompts_digest(PROMPTS.prompts) != prompts_digest(PROMPTS.prompts[::-1])
