"""Laws of extending: nothing that a base demands is ever lost without a waiver, in whatever order bases are given."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from saeuron_guard.errors import PolicyError
from saeuron_guard.names import MODES, SEVERITIES, STRENGTH_PRESETS
from saeuron_guard.policy.load import load_policy
from saeuron_guard.policy.model import Policy
from saeuron_guard.policy.settings import key_text, setting_of, settings_of

TODAY = date(2026, 11, 1)
CONCEPTS = ("bomb", "knife", "pistol")
SLOW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

rules = st.fixed_dictionaries(
    {},
    optional={
        "strength": st.sampled_from((*STRENGTH_PRESETS, 0, 1.25)),
        "mode": st.sampled_from(MODES),
        "severity": st.sampled_from(SEVERITIES),
        "action": st.sampled_from(("scale", "detect")),
        "require": st.fixed_dictionaries({"removal": st.sampled_from((0.5, 0.9))}),
        "timesteps": st.sampled_from(({"from": 900, "to": 100}, {"from": 500, "to": 300})),
    },
)
rule_lists = st.dictionaries(st.sampled_from(CONCEPTS), rules, min_size=1).map(
    lambda found: [{"concept": name, **rule} for name, rule in found.items()]
)
retains = st.fixed_dictionaries(
    {"domains": st.sampled_from((["object"], ["object", "style"]))}, optional={"max_loss": st.sampled_from((0.05, 0.2))}
)
targets = st.fixed_dictionaries(
    {"model": st.just("tiny")}, optional={"branches": st.sampled_from(("all", "conditional"))}
)
audits = st.fixed_dictionaries(
    {"prompts": st.just("audit/none"), "seeds": st.sampled_from(([1], [1, 2], [3]))},
    optional={"minimum_n": st.sampled_from((5, 50))},
)
whole = st.fixed_dictionaries({"target": targets, "concepts": rule_lists, "retain": retains, "audit": audits})
children = st.fixed_dictionaries({}, optional={"concepts": rule_lists, "retain": retains})


def write(folder: Path, name: str, value: dict[str, Any], bases: list[str] | None = None) -> Path:
    """A policy file; ``bases`` are those that it extends."""
    head = {
        "apiVersion": "saeuron-guard/v1",
        "kind": "Policy",
        "metadata": {"name": name, "version": "1.0.0", "owner": "x"},
    }
    path = folder / f"{name}.yaml"
    # JSON is YAML, and it never abbreviates what is repeated.
    path.write_text(json.dumps(head | ({"extends": bases} if bases else {}) | value, indent=1), "utf-8")
    return path


def bases_in(folder: Path, values: list[dict[str, Any]]) -> list[Policy]:
    """The policies base0, base1, ... written and loaded."""
    return [load_policy(write(folder, f"base{number}", value), today=TODAY) for number, value in enumerate(values)]


def child_of(folder: Path, bases: list[Policy], value: dict[str, Any], name: str = "child") -> Policy:
    """A policy that extends ``bases`` and says ``value``."""
    return load_policy(write(folder, name, value, [Path(base.file).name for base in bases]), today=TODAY)


def looser(base: Policy, policy: Policy) -> list[str]:
    """The settings of ``base`` that ``policy`` lacks, or has in a looser form."""
    have = settings_of(policy)
    return [
        key_text(key)
        for key, value in settings_of(base).items()
        if key not in have or not setting_of(key).at_least(value, have[key])
    ]


@SLOW
@given(st.lists(whole, min_size=1, max_size=3), children)
def test_nothing_of_a_base_is_lost(tmp_path: Path, values: list[dict[str, Any]], own: dict[str, Any]) -> None:
    """Whatever a child says: if it is valid, each setting is at least as strict as that of every base."""
    bases = bases_in(tmp_path, values)
    try:
        child = child_of(tmp_path, bases, own)
    except PolicyError:
        assume(False)
        return
    for base in bases:
        assert looser(base, child) == []


@SLOW
@given(whole, children)
def test_exactly_what_is_looser_is_refused(tmp_path: Path, value: dict[str, Any], own: dict[str, Any]) -> None:
    """The errors name the settings in which the child, taken by itself, is looser than the base, and no others."""
    (base,) = bases_in(tmp_path, [value])
    stated = {key for rule in own.get("concepts", ()) for key in _stated(rule)} | (
        {"retain.max_loss"} if "max_loss" in own.get("retain", {}) else set()
    )
    alone = load_policy(write(tmp_path, "alone", value | _filled(own, value)), today=TODAY)
    expected = {name for name in looser(base, alone) if name in stated}
    try:
        child_of(tmp_path, [base], own)
        refused = set()
    except PolicyError as error:
        refused = {problem.message.partition(" is ")[0] for problem in error.problems}
    assert refused == expected


def _stated(rule: dict[str, Any]) -> set[str]:
    names = {f"concepts.{rule['concept']}.{key}" for key in rule if key not in ("concept", "require")}
    return names | {f"concepts.{rule['concept']}.require.removal" for _ in rule.get("require", ())}


def _filled(own: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What the child says, with all that is missing taken from the base's text."""
    mine = {rule["concept"]: rule for rule in own.get("concepts", ())}
    theirs = {rule["concept"]: rule for rule in value["concepts"]}
    return {
        "concepts": [theirs.get(name, {}) | mine.get(name, {}) for name in dict.fromkeys((*theirs, *mine))],
        "retain": value["retain"] | own.get("retain", {}),
    }


