"""Where the shipped data lies: beside the package in a checkout, inside it when installed from a wheel.

And how files that took long to make are written.
"""

from __future__ import annotations

import os
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


def write_whole(path: Path, content: str | Iterable[bytes | memoryview]) -> None:
    """Write ``path``, its folders made if missing; whoever is killed meanwhile leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    chunks = [content.encode()] if isinstance(content, str) else content
    with partial.open("wb") as stream:
        stream.writelines(chunks)
    partial.replace(path)
