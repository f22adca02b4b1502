"""Times hooks inside the very step that they run in, where no difference of two long times has to be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


class Stopwatch:
    """Seconds that the hooks of others take on some modules, added up over all calls.

    Hooks run in the order in which they were put in: those between ``begin`` and ``end`` are the ones that are timed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._since = 0.0

    def start(self, *_: Any) -> None:
        """A hook: time runs from here."""
        self._since = self._clock()

    def stop(self, *_: Any) -> None:
        """A hook: time stops here."""
        self.seconds += self._clock() - self._since


@contextmanager
def begin(watch: Stopwatch, denoiser: nn.Module, blocks: list[nn.Module]) -> Iterator[None]:
    """Start ``watch`` wherever hooks that are put in from now on begin to run."""
    with _hooks(watch.start, denoiser, blocks):
        yield


@contextmanager
def end(watch: Stopwatch, denoiser: nn.Module, blocks: list[nn.Module]) -> Iterator[None]:
    """Stop ``watch`` wherever hooks that were put in before have run."""
    with _hooks(watch.stop, denoiser, blocks):
        yield


@contextmanager
def _hooks(act: Callable[..., None], denoiser: nn.Module, blocks: list[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(denoiser.register_forward_pre_hook(act).remove)
        for module in [*blocks, denoiser]:
            stack.callback(module.register_forward_hook(act).remove)
        yield
