"""A strict reader of YAML text that notes the place of every value.

YAML has several readings of the same text, so a filter built on it must refuse whatever a person and a program could
understand differently: ``no`` as a boolean, a key given twice, aliases, tags, merge keys, numbers in odd notations.
What is left has one meaning in YAML 1.1, YAML 1.2 and JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from saeuron_guard.errors import Problem
from saeuron_guard.wording import describe, quote

Pointer = tuple[str | int, ...]
"""The way from the root of a document to one of its values: keys and list positions."""

DEEPEST: Final = 32
"""Levels of nesting that are read; no file of ours needs ten."""

_FAST_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TRUTH: Final = {"true": True, "false": False}
_NOTHING: Final = frozenset({"", "~", "null"})
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?)")
"""YAML 1.1 takes ``1e3`` and ``1.0e3`` for text, so an exponent needs both a point and a sign."""

_OTHER_TRUTH: Final = re.compile(r"y|yes|n|no|on|off|true|false", re.IGNORECASE)
_OTHER_NOTHING: Final = frozenset({"Null", "NULL"})
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE)
_OTHER_NUMBER: Final = re.compile(
    r"[-+]?(?:0[xob][0-9a-f_]+"
    r"|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[0-9][0-9_]*(?:\.[0-9_]*)?(?:e[-+]?[0-9]+)?"
    r"|\.[0-9][0-9_]*(?:e[-+]?[0-9]+)?)",
    re.IGNORECASE,
)
"""What some YAML version may take for a number: octal, hexadecimal, base 60, ``1_000``, ``1e3``."""

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Characters that are not seen or that reorder or break lines, so that a reviewer sees another file than we read.

Joiners (U+200C, U+200D) are not among them: scripts and emoji need them.
"""


class Refused:
    """Stands in a document for a value that was refused, so that reading can go on to the next problem."""


def read_yaml(text: str, file: str) -> Reading:
    """The one YAML document in ``text``, read as far as it goes; ``file`` is only named in problems.

    Refused values are ``Refused`` objects (the whole value when ``text`` is empty or not YAML), and of two equal keys
    the later one is kept; each has its problem, so a reading without problems is whole.
    """
    reading = Reading(file)
    unseen = list(_UNSEEN.finditer(text))
    if unseen:
        reading.problems += [_unseen_problem(file, text, match) for match in unseen]
        return reading
    try:
        reading.read(yaml_events(text))
    except _TooDeepError as error:
        (event,) = error.args
        reading.value = reading.refuse(event, f"nested more than {DEEPEST} levels deep")
    except yaml.MarkedYAMLError as error:
        reading.value = Refused()
        reading.problems.append(_syntax_problem(file, text, error))
    if not reading.problems and (isinstance(reading.value, Refused) or reading.value is None):
        reading.value = Refused()
        reading.problems.append(Problem(file, 0, 0, "the file is empty"))
    return reading


def yaml_events(text: str) -> Iterator[Any]:
    """The events of PyYAML's parser for ``text``, the same that ``read_yaml`` reads; raises yaml.MarkedYAMLError."""
    return iter(yaml.parse(text, _FAST_LOADER))


class _TooDeepError(Exception):
    """Ends the reading of a document at an event that is nested too deep."""