@SLOW
@given(st.lists(whole, min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_the_order_of_bases_does_not_matter(tmp_path: Path, values: list[dict[str, Any]], random: Any) -> None:
    """The same settings and the same digest."""
    bases = bases_in(tmp_path, values)
    first = child_of(tmp_path, bases, {})
    random.shuffle(bases)
    second = child_of(tmp_path, bases, {})
    assert settings_of(second) == settings_of(first)
    assert second.digest == first.digest


@SLOW
@given(whole, st.lists(whole, min_size=1, max_size=2))
def test_one_more_base_never_loosens(tmp_path: Path, first: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Extending is monotone in the list of bases, too."""
    bases = bases_in(tmp_path, [first, *others])
    fewer, more = child_of(tmp_path, bases[:-1], {}, "fewer"), child_of(tmp_path, bases, {}, "more")
    assert looser(fewer, more) == []


@SLOW
@given(whole)
def test_a_child_that_says_nothing_is_its_base(tmp_path: Path, value: dict[str, Any]) -> None:
    """All settings are taken over, and the digest differs only by the name under which they stand."""
    (base,) = bases_in(tmp_path, [value])
    child = child_of(tmp_path, [base], {})
    assert settings_of(child) == settings_of(base)
    assert child.digest != base.digest
    assert child.bases[0].digest == base.digest


@SLOW
@given(whole, children)
def test_a_waiver_covers_what_it_names_and_no_more(tmp_path: Path, value: dict[str, Any], own: dict[str, Any]) -> None:
    """With one waiver for each refused setting the child is valid, and each waiver says what it covers."""
    (base,) = bases_in(tmp_path, [value])
    try:
        child_of(tmp_path, [base], own)
        assume(False)
    except PolicyError as error:
        refused = sorted({problem.message.partition(" is ")[0] for problem in error.problems})
    waivers = [{"what": name, "reason": "r", "owner": "o", "ticket": "t", "expires": "2026-11-30"} for name in refused]
    child = child_of(tmp_path, [base], own | {"waivers": waivers})
    assert [(waiver.state, waiver.covers) for waiver in child.waivers] == [("active", (name,)) for name in refused]
    assert set(looser(base, child)) == set(refused)
    with pytest.raises(PolicyError):
        child_of(tmp_path, [base], own | ({"waivers": waivers[1:]} if waivers[1:] else {}))


def test_a_waiver_ends_with_its_last_day(tmp_path: Path) -> None:
    """Valid through the day that it names, gone the day after; and never valid for longer than the base allows."""
    base = {
        "target": {"model": "tiny"},
        "concepts": [{"concept": "bomb"}],
        "retain": {"domains": ["object"]},
        "audit": {"prompts": "audit/none", "seeds": [1]},
        "limits": {"waiver_days": 30},
    }
    write(tmp_path, "base", base)
    waiver = {"what": "concepts.bomb", "reason": "r", "owner": "o", "ticket": "t", "expires": "2026-11-30"}
    own = {"concepts": [{"concept": "bomb", "strength": "weak"}], "waivers": [waiver]}
    path = write(tmp_path, "child", own, ["base.yaml"])
    for day in (date(2026, 10, 31), date(2026, 11, 30)):
        (found,) = load_policy(path, today=day).waivers
        assert (found.state, found.covers) == ("active", ("concepts.bomb.strength",))
    with pytest.raises(PolicyError, match=r"expired on 2026-11-30"):
        load_policy(path, today=date(2026, 12, 1))
    with pytest.raises(PolicyError, match=r"at most 30 days, until 2026-11-29"):
        load_policy(path, today=date(2026, 10, 30))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A base behind a symbolic link that leads elsewhere is refused; one that stays inside is read."""
    folder = tmp_path / "policies"
    folder.mkdir()
    value = {
        "target": {"model": "tiny"},
        "concepts": [{"concept": "bomb"}],
        "retain": {"domains": ["object"]},
        "audit": {"prompts": "audit/none", "seeds": [1]},
    }
    write(tmp_path, "outside", value)
    write(folder, "inside", value)
    (folder / "away.yaml").symlink_to(tmp_path / "outside.yaml")
    (folder / "deep").symlink_to(tmp_path)
    (folder / "near.yaml").symlink_to("inside.yaml")
    assert load_policy(write(folder, "child", {}, ["near.yaml"])).bases[0].name == "inside"
    for name in ("away.yaml", "deep/outside.yaml"):
        with pytest.raises(PolicyError, match="symbolic link"):
            load_policy(write(folder, "child", {}, [name]))


def test_a_base_that_two_bases_share_counts_once(tmp_path: Path) -> None:
    """Two policies on one base can be extended together: what they share is no contradiction, nor listed twice."""
    root = {
        "target": {"model": "tiny"},
        "concepts": [{"concept": "bomb"}],
        "retain": {"domains": ["object"]},
        "audit": {"prompts": "audit/none", "seeds": [1]},
        "tests": [{"prompt": "A bomb.", "expect": "trigger", "concept": "bomb"}],
    }
    write(tmp_path, "root", root)
    write(tmp_path, "left", {"concepts": [{"concept": "knife"}]}, ["root.yaml"])
    write(tmp_path, "right", {"concepts": [{"concept": "pistol"}]}, ["root.yaml"])
    child = load_policy(write(tmp_path, "child", {}, ["left.yaml", "right.yaml"]), today=TODAY)
    assert {rule.concept for rule in child.concepts} == {"bomb", "knife", "pistol"}
    assert [base.name for base in child.bases] == ["root", "left", "right"]
    assert len(child.tests) == 1


def test_prompt_sets_of_a_base_stay_the_same_files(tmp_path: Path) -> None:
    """A base in a folder below names its sets from there; its child means the same files."""
    folder = tmp_path / "house"
    folder.mkdir()
    value = {
        "target": {"model": "tiny"},
        "concepts": [{"concept": "bomb"}],
        "retain": {"domains": ["object"], "prompts": ["kept.yaml", "audit/none"]},
        "audit": {"prompts": "../audit.yaml", "seeds": [1]},
    }
    write(folder, "base", value)
    child = load_policy(write(tmp_path, "child", {}, ["house/base.yaml"]), today=TODAY)
    assert child.audit.prompts == "audit.yaml"
    assert child.retain.prompts == ("house/kept.yaml", "audit/none")
    assert child.places["retain.prompts.house/kept.yaml"].file == str(folder / "base.yaml")
