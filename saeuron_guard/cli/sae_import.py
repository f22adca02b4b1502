"""``sae import``: somebody else's sparse autoencoder becomes one of a registry's."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from saeuron_guard.cli.sae import layout_option, print_rows


@click.command("import")
@click.argument("source")
@click.option("--model", required=True, help="A model of the manifest; registry add-model makes it known.")
@click.option("--hookpoint", required=True, help="Dotted module path, such as unet.up_blocks.1.attentions.1.")
@click.option(
    "--manifest", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
    help="The registry's manifest.yaml; the weights go to saes/ beside it.",
)  # fmt: skip
@click.option("--name", default="", help="Name of the autoencoder; MODEL-HOOKPOINT if left out.")
@click.option("--k", type=click.IntRange(1), help="Latents that fire at a position; the checkpoint's if left out.")
@click.option("--by", default="", help="Who imports it; stands in the manifest.")
@click.option("--replace", is_flag=True, help="Put it in the place of the one of this name.")
@layout_option
def import_command(
    source: str,
    model: str,
    hookpoint: str,
    manifest: Path,
    name: str,
    k: int | None,
    by: str,
    replace: bool,
    layout: str,
) -> None:
    """Import the autoencoder SOURCE: a folder, or owner/name[/subfolder][@revision] of the hub.

    Reads checkpoints of sparsify and SAeUron (cfg.json, sae.safetensors; one subfolder a hookpoint is fine) and of
    SAELens (cfg.json, sae_weights.safetensors; topk, batchtopk and standard).
    What cannot be computed the same is refused, and so are pickles.

    \b
    Example:
      saeuron-guard sae import bcywinski/SAeUron --model unlearncanvas \\
        --hookpoint unet.up_blocks.1.attentions.1 --manifest mine/manifest.yaml
    """
    from saeuron_guard.sae.importing import ImportRequest, import_sae

    when = datetime.now(UTC).isoformat(timespec="seconds")
    record = import_sae(ImportRequest(source, model, hookpoint, manifest, when, name=name, k=k, replace=replace, by=by))
    if layout == "json":
        print_rows([asdict(record)], layout)
        return
    shown = ("model", "hookpoint", "d_in", "num_latents", "k", "digest")
    click.echo(f"{record.name}: {', '.join(f'{field} {getattr(record, field)}' for field in shown)}")
    click.echo(
        f"  from {record.provenance['format']}, {record.provenance['architecture']}; fvu, dead latents and l0 unknown"
    )
    conversion = record.provenance.get("conversion", [])
    for step in conversion if isinstance(conversion, list) else []:
        click.echo(f"  {step}")
    click.echo(f"  written to {manifest.absolute().parent / record.path}")
