"""Plays a row of the compatibility matrix: set up, attach, change, draw; then judges by the outcome it promises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from saeuron_guard.guard.guard import Guard
from tests.guard.matrix.plain import plain_hooks
from tests.guard.matrix.rows import EFFECTIVE, REFUSED, ROWS, Row
from tests.tiny import draw, make_config, make_guard

Act = Callable[[Any], Any]
"""Something done to a pipeline."""


def timed(guard: Guard) -> Guard:
    """The same guard with other numbers at every timestep, so that it shows when a wrong one is looked up."""
    points = []
    for point in guard.config.hookpoints:
        mean = tuple(0.5 + index / len(point.timesteps) for index in range(len(point.timesteps)))
        rules = [
            replace(rule, features=tuple(replace(edit, mean=mean) for edit in rule.features)) for rule in point.rules
        ]
        points.append(replace(point, rules=tuple(rules)))
    config = make_config(points, fingerprint=guard.config.model_fingerprint, branches=guard.config.branches)
    return Guard(config, guard.coders)


def nothing(_pipe: Any) -> None:
    """No change."""


@dataclass(frozen=True, slots=True)
class Case:
    """How a row is set up.

    ``before`` and ``after`` change the pipeline before and after the guard is attached; ``call`` draws.
    ``alike``: how far the picture may be from the plain hooks', relative to what the guard changes.
    ``compare_untouched``: compare with a pipeline without ``before`` and ``after``, which must not change pictures.
    ``restored``: whether the pipeline draws the unguarded picture bit for bit after the guard is detached.
    """

    before: Act = nothing
    after: Act = nothing
    call: Callable[[Any], Tensor] = draw
    guard: Callable[[], Guard] = make_guard
    alike: float = 0.02
    unit: float = 1.0
    restored: bool = True
    compare_untouched: bool = False


@cache
def row(key: str) -> Row:
    """The row of a key."""
    return next(row for row in ROWS if row.key == key)


def keys(cases: Iterable[str], slow: Iterable[str] = ()) -> Any:
    """The decorator that runs a test for each of a module's rows; those that take long with the slow ones."""
    marks = {key: [pytest.mark.slow] if key in slow else [] for key in cases}
    return pytest.mark.parametrize("key", [pytest.param(key, marks=marks[key]) for key in sorted(marks)])


def play(key: str, case: Case, stock: Any) -> None:
    """Prove that what a row promises is so; ``stock``, a pipeline without a guard, is copied and left as it is."""
    make = case.guard
    case = replace(case, guard=lambda: timed(make()))
    if row(key).outcome == EFFECTIVE:
        prove_effective(case, stock)
        return
    with refusal(key):
        pipe = copy.deepcopy(stock)
        case.before(pipe)
        case.guard().attach(pipe)
        case.after(pipe)
        case.call(pipe)


@contextmanager
def refusal(key: str) -> Iterator[None]:
    """In this context the error that a row promises has to be raised."""
    promised = row(key)
    assert promised.outcome == REFUSED
    with pytest.raises(Exception, match=promised.words) as caught:
        yield
    assert type(caught.value).__name__ == promised.error


def prove_effective(case: Case, stock: Any) -> None:
    """The guarded picture differs from the unguarded one, and is what plain hooks on the same blocks make of it."""
    twin, guard = copy.deepcopy(stock), case.guard()
    if not case.compare_untouched:
        case.before(twin)
        case.after(twin)
    unguarded = case.call(twin)
    coders = {point.hookpoint: guard.coders[point.hookpoint] for point in guard.config.hookpoints}
    with plain_hooks(denoiser(twin, guard), guard.config, coders, unit=case.unit):
        wanted = case.call(twin)

    pipe = copy.deepcopy(stock)
    case.before(pipe)
    guard.attach(pipe)
    case.after(pipe)
    guarded = case.call(pipe)
    assert guard.status().ready
    compare(guarded, wanted, unguarded, case.alike)
    guard.detach()
    if case.restored:
        assert torch.equal(case.call(pipe), unguarded)


def compare(guarded: Tensor, wanted: Tensor, unguarded: Tensor, alike: float = 0.02) -> None:
    """Raise AssertionError unless a picture of every row changed, and to what was wanted."""
    assert guarded.isfinite().all()
    for got, expected, before in zip(guarded.float(), wanted.float(), unguarded.float(), strict=True):
        effect = float((before - expected).abs().mean())
        assert effect > 1e-4
        assert float((got - before).abs().mean()) > effect / 2
        assert float((got - expected).abs().mean()) <= alike * effect


def denoiser(pipe: Any, guard: Guard) -> Any:
    """The component that a guard's hookpoints are in."""
    return getattr(pipe, guard.config.hookpoints[0].hookpoint.partition(".")[0])
