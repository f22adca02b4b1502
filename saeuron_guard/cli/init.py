"""``policy init``: a new policy file from a template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import click

from saeuron_guard.cli.files import make_folder, write_text
from saeuron_guard.errors import ArtefactError
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.policy.templates import TEMPLATES, policy_from_template

SCHEMA_FILE: Final = "policy.schema.json"


def _list_templates(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print the templates and leave, before the arguments are asked for."""
    if wanted and not ctx.resilient_parsing:
        width = max(map(len, TEMPLATES))
        click.echo("\n".join(f"{name:<{width}}  {purpose}" for name, (_, purpose) in TEMPLATES.items()))
        ctx.exit()


def _name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    stated = policy_schema()["properties"]["metadata"]["properties"]["name"]
    if value is not None and (not re.fullmatch(stated["pattern"], value) or len(value) > stated["maxLength"]):
        raise click.BadParameter(f"expected {stated['x-expected']}, got {value!r}")
    return value


@click.command()
@click.argument("template", type=click.Choice(list(TEMPLATES)))
@click.option("--name", callback=_name, required=True, help="Name of the new policy.")
@click.option("--owner", required=True, help="The team or person who answers for it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; without it, NAME.yaml in this folder.",
)
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_templates, help="List the templates."
)
def init(template: str, name: str, owner: str, out: Path | None) -> None:
    """Write a new policy from a template, and the JSON Schema beside it for editors.

    An existing policy is never replaced.

    \b
    Example:
      saeuron-guard policy init weapons --name house-rules --owner trust-and-safety
    """
    if not owner.strip() or len(owner) > 200:
        raise click.BadParameter("expected the name of a team or person", param_hint="--owner")
    path = out or Path(f"{name}.yaml")
    if path.exists() or path.is_symlink():
        raise ArtefactError(f"{path} exists already; name another file with --out")
    text = policy_from_template(template, name=name, owner=owner, schema=SCHEMA_FILE)
    make_folder(path.parent)
    schema = path.parent / SCHEMA_FILE
    if not schema.exists():
        write_text(schema, json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n")
        click.echo(f"{schema}: the fields of a policy, for editors")
    write_text(path, text)
    click.echo(f'{path}: written; next, "saeuron-guard policy validate {path}"')
