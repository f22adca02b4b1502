"""Places that commands write to, checked before the work that fills them."""

from __future__ import annotations

from pathlib import Path

from saeuron_guard.errors import ArtefactError


def make_folder(folder: Path) -> Path:
    """``folder``, made if missing; raises ArtefactError when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be made into a folder to write to: {error}") from error
    return folder


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8; raises ArtefactError when that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written: {error}") from error
