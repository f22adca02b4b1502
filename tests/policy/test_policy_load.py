from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeuron_guard.errors import PolicyError
from saeuron_guard.names import STRENGTH_PRESETS
from saeuron_guard.policy.load import load_policy
from saeuron_guard.policy.model import Place, Policy
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.resources import data_folder

CASES = Path(__file__).parent / "cases"
SHIPPED = sorted(data_folder("policies").glob("*.yaml"))


def policy_value() -> dict[str, Any]:
    """A valid policy as plain data."""
    return {
        "apiVersion": "saeuron-guard/v1",
        "kind": "Policy",
        "metadata": {"name": "kids", "version": "1.2.0", "owner": "safety", "description": "why"},
        "target": {"model": "emoji-canvas"},
        "concepts": [
            {"concept": "pistol"},
            {"concept": "knife", "strength": "strong", "multiplier": -5, "selection": {"max_features": 4}},
            {"concept": "bomb", "strength": 0.5, "require": {"removal": 0.9}},
        ],
        "retain": {"domains": ["object", "style"], "concepts": ["cat", "dog"], "max_loss": 0.2},
        "audit": {"prompts": "audit/emoji-canvas", "seeds": [3, 1, 2], "minimum_n": 12},
    }


def loaded(folder: Path, value: dict[str, Any]) -> Policy:
    """The policy that is loaded from ``value`` as YAML."""
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return load_policy(path)


def test_what_is_written_arrives(tmp_path: Path) -> None:
    """Every field of the file is in the policy, presets as numbers, numbers as floats."""
    policy = loaded(tmp_path, policy_value())
    assert (policy.name, policy.version, policy.owner, policy.description) == ("kids", "1.2.0", "safety", "why")
    assert policy.model == "emoji-canvas"
    rules = [(r.concept, r.strength, r.multiplier, r.selection.max_features, r.removal) for r in policy.concepts]
    assert rules == [
        ("pistol", 1.0, None, None, 0.85),
        ("knife", 1.5, -5.0, 4, 0.85),
        ("bomb", 0.5, None, None, 0.9),
    ]
    assert (policy.retain.domains, policy.retain.concepts) == (("object", "style"), ("cat", "dog"))
    assert policy.retain.max_loss == 0.2
    assert (policy.audit.prompts, policy.audit.seeds, policy.audit.minimum_n) == ("audit/emoji-canvas", (3, 1, 2), 12)


def test_defaults_fill_what_is_left_out() -> None:
    """A minimal policy has medium strength, 0.85 removal, 0.1 loss, and at least 20 images a concept."""
    policy = load_policy(CASES / "valid-minimal" / "policy.yaml")
    assert policy.description == ""
    assert (policy.concepts[0].strength, policy.concepts[0].removal) == (1.0, 0.85)
    assert (policy.retain.concepts, policy.retain.max_loss, policy.audit.minimum_n) == ((), 0.1, 20)


def test_rules_know_their_place() -> None:
    """A rule's place is that of the concept's name, for later errors about it."""
    file = str(CASES / "valid-minimal" / "policy.yaml")
    policy = load_policy(file)
    assert policy.concepts[1].place == Place(file, 11, 14)
    assert policy.retain.place == Place(file, 13, 1)
    assert policy.audit.place == Place(file, 16, 12)


@pytest.mark.parametrize("preset", list(STRENGTH_PRESETS))
def test_a_preset_means_its_number(tmp_path: Path, preset: str) -> None:
    """A policy with a preset and one with its number have one meaning, and another number has another."""
    digests = []
    for strength in (preset, STRENGTH_PRESETS[preset], 9.75):
        value = policy_value()
        value["concepts"][0]["strength"] = strength
        digests.append(loaded(tmp_path, value).digest)
    assert digests[0] == digests[1] != digests[2]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_and_layout_do_not_change_the_digest(tmp_path: Path, data: st.DataObject) -> None:
    """The order of keys, concepts, domains and seeds, and the style of the YAML, are no part of the meaning."""
    original = loaded(tmp_path, policy_value()).digest

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in data.draw(st.permutations(list(value)))}
        return data.draw(st.permutations(value)) if isinstance(value, list) else value

    value = shuffled(policy_value())
    path = tmp_path / "other name.yml"
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=data.draw(st.booleans()))
    path.write_text("# a comment\n" + text, encoding="utf-8")
    assert load_policy(path).digest == original


