"""Half-finished trainings on disk: safetensors, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saeuron_guard.errors import ArtefactError


def write_checkpoint(path: Path, states: Mapping[str, Mapping[str, Tensor]], run: str) -> None:
    """Save the state of each hookpoint's trainer; ``run`` names recipe, model, prompts and hookpoints by digest."""
    tensors = {f"{hookpoint}|{name}": tensor for hookpoint, state in states.items() for name, tensor in state.items()}
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata={"run": run})
        part.replace(path)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_checkpoint(path: Path, run: str) -> dict[str, dict[str, Tensor]] | None:
    """States by hookpoint, or None when there is no checkpoint; raises ArtefactError when it is of another run."""
    if not path.exists():
        return None
    states: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("run") != run:
                raise ArtefactError(
                    f"{path}: belongs to a run with another recipe, model or prompt set; "
                    "remove it to start anew, or choose another output folder"
                )
            for key in stored.keys():  # noqa: SIM118 - not a dict
                hookpoint, _, name = key.partition("|")
                states.setdefault(hookpoint, {})[name] = stored.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{path}: not a readable checkpoint ({error}); remove it to start anew") from None
    return states
