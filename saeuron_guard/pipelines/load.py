"""Loads a pipeline by registry name, from a local folder, or from the hub; safetensors only."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from packaging.version import Version

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError
from saeuron_guard.registry.records import ModelRecord
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.resources import inside

MODEL_INDEX = "model_index.json"
_LARGEST_INDEX = 1 << 20
_PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
_DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
"""What diffusers calls the argument; its older name warns from 0.42 on."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_pipeline(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    registry: FeatureRegistry | None = None,
) -> Any:
    """Load a diffusers pipeline, in ``dtype`` (default float32) on ``device`` (default the CPU).

    ``name_or_path``: a model of the registry (``emoji-canvas``), a local diffusers folder, or a hub id ("owner/name").
    A registered model's files are compared with their recorded digests first.
    Weights come from safetensors files alone, and no code of the model's own is run.
    The model's built-in safety checker is left out: what leaves the pipeline is the guard's business.
    ``registry``: where names are looked up; default the one that ``FeatureRegistry.open`` opens.

    Raises RegistryError for a name that nothing answers to, ArtefactError for files that are missing, malformed,
    pickled or not as pinned, and when the hub cannot be reached.
    """
    source = str(name_or_path)
    if isinstance(name_or_path, Path) or Path(source).name != source:
        folder = Path(source)
        if not folder.is_dir() and (isinstance(name_or_path, Path) or not _HUB_ID.fullmatch(source)):
            raise ArtefactError(f"{source}: no such folder; expected a diffusers folder with {MODEL_INDEX}")
        return _read(source, dtype, device)
    with ExitStack() as stack:
        opened = registry or stack.enter_context(FeatureRegistry.open())
        known = any(model.name == source for model in opened.models())
        if not known and Path(source).is_dir():
            return _read(source, dtype, device)
        record = opened.model(source)
        return _read(_registered_source(record, opened.artefact_root), dtype, device)


def _registered_source(record: ModelRecord, root: Path) -> str:
    """Where a registered model lies: below the registry folder if it ships there, else wherever its record says."""
    folder = inside(root, record.path) if not Path(record.path).is_absolute() else Path(record.path)
    if folder.is_dir():
        _check_files(folder, record.files)
        return str(folder)
    if record.files:
        raise ArtefactError(f"{folder}: model {record.name!r} is registered with files there, but there is no folder")
    return record.path


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Compare a folder with its pinned digests; in the component folders, an unpinned file counts as wrong, too."""
    if not files:
        return
    for relative, digest in sorted(files.items()):
        path = inside(folder, relative)
        if not path.is_file():
            raise ArtefactError(f"{path}: missing; restore it from where the registry came from")
        if (actual := digest_of_file(path)) != digest:
            raise ArtefactError(f"{path}: not the registered file (expected {digest}, got {actual}); restore it")
    for component in _components(folder):
        for path in sorted((folder / component).glob("*")):
            relative = path.relative_to(folder).as_posix()
            if path.suffix in {".json", ".safetensors"} and relative not in files:
                raise ArtefactError(f"{path}: the registry does not know this file; remove it, or register it")


def _read(source: str, dtype: torch.dtype | None, device: str | torch.device | None) -> Any:
    folder = Path(source) if Path(source).is_dir() else _download(source)
    arguments = _without_safety_checker(folder)
    try:
        with _quiet():
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, **{_DTYPE: dtype or torch.float32}, **arguments
            )
    except Exception as error:  # diffusers and transformers raise what they like
        raise ArtefactError(
            f"{source}: cannot be loaded as a pipeline; expected a complete diffusers folder with safetensors weights "
            f"({_first_line(error)})"
        ) from error
    return pipe.to(device) if device is not None else pipe


def _download(name: str) -> Path:
    """The folder of a hub model, downloaded unless it is there already; safetensors only."""
    try:
        return Path(diffusers.DiffusionPipeline.download(name, use_safetensors=True, safety_checker=None))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ArtefactError(
            f"{name}: no such folder, and the hub did not give it: check the name, the network and your access, or "
            f"download the model and give its folder ({_first_line(error)})"
        ) from error


def _components(folder: Path) -> dict[str, Any]:
    """Component name -> (library, class) of a local folder's ``model_index.json``."""
    path = folder / MODEL_INDEX
    try:
        with path.open("rb") as stream:
            fields = json.loads(stream.read(_LARGEST_INDEX))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}); expected a diffusers folder") from None
    if not isinstance(fields, dict):
        raise ArtefactError(f"{path}: expected a JSON object")
    return {name: value for name, value in fields.items() if isinstance(value, list) and value[:1] != [None]}


def _without_safety_checker(folder: Path) -> dict[str, Any]:
    """Arguments that leave the safety checker out, for a folder whose weights are all safetensors."""
    for component in _components(folder):
        files = [path for path in (folder / component).glob("*") if path.suffix in _PICKLES | {".safetensors"}]
        pickles = sorted(path for path in files if path.suffix in _PICKLES)
        if pickles and len(pickles) == len(files) and component != "safety_checker":
            raise ArtefactError(
                f"{pickles[0]}: pickled weights can run code and are not read; convert them to safetensors "
                "(save_pretrained does)"
            )
    class_name = json.loads((folder / MODEL_INDEX).read_bytes()).get("_class_name")
    pipeline_class = getattr(diffusers, str(class_name), None)
    if pipeline_class is None:
        raise ArtefactError(f"{folder / MODEL_INDEX}: {class_name!r} is not a pipeline of the installed diffusers")
    accepted = inspect.signature(pipeline_class.__init__).parameters
    arguments = {"safety_checker": None, "requires_safety_checker": False}
    return {name: value for name, value in arguments.items() if name in accepted}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' loading bars off the terminal; whoever wants progress shows their own."""
    with ExitStack() as stack:
        for logging in (diffusers.utils.logging, transformers.utils.logging):
            if logging.is_progress_bar_enabled():
                logging.disable_progress_bar()
                stack.callback(logging.enable_progress_bar)
        yield
