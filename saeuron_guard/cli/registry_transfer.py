"""``registry import`` and ``export``: the registry as files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saeuron_guard.cli.registry import as_json, database_option, layout_option
from saeuron_guard.wording import count_of

if TYPE_CHECKING:
    from saeuron_guard.registry.transfer import Imported


@click.command("import")
@click.argument("manifest", type=click.Path(path_type=Path))
@database_option
@click.option("--by", metavar="NAME", help="Who imports.  [default: the login name]")
@click.option("--force", is_flag=True, help="Import even if SAEs would go that recorded guards are built on.")
@layout_option
def import_command(manifest: Path, database: str | None, by: str | None, force: bool, layout: str) -> None:
    """Fill the database from a manifest of your own, after every file that it pins was compared.

    Without --database (or SAEURON_GUARD_DATABASE), the database is made beside the manifest.

    \b
    Example:
      saeuron-guard registry import ours/manifest.yaml
      export SAEURON_GUARD_MANIFEST=ours/manifest.yaml
    """
    from saeuron_guard.registry.stamp import Stamp
    from saeuron_guard.registry.transfer import import_manifest

    done = import_manifest(manifest, Stamp.now(by), url=database, force=force)
    if layout == "json":
        click.echo(as_json(dataclasses.asdict(done)))
    else:
        click.echo("\n".join(_import_lines(done)))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Manifest (.yaml) or folder to write.")
@click.option("--artefacts", is_flag=True, help="Also copy every file that the manifest pins, into a new folder.")
@click.option("--force", is_flag=True, help="Replace a manifest that is there already.")
@database_option
@layout_option
def export(out: Path, artefacts: bool, force: bool, database: str | None, layout: str) -> None:
    """Write the manifest that the database holds, with all reviews.

    With --artefacts the folder is a registry of its own, for SAEURON_GUARD_MANIFEST or registry import.

    \b
    Example:
      saeuron-guard registry export --out build/registry --artefacts
    """
    from saeuron_guard.registry.store import FeatureRegistry
    from saeuron_guard.registry.transfer import export_manifest, export_registry

    if not str(out).strip("."):
        raise click.BadParameter("name a file or a folder", param_hint="--out")
    with FeatureRegistry.open(database) as opened:
        done = export_registry(opened, out) if artefacts else export_manifest(opened, out, force=force)
    if layout == "json":
        click.echo(as_json(dataclasses.asdict(done)))
        return
    click.echo(f"{done.manifest}: {done.manifest_digest}, {count_of(done.reviews, 'review')}")
    if artefacts:
        click.echo(f"{count_of(done.files, 'file')} beside it")


def _import_lines(done: Imported) -> list[str]:
    from saeuron_guard.cli.audit_text import changes_text

    lines = [f"{done.database} holds manifest {done.manifest_digest}"]
    parts = dataclasses.asdict(done.changes)
    lines += [
        f"{part} {kind}: {', '.join(names)}" for part, found in parts.items() for kind, names in found.items() if names
    ]
    if done.changes.nothing:
        lines.append(changes_text(parts))
    if done.reviews:
        lines.append(f"{count_of(len(done.reviews), 'new review')}:")
        lines += [f"  {review}" for review in done.reviews]
    lines += [f"recorded guards were built on {sae}, which is gone" for sae in done.lost]
    return lines
