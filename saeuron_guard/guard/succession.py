"""Guards that follow one another on one pipeline: which of them acts, an image at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Retirable(Protocol):
    """Something that takes turns, and is told when it will have none any more."""

    def retire(self) -> None:
        """The last pipeline call that belongs to it has ended."""


T = TypeVar("T", bound=Retirable)


class _Turn(threading.local):
    """Whose pipeline call this thread is in; None outside of any."""

    holder: Any = None


class Succession(Generic[T]):
    """A pipeline call belongs to the guard that was active when it began, from its first step to its last.

    Handing over changes only which guard the calls belong to that begin afterwards.
    The hooks of both are in the model until the last call of the former one has ended; ``acts`` tells each whether a
    call of the model, which the threads share, is its own.
    """

    def __init__(self, first: T) -> None:
        self.active = first
        self._turn = _Turn()
        self._under_way: Counter[T] = Counter()
        self._lock = threading.Lock()

    def acts(self, one: T) -> bool:
        """Whether ``one`` is to act in this thread: the guard of the pipeline call under way, else the active one."""
        holder = self._turn.holder
        return (self.active if holder is None else holder) is one

    @contextmanager
    def turn_of(self, one: T) -> Iterator[None]:
        """Let ``one`` act in this thread, whichever is active."""
        before, self._turn.holder = self._turn.holder, one
        try:
            yield
        finally:
            self._turn.holder = before

    @contextmanager
    def turn(self) -> Iterator[T]:
        """One pipeline call; gives the guard that it belongs to."""
        with self._lock:
            holder = self.active
            self._under_way[holder] += 1
        try:
            with self.turn_of(holder):
                yield holder
        finally:
            with self._lock:
                self._under_way[holder] -= 1
                last = not self._under_way[holder]
                if last:
                    del self._under_way[holder]
                retired = last and holder is not self.active
            if retired:
                holder.retire()

    def hand_over(self, successor: T) -> None:
        """Make ``successor`` the active one; the former retires now, or when the last call that is its own ends."""
        with self._lock:
            former, self.active = self.active, successor
            idle = former not in self._under_way
        if idle and former is not successor:
            former.retire()

    @property
    def finishing(self) -> int:
        """How many pipeline calls are under way that belong to former guards."""
        with self._lock:
            return sum(calls for holder, calls in self._under_way.items() if holder is not self.active)
