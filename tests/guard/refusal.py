"""How a damaged guard's folder has to be refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from saeuron_guard.cli.main import program
from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.guard import Guard

Change = Callable[[Path], object]
"""What is done to a guard's folder."""

_SECONDS = 20.0
"""Far above what any refusal takes on a slow machine, far below what a hang takes."""


def refusal(folder: Path) -> str:
    """The message with which ``folder`` is refused by Guard.load and by the program: one line, in bounded time."""
    begin = time.monotonic()
    with pytest.raises(ArtefactError) as caught:
        Guard.load(folder)
    result = CliRunner().invoke(program, ["guard", "inspect", str(folder)])
    assert time.monotonic() - begin < _SECONDS
    message = str(caught.value)
    assert (result.exit_code, result.stderr) == (3, f"error: {message}\n")
    assert message.isprintable()
    assert len(message) < 600 + 2 * len(str(folder))
    return message
