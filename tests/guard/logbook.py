"""Decisions and logs to test with, without a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.decision_reading import Damage, read_decisions
from saeuron_guard.guard.decisions import SCHEMA, Decision, Finding, PolicyName, PromptNote

START = datetime(2026, 11, 24, 20, 0, 0, tzinfo=UTC)

PISTOL = Finding("pistol", "object", "scale", "enforce", "high", 3, 0.25, 2.5)
NEON = Finding("Neon", "style", "detect", "warn", "low", 1, 0.125, 1.5)


def decision(number: int = 0, **settings: Any) -> Decision:
    """A decision with an id that tells it from others; an hour lies between two."""
    time = (START + timedelta(hours=number)).isoformat().replace("+00:00", "Z")
    plain = Decision(
        schema=SCHEMA,
        id=f"decision-{number}",
        call=f"call-{number}",
        time=time,
        guard="sha256:" + "a" * 64,
        policy=PolicyName("tiny", "1", "sha256:" + "1" * 64),
        model="tiny",
        modes=("warn", "enforce"),
        image=0,
        images=1,
        steps=3,
        concepts=(PISTOL,),
        outcome="released",
        why="",
        seed=7,
        prompts=(PromptNote("masked", "x xxxxxx", ""),),
    )
    return replace(plain, **settings)


def ticking(step: timedelta = timedelta(seconds=1)) -> Callable[[], datetime]:
    """A clock that moves on by ``step`` each time that it is looked at."""
    times = iter(range(10**9))
    return lambda: START + step * next(times)


def write(path: Path, *decisions: Decision) -> None:
    """Append ``decisions``, each by itself."""
    log = DecisionLog(path)
    for one in decisions:
        log.append([one])


def decisions_of(path: Path) -> list[Decision]:
    """What a log without damage holds."""
    entries = list(read_decisions(path))
    damage = [entry for entry in entries if isinstance(entry, Damage)]
    assert damage == []
    return [entry for entry in entries if isinstance(entry, Decision)]
