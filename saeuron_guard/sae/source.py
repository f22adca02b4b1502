"""Where a checkpoint to import lies: a local folder or a hub id, and the two files in it that are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saeuron_guard.errors import ArtefactError
from saeuron_guard.resources import read_limited
from saeuron_guard.sae import hub
from saeuron_guard.sae.header import LARGEST_CONFIG, LARGEST_WEIGHTS
from saeuron_guard.wording import did_you_mean, quote

CONFIG_FILE: Final = "cfg.json"
WEIGHTS_FILES: Final = {"sae.safetensors": "sparsify", "sae_weights.safetensors": "saelens"}
"""Name of the weights' file -> the format that has it."""

_PICKLES: Final = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_HUB_ID: Final = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?P<folder>(/[\w.-]+)*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?"
)
_EXPECTED: Final = f"expected {CONFIG_FILE} and one of {', '.join(WEIGHTS_FILES)}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The bytes of a checkpoint's two files. ``place`` names its folder in messages.

    ``source``: what it is called in provenance, with the subfolder; ``revision``: the hub's commit, else empty.
    ``files``: name -> digest.
    """

    place: str
    source: str
    revision: str
    format: str
    config: bytes
    weights: bytes
    files: dict[str, str]


def read_checkpoint(source: str, hookpoint: str, known: Iterable[str]) -> Checkpoint:
    """Read the checkpoint of ``hookpoint`` from ``source``: a folder, or ``owner/name[/subfolder][@revision]``.

    ``source`` holds the two files itself, or has a subfolder for each hookpoint, as sparsify and SAeUron lay them out.
    ``known``: the model's hookpoints; a folder that is named for another one of them is not taken for this one's.
    Raises ArtefactError for what is missing, pickled, too large, or a link that leads out of the source.
    """
    folder, boundary, name, revision = _opened(source, hookpoint)
    if not (folder / CONFIG_FILE).exists():
        folder, name = _subfolder(folder, hookpoint), f"{name}/{hookpoint}"
    elif folder.name != hookpoint and folder.name in set(known):
        raise ArtefactError(f"{folder}: is named for hookpoint {folder.name!r}; expected that of {hookpoint!r}")
    weights = _weights_file(folder)
    data = {
        CONFIG_FILE: _read_inside(folder / CONFIG_FILE, boundary, LARGEST_CONFIG),
        weights: _read_inside(folder / weights, boundary, LARGEST_WEIGHTS),
    }
    return Checkpoint(
        place=str(folder),
        source=name,
        revision=revision,
        format=WEIGHTS_FILES[weights],
        config=data[CONFIG_FILE],
        weights=data[weights],
        files={name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in data.items()},
    )


def _opened(source: str, hookpoint: str) -> tuple[Path, Path, str, str]:
    """The folder of ``source``, the folder that links may not leave, the source's name, and the hub's commit."""
    if Path(source).is_dir():
        return Path(source), Path(source), source, ""
    match = _HUB_ID.fullmatch(source)
    parts = match["folder"].strip("/").split("/") if match and match["folder"] else []
    if match is None or {".", ".."} & {*parts, *match["repository"].split("/")}:
        raise ArtefactError(
            f"{source}: no such folder, and not a hub id; expected a folder, or owner/name[/subfolder][@revision]"
        )
    wanted = [f"{folder}{name}" for folder in ("", f"{hookpoint}/") for name in (CONFIG_FILE, *WEIGHTS_FILES)]
    prefix = "".join(f"{part}/" for part in parts)
    snapshot = hub.fetch(match["repository"], match["revision"] or "", [prefix + name for name in wanted])
    folder = snapshot.folder.joinpath(*parts)
    if not folder.is_dir():
        raise ArtefactError(f"{source}: nothing of a checkpoint there at commit {snapshot.commit}; {_EXPECTED}")
    return folder, snapshot.cache, "/".join([match["repository"], *parts]), snapshot.commit


def _subfolder(folder: Path, hookpoint: str) -> Path:
    """The hookpoint's own folder; ArtefactError when there is none, with what is there instead."""
    inner = folder / hookpoint
    if inner.is_dir():
        return inner
    if any((folder / name).exists() for name in WEIGHTS_FILES):
        raise ArtefactError(f"{folder / CONFIG_FILE}: missing beside the weights; {_EXPECTED}")
    _refuse_pickles(folder)
    others = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    there = f" It has {', '.join(others)}.{did_you_mean(hookpoint, others)}" if others else ""
    raise ArtefactError(f"{folder}: has neither {CONFIG_FILE} nor a subfolder {quote(hookpoint)}; {_EXPECTED}.{there}")


def _weights_file(folder: Path) -> str:
    found = [name for name in WEIGHTS_FILES if (folder / name).exists()]
    if len(found) == 2:
        raise ArtefactError(f"{folder}: holds {' and '.join(found)}, of two formats; keep the one to import")
    if found:
        return found[0]
    _refuse_pickles(folder)
    raise ArtefactError(f"{folder}: holds no weights; {_EXPECTED}")


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ArtefactError(
            f"{folder / pickles[0]}: pickled weights can run code and are not read; {_EXPECTED}. "
            "Have whoever made the checkpoint save it as safetensors."
        )


def _read_inside(path: Path, boundary: Path, limit: int) -> bytes:
    """The bytes of a file; ArtefactError when it lies outside ``boundary`` or is larger than ``limit`` bytes."""
    real = path.resolve()
    if not real.is_relative_to(boundary.resolve()):
        raise ArtefactError(f"{path}: is a link out of {boundary}, to {real}; copy the file, or give the hub id")
    return read_limited(real, limit)
