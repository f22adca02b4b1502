"""Finds the file of a policy that another one extends; nothing outside the extending file's folder is ever read."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath

from saeuron_guard.errors import ArtefactError
from saeuron_guard.policy.model import Policy
from saeuron_guard.resources import data_folder
from saeuron_guard.wording import did_you_mean, quote

_SUFFIXES = (".yaml", ".yml")
_RETAINED = "retain.prompts."


def find_base(name: str, resolved: Path, folder: Path) -> Path:
    """The file that ``name`` means in a policy whose folder is ``folder``, without links ``resolved``.

    A name without .yaml is that of a shipped policy.  Raises ValueError, with the message for the policy's author, when
    there is no such file or it is not in or below the folder, be it through a symbolic link.
    """
    if not name.endswith(_SUFFIXES):
        return _shipped(name)
    if "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{quote(name)} must be a path in or below this file's folder, with forward slashes")
    path = folder / name
    if not path.resolve().is_relative_to(resolved):
        raise ValueError(
            f"{quote(name)} is a symbolic link, or lies behind one, that leads out of this file's folder; "
            f"copy the policy into the folder"
        )
    if not path.is_file():
        there = [str(other.relative_to(folder).as_posix()) for other in sorted(folder.glob("**/*.y*ml"))[:200]]
        raise ValueError(f"there is no policy {quote(name)} in this file's folder.{did_you_mean(name, there)}")
    return path


def seen_from(folder: Path, base: Policy) -> Policy:
    """``base`` with the paths of its prompt sets as a policy in ``folder`` has to write them to mean the same files."""
    home = Path(base.file).parent
    if home == folder:
        return base

    def moved(name: str) -> str:
        if not name.endswith(_SUFFIXES) or Path(name).is_absolute():
            return name
        path = Path(os.path.normpath(home / name))
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path.absolute())

    places = {
        key.replace(name, moved(name)) if (name := key.removeprefix(_RETAINED)) != key else key: place
        for key, place in base.places.items()
    }
    return dataclasses.replace(
        base,
        audit=dataclasses.replace(base.audit, prompts=moved(base.audit.prompts)),
        retain=dataclasses.replace(base.retain, prompts=tuple(map(moved, base.retain.prompts))),
        places=places,
    )


def shipped_policies() -> dict[str, Path]:
    """The policies that ship, by name."""
    try:
        folder = data_folder("policies")
    except ArtefactError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _shipped(name: str) -> Path:
    known = shipped_policies()
    if name in known:
        return known[name]
    shipped = f" Shipped are {', '.join(known)}." if known else ""
    raise ValueError(f"no policy {quote(name)} is shipped; a path ends in .yaml.{did_you_mean(name, known) or shipped}")
