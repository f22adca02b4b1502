"""How a guard warns: of each image, in words that say what was done."""

from __future__ import annotations

import re
import warnings

from saeuron_guard.errors import GuardWarning

_WITHHELD = re.compile(r"(, so its result is withheld|[;,] (the )?images are withheld|[;,] it is withheld)")


def warn(message: str) -> None:
    """Issue a GuardWarning.

    Without a registry, because Python's default filter shows a text once for each place in the code, and the next image
    of the same concept has the same text.
    """
    warnings.warn_explicit(message, GuardWarning, filename=__file__, lineno=0, module=__name__)


def warn_once(message: str) -> None:
    """Issue a GuardWarning that Python's default filter shows once: for what is so in every step."""
    warnings.warn(message, GuardWarning, stacklevel=2)


def as_told(error: Exception) -> str:
    """What ``error`` says, of images that were not withheld."""
    return _WITHHELD.sub("", str(error))
