"""The published matrix claims nothing that is not tested."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.guard.matrix.rows import EFFECTIVE, REFUSED, ROWS
from tests.guard.matrix.stage import Case, play
from tests.guard.matrix.table import groups, matrix_table
from tests.tiny import draw, make_guard

HERE = Path(__file__)


def proofs() -> Counter[str]:
    """How many tests there are for each row, by the tests' own parameters and names."""
    found: Counter[str] = Counter()
    for path in HERE.parent.glob("test_*.py"):
        for name, function in vars(import_module(f"tests.guard.matrix.{path.stem}")).items():
            if name.startswith("test_"):
                found.update(rows_of(name, function))
    return found


def rows_of(name: str, function: Any) -> list[str]:
    """The rows that one test function proves: its parameters, or the one that it is named for."""
    found = [name.removeprefix("test_").replace("_", "-")]
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize" and mark.args[0] == "key":
            found += [value if isinstance(value, str) else value.values[0] for value in mark.args[1]]
    known = {row.key for row in ROWS}
    return [key for key in found if key in known]


def test_every_row_is_tested_once() -> None:
    """Each row has its own test; a row without one would be noticed."""
    keys = [row.key for row in ROWS]
    assert len(set(keys)) == len(keys) > 80
    assert proofs() == Counter(keys)


def test_a_row_has_one_outcome() -> None:
    """Refused with a known error and words, or effective with neither."""
    assert {row.outcome for row in ROWS} == {EFFECTIVE, REFUSED}
    assert all(bool(row.error) == bool(row.words) for row in ROWS)


def test_the_table_shows_every_row() -> None:
    """All of them, in their groups."""
    lines = matrix_table().splitlines()
    for row in ROWS:
        (line,) = [line for line in lines if line.startswith(f"| {row.group} |") and line.endswith(place(row.error))]
        assert row.what in line
    assert len(groups()) == 8


def place(error: str) -> str:
    """How the line of an outcome ends."""
    return f"`{error}` |" if error else f"| {EFFECTIVE} |"


def test_a_guard_that_does_nothing_is_no_proof(pipe: Any) -> None:
    """Control: a row whose guard never fires is not called effective, and one that does not raise not refused."""
    with pytest.raises(AssertionError):
        play("sd", Case(guard=lambda: make_guard(threshold=1e4)), pipe)
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        play("copy", Case(), pipe)


def test_another_edit_is_no_proof(pipe: Any) -> None:
    """Control: a picture that changed in some other way than plain hooks change it is not called effective."""

    def shift(pipe: Any) -> None:
        if hasattr(type(pipe), "_saeuron_guarded"):
            pipe.unet.conv_out.register_forward_hook(lambda _module, _args, output: output * 1.1)

    with pytest.raises(AssertionError):
        play("sd", Case(after=shift, call=draw), pipe)
