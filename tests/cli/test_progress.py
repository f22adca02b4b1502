"""Progress on stderr: a bar for people at a terminal, few lines for logs."""

from __future__ import annotations

import io
import re
import sys

import pytest

from saeuron_guard.cli.progress import StageProgress


class Stream(io.StringIO):
    """A stderr that is, or is not, a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        """What the program asks."""
        return self.terminal


def told(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    """What stands on stderr after two stages of 100 and 3 steps."""
    stream = Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with StageProgress() as progress:
        for stage, total in (("drawing", 100), ("judging", 3)):
            for done in range(total + 1):
                progress(stage, done, total)
    return stream.getvalue()


def test_a_log_gets_a_few_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five lines for a hundred steps, none of them with control characters."""
    lines = told(monkeypatch, terminal=False).splitlines()
    assert lines[:5] == [f"drawing: {done} of 100" for done in (0, 25, 50, 75, 100)]
    assert lines[-1] == "judging: 3 of 3"
    assert len(lines) == 9


def test_a_terminal_gets_a_bar_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bars end full, on a line of their own."""
    text = told(monkeypatch, terminal=True)
    assert text.count("100%") >= 2
    assert "drawing" in text
    assert "judging" in text
    assert re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text).endswith("\n")


def test_a_stage_without_steps_is_finished_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to do is no error."""
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with StageProgress() as progress:
        progress("drawing", 0, 0)
    assert stream.getvalue() == "drawing: 0 of 0\n"
