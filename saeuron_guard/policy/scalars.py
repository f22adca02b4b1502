"""How the scalars of a policy file are written: plainly where that is read back as the same text, else in quotes."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from saeuron_guard.policy.layout import Block, Scalar
from saeuron_guard.strict_yaml import read_yaml

_SINGLE_SPACE: Final = re.compile(r"(?<=[^ ]) (?=[^ ])")


def scalar_text(scalar: Scalar, *, flow: bool) -> str:
    """``scalar`` on one line; in ``flow`` style, between brackets, nothing is written as null.

    Numbers and the like stay as they were written.
    """
    text = scalar.value
    if not isinstance(text, str):
        return scalar.source or ("null" if flow else "")
    return _written(text, "[{}]", [text]) if flow else _written(text, "k: {}", {"k": text})


def scalar_value(text: str) -> str:
    """``text`` as the value of a key, on one line."""
    return _written(text, "k: {}", {"k": text})


def key_text(key: str, *, flow: bool = False) -> str:
    """``key`` of a mapping on one line."""
    return _written(key, "{{{}: 0}}" if flow else "{}: 0", {key: 0})


def block_lines(block: Block) -> list[str]:
    """A block scalar: its header, and the lines of its text as they are indented below the key or dash."""
    first = next((line for line in block.lines if line), "")
    # Where the text itself begins with space, the reader has to be told how much of it is indentation.
    indicator = "2" if first.startswith((" ", "\t")) else ""
    return [block.style + indicator + block.chomping, *block.lines]


def folded_lines(scalar: Scalar, width: int) -> list[str]:
    """Text as a folded block scalar of lines of at most ``width``; none when it cannot be folded without loss."""
    text = str(scalar.value)
    if text != text.strip() or "\t" in text or scalar_text(scalar, flow=False).startswith('"'):
        return []
    lines: list[str] = []
    for word in _SINGLE_SPACE.split(text):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [">-", *lines] if len(lines) > 1 else []


def _written(text: str, template: str, expected: Any) -> str:
    """The first of plain, 'single' and "double" that the strict reader reads as ``expected`` in ``template``."""
    for written in (text, "'" + text.replace("'", "''") + "'"):
        reading = read_yaml(template.format(written), "")
        if not reading.problems and reading.value == expected:
            return written
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in quoted)


def _escaped(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"
