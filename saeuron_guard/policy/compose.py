"""From the text of a policy file to its layout: which comment belongs to which entry.

A comment at the end of a line belongs to the entry that the line ends with. One in a line of its own belongs to the
entry below it, unless it is indented like the entries of a block that ends above it: then it ends that block.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from saeuron_guard.errors import PolicyError, Problem
from saeuron_guard.policy.layout import BLANK, Block, Entry, Layout, Mapping, Node, Scalar, Sequence
from saeuron_guard.policy.remarks import Remark, below_blank_line, find_remarks
from saeuron_guard.strict_yaml import read_yaml, yaml_events
from saeuron_guard.wording import describe, quote

MODELINE: Final = "# yaml-language-server:"
"""How the comment begins that names the schema for editors; it has to stay the first line."""

_LINE_BREAK: Final = re.compile(r"\r\n?")
_PROLOG: Final = re.compile(r"(?:(?:[ \t]*(?:#[^\n]*)?|%[^\n]*)\n)*---(?=[ \t\n]|\Z)")
"""All up to the mark ``---`` that a document begins with."""

_HEADER: Final = re.compile(r"([|>])([-+0-9]*)")
_FIRST_TEXT: Final = re.compile(r"(?:\n| *\n)*( *)[^ \n]")


def compose(text: str, file: str) -> Layout:
    """The layout of a policy file.

    Raises PolicyError with what the strict reader refuses, or when the file has something that cannot be laid out anew.
    """
    text = _LINE_BREAK.sub("\n", text.removeprefix("\ufeff"))
    reading = read_yaml(text, file)
    if not reading.problems and not isinstance(reading.value, dict):
        message = f"expected a mapping with apiVersion, kind and so on, got {describe(reading.value)}"
        reading.problems.append(Problem(file, 1, 1, message))
    if reading.problems:
        raise PolicyError(reading.problems)
    prolog = _PROLOG.match(text)
    composer = _Composer(text, prolog.end() if prolog else 0)
    root, beside = composer.root(reading.value)
    return Layout(root, _prolog(prolog[0], file) if prolog else (), prolog is not None, beside)


def _prolog(text: str, file: str) -> tuple[str, ...]:
    """The comments before ``---``, and the %YAML line last."""
    lines = [line.strip() for line in text.splitlines()[:-1]]
    for number, line in enumerate(lines, 1):
        if line.startswith("%") and not line.startswith("%YAML "):
            raise PolicyError([Problem(file, number, 1, f"the directive {quote(line)} cannot be kept; remove it")])
    directives = [line.partition("#")[0].rstrip() for line in lines if line.startswith("%")]
    comments = [line if not line.startswith("%") else "".join(line.partition("#")[1:]) for line in lines]
    return (*(line for line in comments if line), *directives)


@dataclass(slots=True)
class _Notes:
    """Comments of an entry, gathered while it is read."""

    above: list[str] = field(default_factory=list)
    beside: tuple[str, ...] = ()

    def add(self, remark: Remark) -> None:
        """Of several comments at the ends of an entry's lines the last stays there and the others go above."""
        if remark.own:
            self.above += _lines(remark)
        else:
            self.above += self.beside
            self.beside = remark.lines


