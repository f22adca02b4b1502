"""How a policy file is laid out: its mappings, lists and scalars with the comments that belong to each of them.

A comment is text that begins with ``#``, without line break; in a list of comments, ``""`` stands for a blank line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

BLANK: Final = ""
"""A blank line among comments."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block scalar.

    ``style`` is ``|`` or ``>``, ``chomping`` is ``-``, ``+`` or empty; ``lines`` are without the layout's indentation.
    """

    style: str
    chomping: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A plain value (text, number, true, false, None) as the strict reader reads it, and how it was written.

    ``source``: what stands in the file; of a number it is kept.
    ``spread``: whether it was written over several lines.
    """

    value: Any
    source: str = ""
    block: Block | None = None
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One pair of a mapping or, without ``key``, one entry of a list.

    ``above``: comments in lines of their own before it.
    ``beside``: the comment at the end of its first line and, aligned below that, those that go on with it.
    ``below``: comments under a key without a value, indented as its value would be.
    ``place``: line and column where the entry began in the file, counting from 1.
    """

    value: Node
    key: str | None = None
    above: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    place: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Collection:
    """What mappings and lists have in common.

    ``flow``: whether it was written in brackets.
    ``head``: comments that stay on top whatever entry comes first.
    ``tail``: comments after the last entry.
    """

    entries: tuple[Entry, ...]
    flow: bool = False
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mapping(Collection):
    """Pairs of a key and a value."""

    def entry(self, key: str) -> Entry | None:
        """The entry of ``key``, or None."""
        return next((entry for entry in self.entries if entry.key == key), None)


@dataclass(frozen=True, slots=True)
class Sequence(Collection):
    """Values in an order."""


Node: TypeAlias = Scalar | Mapping | Sequence


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole file.

    ``prolog``: comments and %YAML line before the line ``---``, which is only there when ``marked``.
    ``beside``: the comment at the end of the line ``---``.
    """

    root: Mapping
    prolog: tuple[str, ...] = ()
    marked: bool = False
    beside: tuple[str, ...] = ()


def plain_value(node: Node) -> Any:
    """The plain value (dict, list, str, int, float, bool, None) of ``node``."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain_value(entry.value) for entry in node.entries]
    return {entry.key: plain_value(entry.value) for entry in node.entries}


def comments_of(layout: Layout) -> list[str]:
    """Every comment of the file, in no particular order."""
    found = [*layout.prolog, *layout.beside, *_comments(layout.root)]
    return [line for line in found if line.startswith("#")]


def _comments(node: Node) -> list[str]:
    if isinstance(node, Scalar):
        return []
    found = [*node.head, *node.tail]
    for entry in node.entries:
        found += [*entry.above, *entry.beside, *entry.below, *_comments(entry.value)]
    return found
