"""A compiled guard's folder, checked to its last bit without torch: what ``Guard.load`` and ``guard inspect`` share.

``guard.json`` pins everything.
It states the digest of each SAE's original file, and ``guard.safetensors`` keeps, beside the tensors, that file's
header, so that the digest is computed again from what the folder holds: no bit of a weight can change unnoticed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, Final

from saeuron_guard.compiler.config import GuardConfig, HookpointConfig
from saeuron_guard.compiler.files import parse_guard_json
from saeuron_guard.errors import ArtefactError
from saeuron_guard.names import GUARD_FORMAT
from saeuron_guard.resources import inside, read_limited
from saeuron_guard.sae import header
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.strict_json import read_json
from saeuron_guard.wording import one_line, quote

CONFIG_FILE: Final = "guard.json"
WEIGHTS_FILE: Final = "guard.safetensors"
GUARD_FILES: Final = frozenset({CONFIG_FILE, WEIGHTS_FILE})
ABOUT: Final = "saeuron-guard"
"""The one metadata entry of ``guard.safetensors``: a JSON object."""
LARGEST_CONFIG: Final = 1 << 26
"""64 MiB of guard.json: a thousand features at a thousand timesteps take half of it."""

_Tensors = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CheckedFolder:
    """A guard's configuration, the bytes of its weights, and the header of the file that each hookpoint's SAE was."""

    config: GuardConfig
    weights: bytes
    headers: dict[str, str]


def check_folder(folder: Path) -> CheckedFolder:
    """Read a guard's folder; ArtefactError unless it holds one guard and every bit of it is what ``guard.json`` pins.

    What is not a guard is refused at once: no pipe is waited for, no link is followed out of the folder, and nothing
    is read that is longer than a guard may be.
    """
    _check_files(folder)
    path = folder / CONFIG_FILE
    try:
        text = read_limited(inside(folder, CONFIG_FILE), LARGEST_CONFIG).decode("utf-8")
    except UnicodeDecodeError:
        raise ArtefactError(
            f"{path}: not a guard's configuration (it is not UTF-8). Compile the policy again."
        ) from None
    config = parse_guard_json(text, str(path))
    path = folder / WEIGHTS_FILE
    weights = read_limited(inside(folder, WEIGHTS_FILE), _largest_weights(config, folder / CONFIG_FILE))
    text = header.split_header(weights, path)
    about = _about(text, path)
    if about.get("guard") != config.digest:
        other = one_line(str(about.get("guard")))
        raise ArtefactError(f"{path}: belongs to another guard than {CONFIG_FILE} ({other})")
    tensors = header.entries(text, str(path))
    _check_tensors(config, tensors, path)
    values = memoryview(weights)[header.LENGTH + len(text.encode()) :]
    header.check_offsets(tensors, len(values), str(path))
    headers = {point.hookpoint: _check_sae(point, tensors, values, about, path) for point in config.hookpoints}
    return CheckedFolder(config, weights, headers)


def coder_config(point: HookpointConfig) -> SparseCoderConfig:
    """The sizes of a hookpoint's SAE; ArtefactError when no SAE has them."""
    return SparseCoderConfig(d_in=point.d_in, num_latents=point.num_latents, k=point.k)


def _check_files(folder: Path) -> None:
    """Raise ArtefactError unless ``folder`` holds the two files of a guard, nothing else, and not for all to change."""
    try:
        with os.scandir(folder) as listing:
            there = {entry.name for entry in islice(listing, len(GUARD_FILES) + 3)}
        for name in sorted(GUARD_FILES):
            if not os.path.lexists(folder / name):
                raise ArtefactError(f'{folder}: no {name}; write a guard folder with "saeuron-guard compile"')
        modes = {path: path.stat().st_mode for path in (folder, *(inside(folder, name) for name in GUARD_FILES))}
    except (OSError, RuntimeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ArtefactError(f"{folder}: not a readable guard folder ({problem})") from None
    if foreign := sorted(there - GUARD_FILES):
        raise ArtefactError(
            f"{folder}: holds other files than a guard's ({', '.join(map(quote, foreign[:3]))}); move them "
            "away, or compile the policy into a new folder"
        )
    for path, mode in modes.items():
        sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
        if os.name == "posix" and mode & stat.S_IWOTH and not sticky:
            raise ArtefactError(f'{path}: every account may change it; run "chmod o-w" on it, and compile it again')


def _largest_weights(config: GuardConfig, path: Path) -> int:
    """How many bytes the weights of ``config`` take at most."""
    try:
        shapes = [header.expected_shapes(coder_config(point)) for point in config.hookpoints]
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}") from None
    values = sum(prod(shape) for sizes in shapes for shape in sizes.values())
    return min(header.LENGTH + header.LARGEST_HEADER + 4 * values, header.LARGEST_WEIGHTS)


def _about(text: str, path: Path) -> dict[str, Any]:
    """What ``guard.safetensors`` says about itself in its header."""
    try:
        about = read_json(read_json(text).get("__metadata__", {}).get(ABOUT, "{}"))
    except (ValueError, AttributeError, TypeError):
        raise ArtefactError(f"{path}: not a safetensors file (its header is malformed)") from None
    if not isinstance(about, dict) or about.get("format") != GUARD_FORMAT:
        raise ArtefactError(f"{path}: not a guard's weights (expected the format {GUARD_FORMAT!r})")
    return about


def _check_tensors(config: GuardConfig, tensors: _Tensors, path: Path) -> None:
    """Raise ArtefactError unless the file describes the tensors of every SAE, and no others."""
    expected = {
        f"{point.hookpoint}/{name}": shape
        for point in config.hookpoints
        for name, shape in header.expected_shapes(coder_config(point)).items()
    }
    if odd := sorted(tensors.keys() ^ expected.keys()):
        shown = ", ".join(map(quote, odd[:3]))
        raise ArtefactError(f"{path}: tensors {shown} are missing or unexpected ({len(odd)} in all)")
    for name, shape in expected.items():
        header.check_tensor(tensors[name], shape, f"{path}: {name}")


def _check_sae(
    point: HookpointConfig, tensors: _Tensors, values: memoryview, about: Mapping[str, Any], path: Path
) -> str:
    """The header of a hookpoint's original file; ArtefactError unless it and its tensors give the pinned digest."""
    place = f"{path}: {point.hookpoint}"
    text = about.get(f"{point.hookpoint}/header")
    if not isinstance(text, str) or len(text) > header.LARGEST_HEADER:
        raise ArtefactError(f"{place}: the header of its SAE's file is missing")
    header.check_layout(text, coder_config(point), place)
    described = header.entries(text, place)
    own = {name: tensors[f"{point.hookpoint}/{name}"] for name in described}
    for name, entry in own.items():
        if entry["dtype"] != described[name]["dtype"]:
            raise ArtefactError(f"{place}: {name} is {entry['dtype']}, expected {described[name]['dtype']}")
    encoded = text.encode("utf-8", errors="replace")
    state = hashlib.sha256(len(encoded).to_bytes(header.LENGTH, "little") + encoded)
    parts = {name: values[slice(*entry["data_offsets"])] for name, entry in own.items()}
    for name in header.by_offset(described):
        state.update(parts[name])
    if (actual := "sha256:" + state.hexdigest()) != point.sae_digest:
        raise ArtefactError(
            f"{place}: not the SAE that the guard was compiled for (expected {point.sae_digest}, got {actual}); "
            "compile the policy again"
        )
    for name, part in parts.items():
        if not header.all_finite(part, own[name]["dtype"]):
            raise ArtefactError(f"{place}: {name} holds values that are not finite numbers")
    return text
