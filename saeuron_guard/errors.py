"""Every error the package raises on purpose, each with the exit code that the command line gives it.

A message says where, what, what was expected and got, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class SaeuronGuardError(Exception):
    """Base of all errors that users are meant to see; ``exit_code`` is the command line's answer."""

    exit_code = 3


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong at one place of a file; line and column count from 1, 0 when the whole file is meant."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class InvalidFile(SaeuronGuardError):
    """A file that people write (policy, prompt set, manifest) is not valid; carries all its problems at once."""

    exit_code = 2

    def __init__(self, problems: list[Problem] | tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PolicyError(InvalidFile):
    """A policy file is not valid."""


class PromptSetError(InvalidFile):
    """A prompt set file is not valid."""


class CompileError(InvalidFile):
    """A valid policy asks for something that the registry cannot give."""


class ManifestError(InvalidFile):
    """``registry/manifest.yaml`` is not valid: the shipped or imported truth is broken, so nothing can be evaluated."""

    exit_code = 3


class RegistryError(SaeuronGuardError):
    """The registry's database is missing something, damaged, or of another version."""


class ArtefactError(SaeuronGuardError):
    """A file of weights or statistics is missing, malformed, or not the one that was pinned."""


class ModelMismatch(SaeuronGuardError):
    """A pipeline is not the model that a guard was made for."""


class GuardNotEffective(SaeuronGuardError):
    """An attached guard did not act in every denoising step, so the images were withheld."""


class ImageRefused(SaeuronGuardError):
    """A concept that the policy refuses is present in an image, so no image of the pipeline call was given.

    ``refused``: which images (from 0), each with the concepts that are present in it.
    """

    def __init__(self, message: str, refused: Mapping[int, tuple[str, ...]]) -> None:
        super().__init__(message)
        self.refused = dict(refused)


class GuardWarning(RuntimeWarning):
    """What a guard that only observes or warns has to say; the images are given all the same."""


class DecisionLogError(SaeuronGuardError):
    """Decisions could not be logged, so the images of a guard that enforces were withheld."""


class CannotEvaluate(SaeuronGuardError):
    """A verification could not be carried out: neither passed nor failed."""
