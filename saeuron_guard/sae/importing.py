"""Somebody else's SAE becomes one of a registry: read, checked against the model, converted, written, recorded."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load

from saeuron_guard.errors import ArtefactError, RegistryError
from saeuron_guard.registry.additions import check_sae_fits, model_in, with_sae
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from saeuron_guard.registry.records import ModelRecord, SaeRecord
from saeuron_guard.resources import inside
from saeuron_guard.sae import files
from saeuron_guard.sae.conversion import Converted, Plan, check_header, convert
from saeuron_guard.sae.foreign import plan_of, stated_hookpoint
from saeuron_guard.sae.header import split_header
from saeuron_guard.sae.source import CONFIG_FILE, Checkpoint, read_checkpoint
from saeuron_guard.sae.sparse_coder import SparseCoder
from saeuron_guard.wording import did_you_mean, quote

VARIANT: Final = "imported"
"""Of every SAE that was trained elsewhere: how the training chose its latents' meaning is not known here."""

_HOOKPOINT: Final = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}")


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to import, and under which name into which registry.

    ``source``: a folder, or ``owner/name[/subfolder][@revision]`` of the hub.  ``name``: "" for one made from model and
    hookpoint.  ``k``: in place of the source's, or None.  ``when``: ISO 8601; ``by``: who, or "".
    """

    source: str
    model: str
    hookpoint: str
    manifest: Path
    when: str
    name: str = ""
    k: int | None = None
    replace: bool = False
    by: str = ""

    @property
    def sae(self) -> str:
        """The name that the SAE gets."""
        return self.name or f"{self.model}-{self.hookpoint}".replace(" ", "-")

    @property
    def path(self) -> str:
        """The SAE's folder, below the registry's."""
        return f"saes/{self.model}/{self.hookpoint}"


def import_sae(request: ImportRequest) -> SaeRecord:
    """Import an SAE; everything is checked before anything is written, and all of it is written or nothing.

    Raises ManifestError for a manifest that is not valid, RegistryError for a model, hookpoint or name that does not
    fit, ArtefactError for a checkpoint that cannot be read, does not fit the hookpoint or computes something else.
    """
    manifest = load_manifest(request.manifest)
    model = model_in(manifest, request.model, request.manifest)
    width = _width(model, request.hookpoint)
    if not _NAME.fullmatch(request.sae):
        raise RegistryError(
            f"{quote(request.sae)} is not an SAE's name; give one of letters, digits and ._/- by --name"
        )
    check_sae_fits(manifest, request.sae, request.path, replace=request.replace)
    destination = inside(request.manifest.absolute().parent, request.path)
    if destination.exists() and not any(sae.path == request.path for sae in manifest.saes) and not request.replace:
        raise ArtefactError(f"{destination}: is there, but the manifest does not name it; remove it, or give --replace")
    checkpoint = read_checkpoint(request.source, request.hookpoint, model.hookpoints)
    plan, converted = _converted(checkpoint, request, model, width)
    coder = SparseCoder.from_stored(plan.config, files.serialise(converted.tensors))
    record = SaeRecord(
        name=request.sae,
        model=model.name,
        hookpoint=request.hookpoint,
        path=request.path,
        digest=coder.digest,
        d_in=plan.config.d_in,
        num_latents=plan.config.num_latents,
        k=plan.config.k,
        variant=VARIANT,
        fvu=None,
        dead_share=None,
        l0=None,
        provenance=_provenance(checkpoint, request, model, plan, converted),
    )
    extended = with_sae(manifest, record, replace=request.replace)
    with _placed(lambda folder: _write(coder, folder, request.hookpoint), destination):
        write_manifest(extended, request.manifest)
    return record


def _width(model: ModelRecord, hookpoint: str) -> int:
    """How many channels the model has at the hookpoint; RegistryError when it is none of the model's."""
    if not model.hookpoints:
        raise RegistryError(
            f"model {quote(model.name)} is registered without the widths of its hookpoints; measure them with "
            '"saeuron-guard registry add-model" and --replace'
        )
    if hookpoint not in model.hookpoints or not _HOOKPOINT.fullmatch(hookpoint):
        raise RegistryError(
            f"model {quote(model.name)} has no hookpoint {quote(hookpoint)}."
            f"{did_you_mean(hookpoint, model.hookpoints)} "
            "The manifest lists those that were measured, under the model's hookpoints."
        )
    return model.hookpoints[hookpoint]


