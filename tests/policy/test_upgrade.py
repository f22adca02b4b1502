"""Policies of older versions: ``upgrade_cases/<name>/input.yaml``, what they become and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeuron_guard.errors import PolicyError, Problem
from saeuron_guard.names import API_VERSION, OLDER_POLICY_VERSIONS
from saeuron_guard.policy import upgrade as upgrading
from saeuron_guard.policy.format import format_policy
from saeuron_guard.policy.layout import Entry, Mapping, Scalar
from saeuron_guard.policy.upgrade import STEPS, Upgraded, upgrade_policy
from saeuron_guard.resources import data_folder
from saeuron_guard.strict_yaml import read_yaml

CASES = sorted(path.parent for path in Path(__file__).parent.glob("upgrade_cases/*/input.yaml"))
UPGRADED = [case for case in CASES if not case.name.startswith("refused-")]


def text_of(case: Path, name: str) -> str:
    """A file of a case."""
    return (case / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("case", UPGRADED, ids=lambda case: case.name)
def test_an_older_policy_is_rewritten_as_expected(case: Path) -> None:
    """The text is the expected one, every change is told with its old place, and no comment is lost."""
    before = text_of(case, "input.yaml")
    found = upgrade_policy(before, "input.yaml")
    assert found.text == text_of(case, "expected.yaml")
    assert "".join(f"{change}\n" for change in found.changes) == text_of(case, "expected.txt")
    assert found.version == OLDER_POLICY_VERSIONS[0]
    assert found.text.count("# ") == before.count("# ")
    assert format_policy(found.text, "input.yaml") == found.text


@pytest.mark.parametrize("case", UPGRADED, ids=lambda case: case.name)
def test_an_upgraded_policy_is_of_this_version(case: Path) -> None:
    """A second upgrade leaves it as it is."""
    text = text_of(case, "expected.yaml")
    assert upgrade_policy(text, "input.yaml") == Upgraded(text, API_VERSION)


@pytest.mark.parametrize("case", sorted(set(CASES) - set(UPGRADED)), ids=lambda case: case.name)
def test_what_cannot_be_upgraded_is_refused(case: Path) -> None:
    """Every reason is told with its place."""
    with pytest.raises(PolicyError) as caught:
        upgrade_policy(text_of(case, "input.yaml"), "input.yaml")
    assert f"{caught.value}\n" == text_of(case, "expected.txt")


def test_a_file_of_this_version_is_left_as_it_is() -> None:
    """Also when its layout is not the formatter's: that is another command's work."""
    for path in data_folder("policies").glob("*.yaml"):
        text = path.read_text(encoding="utf-8") + "\n\n"
        assert upgrade_policy(text, str(path)) == Upgraded(text, API_VERSION)


def test_every_older_version_has_a_step() -> None:
    """No version is called known that cannot be upgraded, and none is older and current."""
    assert tuple(STEPS) == OLDER_POLICY_VERSIONS
    assert API_VERSION not in OLDER_POLICY_VERSIONS


def test_steps_are_chained(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the oldest version every step is taken in order, each seeing the version before it."""
    seen: list[str] = []

    def step(name: str):
        def taken(root: Mapping, journal: upgrading._Journal) -> Mapping:
            version = root.entry("apiVersion")
            assert version
            assert isinstance(version.value, Scalar)
            seen.append(f"{name} of {version.value.value}")
            return Mapping((*root.entries, Entry(Scalar(True, "true"), name)))

        return taken

    monkeypatch.setattr(upgrading, "OLDER_POLICY_VERSIONS", ("v0", "v0.5"))
    monkeypatch.setattr(upgrading, "STEPS", {"v0": step("first"), "v0.5": step("second")})
    found = upgrade_policy("apiVersion: v0\n", "p.yaml")
    assert seen == ["first of v0", "second of v0.5"]
    assert read_yaml(found.text, "").value == {"apiVersion": API_VERSION, "first": True, "second": True}
    assert read_yaml(upgrade_policy("apiVersion: v0.5\n", "p.yaml").text, "").value == {
        "apiVersion": API_VERSION,
        "second": True,
    }


def test_problems_of_a_step_are_told_at_once() -> None:
    """Both faulty rules are named, and nothing comes out."""
    case = Path(__file__).parent / "upgrade_cases" / "refused-given-twice"
    with pytest.raises(PolicyError) as caught:
        upgrade_policy(text_of(case, "input.yaml"), "p.yaml")
    assert [(problem.line, type(problem)) for problem in caught.value.problems] == [(5, Problem), (8, Problem)]
