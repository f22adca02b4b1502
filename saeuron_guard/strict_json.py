"""JSON from files that may come from anywhere: whatever Python's reader would shrug off is refused."""

from __future__ import annotations

import json
from typing import Any, Final

from saeuron_guard.wording import quote

_MOST_DIGITS: Final = 20
"""Those of the largest number of 64 bits, such as a seed; nothing that is stored as JSON counts further."""


def read_json(text: str) -> Any:
    """The value of ``text``.

    Raises ValueError, with a message of one short line, for what is no JSON, names a key twice in one object, holds
    NaN, infinities or whole numbers of more than 20 digits, or is nested deeper than Python's stack.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=_whole_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"key {quote(twice)} occurs twice in one object")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that JSON knows")


def _whole_number(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits, expected at most {_MOST_DIGITS}")
    return int(text)
