"""``policy schema``, and the group that its sibling modules' commands join."""

from __future__ import annotations

import json

import click

from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.prompts.schema import prompt_set_schema

_SCHEMAS = {"Policy": policy_schema, "PromptSet": prompt_set_schema}


@click.group()
def policy() -> None:
    """Check, format, explain and describe policy files."""


@policy.command()
@click.option(
    "--kind",
    type=click.Choice(list(_SCHEMAS)),
    default="Policy",
    show_default=True,
    help="Which kind of file the schema describes.",
)
def schema(kind: str) -> None:
    """Print the JSON Schema (draft 2020-12) that policies follow, for editors and other programs.

    \b
    Example:
      saeuron-guard policy schema > policy.schema.json
    """
    click.echo(json.dumps(_SCHEMAS[kind](), indent=2, ensure_ascii=False))
