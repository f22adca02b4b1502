"""How values and mistakes are put into the words of a message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_LONGEST = 60
_LONGEST_LINE = 400


def describe(value: Any) -> str:
    """A value of a document as a message names it: ``text 'x'``, ``number 3``, ``a list``; long text is cut."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"number {value}"
        case str():
            return f"text {quote(value)}"
        case list():
            return "a list"
    return "a mapping"


def quote(text: str) -> str:
    """``text`` in quotes, on one line, cut when long."""
    return repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


def one_line(text: str) -> str:
    """``text`` from a file that may be anybody's, fit for a message: printable, and cut when very long."""
    return printable(text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 3] + "...")


def printable(text: str) -> str:
    """``text`` on one line, without characters that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the nearest known word, or nothing when none is near; case does not matter."""
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean {quote(by_folded[near[0]])}?" if near else ""


def one_of(known: Iterable[str]) -> str:
    """``a, b or c``."""
    *some, last = known
    return f"{', '.join(some)} or {last}" if some else last


def count_of(number: int, noun: str) -> str:
    """``1 feature``, ``2 features``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def pointer_text(pointer: tuple[str | int, ...]) -> str:
    """A place in a document as people write it: ``concepts[2].concept``."""
    text = ""
    for part in pointer:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
