"""Who runs the program, when, and which revision of it: what provenance records and lower layers are told."""

from __future__ import annotations

import getpass
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

import saeuron_guard
from saeuron_guard.registry.stamp import moment_text

if TYPE_CHECKING:
    from saeuron_guard.discovery.collecting import Origin

_PATIENCE: Final = 10
"""Seconds that git may take."""


def origin_of(by: str | None) -> Origin:
    """Here and now; ``by`` None means the login name. Raises UsageError when there is none."""
    from saeuron_guard.discovery.collecting import Origin

    return Origin(by or login_name(), utc_now(), git_revision(Path(saeuron_guard.__file__).resolve().parents[1]))


def login_name() -> str:
    """The name of whoever runs the program."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in a container; which of them, depends on Python's version
        raise click.UsageError("the login name is unknown; say who you are with --by") from None


def utc_now() -> str:
    """The time in UTC, to the second, as ISO 8601 has it."""
    return moment_text(datetime.now(UTC))


def git_revision(root: Path) -> str | None:
    """The commit that is checked out at ``root``, ``-dirty`` when files differ from it; None when it is no checkout.

    A wheel may be installed somewhere below another project's checkout, whose revision would say nothing.
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