class Reading:
    """Turns the YAML parser's events into plain values, noting places (line, column) and problems on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.value: Any = Refused()
        self._documents = 0
        self.problems: list[Problem] = []
        self.places: dict[Pointer, tuple[int, int]] = {}
        self.key_places: dict[Pointer, tuple[int, int]] = {}

    def read(self, events: Iterator[Any]) -> None:
        """Read the first document; a second one is a problem."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents == 2:
                    self.refuse(event, "a second document begins here; write one document a file")
                    return
            elif isinstance(event, yaml.NodeEvent):
                self.value = self._node(event, events, ())

    def refuse(self, event: Any, message: str) -> Refused:
        """Note a problem where ``event`` begins; what to put in place of its value."""
        self.problems.append(Problem(self.file, *_place(event), message))
        return Refused()

    def _node(self, event: Any, events: Iterator[Any], pointer: Pointer) -> Any:
        self.places[pointer] = _place(event)
        if isinstance(event, yaml.AliasEvent):
            return self.refuse(event, f"aliases such as *{event.anchor} are not read; write the value out")
        if len(pointer) > DEEPEST:
            raise _TooDeepError(event)
        if event.anchor is not None:
            self.refuse(event, f"anchors such as &{event.anchor} are not read; remove it")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if event.tag is not None:
            self.refuse(event, f"tags such as {_tag(event)} are not read; remove it")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(events, pointer)
        return self._mapping(events, pointer)

    def _list(self, events: Iterator[Any], pointer: Pointer) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._node(event, events, (*pointer, len(values))))
        return values

    def _mapping(self, events: Iterator[Any], pointer: Pointer) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event, events, pointer)
            if key is None:
                self._node(next(events), events, (*pointer, ""))
                continue
            inner = (*pointer, key)
            if key in values:
                line, column = self.key_places[inner]
                self.refuse(event, f"key {quote(key)} is given twice (first at {line}:{column}); keep one")
            self.key_places[inner] = _place(event)
            values[key] = self._node(next(events), events, inner)
        return values

    def _key(self, event: Any, events: Iterator[Any], pointer: Pointer) -> str | None:
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<":
            self.refuse(event, "merge keys (<<) are not read; write the values out")
            return None
        known = len(self.problems)
        key = self._node(event, events, (*pointer, ""))
        if isinstance(key, str):
            return key
        if len(self.problems) == known:
            self.refuse(event, f"a key must be text, got {describe(key)}; put it in quotes")
        return None

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.tag is not None:
            return self.refuse(event, f"tags such as {_tag(event)} are not read; remove it")
        return self._plain(event, text) if event.implicit[0] else text

    def _plain(self, event: Any, text: str) -> Any:
        if text in _TRUTH:
            return _TRUTH[text]
        if text in _NOTHING:
            return None
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
        return self._doubtful(event, text)

    def _doubtful(self, event: Any, text: str) -> Any:
        if _OTHER_TRUTH.fullmatch(text):
            truth = "true" if text.lower() in {"y", "yes", "on", "true"} else "false"
            return self.refuse(event, f"some programs read {text} as {truth}; write {truth}, or '{text}' in quotes")
        if _NOT_FINITE.fullmatch(text):
            return self.refuse(event, f"{text} is not a finite number; write one, or '{text}' in quotes")
        if _OTHER_NUMBER.fullmatch(text):
            return self.refuse(
                event,
                f"not every program reads {text} as the same number; write it in plain decimals, or '{text}' in quotes",
            )
        if text in _OTHER_NOTHING:
            return self.refuse(event, f"some programs read {text} as null; write null, or '{text}' in quotes")
        return text


def _syntax_problem(file: str, text: str, first: yaml.MarkedYAMLError) -> Problem:
    """The error in the words of PyYAML's own parser, which tells more than libyaml's and is the same everywhere."""
    error = first
    try:
        for _ in yaml.parse(text, yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as second:
        error = second
    mark: Any = error.problem_mark or error.context_mark
    message = f"not YAML: {error.problem}" + (f" {error.context}" if error.context else "")
    if "'\\t'" in message:
        message += "; indent with spaces"
    return Problem(file, mark.line + 1, mark.column + 1, message)


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def place_of(text: str, offset: int) -> tuple[int, int]:
    """Line and column of the character at ``offset``, counting from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _unseen_problem(file: str, text: str, match: re.Match[str]) -> Problem:
    message = f"character U+{ord(match[0]):04X} is invisible or reorders the text; remove it"
    return Problem(file, *place_of(text, match.start()), message)


def _tag(event: Any) -> str:
    return str(event.tag).replace("tag:yaml.org,2002:", "!!")
