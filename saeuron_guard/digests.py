"""Canonical JSON and the digests by which policies, guards and artefacts are pinned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no white space and no NaN: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """``sha256:...`` of a JSON value's canonical text."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """``sha256:...`` of a file's bytes, read in chunks."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return "sha256:" + state.hexdigest()


def image_seed(prompt_id: str, seed: int) -> int:
    """The random seed (63 bits) of one image, from its prompt's id and the run's seed alone.

    Results then depend neither on the order of the prompts nor on the batch an image falls in.
    """
    return int.from_bytes(hashlib.sha256(f"{prompt_id}\n{seed}".encode()).digest()[:8], "big") >> 1
