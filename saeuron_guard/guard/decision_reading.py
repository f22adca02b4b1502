"""Reads decision logs line by line, whatever has happened to them. Without torch."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.decisions import OUTCOMES, Decision, parse_decision
from saeuron_guard.wording import one_line

LONGEST_LINE: Final = 1 << 24
"""16 MiB; a line has a few KiB, unless it keeps the plain prompts of a large batch."""

_BEGINNING: Final = b'{"schema":"saeuron-guard/decision-'
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Damage:
    """A line that is no decision. ``cut``: it ends too early, as what a crash leaves does."""

    file: str
    line: int
    problem: str
    cut: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


@dataclass(slots=True)
class Summary:
    """What decision logs say in all. ``concepts``: in how many decisions each fired; ``peaks``: its largest."""

    decisions: int = 0
    outcomes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(OUTCOMES, 0)))
    guards: Counter[str] = field(default_factory=Counter)
    concepts: Counter[str] = field(default_factory=Counter)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, decision: Decision) -> None:
        """Count one decision."""
        self.decisions += 1
        self.outcomes[decision.outcome] += 1
        self.guards[decision.guard] += 1
        for found in decision.concepts:
            self.concepts[found.concept] += 1
            self.peaks[found.concept] = max(found.peak, self.peaks.get(found.concept, 0.0))


def read_decisions(path: Path) -> Iterator[Decision | Damage]:
    """The decisions of a log in the order of its lines, with ``Damage`` where a line is none.

    Holds one line at a time. Raises ArtefactError when the file cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ArtefactError(f"{path}: not a regular file")
            for number, (data, whole) in enumerate(_lines(stream), 1):
                yield _read_line(data, whole, str(path), number)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def moment(decision: Decision) -> datetime:
    """When a decision was made."""
    return datetime.fromisoformat(decision.time).astimezone(UTC)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Each line without its end, and whether it was read whole; of one that is too long, its beginning."""
    while data := stream.readline(LONGEST_LINE):
        whole = len(data) < LONGEST_LINE or data.endswith(b"\n")
        rest = data
        while not rest.endswith(b"\n") and (rest := stream.readline(LONGEST_LINE)):
            pass
        yield data, whole


def _read_line(data: bytes, whole: bool, file: str, number: int) -> Decision | Damage:
    if not whole:
        return Damage(file, number, f"longer than {LONGEST_LINE} bytes", cut=False)
    line = data.rstrip(b"\n")
    if line.startswith(_BEGINNING[: len(line)]) and line and _is_open(line):
        return Damage(file, number, "cut short, as by a crash", cut=True)
    try:
        decision = parse_decision(line.decode("ascii"))
        moment(decision)
    except (ValueError, OverflowError) as error:
        problem = "holds other than ASCII" if isinstance(error, UnicodeDecodeError) else one_line(str(error))
        return Damage(file, number, f"no decision: {problem}", cut=False)
    return decision


def _is_open(line: bytes) -> bool:
    """Whether a JSON object ends before its last brace."""
    rest = _STRING.sub(b"", line).partition(b'"')[0]  # a quote that is left begins text that does not end
    return rest.count(b"{") > rest.count(b"}")
