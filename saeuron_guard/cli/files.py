"""Places that commands write to, checked before the work that fills them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from saeuron_guard.errors import ArtefactError, InvalidFile, Problem


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


def rewrite_text(path: Path, text: str) -> None:
    """Put ``text`` in the place of what the file ``path`` holds, whole or not at all, with the same permissions.

    Raises ArtefactError when that cannot be, InvalidFile for a symbolic link: what it points to may lie anywhere.
    """
    if path.is_symlink():
        raise InvalidFile([Problem(str(path), 0, 0, "this is a symbolic link, not written through; name its target")])
    if not os.access(path, os.W_OK):
        raise ArtefactError(f"{path}: cannot be written: it is read-only")
    partial: Path | None = None
    try:
        # A new name beside the file: nobody else's file is overwritten, and the last step cannot stop half-way.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        partial = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(path, partial)
        partial.replace(path)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written: {error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
