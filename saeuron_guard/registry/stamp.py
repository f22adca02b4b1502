"""Who changed the registry, and when."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who and when, as it is recorded: a name, and ``2025-01-31T12:00:00Z``."""

    by: str
    when: str

    @classmethod
    def now(cls, by: str | None = None) -> Self:
        """The stamp of this process: its login name (or ``by``) and the clock's time.

        For the program's edges: a command, or somebody who opens a registry. Everything below takes a stamp.
        """
        return cls(by or login_name(), moment_text(datetime.now(UTC)))


def login_name() -> str:
    """The name of the account that runs the process; its number where it has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # KeyError before Python 3.13, ImportError where there is no pwd
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown account"


def moment_text(moment: datetime) -> str:
    """A time as the registry writes it: UTC, to the second. Raises ValueError for one without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def is_moment(text: str) -> bool:
    """Whether ``text`` is a time as the registry writes it."""
    try:
        moment = datetime.strptime(text, FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return False
    return moment_text(moment) == text
