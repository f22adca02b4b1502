"""Where the comments of a YAML text are: what lies between its scalars, which the parser's events pass over."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

_SIGN: Final = re.compile(r"#[^\n]*|[-?]")
"""Outside scalars, ``-`` begins a list's entry, ``?`` an explicit key, and ``#`` a comment."""

_SPACE: Final = re.compile(r"[ \t\n]*")


@dataclass(frozen=True, slots=True)
class Remark:
    """One comment, with the lines aligned below it that go on with it when it stands at the end of a line.

    ``offset`` counts characters of the text, ``line`` and ``column`` from 0.
    ``own``: nothing stands before it on its line but, perhaps, the mark ``...`` that ends the document.
    ``blank``: a blank line is above it.
    ``next_column``: column of the next thing that is no comment, -1 at the end of the file.
    """

    offset: int
    line: int
    column: int
    lines: tuple[str, ...]
    own: bool
    blank: bool
    next_column: int


@dataclass(frozen=True, slots=True)
class Sign:
    """The ``-`` or ``?`` at ``offset``."""

    offset: int
    text: str


def find_remarks(text: str, begin: int, scalars: Iterable[tuple[int, int]]) -> tuple[list[Remark], list[Sign]]:
    """Comments and signs of ``text`` from ``begin`` on; ``scalars`` are (begin, end) of all scalars, in order."""
    comments: list[re.Match[str]] = []
    signs: list[Sign] = []
    for until, after in [*scalars, (len(text), len(text))]:
        for match in _SIGN.finditer(text, begin, until):
            if match[0].startswith("#"):
                comments.append(match)
            else:
                signs.append(Sign(match.start(), match[0]))
        begin = max(begin, after)
    return _joined(_remarks(text, comments)), signs


def column_of(text: str, offset: int) -> int:
    """The column, from 0, of the character at ``offset``."""
    return offset - (text.rfind("\n", 0, offset) + 1)


def below_blank_line(text: str, offset: int) -> bool:
    """Whether the character at ``offset`` is the first of its line and the line above is blank."""
    line = text.rfind("\n", 0, offset) + 1
    if line == 0 or text[line:offset].strip():
        return False
    return not text[text.rfind("\n", 0, line - 1) + 1 : line].strip()


def _remarks(text: str, comments: list[re.Match[str]]) -> list[Remark]:
    """One remark for each comment; from the last to the first, because each looks for what comes after it."""
    remarks: list[Remark] = []
    breaks = [match.start() for match in re.finditer("\n", text)]
    for match in reversed(comments):
        following = _SPACE.match(text, match.end())
        end = following.end() if following else len(text)
        if remarks and end == remarks[-1].offset:
            next_column = remarks[-1].next_column
        else:
            next_column = column_of(text, end)
            if end == len(text) or (next_column == 0 and text.startswith("...", end)):
                next_column = -1
        column = column_of(text, match.start())
        before = text[match.start() - column : match.start()].strip()
        ended = before == "..." and text[match.start() - column] == "."
        remarks.append(
            Remark(
                offset=match.start(),
                line=bisect_left(breaks, match.start()),
                column=0 if ended else column,
                lines=(match[0].rstrip(),),
                own=ended or not before,
                blank=below_blank_line(text, match.start()),
                next_column=next_column,
            )
        )
    return remarks[::-1]


def _joined(remarks: list[Remark]) -> list[Remark]:
    """The same, each comment at the end of a line as one with those aligned below it, which go on with it."""
    joined: list[Remark] = []
    for remark in remarks:
        last = joined[-1] if joined else None
        if (
            last
            and remark.own
            and not last.own
            and (remark.line, remark.column) == (last.line + len(last.lines), last.column)
        ):
            joined[-1] = replace(last, lines=(*last.lines, *remark.lines))
        else:
            joined.append(remark)
    return joined
