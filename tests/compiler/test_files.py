"""``guard.json``: written canonically, read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.files import guard_digest, guard_json, parse_guard_json
from saeuron_guard.digests import digest_of
from saeuron_guard.errors import ArtefactError
from tests.compiler.test_cases import compile_case

CASE = Path(__file__).parent / "cases" / "stronger-rule-keeps-shared-feature"


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    """The case's guard after ``change``, with a digest that fits again: a careful forgery."""
    value: dict[str, Any] = json.loads(compile_case(CASE))
    change(value)
    value["digest"] = digest_of({key: part for key, part in value.items() if key != "digest"})
    return json.dumps(value)


def rule(value: dict[str, Any]) -> dict[str, Any]:
    """The first rule of the first hookpoint."""
    return value["hookpoints"][0]["rules"][0]


def feature(value: dict[str, Any]) -> dict[str, Any]:
    """Its first feature."""
    return rule(value)["features"][0]


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other format": (lambda v: v.update(format="saeuron-guard/guard-v9"), "this release reads"),
    "missing key": (lambda v: v.pop("model"), "key 'model' is missing in the top level"),
    "unknown key": (lambda v: rule(v).update(extra=1), "unknown key 'extra' in hookpoints[0].rules[0]"),
    "text for a number": (
        lambda v: rule(v).update(strength="1"),
        "hookpoints[0].rules[0].strength is '1', expected a number",
    ),
    "truth for a number": (lambda v: feature(v).update(index=True), "index is 'True', expected a whole number"),
    "object for a list": (lambda v: v.update(merges={}), "merges is a mapping, expected a list"),
    "no hookpoint": (lambda v: v.update(hookpoints=[]), "hookpoints is empty"),
    "hookpoint twice": (lambda v: v["hookpoints"].append(v["hookpoints"][0]), "one hookpoint occurs twice"),
    "rising timesteps": (lambda v: v["hookpoints"][0].update(timesteps=[1, 2, 3]), "strictly falling"),
    "too few timesteps": (lambda v: v["hookpoints"][0].update(timesteps=[2, 1]), "have [3] values, expected 2"),
    "means too short": (lambda v: feature(v)["mean"].pop(), "have [2, 3] values, expected 3"),
    "feature too large": (lambda v: feature(v).update(index=64), "feature 64 does not exist, the SAE has 64"),
    "feature twice": (lambda v: rule(v)["features"].append(feature(v)), "one feature occurs twice"),
    "rule twice": (lambda v: v["hookpoints"][0]["rules"].append(rule(v)), "one for each concept"),
    "edited by two rules": (
        lambda v: v["hookpoints"][0]["rules"][1]["features"][1].update(active=[True, True, True]),
        "feature 3 is edited for both knife and pistol",
    ),
    "unknown action": (lambda v: rule(v).update(action="erase"), "unknown action 'erase'"),
    "strength out of range": (lambda v: rule(v).update(strength=-1.0), "strength is -1, expected 0 to 10"),
    "odd feature name": (lambda v: v["merges"][0].update(feature="objects"), "not the name of a feature"),
    "negative gap": (lambda v: v["hookpoints"][0].update(largest_gap=-1), "largest_gap is -1, expected 0 to 1000000"),
    "negative timestep": (lambda v: v["hookpoints"][0].update(timesteps=[2, 1, -1]), "a timestep is not from 0"),
    "infinite in float32": (lambda v: feature(v).update(mean=[1e39] * 3), "a mean or threshold is beyond 1e+09"),
    "huge multiplier": (lambda v: rule(v).update(multiplier=-1e300), "multiplier is -1e+300, expected at most"),
    "beyond float64": (lambda v: rule(v).update(multiplier=10**400), "has 401 digits, expected at most 20"),
    "path for a hookpoint": (lambda v: v["hookpoints"][0].update(hookpoint="../unet"), "is no hookpoint"),
    "control characters": (lambda v: rule(v).update(concept="knife\x1b[2J"), r"'knife\x1b[2J' is no name"),
    "k above num_latents": (lambda v: v["hookpoints"][0].update(k=65), "k at most num_latents"),
}


@pytest.fixture
def config() -> GuardConfig:
    """The case's guard."""
    return parse_guard_json(compile_case(CASE), "guard.json")


def test_the_digest_is_that_of_all_fields_but_itself(config: GuardConfig) -> None:
    """Exactly what ``dataclasses.asdict`` says of the configuration, as canonical JSON."""
    value = asdict(config)
    assert value.pop("digest") == guard_digest(config) == digest_of(value)
    assert json.loads(guard_json(config)) == json.loads(json.dumps(asdict(config)))


def test_a_change_that_fits_is_read() -> None:
    """Control: the same forging with a harmless change passes, so the failures below are about the change."""
    text = edited(lambda value: value.update(policy_name="other"))
    assert parse_guard_json(text, "guard.json").policy_name == "other"


@pytest.mark.parametrize("name", FORGERIES)
def test_an_unsound_guard_is_refused(name: str) -> None:
    """Each contradiction is refused although the digest fits, with the file, the place and what to do."""
    change, expected = FORGERIES[name]
    with pytest.raises(ArtefactError) as caught:
        parse_guard_json(edited(change), "some/guard.json")
    message = str(caught.value)
    assert expected in message
    assert message.startswith("some/guard.json: ")
    assert "Compile the policy again" in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object"),
        ('{"digest": 1, "digest": 2}', "key 'digest' occurs twice"),
        ('{"digest": NaN}', "NaN is not a number"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_guard_at_all_is_refused(text: str, expected: str) -> None:
    """Broken JSON, repeated keys, numbers that are none and endless nesting end in one message."""
    with pytest.raises(ArtefactError, match="not a sound guard") as caught:
        parse_guard_json(text, "guard.json")
    assert expected in str(caught.value)


def test_a_changed_file_is_refused(config: GuardConfig) -> None:
    """A single changed value without a new digest is noticed; both digests are named."""
    text = guard_json(config).replace('"strength": 1.5', '"strength": 1.0')
    with pytest.raises(ArtefactError, match="changed by hand or damaged") as caught:
        parse_guard_json(text, "guard.json")
    assert config.digest in str(caught.value)


def test_the_digest_covers_everything_else(config: GuardConfig) -> None:
    """The stated digest is the one of all other fields in canonical JSON, as anyone can compute it."""
    value = json.loads(guard_json(config))
    stated = value.pop("digest")
    assert stated == config.digest == guard_digest(config) == digest_of(value)


def test_one_feature_is_one_line(config: GuardConfig) -> None:
    """A diff of two guards shows a changed feature as one changed line."""
    lines = guard_json(config).splitlines()
    rules = config.hookpoints[0].rules
    assert len([line for line in lines if '"active":[' in line]) == sum(len(rule.features) for rule in rules)
    assert [json.loads(line.strip().rstrip(","))["feature"] for line in lines if '"kept":' in line] == ["objects:3"]
