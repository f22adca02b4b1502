"""``registry migrate``, ``check`` and ``list``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saeuron_guard.errors import ArtefactError
from saeuron_guard.wording import count_of

if TYPE_CHECKING:
    from saeuron_guard.registry.checks import RegistryCheck
    from saeuron_guard.registry.store import FeatureRegistry

_Command = TypeVar("_Command", bound=Callable[..., Any])

DATABASE_HELP = (
    "URL of the registry's database, such as sqlite:////srv/registry.sqlite or postgresql+psycopg://host/db."
)


def database_option(command: _Command) -> _Command:
    """The option that names the database; without it, the shipped registry."""
    return click.option("--database", metavar="URL", envvar="SAEURON_GUARD_DATABASE", help=DATABASE_HELP)(command)


def layout_option(command: _Command) -> _Command:
    """The option that chooses what the output looks like."""
    return click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)(
        command
    )


@click.group()
def registry() -> None:
    """Look up, review and record models, concepts and features."""


@registry.command()
@database_option
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Manifest to fill the database from; without it, that of SAEURON_GUARD_MANIFEST or the shipped one.",
)
def migrate(database: str | None, manifest: Path | None) -> None:
    """Make or upgrade the database and fill it from the manifest.

    The shipped registry needs no such step: it is built on first use.

    \b
    Example:
      saeuron-guard registry migrate --database postgresql+psycopg://guard@db/registry
    """
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.built(database, manifest=manifest) as opened:
        click.echo(f"{opened.place} holds {_contents(opened)}")


@registry.command()
@database_option
@layout_option
@click.pass_context
def check(context: click.Context, database: str | None, layout: str) -> None:
    """Compare the database, every pinned file and the shipped prompt sets with what the manifest says.

    The chain of events has to be whole, and the records have to be those that it tells of.

    \b
    Example:
      saeuron-guard registry check
    """
    from saeuron_guard.registry.checks import check_registry
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.open(database) as opened:
        result = check_registry(opened, _prompt_digests(opened))
    if layout == "json":
        click.echo(as_json({"passed": result.passed, **dataclasses.asdict(result)}))
    else:
        click.echo("\n".join(_check_lines(result)))
    if not result.passed:
        context.exit(ArtefactError.exit_code)


@registry.command("list")
@database_option
@click.option("--domain", metavar="NAME", help="Only concepts of this domain.")
@click.option("--models", "list_models", is_flag=True, help="List models, SAEs, scoring runs and judges instead.")
@click.option("--groups", "list_groups", is_flag=True, help="List groups of concepts with their members instead.")
@layout_option
def list_command(database: str | None, domain: str | None, list_models: bool, list_groups: bool, layout: str) -> None:
    """List concepts with the calibration that removes them.

    \b
    Example:
      saeuron-guard registry list --domain style
    """
    from saeuron_guard.cli.registry_text import concept_table, group_table, model_tables
    from saeuron_guard.registry.pages import concept_overview
    from saeuron_guard.registry.store import FeatureRegistry

    if list_models and list_groups:
        raise click.UsageError("--models and --groups are two lists; ask for one")
    with FeatureRegistry.open(database) as opened:
        if list_groups:
            groups = {group: members for group, members in opened.groups().items() if domain in (None, group.domain)}
            found = [
                {"group": dataclasses.asdict(group), "members": [m.name for m in groups[group]]} for group in groups
            ]
            click.echo(as_json(found) if layout == "json" else "\n".join(group_table(groups)))
            return
        if list_models:
            contents = _named_things(opened)
            click.echo(as_json(contents) if layout == "json" else "\n".join(model_tables(contents)))
            return
        overview = concept_overview(opened, domain)
    if layout == "json":
        click.echo(as_json([dataclasses.asdict(page) for page in overview]))
    else:
        click.echo("\n".join(concept_table(overview)))


def as_json(value: Any) -> str:
    """A value as ``--format json`` prints it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _named_things(opened: FeatureRegistry) -> dict[str, list[dict[str, Any]]]:
    """Models and what belongs to them, by kind, as plain values."""
    models = opened.models()
    found: dict[str, Iterable[Any]] = {
        "models": models,
        "saes": [sae for model in models for sae in opened.saes(model.name)],
        "scoring_runs": opened.runs(),
        "prompt_sets": opened.prompt_sets(),
        "judges": opened.judges(),
    }
    return {kind: [dataclasses.asdict(record) for record in records] for kind, records in found.items()}


def _prompt_digests(opened: FeatureRegistry) -> dict[tuple[str, str], str]:
    """The digests of those prompt sets of the registry that ship with the package, by role and name.

    Sets made for somebody's own model lie elsewhere, so there is nothing to compare them with.
    """
    from saeuron_guard.prompts.load import load_prompt_set
    from saeuron_guard.resources import data_folder

    shipped = data_folder("policies") / "prompts"
    paths = {(used.role, used.name): shipped / used.role / f"{used.name}.yaml" for used in opened.prompt_sets()}
    return {name: load_prompt_set(path).digest for name, path in paths.items() if path.is_file()}


def _contents(opened: FeatureRegistry) -> str:
    models = [model.name for model in opened.models()]
    calibrated = sum(len(opened.calibrations(model)) for model in models)
    counts = ((len(models), "model"), (len(opened.concepts()), "concept"), (calibrated, "calibration"))
    words = ", ".join(count_of(count, noun) for count, noun in counts)
    return f"{words} (manifest {opened.manifest_digest()})"


def _check_lines(result: RegistryCheck) -> Iterable[str]:
    yield f"database {result.database}"
    yield f"manifest {result.manifest}: {result.manifest_digest}"
    for problem in result.problems:
        yield f"FAILED {problem}"
    for artefact in result.artefacts:
        if not artefact.passed:
            got = artefact.actual or "no such file"
            yield f"FAILED {artefact.path} ({artefact.owner}): expected {artefact.expected}, got {got}"
    for warning in result.warnings:
        yield f"warning: {warning}"
    passed = sum(artefact.passed for artefact in result.artefacts)
    yield f"{passed} of {len(result.artefacts)} pinned files are as recorded"
    yield f"last event {result.last_event}"
