"""What a plan says: nothing between equal policies, each change once, and the reverse the other way round."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron_guard.compiler.plan import Change, plan_policies
from saeuron_guard.errors import CompileError
from saeuron_guard.policy.model import Policy
from tests.compiler.pretend import PretendRegistry
from tests.compiler.test_properties import HERE, worlds

OPPOSITE = {"tightens": "loosens", "loosens": "tightens", "": ""}


def rules_only(changes: tuple[Change, ...]) -> list[Change]:
    """Changes of what the policy says, not of what it compiles to."""
    return [change for change in changes if change.section not in ("feature", "collision")]


def with_rule(policy: Policy, **changes: object) -> Policy:
    """``policy`` with another first rule."""
    return replace(policy, concepts=(replace(policy.concepts[0], **changes), *policy.concepts[1:]))


@settings(max_examples=40)
@given(worlds())
def test_nothing_changes_between_a_policy_and_itself(world: tuple[Policy, PretendRegistry]) -> None:
    """Also when the rules stand in another order, and when only names and texts differ."""
    policy, registry = world
    other = replace(policy, concepts=policy.concepts[::-1], name="other", version="2.0.0", owner="x", description="y")
    assert plan_policies(policy, policy, registry).changes == ()
    assert plan_policies(policy, other, registry).changes == ()


@settings(max_examples=40)
@given(worlds(), st.sampled_from((0.0, 0.5, 1.0, 2.0)), st.booleans())
def test_the_way_back_undoes_every_change(world: tuple[Policy, PretendRegistry], strength: float, drop: bool) -> None:
    """Of the plan the other way round, before and after are exchanged, and what tightened loosens."""
    old, registry = world
    new = replace(with_rule(old, strength=strength), branches="conditional")
    if drop and len(new.concepts) > 1:
        new = replace(new, concepts=new.concepts[:-1])
    there, back = plan_policies(old, new, registry), plan_policies(new, old, registry)
    assert there.changes
    assert (there.old, there.new) == (back.new, back.old)
    mirrored = {
        replace(change, before=change.after, after=change.before, effect=OPPOSITE[change.effect])
        for change in back.changes
    }
    assert mirrored == set(there.changes)


@settings(max_examples=40)
@given(worlds(), st.data())
def test_each_field_that_is_stricter_tightens(world: tuple[Policy, PretendRegistry], data: st.DataObject) -> None:
    """One field of the policy changes: the plan names it with both values, and says which way it goes."""
    policy, registry = world
    rule = policy.concepts[0]
    stricter = {
        ("concept", rule.concept, "strength"): with_rule(policy, strength=rule.strength + 0.5),
        ("concept", rule.concept, "removal"): with_rule(policy, removal=0.99),
        ("retain", "retain", "max_loss"): replace(policy, retain=replace(policy.retain, max_loss=0.01)),
        ("audit", "audit", "minimum_n"): replace(policy, audit=replace(policy.audit, minimum_n=21)),
    }
    key = data.draw(st.sampled_from(sorted(stricter)))
    (change,) = rules_only(plan_policies(policy, stricter[key], registry).changes)
    assert (change.section, change.name, change.field) == key
    assert change.effect == "tightens"
    assert change.before != change.after


@settings(max_examples=40)
@given(worlds())
def test_more_concepts_tighten_and_fewer_retained_ones_loosen(world: tuple[Policy, PretendRegistry]) -> None:
    """A rule that comes, a rule of strength 0 that comes (which does nothing), and a retained concept that goes."""
    policy, registry = world
    if len(policy.concepts) < 2:
        return
    fewer = replace(policy, concepts=policy.concepts[1:])
    (change,) = rules_only(plan_policies(fewer, policy, registry).changes)
    assert (change.name, change.before) == (policy.concepts[0].concept, None)
    assert change.effect == ("tightens" if policy.concepts[0].strength else "")
    kept = replace(fewer, retain=replace(fewer.retain, concepts=(policy.concepts[0].concept,)))
    (change,) = rules_only(plan_policies(kept, fewer, registry).changes)
    assert (change.section, change.after, change.effect) == ("retain", None, "loosens")


@settings(max_examples=40)
@given(worlds())
def test_features_follow_the_rules(world: tuple[Policy, PretendRegistry]) -> None:
    """With every rule at strength 0 no feature is edited: all those of the old guard are removed."""
    policy, registry = world
    old = replace(policy, concepts=tuple(replace(rule, strength=1.0) for rule in policy.concepts))
    idle = replace(policy, concepts=tuple(replace(rule, strength=0.0) for rule in policy.concepts))
    features = [change for change in plan_policies(old, idle, registry).changes if change.section == "feature"]
    assert features
    assert {change.after for change in features} == {None}


@settings(max_examples=40)
@given(worlds())
def test_a_policy_that_does_not_compile_has_no_plan(world: tuple[Policy, PretendRegistry]) -> None:
    """On either side; the error is the compiler's."""
    policy, registry = world
    wrong = with_rule(policy, concept="nothing of the kind", place=HERE)
    for sides in ((policy, wrong), (wrong, policy)):
        with pytest.raises(CompileError, match="unknown concept"):
            plan_policies(*sides, registry)
