"""``policy validate`` and ``policy schema``; the group takes further commands from its sibling modules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from saeuron_guard.errors import InvalidFile, PolicyError, Problem, PromptSetError, SaeuronGuardError
from saeuron_guard.policy.load import load_policy
from saeuron_guard.policy.model import Policy
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.prompts.schema import prompt_set_schema

_SCHEMAS = {"Policy": policy_schema, "PromptSet": prompt_set_schema}


@click.group()
def policy() -> None:
    """Check, format, explain and describe policy files."""


@dataclass(frozen=True, slots=True)
class _Checked:
    """One file and its policy, or why it is none."""

    file: str
    policy: Policy | None
    problems: tuple[Problem, ...]


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--format", "layout", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@click.option(
    "--registry/--no-registry",
    "known",
    default=True,
    show_default=True,
    help="Whether the registry has to know the model, domains and concepts.",
)
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...], layout: str, known: bool) -> None:
    """Check policies and the audit prompts that they name; report every problem of every file.

    Each problem is a line "file:line:column: message"; with --format github a workflow command that marks the place in
    a pull request. Exits with 0 when all files are valid, else with 2.

    \b
    Example:
      saeuron-guard policy validate policies/*.yaml
    """
    checked = [_check(file) for file in files]
    try:
        if known:
            checked = _check_names(checked)
    except SaeuronGuardError:
        # Without a registry no file can be called valid, but what is wrong with the others is known.
        _print([one for one in checked if one.problems], layout)
        raise
    _print(checked, layout)
    if any(one.problems for one in checked):
        ctx.exit(PolicyError.exit_code)


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


def _check(file: str) -> _Checked:
    try:
        found = load_policy(file)
        _check_audit(found)
    except InvalidFile as error:
        return _Checked(file, None, error.problems)
    return _Checked(file, found, ())


def _check_audit(found: Policy) -> None:
    """Raises InvalidFile when the audit prompts cannot be found or are not valid.

    A set that cannot be found is the policy's mistake; what is wrong inside a set is reported at its own place.
    """
    try:
        find_prompt_set(found.audit.prompts, near=Path(found.file).parent, role="audit")
    except PromptSetError as error:
        place = found.audit.place
        raise PolicyError(
            [
                problem
                if problem.line
                else Problem(place.file, place.line, place.column, f"prompt set {problem.file}: {problem.message}")
                for problem in error.problems
            ]
        ) from None


def _check_names(checked: list[_Checked]) -> list[_Checked]:
    """Add what the policies ask for and the registry does not know; it is opened only if a policy is left to check."""
    if all(one.policy is None for one in checked):
        return checked
    from saeuron_guard.compiler.lookup import look_up
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.open() as registry:
        unknown = [look_up(one.policy, registry).problems if one.policy else () for one in checked]
    return [
        _Checked(one.file, None, tuple(sorted(problems))) if problems else one
        for one, problems in zip(checked, unknown, strict=True)
    ]


def _print(checked: list[_Checked], layout: str) -> None:
    if layout == "json":
        click.echo(json.dumps({"files": [_as_json(one) for one in checked]}, indent=2, ensure_ascii=False))
    elif layout == "github":
        for problem in (problem for one in checked for problem in one.problems):
            click.echo(_as_annotation(problem))
    else:
        for one in checked:
            click.echo(_as_text(one))


def _as_annotation(problem: Problem) -> str:
    """The problem as GitHub's workflow command ``error``, in its escapes; a whole file's problem is put at line 1."""

    def escaped(text: str, more: str = "") -> str:
        return "".join(f"%{ord(letter):02X}" if letter in "%\r\n" + more else letter for letter in text)

    place = f"file={escaped(problem.file, ':,')},line={problem.line or 1},col={problem.column or 1}"
    return f"::error {place}::{escaped(problem.message)}"


def _as_text(checked: _Checked) -> str:
    if checked.policy is None:
        return "\n".join(str(problem) for problem in checked.problems)
    return f"{checked.file}: valid ({checked.policy.name} {checked.policy.version}, {checked.policy.digest})"


def _as_json(checked: _Checked) -> dict[str, Any]:
    found = checked.policy
    return {
        "file": checked.file,
        "valid": found is not None,
        "policy": found and {"name": found.name, "version": found.version, "digest": found.digest},
        "problems": [
            {"file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message}
            for problem in checked.problems
        ],
    }
