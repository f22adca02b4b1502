"""Where the shipped data lies: beside the package in a checkout, inside it when installed from a wheel.

And how files are read that may be anybody's, and written that took long to make.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from saeuron_guard.errors import ArtefactError

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """Folder ``name`` (``registry``, ``policies`` or ``migrations``) as shipped.

    ``SAEURON_GUARD_HOME`` replaces the folder that holds all three.
    Raises ArtefactError when there is none.
    """
    home = os.environ.get("SAEURON_GUARD_HOME")
    candidates = [Path(home) / name] if home else [_PACKAGE / "_data" / name, _PACKAGE.parent / name]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise ArtefactError(f"no {name} folder (looked at {looked}); reinstall the package or set SAEURON_GUARD_HOME")


def state_folder() -> Path:
    """A folder for the built database: ``registry/`` of a checkout, else the user's data folder.

    Made if missing.
    """
    home = os.environ.get("SAEURON_GUARD_HOME")
    if home:
        folder = Path(home) / "registry"
    elif (_PACKAGE.parent / "pyproject.toml").is_file() and (_PACKAGE.parent / "registry").is_dir():
        folder = _PACKAGE.parent / "registry"
    else:
        folder = Path(platformdirs.user_data_dir("saeuron-guard", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"{folder}: the registry's database cannot be built there ({error.strerror or error}); name a database "
            "that exists in SAEURON_GUARD_DATABASE, or a writable folder with registry, policies and migrations in "
            "SAEURON_GUARD_HOME"
        ) from None
    return folder


def inside(root: Path, relative: str) -> Path:
    """``root / relative``, refusing a path that leads outside ``root`` (also through links)."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ArtefactError(f"{relative!r} leads outside {root}; give a path below it")
    return path


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of ``path``; ArtefactError when it is missing, not a regular file, or longer than ``limit``.

    Neither waits, as opening a pipe would, nor takes the memory for a file that is too long.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            state = os.fstat(stream.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ArtefactError(f"{path}: not a regular file")
            if state.st_size > limit:
                raise ArtefactError(f"{path}: has {state.st_size} bytes, expected at most {limit}")
            data = stream.read(state.st_size + 1)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) != state.st_size:
        raise ArtefactError(f"{path}: changed while it was read; read it again")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def write_whole(path: Path, content: str | Iterable[bytes | memoryview]) -> None:
    """Write ``path``, its folders made if missing; whoever is killed meanwhile leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    chunks = [content.encode()] if isinstance(content, str) else content
    with partial.open("wb") as stream:
        stream.writelines(chunks)
    partial.replace(path)
