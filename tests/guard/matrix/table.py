"""The compatibility matrix as a Markdown table, for README.md."""

from __future__ import annotations

from itertools import groupby

from tests.guard.matrix.rows import EFFECTIVE, ROWS, Row

_INTRODUCTION = {EFFECTIVE: "effective", "GuardNotEffective": "refused", "ModelMismatch": "refused at `attach`"}


def matrix_table() -> str:
    """A line for each group and outcome; what is not done as users would do it has a star, explained below."""
    lines = ["| group | what | outcome |", "| --- | --- | --- |"]
    ordered = sorted(ROWS, key=lambda row: (groups().index(row.group), row.outcome, row.error))
    for (group, error), rows in groupby(ordered, key=lambda row: (row.group, row.error)):
        lines.append(f"| {group} | {'; '.join(map(named, rows))} | {outcome(error)} |")
    notes = [f"\\* {note}." for note in dict.fromkeys(row.note for row in ROWS if row.note)]
    return "\n".join([*lines, "", *notes])


def groups() -> list[str]:
    """The groups in the order in which they come."""
    return list(dict.fromkeys(row.group for row in ROWS))


def named(row: Row) -> str:
    """What a row is about."""
    return f"{row.what}\\*" if row.note else row.what


def outcome(error: str) -> str:
    """The outcome of rows that raise ``error``, none if empty."""
    return f"{_INTRODUCTION[error]}: `{error}`" if error else EFFECTIVE
