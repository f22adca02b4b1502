"""The one place where SAE checkpoints are fetched from the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saeuron_guard.errors import ArtefactError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SNAPSHOTS = "snapshots"
"""The hub's cache has a folder of this name, with one folder for each commit in it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of a hub repository as of ``commit``; ``cache`` is the folder that its links may lead within."""

    folder: Path
    cache: Path
    commit: str


def fetch(repository: str, revision: str, names: Sequence[str]) -> Snapshot:
    """Those of the files ``names`` that the repository has, at ``revision`` ("": its default branch).

    Nothing else is downloaded.
    Raises ArtefactError when the hub does not give them, or does not say of which commit they are.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(names)))
    except Exception as error:  # the hub's client raises errors of several libraries
        first_line = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        raise ArtefactError(
            f"{repository}: no such folder, and the hub did not give it: check the name, the revision, the network "
            f"and your access, or download the checkpoint and give its folder ({first_line})"
        ) from error
    if folder.parent.name != _SNAPSHOTS or not _COMMIT.fullmatch(folder.name):
        raise ArtefactError(
            f"{folder}: expected the hub's .../{_SNAPSHOTS}/<commit>; of which commit this is, is unknown"
        )
    return Snapshot(folder, folder.parent.parent, folder.name)
