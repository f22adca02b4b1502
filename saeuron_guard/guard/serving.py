"""Which policies the images of the next pipeline call have: said by whoever makes the call, around the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from saeuron_guard.errors import GuardNotEffective
from saeuron_guard.guard.roster import Assignment, Roster

Asked = str | None | Sequence[str | None]
"""A policy's id or None for all images of a call, or one of these for each."""

_ASKED: ContextVar[Mapping[Any, Asked] | None] = ContextVar("_ASKED", default=None)
"""By what tells one attached guard from another. A context variable, so that neither threads nor tasks mix."""


@contextmanager
def asking(key: Any, policies: Asked) -> Iterator[None]:
    """Have the pipeline calls inside, of this thread or task, guarded by ``policies``."""
    token = _ASKED.set({**(_ASKED.get() or {}), key: policies})
    try:
        yield
    finally:
        _ASKED.reset(token)


def assignment_of(key: Any, roster: Roster) -> Assignment | None:
    """The assignment that holds for a call made now; None for a guard with a single policy.

    Raises GuardNotEffective when there are several policies and nobody said which.
    """
    if roster.single:
        return None
    asked = _ASKED.get() or {}
    if key not in asked:
        raise GuardNotEffective(
            f"this guard has the policies {', '.join(roster.configs)}, and nobody said which of them the images have; "
            "call the pipeline inside of guard.serving(...), in the same thread or task"
        )
    return roster.assign(asked[key])
