"""What commands that rewrite policy files have in common: every file is tried, and the worst outcome is the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from saeuron_guard.errors import InvalidFile, SaeuronGuardError

WOULD_CHANGE = 2
"""Exit code of ``--check`` when a file is not as it should be, like that of a file that is not valid."""


def each_file(files: Iterable[str], work: Callable[[str], int]) -> int:
    """Do ``work``, which gives an exit code, for every file, report the errors of all, and give the largest code."""
    code = 0
    for file in files:
        try:
            code = max(code, work(file))
        except SaeuronGuardError as error:
            # Like the program itself: lines that editors find their way by stand alone.
            click.echo(f"{error}" if isinstance(error, InvalidFile) else f"error: {error}", err=True)
            code = max(code, error.exit_code)
    return code