class _Composer:
    """Walks the parser's events and takes the remarks from a queue as it passes them."""

    def __init__(self, text: str, begin: int) -> None:
        self._text = text
        nodes = (yaml.NodeEvent, yaml.CollectionEndEvent)
        self._events: deque[Any] = deque(event for event in yaml_events(text) if isinstance(event, nodes))
        scalars = [span for event in self._events if isinstance(event, yaml.ScalarEvent) for span in self._spans(event)]
        remarks, signs = find_remarks(text, begin, scalars)
        self._remarks, self._signs = deque(remarks), deque(signs)

    def root(self, value: dict[str, Any]) -> tuple[Mapping, tuple[str, ...]]:
        """The root, and the comment at the end of the line ``---``."""
        start, notes = _Notes(), _Notes()
        self._note(start, _begin(self._events[0]), own=False)
        node = self._value(value, notes)
        if not isinstance(node, Mapping):
            raise TypeError("unreachable: the strict reader's value is a mapping")
        head, tail = (*notes.above, *notes.beside, *node.head), list(node.tail)
        while self._remarks:
            tail += _lines(self._remarks.popleft())
        return replace(node, head=head, tail=tuple(tail)), start.beside

    def _spans(self, event: Any) -> Iterator[tuple[int, int]]:
        """The text of a scalar; that of a block scalar without the comment in its first line."""
        begin, end = _begin(event), event.end_mark.index
        header = _HEADER.match(self._text, begin) if event.style in {"|", ">"} else None
        if header:
            yield begin, header.end()
            begin = min(end, self._text.find("\n", begin) + 1 or end)
        yield begin, end

    def _note(self, notes: _Notes, limit: int, *, own: bool = True) -> None:
        """Give ``notes`` the remarks before ``limit``; without ``own``, those before the next in a line of its own."""
        while self._remarks and self._remarks[0].offset < limit and (own or not self._remarks[0].own):
            notes.add(self._remarks.popleft())

    def _ends(self) -> bool:
        return isinstance(self._events[0], yaml.CollectionEndEvent)

    def _limit(self) -> int:
        """Where the next thing begins: an entry or a closing bracket; the ends of blocks are nowhere."""
        begins = [self._signs[0].offset] if self._signs else []
        for event in self._events:
            if isinstance(event, yaml.NodeEvent) or _begin(event) < event.end_mark.index:
                begins.append(_begin(event))
                break
        return min(begins, default=len(self._text))

    def _value(self, value: Any, notes: _Notes) -> Node:
        """The next node; ``notes`` are those of the entry that holds it."""
        event = self._events[0]
        # What stands above the first entry of a block is that entry's.
        block = isinstance(event, yaml.CollectionStartEvent) and not event.flow_style
        self._note(notes, _begin(event), own=not block)
        self._events.popleft()
        scalar = isinstance(event, yaml.ScalarEvent)
        node = self._scalar(event, value) if scalar else self._collection(event, value, notes)
        self._note(notes, self._limit(), own=False)
        return node

    def _collection(self, event: Any, value: Any, notes: _Notes) -> Mapping | Sequence:
        flow = bool(event.flow_style)
        if flow:
            self._note(notes, self._limit(), own=self._ends())
        column = event.start_mark.column
        entries: list[Entry] = []
        while not self._ends():
            entries.append(self._entry(event, column, value, len(entries)))
        tail = self._tail(self._events.popleft(), flow, column)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(tuple(entries), flow, (), tail)
        head, entries[:1] = _without_head(entries[:1])
        return Mapping(tuple(entries), flow, head, tail)

    def _entry(self, within: Any, column: int, value: Any, position: int) -> Entry:
        keyed = isinstance(within, yaml.MappingStartEvent)
        event, notes = self._events[0], _Notes()
        begin, sign = _begin(event), "?" if keyed else "-"
        if self._signs and self._signs[0].text == sign and self._signs[0].offset <= begin:
            begin = self._signs.popleft().offset
        self._note(notes, begin)
        if below_blank_line(self._text, begin):
            notes.above.append(BLANK)
        key = self._events.popleft().value if keyed else None
        node = self._value(value[key if keyed else position], notes)
        without = isinstance(node, Scalar) and not node.source and not within.flow_style
        below = [line for remark in self._indented(column + 1) for line in _lines(remark)] if without else []
        place = event.start_mark.line + 1, event.start_mark.column + 1
        return Entry(node, key, tuple(notes.above), notes.beside, tuple(below), place)

    def _tail(self, end: Any, flow: bool, column: int) -> tuple[str, ...]:
        if not flow:
            return tuple(line for remark in self._indented(column) for line in _lines(remark))
        notes = _Notes()
        if _begin(end) < end.end_mark.index:
            self._note(notes, _begin(end))
        return (*notes.above, *notes.beside)

    def _indented(self, column: int) -> Iterator[Remark]:
        """The remarks up to the next entry that are indented by ``column`` at least, and deeper than that entry."""
        limit = self._limit()
        while self._remarks and self._remarks[0].own and self._remarks[0].offset < limit:
            if not self._remarks[0].column >= max(column, self._remarks[0].next_column + 1):
                return
            yield self._remarks.popleft()

    def _scalar(self, event: Any, value: Any) -> Scalar:
        source = self._text[_begin(event) : event.end_mark.index]
        header = _HEADER.match(source) if event.style in {"|", ">"} else None
        if header is None:
            return Scalar(value, source, None, "\n" in source)
        return Scalar(value, source, _block(header, value))


def _begin(event: Any) -> int:
    return int(event.start_mark.index)


def _lines(remark: Remark) -> list[str]:
    return [*([BLANK] if remark.blank else []), *remark.lines]


def _without_head(first: list[Entry]) -> tuple[tuple[str, ...], list[Entry]]:
    """What stands on top of a mapping whatever entry comes first, and the first entry without it.

    That is all up to the last blank line, or the editors' line alone.
    """
    if not first:
        return (), []
    above = first[0].above[first[0].above[:1] == (BLANK,) :]
    cut = len(above) - above[::-1].index(BLANK) if BLANK in above else int(above[:1] != () and _is_modeline(above[0]))
    return above[:cut], [replace(first[0], above=above[cut:])]


def _is_modeline(comment: str) -> bool:
    return comment.startswith(MODELINE)


def _block(header: re.Match[str], value: str) -> Block | None:
    """The block scalar of a header, its lines without indentation; None when it holds nothing but spaces."""
    body = header.string.partition("\n")[2].split("\n")
    first = _FIRST_TEXT.match(value)
    indent = 0
    if first:
        text = next(line for line in body if line.strip(" "))
        indent = len(text) - len(text.lstrip(" ")) - len(first[1])
    elif " " in value:
        return None
    lines = [line[indent:] if first else "" for line in body]
    if not lines[-1]:
        lines.pop()
    chomping = header[2].strip("0123456789")
    if first and not value.endswith("\n"):
        chomping = "-"  # also where the file ends in the text's last line
    while chomping != "+" and lines and not lines[-1]:
        lines.pop()
    return Block(header[1], chomping, tuple(lines))
