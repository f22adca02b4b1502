"""The files of a judge's folder, and the digest that pins them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from saeuron_guard.digests import digest_of, digest_of_file
from saeuron_guard.errors import ArtefactError
from saeuron_guard.resources import inside

_PINNED = {".json", ".safetensors", ".txt", ".model"}
"""Suffixes of files that change what a judge says: settings, weights, vocabularies. Not its documentation."""

_REFUSED = {".bin", ".pt", ".pth", ".pkl", ".npy", ".npz"}
"""Suffixes of weights that may hold pickled code."""


def folder_digest(folder: Path) -> str:
    """Digest of all settings, weights and vocabularies below ``folder``, with their relative names.

    Raises ArtefactError when the folder is missing, holds none, or holds weights in a format that may carry code.
    """
    if not folder.is_dir():
        raise ArtefactError(f"no judge at {folder}; expected a folder with its settings and weights")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    refused = [path.name for path in files if path.suffix in _REFUSED]
    if refused:
        raise ArtefactError(
            f"{folder} holds {', '.join(refused)}: only safetensors weights are read; remove the others"
        )
    pinned = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in files if path.suffix in _PINNED}
    if not any(name.endswith(".safetensors") for name in pinned):
        raise ArtefactError(f"{folder} holds no safetensors weights, so it is not a judge")
    return digest_of(pinned)


def read_settings(path: Path) -> dict[str, object]:
    """The JSON object in ``path``; raises ArtefactError when it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compare the folder with its registered digests; raises ArtefactError for any difference.

    A setting, weight or vocabulary file that is not registered counts as a difference, too.
    """
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in _PINNED}
    if unknown := sorted(present - set(files)):
        raise ArtefactError(f"{folder}: the registry does not know {', '.join(unknown)}; remove or register them")
    for relative, expected in sorted(files.items()):
        path = inside(folder, relative)
        if not path.is_file():
            raise ArtefactError(f"{path}: missing; restore it from where the registry came from")
        if (actual := digest_of_file(path)) != expected:
            raise ArtefactError(f"{path}: not the registered file (expected {expected}, got {actual}); restore it")