def _converted(
    checkpoint: Checkpoint, request: ImportRequest, model: ModelRecord, width: int
) -> tuple[Plan, Converted]:
    """The checkpoint in this package's form, after comparing configuration, header and values, in this order."""
    place = f"{checkpoint.place}/{CONFIG_FILE}"
    text = checkpoint.config.decode("utf-8", errors="replace")
    plan = plan_of(checkpoint.format, text, place, request.k)
    if (stated := stated_hookpoint(text)) in model.hookpoints and stated != request.hookpoint:
        raise ArtefactError(f"{place}: says that it is of hookpoint {stated!r}, expected {request.hookpoint!r}")
    if plan.config.d_in != width:
        raise ArtefactError(
            f"{place}: d_in is {plan.config.d_in}, expected {width}, the width of {request.hookpoint} of {model.name}; "
            "the SAE belongs to another hookpoint or model"
        )
    weights = next(name for name in checkpoint.files if name != CONFIG_FILE)
    place = f"{checkpoint.place}/{weights}"
    check_header(split_header(checkpoint.weights, Path(place)), plan, place)
    try:
        stored = load(checkpoint.weights)
    except (SafetensorError, ValueError) as error:
        raise ArtefactError(f"{place}: not a readable safetensors file ({error})") from None
    return plan, convert(plan, stored, place)


def _provenance(
    checkpoint: Checkpoint, request: ImportRequest, model: ModelRecord, plan: Plan, converted: Converted
) -> dict[str, object]:
    libraries = ["safetensors", "torch", *(["huggingface_hub"] if checkpoint.revision else [])]
    found: dict[str, object] = {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "files": checkpoint.files,
        "format": checkpoint.format,
        "architecture": plan.architecture,
        "trained_with": {"training_top_k": plan.training_top_k, "inference_top_k": "position"},
        **converted.notes,
        "conversion": list(converted.steps),
        "model_fingerprint": model.fingerprint,
        "imported_at": request.when,
        "imported_by": request.by,
        "libraries": {name: version(name) for name in libraries},
    }
    return {name: value for name, value in found.items() if value not in ("", [])}


def _write(coder: SparseCoder, folder: Path, hookpoint: str) -> None:
    """Write the SAE's two files; ``cfg.json`` names the hookpoint beside sparsify's fields."""
    coder.save(folder)
    fields: dict[str, Any] = {**json.loads(coder.config.text()), "hookpoint": hookpoint, "variant": VARIANT}
    (folder / CONFIG_FILE).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _placed(write: Callable[[Path], None], destination: Path) -> Iterator[None]:
    """Inside, ``destination`` is the folder that ``write`` filled; an exception inside brings back what was there."""
    token = secrets.token_hex(4)
    draft, before = (destination.with_name(f".{destination.name}.{token}.{end}") for end in ("new", "old"))
    made = [folder for folder in (destination.parent, destination.parent.parent) if not folder.exists()]
    placed = False
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        if destination.exists():
            destination.rename(before)
        draft.rename(destination)
        placed = True
        yield
    except BaseException as error:
        shutil.rmtree(destination if placed else draft, ignore_errors=True)
        if before.exists():
            before.rename(destination)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OSError):
            raise ArtefactError(f"{destination}: cannot be written ({error.strerror or error})") from None
        raise
    shutil.rmtree(before, ignore_errors=True)
