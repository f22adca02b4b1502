"""The files of a judge's folder, and the digest that pins them."""

from __future__ import annotations

import json
from pathlib import Path

from saeuron_guard.digests import digest_of, digest_of_file
from saeuron_guard.errors import ArtefactError

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
