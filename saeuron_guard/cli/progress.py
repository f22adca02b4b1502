"""Progress of long commands on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

_LINES_PER_STAGE: Final = 4
"""How many lines a log gets per stage: enough to see that it moves."""


class StageProgress(AbstractContextManager["StageProgress"]):
    """Call it with (stage, done, total) as often as you like; stages follow one another."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stage: str | None = None
        self._bar: ProgressBar[Any] | None = None
        self._told = -1

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of ``stage`` are behind us."""
        if stage != self._stage:
            self._finish()
            self._stage, self._told = stage, -1
            if self._terminal:
                self._bar = click.progressbar(length=max(total, 1), label=stage.ljust(26), file=sys.stderr)
                self._bar.__enter__()
        if self._bar is not None:
            self._bar.update(done - self._bar.pos)
        else:
            self._tell(stage, done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish()

    def _tell(self, stage: str, done: int, total: int) -> None:
        part = _LINES_PER_STAGE * done // total if total else _LINES_PER_STAGE
        if part > self._told:
            self._told = part
            click.echo(f"{stage}: {done} of {total}", err=True)

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
