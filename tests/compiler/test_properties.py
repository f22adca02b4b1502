"""Laws of compiling and merging that hold for every policy and registry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron_guard.compiler.compile import compile_policy, largest_gap
from saeuron_guard.compiler.files import guard_json
from saeuron_guard.compiler.merge import Claim, merge
from saeuron_guard.policy.model import Audit, ConceptRule, Place, Policy, Retain
from saeuron_guard.registry.records import FeatureScore, OperatingPoint
from tests.compiler.pretend import PretendRegistry, digest

NAMES = ("bomb", "cat", "knife", "pistol")
TIMESTEPS = (900, 500, 100)
HERE = Place("policy.yaml", 1, 1)

rankings = st.fixed_dictionaries(
    {
        timestep: st.lists(
            st.tuples(st.integers(0, 9), st.floats(0.001, 1)), min_size=5, max_size=6, unique_by=lambda pair: pair[0]
        ).map(lambda ranking: sorted(ranking, key=lambda pair: -pair[1]))
        for timestep in TIMESTEPS
    }
)


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    """Up to four claims of different concepts on few features, so that they often meet; pushes often equal."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    some = []
    for name in names:
        push, idle = draw(st.sampled_from(((0.0, True), (0.0, False), (1.0, False), (2.0, False))))
        places = draw(st.sets(st.tuples(st.integers(0, 4), st.sampled_from(TIMESTEPS)), max_size=8))
        chosen = [FeatureScore(index, t, 0, 0.5, 1.0, 0.0, 0.1, 0.2) for index, t in sorted(places)]
        some.append(Claim(name, "objects", push, idle, tuple(chosen)))
    return some


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Policy, PretendRegistry]:
    """A policy that removes some of the concepts, and a registry that knows them all."""
    removed = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    point = st.builds(
        OperatingPoint, st.just("objects"), st.just("objects.paper"), st.integers(1, 5), st.sampled_from((-5.0, -2.5))
    )
    registry = PretendRegistry(
        dict.fromkeys(NAMES, "object"),
        {name: [draw(point)] for name in NAMES},
        {("objects.paper", name): draw(rankings) for name in NAMES},
    )
    rules = tuple(
        ConceptRule(name, HERE, strength=draw(st.sampled_from((0.0, 0.5, 1.0))), removal=0.9) for name in removed
    )
    retain = Retain(("object",), (), 0.1, HERE)
    audit = Audit("none", (1,), 20, HERE)
    policy = Policy(
        "p", "1.0.0", "o", "tiny", rules, retain, audit, "policy.yaml", HERE, digest=digest("p"), branches="all"
    )
    return policy, registry


def cells(some: Iterable[Claim]) -> set[tuple[str, int, int]]:
    """The (SAE, feature, timestep) that the claims hold."""
    return {(claim.sae, score.index, score.timestep) for claim in some for score in claim.chosen}


@given(claims())
def test_each_feature_is_edited_once_and_none_is_lost(some: list[Claim]) -> None:
    """After merging, exactly one editing claim holds each (feature, timestep) that any of them held before."""
    editing = [claim for claim in some if not claim.idle]
    kept = [claim for claim in merge(some)[0] if not claim.idle]
    assert cells(kept) == cells(editing)
    assert sum(len(claim.chosen) for claim in kept) == len(cells(editing))


@given(claims())
def test_the_strongest_claim_wins(some: list[Claim]) -> None:
    """No claim keeps what one that ranks before it had claimed, too, and none gets what it did not choose."""
    before = {claim.concept: cells([claim]) for claim in some}
    for claim in merge(some)[0]:
        assert cells([claim]) <= before[claim.concept]
        for other in some:
            if other.rank < claim.rank and not claim.idle and not other.idle:
                assert not cells([claim]) & before[other.concept]


@given(claims())
def test_rules_that_watch_take_and_lose_nothing(some: list[Claim]) -> None:
    """Leaving them out changes nothing for the others, and they see all that they chose."""
    kept = {claim.concept: claim for claim in merge(some)[0]}
    editing = merge([claim for claim in some if not claim.idle])[0]
    assert [kept[claim.concept] for claim in editing] == list(editing)
    assert all(kept[claim.concept] == claim for claim in some if claim.idle)


@given(claims(), st.randoms(use_true_random=False))
def test_merging_ignores_the_order_of_claims(some: list[Claim], random: Random) -> None:
    """Shuffled claims merge to the same claims and the same record."""
    shuffled = list(some)
    random.shuffle(shuffled)
    assert merge(shuffled) == merge(some)


@given(claims(), st.integers(0, 4))
def test_merging_is_associative_and_idempotent(some: list[Claim], cut: int) -> None:
    """Merging two parts first and their results after gives the claims of merging all; once more changes nothing."""
    whole, _ = merge(some)
    first, _ = merge(some[:cut])
    second, _ = merge(some[cut:])
    assert merge([*first, *second])[0] == whole
    assert merge(whole)[0] == whole


@given(claims())
def test_every_loss_is_on_record(some: list[Claim]) -> None:
    """A rule is among the dropped of a feature's records exactly when it lost that feature somewhere."""
    kept, merges = merge(some)
    before = {claim.concept: cells([claim]) for claim in some}
    lost = {
        (f"{sae}:{index}", claim.concept) for claim in kept for sae, index, _ in before[claim.concept] - cells([claim])
    }
    assert {(record.feature, name) for record in merges for name in record.dropped} == lost


@settings(max_examples=60)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_of_rules_changes_no_byte(world: tuple[Policy, PretendRegistry], random: Random) -> None:
    """Policies that differ in the order of their rules compile to the same file."""
    policy, registry = world
    rules = list(policy.concepts)
    random.shuffle(rules)
    expected = guard_json(compile_policy(policy, registry))
    assert guard_json(compile_policy(replace(policy, concepts=tuple(rules)), registry)) == expected


@settings(max_examples=60)
@given(worlds())
def test_every_rule_is_in_the_guard(world: tuple[Policy, PretendRegistry]) -> None:
    """Each rule appears with its strength, and only features of rules that edit collide with retained concepts."""
    policy, registry = world
    config = compile_policy(policy, registry)
    (hookpoint,) = config.hookpoints
    got = {rule.concept: rule.strength for rule in hookpoint.rules}
    assert got == {rule.concept: rule.strength for rule in policy.concepts}
    edited = {f"objects:{edit.index}" for rule in hookpoint.rules if rule.strength for edit in rule.features}
    assert {collision.feature for collision in config.collisions} <= edited


@given(st.lists(st.integers(0, 999), min_size=1, unique=True).map(lambda some: sorted(some, reverse=True)))
def test_every_timestep_between_calibrated_ones_is_within_the_gap(timesteps: list[int]) -> None:
    """The largest gap covers all that lies between calibrated timesteps, and is no wider than some real spacing."""
    gap = largest_gap(timesteps)
    inside = range(timesteps[-1], timesteps[0] + 1)
    assert all(min(abs(t - known) for known in timesteps) <= gap for t in inside)
    assert gap == 0 or any(a - b == gap for a, b in pairwise(timesteps))
