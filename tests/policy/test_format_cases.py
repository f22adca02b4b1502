"""What becomes of ``format_cases/<name>/input.yaml``: ``expected.yaml``, or the errors in ``expected.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeuron_guard.errors import PolicyError
from saeuron_guard.policy.format import format_policy
from saeuron_guard.resources import data_folder

CASES = sorted(path.parent for path in Path(__file__).parent.glob("format_cases/*/input.yaml"))
FORMATTED = [case for case in CASES if not case.name.startswith("refused-")]


def read(path: Path) -> str:
    """The file's text with the line ends that it has."""
    return path.read_bytes().decode("utf-8")


@pytest.mark.parametrize("case", FORMATTED, ids=lambda case: case.name)
def test_a_file_is_laid_out_as_expected(case: Path) -> None:
    """The result is the expected one, and formatting that again changes nothing."""
    expected = read(case / "expected.yaml")
    assert format_policy(read(case / "input.yaml"), "input.yaml") == expected
    assert format_policy(expected, "expected.yaml") == expected


@pytest.mark.parametrize("case", sorted(set(CASES) - set(FORMATTED)), ids=lambda case: case.name)
def test_a_file_that_cannot_be_laid_out_is_refused(case: Path) -> None:
    """The error tells every reason with its place."""
    with pytest.raises(PolicyError) as caught:
        format_policy(read(case / "input.yaml"), "input.yaml")
    assert f"{caught.value}\n" == read(case / "expected.txt")


def test_there_are_cases_of_both_kinds() -> None:
    """Neither a formatter that refuses everything nor one that changes nothing passes this module."""
    changed = [case for case in FORMATTED if read(case / "input.yaml") != read(case / "expected.yaml")]
    assert len(changed) > 10
    assert len(CASES) - len(FORMATTED) > 5


@pytest.mark.parametrize("path", sorted(data_folder("policies").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_policies_are_formatted(path: Path) -> None:
    """What the project ships is as its own formatter writes it."""
    assert format_policy(read(path), str(path)) == read(path)
