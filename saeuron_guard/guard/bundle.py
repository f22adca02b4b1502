"""A compiled guard as a folder: ``guard.json`` says what is done, ``guard.safetensors`` carries the SAEs it needs.

``guard.json`` pins everything.
It states the digest of each SAE's original file, and ``guard.safetensors`` keeps, beside the tensors, that file's
header, so that the digest is computed again from what the folder holds: no bit of a weight can change unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from saeuron_guard.compiler.config import GuardConfig, HookpointConfig
from saeuron_guard.compiler.files import guard_json, parse_guard_json
from saeuron_guard.errors import ArtefactError
from saeuron_guard.names import GUARD_FORMAT
from saeuron_guard.sae import files
from saeuron_guard.sae.config import SparseCoderConfig
from saeuron_guard.sae.sparse_coder import SparseCoder

CONFIG_FILE = "guard.json"
WEIGHTS_FILE = "guard.safetensors"
ABOUT = "saeuron-guard"
"""The one metadata entry of ``guard.safetensors``: a JSON object."""
LARGEST_CONFIG = 1 << 26
"""64 MiB of guard.json: a thousand features at a thousand timesteps take half of it."""


def write_bundle(folder: Path, config: GuardConfig, coders: Mapping[str, SparseCoder]) -> None:
    """Write a guard's folder (made if missing). The same guard gives the same files, byte for byte."""
    tensors: dict[str, Tensor] = {}
    about = {"format": GUARD_FORMAT, "guard": config.digest}
    for hookpoint, coder in sorted(coders.items()):
        stored = coder.stored()
        about[f"{hookpoint}/header"] = stored.header
        tensors |= {f"{hookpoint}/{name}": tensor for name, tensor in stored.tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # one entry, since safetensors writes several in an order of its own, anew in every process
        save_file(tensors, folder / WEIGHTS_FILE, metadata={ABOUT: json.dumps(about, sort_keys=True)})
        (folder / CONFIG_FILE).write_text(guard_json(config), encoding="utf-8")
        # safetensors makes files that only their owner may read; a guard is compiled by one account and run by another
        (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{folder}: the guard cannot be written ({error})") from None


def read_bundle(folder: Path) -> tuple[GuardConfig, dict[str, SparseCoder]]:
    """Read a guard's folder; ArtefactError unless every SAE is, bit for bit, the one that ``guard.json`` pins."""
    path = folder / CONFIG_FILE
    text = files.read_limited(path, LARGEST_CONFIG).decode("utf-8", errors="replace")
    config = parse_guard_json(text, str(path))
    path = folder / WEIGHTS_FILE
    data = files.read_limited(path, files.LARGEST_WEIGHTS)
    metadata = read_metadata(data, path)
    if metadata.get("guard") != config.digest:
        raise ArtefactError(f"{path}: belongs to another guard than {CONFIG_FILE} ({metadata.get('guard')!r})")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise ArtefactError(f"{path}: not a readable safetensors file ({error})") from None
    expected = {f"{point.hookpoint}/{name}" for point in config.hookpoints for name in _names(point)}
    if set(tensors) != expected:
        raise ArtefactError(f"{path}: tensors {sorted(set(tensors) ^ expected)} are missing or unexpected")
    return config, {point.hookpoint: read_coder(point, tensors, metadata, path) for point in config.hookpoints}


def read_coder(
    point: HookpointConfig, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], path: Path
) -> SparseCoder:
    """One hookpoint's SAE out of a bundle's tensors, checked against the digest of its original file."""
    place = f"{path}: {point.hookpoint}"
    config = _coder_config(point)
    header = metadata.get(f"{point.hookpoint}/header")
    if not isinstance(header, str) or len(header) > files.LARGEST_HEADER:
        raise ArtefactError(f"{place}: the header of its SAE's file is missing")
    files.check_layout(header, config, place)
    described = files.entries(header, place)
    own = {name: tensors[f"{point.hookpoint}/{name}"] for name in described}
    for name, tensor in own.items():
        wanted = (files.STORED_DTYPES[described[name]["dtype"]], tuple(described[name]["shape"]))
        if (tensor.dtype, tuple(tensor.shape)) != wanted:
            raise ArtefactError(f"{place}: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {wanted}")
    stored = files.StoredWeights(header, own)
    if (actual := files.digest_of_weights(stored, place)) != point.sae_digest:
        raise ArtefactError(
            f"{place}: not the SAE that the guard was compiled for (expected {point.sae_digest}, got {actual}); "
            "compile the policy again"
        )
    files.check_finite(own, place)
    return SparseCoder.from_stored(config, stored)


def read_metadata(data: bytes, path: Path) -> dict[str, Any]:
    """What ``guard.safetensors`` says about itself in its header."""
    try:
        metadata = json.loads(json.loads(files.split_header(data, path)).get("__metadata__", {}).get(ABOUT, "{}"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ArtefactError(f"{path}: not a safetensors file (its header is malformed)") from None
    if not isinstance(metadata, dict) or metadata.get("format") != GUARD_FORMAT:
        raise ArtefactError(f"{path}: not a guard's weights (expected the format {GUARD_FORMAT!r})")
    return metadata


def _coder_config(point: HookpointConfig) -> SparseCoderConfig:
    return SparseCoderConfig(d_in=point.d_in, num_latents=point.num_latents, k=point.k)


def _names(point: HookpointConfig) -> list[str]:
    return list(files.expected_shapes(_coder_config(point)))