def changed(path: tuple[str | int, ...], new: Any) -> dict[str, Any]:
    """The valid policy with one value replaced."""
    value = copy.deepcopy(policy_value())
    inner: Any = value
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = new
    return value


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("metadata", "name"), "teens"),
        (("metadata", "version"), "1.2.1"),
        (("target", "model"), "other"),
        (("concepts", 0, "concept"), "skull"),
        (("concepts", 0, "strength"), 1.01),
        (("concepts", 1, "multiplier"), -6),
        (("concepts", 1, "selection", "max_features"), 5),
        (("concepts", 2, "require", "removal"), 0.91),
        (("retain", "domains"), ["object"]),
        (("retain", "concepts"), ["cat"]),
        (("retain", "max_loss"), 0.21),
        (("audit", "prompts"), "other.yaml"),
        (("audit", "seeds"), [1, 2]),
        (("audit", "minimum_n"), 13),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_every_change_of_meaning_changes_the_digest(tmp_path: Path, path: tuple[str | int, ...], new: Any) -> None:
    """No field that has an effect is missing from the digest."""
    assert loaded(tmp_path, changed(path, new)).digest != loaded(tmp_path, policy_value()).digest


@pytest.mark.parametrize("field", ["owner", "description"])
def test_words_for_readers_do_not_change_the_digest(tmp_path: Path, field: str) -> None:
    """A new owner or description needs no new guard."""
    other = loaded(tmp_path, changed(("metadata", field), "something else"))
    assert other.digest == loaded(tmp_path, policy_value()).digest
    assert getattr(other, field) == "something else"


def test_whole_numbers_written_with_a_point_are_whole(tmp_path: Path) -> None:
    """``12.0`` images are 12, so that the digest does not depend on how a number is written."""
    policy = loaded(tmp_path, changed(("audit", "minimum_n"), 12.0))
    assert isinstance(policy.audit.minimum_n, int)
    assert policy.digest == loaded(tmp_path, policy_value()).digest


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.yaml", "there is no such file"), ("folder", "this is a folder"), ("nul\0.yaml", "cannot be read")],
)
def test_a_path_that_is_no_file_is_a_policy_error(tmp_path: Path, name: str, message: str) -> None:
    """The error names the path as it was given and carries exit code 2."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(f"{tmp_path}/{name}")
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].file == f"{tmp_path}/{name}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_policies_are_valid(path: Path) -> None:
    """Each shipped policy loads, is named as its file, and names its schema for editors."""
    assert load_policy(path).name == path.stem
    first = path.read_text(encoding="utf-8").splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / schema).resolve().name == "schema.json"


def test_weapons_and_a_style_are_shipped() -> None:
    """The two policies remove what their names say and retain both domains."""
    by_name = {path.stem: load_policy(path) for path in SHIPPED}
    assert [rule.concept for rule in by_name["no-weapons"].concepts] == ["pistol", "knife", "bomb"]
    assert [rule.concept for rule in by_name["style-opt-out"].concepts] == ["Neon"]
    assert {policy.retain.domains for policy in by_name.values()} == {("object", "style")}


def test_loading_never_imports_torch() -> None:
    """Policies and prompt sets answer fast: neither torch nor anything that brings it is loaded."""
    code = (
        "import sys, saeuron_guard.policy.load, saeuron_guard.prompts.load, saeuron_guard.cli.policy\n"
        f"saeuron_guard.policy.load.load_policy({str(SHIPPED[0])!r})\n"
        "saeuron_guard.prompts.load.find_prompt_set('audit/emoji-canvas')\n"
        "assert 'yaml' in sys.modules, 'the control: what is loaded is seen'\n"
        "print(sorted({'torch', 'numpy', 'diffusers', 'transformers', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_audits_have_enough_images(path: Path) -> None:
    """Each removed concept of a shipped policy has at least ``minimum_n`` prompt and seed pairs."""
    policy = load_policy(path)
    prompts = find_prompt_set(policy.audit.prompts, near=path.parent, role="audit").prompts
    for rule in policy.concepts:
        asked = sum(prompt.shows(rule.concept) for prompt in prompts)
        assert asked * len(policy.audit.seeds) >= policy.audit.minimum_n, rule.concept
