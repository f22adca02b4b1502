"""What a registry's manifest says about a diffusion model, gathered from the loaded pipeline."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saeuron_guard.digests import digest_of_file
from saeuron_guard.discovery.hookpoints import denoiser_of, measure_hookpoints
from saeuron_guard.discovery.runs import library_versions
from saeuron_guard.errors import ArtefactError, CannotEvaluate
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.pipelines.load import MODEL_INDEX
from saeuron_guard.registry.records import ModelRecord

_FAMILIES: Final = (
    ("StableDiffusionXL", "sdxl"),
    ("StableDiffusion3", "sd3"),
    ("Flux", "flux"),
    ("PixArt", "pixart"),
    ("QwenImage", "qwen-image"),
    ("Sana", "sana"),
    ("HunyuanDiT", "hunyuan-dit"),
    ("AuraFlow", "auraflow"),
    ("Lumina", "lumina"),
    ("Chroma", "chroma"),
    ("StableDiffusion", "sd1"),
)
"""How a pipeline's class begins -> family; the first that fits."""

_SD2_TEXT_WIDTH: Final = 1024
"""Channels of SD 2's text encoder, from which its UNet is told from SD 1's (768)."""

_PINNED: Final = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Endings of the files of a component that loading reads: configurations, weights, tokenizers."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """How images are made with a model; None where the pipeline's own default is wanted, "" for the found family."""

    steps: int | None = None
    guidance: float | None = None
    resolution: int | None = None
    family: str = ""
    licence: str = ""


def model_entry(
    pipe: Any, name: str, source: str, root: Path, defaults: Defaults, provenance: Mapping[str, object]
) -> ModelRecord:
    """The record of a pipeline that was loaded from ``source``, a local folder or a hub id.

    ``root``: the registry's folder. A local folder below it is recorded by its path there, with the digest of each
    file; one elsewhere by its absolute path, and a hub id as it is, without: the fingerprint tells those.
    Raises CannotEvaluate when something is neither given nor to be found out, with the option that gives it.
    """
    folder = Path(source).resolve() if Path(source).is_dir() else None
    below = folder is not None and folder.is_relative_to(root.resolve())
    path = folder.relative_to(root.resolve()).as_posix() if folder and below else str(folder or source)
    revision = _hub_revision(pipe) if folder is None else ""
    return ModelRecord(
        name=name,
        family=defaults.family or family_of(pipe),
        path=path,
        fingerprint=fingerprint(pipe),
        resolution=defaults.resolution or _resolution(pipe),
        steps=_call_default(pipe, "num_inference_steps", "--steps") if defaults.steps is None else defaults.steps,
        guidance=float(
            _call_default(pipe, "guidance_scale", "--guidance") if defaults.guidance is None else defaults.guidance
        ),
        scheduler=type(pipe.scheduler).__name__,
        files=_files(folder) if folder and below else {},
        licence=defaults.licence,
        provenance={
            "source": path if below else source,
            **({"revision": revision} if revision else {}),
            "pipeline": type(pipe).__name__,
            "libraries": library_versions(),
            **provenance,
        },
        hookpoints=measure_hookpoints(pipe),
    )


def family_of(pipe: Any) -> str:
    """The family of a pipeline, from its class and, where classes are shared, its denoiser's configuration.

    ``sd1``, ``sd2``, ``sdxl``, ``sd3``, ``flux``, ``pixart`` and so on; for a class that is not known here, its name.
    """
    kind = type(pipe).__name__
    family = next((family for start, family in _FAMILIES if kind.startswith(start)), "")
    if family == "sd1" and getattr(denoiser_of(pipe)[1].config, "cross_attention_dim", None) == _SD2_TEXT_WIDTH:
        return "sd2"
    return family or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind.removesuffix("Pipeline")).lower()


def _resolution(pipe: Any) -> int:
    """Pixels along the side of the square pictures that the model makes by default."""
    sample = getattr(pipe, "default_sample_size", None) or getattr(denoiser_of(pipe)[1].config, "sample_size", None)
    scale = getattr(pipe, "vae_scale_factor", None)
    if isinstance(sample, int) and isinstance(scale, int):
        return sample * scale
    raise CannotEvaluate(f"{type(pipe).__name__} does not say which resolution it draws by default; give --resolution")


def _call_default(pipe: Any, argument: str, option: str) -> Any:
    """The default of an argument of the pipeline's call."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get(argument)
    if parameter is None or not isinstance(parameter.default, int | float):
        raise CannotEvaluate(f"{type(pipe).__name__} has no default for {argument}; give {option}")
    return parameter.default


def _files(folder: Path) -> dict[str, str]:
    """The digests of what loading reads; ArtefactError for a link that leads out of the folder."""
    components = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths = [folder / MODEL_INDEX]
    paths += [path for inner in components for path in sorted(inner.iterdir()) if path.suffix in _PINNED]
    for path in paths:
        if not path.resolve().is_relative_to(folder):
            raise ArtefactError(f"{path}: is a link out of {folder}; copy the file there, so that it can be pinned")
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in paths}


def _hub_revision(pipe: Any) -> str:
    """The hub's commit that a pipeline was loaded from, as its cache folder says; empty when it doesn't."""
    folder = Path(str(getattr(pipe.config, "_name_or_path", "")))
    return folder.name if folder.parent.name == "snapshots" else ""
