"""A fake of the hub: gives what ``snapshot_download`` gives, a folder of links into a cache, from a local folder."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


class FakeHub:
    """Repositories in ``remote/<owner>/<name>``, at one commit; ``asked`` remembers the calls."""

    commit = "c0ffee" * 6 + "beef"

    def __init__(self, folder: Path) -> None:
        self.remote = folder / "remote"
        self.cache = folder / "cache"
        self.asked: list[dict[str, Any]] = []

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str] | None = None
    ) -> str:
        """As huggingface_hub's: files matching one of the patterns, as links in ``snapshots/<commit>``."""
        self.asked.append({"repo_id": repo_id, "revision": revision, "allow_patterns": allow_patterns})
        if not (self.remote / repo_id).is_dir():
            raise ValueError(f"404 Client Error: repository {repo_id} not found")
        cached = self.cache / f"models--{repo_id.replace('/', '--')}"
        snapshot = cached / "snapshots" / self.commit
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in sorted((self.remote / repo_id).rglob("*")):
            name = path.relative_to(self.remote / repo_id).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns or ["*"]):
                blob = cached / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
                blob.parent.mkdir(exist_ok=True)
                blob.write_bytes(path.read_bytes())
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / name).unlink(missing_ok=True)
                (snapshot / name).symlink_to(blob)
        return str(snapshot)
