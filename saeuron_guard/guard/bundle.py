"""A compiled guard as a folder: ``guard.json`` says what is done, ``guard.safetensors`` carries the SAEs it needs."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.files import guard_json
from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.folder import ABOUT, CONFIG_FILE, WEIGHTS_FILE, check_folder, coder_config
from saeuron_guard.names import GUARD_FORMAT
from saeuron_guard.sae import files
from saeuron_guard.sae.header import expected_shapes
from saeuron_guard.sae.sparse_coder import SparseCoder


def write_bundle(folder: Path, config: GuardConfig, coders: Mapping[str, SparseCoder]) -> None:
    """Write a guard's folder (made if missing). The same guard gives the same files, byte for byte."""
    tensors: dict[str, Tensor] = {}
    about = {"format": GUARD_FORMAT, "guard": config.digest}
    for hookpoint, coder in sorted(coders.items()):
        stored = coder.stored()
        about[f"{hookpoint}/header"] = stored.header
        tensors |= {f"{hookpoint}/{name}": tensor for name, tensor in stored.tensors.items()}
    try:
        folder.mkdir(mode=0o775, parents=True, exist_ok=True)
        # one entry, since safetensors writes several in an order of its own, anew in every process
        save_file(tensors, folder / WEIGHTS_FILE, metadata={ABOUT: json.dumps(about, sort_keys=True)})
        (folder / CONFIG_FILE).write_text(guard_json(config), encoding="utf-8")
        # safetensors makes files that only their owner may read; a guard is compiled by one account and run by another,
        # and changed by no third
        mode = stat.S_IMODE((folder / CONFIG_FILE).stat().st_mode) & ~stat.S_IWOTH
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (folder / name).chmod(mode)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{folder}: the guard cannot be written ({error})") from None


def read_bundle(folder: Path) -> tuple[GuardConfig, dict[str, SparseCoder]]:
    """Read a guard's folder; ArtefactError unless every SAE is, bit for bit, the one that ``guard.json`` pins.

    The bytes that are checked are the bytes that are used.
    """
    checked = check_folder(folder)
    try:
        tensors = load(checked.weights)
    except (SafetensorError, ValueError) as error:
        raise ArtefactError(f"{folder / WEIGHTS_FILE}: not a readable safetensors file ({error})") from None
    coders = {}
    for point in checked.config.hookpoints:
        config = coder_config(point)
        own = {name: tensors[f"{point.hookpoint}/{name}"] for name in expected_shapes(config)}
        stored = files.StoredWeights(checked.headers[point.hookpoint], own)
        coders[point.hookpoint] = SparseCoder.from_stored(config, stored)
    return checked.config, coders
