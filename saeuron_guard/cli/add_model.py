"""``registry add-model``: a diffusion model of one's own becomes known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saeuron_guard.errors import ArtefactError

if TYPE_CHECKING:
    from saeuron_guard.registry.records import ModelRecord


@click.command("add-model")
@click.argument("source")
@click.option("--name", required=True, help="What policies call the model.")
@click.option(
    "--manifest", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="The registry's manifest.yaml; made if there is none.",
)  # fmt: skip
@click.option("--family", help="Such as sd1, sdxl or flux; from the pipeline's class if left out.")
@click.option("--steps", type=click.IntRange(1), help="Denoising steps an image; the pipeline's default if left out.")
@click.option("--guidance", type=click.FloatRange(0), help="Guidance scale; the pipeline's default if left out.")
@click.option("--resolution", type=click.IntRange(1), help="Pixels a side; the pipeline's default if left out.")
@click.option("--licence", default="", help="Of the weights, for those who review the registry.")
@click.option("--by", default="", help="Who adds it; stands in the manifest.")
@click.option("--replace", is_flag=True, help="Put it in the place of another model of this name.")
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
def add_model(
    source: str,
    name: str,
    manifest: Path,
    family: str | None,
    steps: int | None,
    guidance: float | None,
    resolution: int | None,
    licence: str,
    by: str,
    replace: bool,
    layout: str,
) -> None:
    """Register the diffusion model SOURCE: a local diffusers folder, a registered name or a hub id.

    Loads it (safetensors only) and records its fingerprint, scheduler, family and resolution, and how wide its
    activations are at each place where an autoencoder may sit.
    Files are pinned by digest where the folder lies below the manifest's.

    \b
    Example:
      saeuron-guard registry add-model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --name sd15 --manifest mine/manifest.yaml
    """
    from saeuron_guard.names import SLUG

    if not SLUG.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} is not a name; expected letters, digits, spaces and ._-", param_hint="--name"
        )
    settings = {
        "steps": steps,
        "guidance": guidance,
        "resolution": resolution,
        "family": family or "",
        "licence": licence,
    }
    record, known = _added(source, name, manifest, settings, by, replace=replace)
    if layout == "json":
        click.echo(json.dumps({"known_before": known, **dataclasses.asdict(record)}, indent=2, ensure_ascii=False))
        return
    state = "is registered already, unchanged" if known else f"registered in {manifest}"
    click.echo(f"{record.name}: {state}")
    click.echo(f"  family {record.family}, {record.resolution} pixels, {record.steps} steps of {record.scheduler}, "
               f"guidance {record.guidance:g}")  # fmt: skip
    click.echo(f"  path {record.path}, {len(record.files)} files pinned")
    click.echo(f"  fingerprint {record.fingerprint}")
    click.echo(f"  {len(record.hookpoints)} hookpoints:")
    for hookpoint, width in record.hookpoints.items():
        click.echo(f"    {hookpoint}  {width}")


def _added(
    source: str, name: str, manifest: Path, settings: Mapping[str, object], by: str, *, replace: bool
) -> tuple[ModelRecord, bool]:
    """The record, and whether the manifest said the same before; the manifest holds it afterwards."""
    import torch

    from saeuron_guard.discovery.model_entry import Defaults, model_entry
    from saeuron_guard.pipelines.load import load_pipeline
    from saeuron_guard.registry.additions import manifest_or_new, with_model
    from saeuron_guard.registry.manifest import write_manifest

    before = manifest_or_new(manifest)
    place, known = _registered(source)
    defaults = Defaults(**{**known, **{field: value for field, value in settings.items() if value not in (None, "")}})  # type: ignore[arg-type]
    # Half the memory of float32, and the fingerprint is the same: it looks at signs and shapes.
    pipe = load_pipeline(source, dtype=torch.bfloat16)
    provenance = {"added_at": datetime.now(UTC).isoformat(timespec="seconds"), **({"added_by": by} if by else {})}
    record = model_entry(pipe, name, place, manifest.absolute().parent, defaults, provenance)
    after = with_model(before, record, replace=replace)
    if after is before:
        return record, True
    try:
        manifest.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_manifest(after, manifest)
    except OSError as error:
        raise ArtefactError(f"{manifest}: cannot be written ({error.strerror or error})") from None
    return record, False


def _registered(source: str) -> tuple[str, dict[str, object]]:
    """Where ``source`` lies, and how images are made with it, as far as it is a registered name."""
    from saeuron_guard.registry.store import FeatureRegistry

    if Path(source).name != source:
        return source, {}
    with FeatureRegistry.open() as registry:
        record = next((model for model in registry.models() if model.name == source), None)
        if record is None:
            return source, {}
        folder = registry.artefact_root / record.path
    names = ("steps", "guidance", "resolution", "family", "licence")
    return str(folder if folder.is_dir() else record.path), {name: getattr(record, name) for name in names}
