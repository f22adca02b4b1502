"""``policy validate``: check policies, every problem of every file at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from saeuron_guard.errors import CompileError, InvalidFile, PolicyError, Problem, PromptSetError, SaeuronGuardError
from saeuron_guard.policy.advice import advice, sample_advice
from saeuron_guard.policy.load import load_policy
from saeuron_guard.policy.model import Place, Policy
from saeuron_guard.policy.waivers import waiver_count, waiver_lines, waiver_text, waivers_json
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.prompts.model import PromptSet

if TYPE_CHECKING:
    from saeuron_guard.registry.store import FeatureRegistry

WARNED: Final = 4
"""Exit code of ``--strict`` when all is valid but not without warnings."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file and its policy with warnings about it, or why it is none."""

    file: str
    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--format", "layout", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@click.option(
    "--registry/--no-registry",
    "known",
    default=True,
    show_default=True,
    help="Whether the policy has to compile with what the registry knows.",
)
@click.option("--strict", is_flag=True, help="Exit with 4 when there are warnings.")
@click.option(
    "--as-of",
    "today",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="Judge waivers as of this day instead of today.",
)
@click.pass_context
def validate(
    ctx: click.Context, files: tuple[str, ...], layout: str, known: bool, strict: bool, today: datetime | None
) -> None:
    """Check policies with all that they extend, and the audit prompts that they name; report every problem.

    Each problem is a line "file:line:column: message"; with --format github a workflow command that marks the place in
    a pull request. Waivers are counted and printed. Exits with 0 when all files are valid, else with 2.

    \b
    Example:
      saeuron-guard policy validate policies/*.yaml
    """
    checked = [_check(file, today.date() if today else None) for file in files]
    try:
        if known:
            checked = _check_compiles(checked)
    except SaeuronGuardError:
        # Without a registry no file can be called valid, but what is wrong with the others is known.
        click.echo(_LAYOUTS[layout]([one for one in checked if one.problems]))
        raise
    click.echo(_LAYOUTS[layout](checked), nl=bool(files))
    if any(one.problems for one in checked):
        ctx.exit(PolicyError.exit_code)
    if strict and any(one.warnings for one in checked):
        ctx.exit(WARNED)


def _check(file: str, today: date | None) -> Checked:
    try:
        found = load_policy(file, today=today)
    except InvalidFile as error:
        return Checked(file, None, error.problems)
    audit, *others = [(found.audit.prompts, found.audit.place), *_retained(found)]
    problems: list[Problem] = []
    prompts = _prompts(found, *audit, problems)
    for name, place in others:
        _prompts(found, name, place, problems)
    too_few = sample_advice(found, _images(found, prompts)) if prompts and not problems else []
    return Checked(file, found, tuple(problems), warnings=(*advice(found), *too_few))


def _retained(found: Policy) -> Iterator[tuple[str, Place]]:
    """The retained prompt sets, each with the place that names it."""
    for name in found.retain.prompts:
        yield name, found.places[f"retain.prompts.{name}"]


def _prompts(found: Policy, name: str, place: Place, problems: list[Problem]) -> PromptSet | None:
    """A prompt set that the policy names; None, with the problems noted, when there is none or it is not valid.

    A set that cannot be found is the policy's mistake; what is wrong inside a set is reported at its own place.
    """
    try:
        return find_prompt_set(name, near=Path(found.file).parent, role="audit")
    except PromptSetError as error:
        problems += [_at(place, problem) for problem in error.problems]
        return None


def _images(found: Policy, audit: PromptSet) -> dict[str, int]:
    """How many images the audit draws for each concept."""
    seeds = len(set(found.audit.seeds))
    return {rule.concept: seeds * sum(one.shows(rule.concept) for one in audit.prompts) for rule in found.concepts}


def _at(place: Place, problem: Problem) -> Problem:
    """A problem inside a prompt set as it is; one of the whole set where the policy names it."""
    if problem.line:
        return problem
    return place.problem(f"prompt set {problem.file}: {problem.message}")


def _check_compiles(checked: list[Checked]) -> list[Checked]:
    """Add what the policies ask for and the registry cannot give; it is opened only if a policy is left to check."""
    if all(one.policy is None for one in checked):
        return checked
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.open() as registry:
        return [one if one.policy is None else _compiled(one, one.policy, registry) for one in checked]


def _compiled(checked: Checked, policy: Policy, registry: FeatureRegistry) -> Checked:
    from saeuron_guard.compiler.compile import compile_policy

    try:
        compile_policy(policy, registry)
    except CompileError as error:
        return replace(checked, problems=tuple(sorted((*checked.problems, *error.problems))))
    return checked


def _as_text(checked: Sequence[Checked]) -> str:
    return "\n".join(line for one in checked for line in _text_lines(one))


def _text_lines(checked: Checked) -> Iterator[str]:
    found = checked.policy
    if found is None or checked.problems:
        yield from map(str, checked.problems)
        return
    count, *waivers = waiver_lines(found.waivers)
    yield f"{checked.file}: valid ({found.name} {found.version}, {found.digest}), {count}"
    yield from waivers
    yield from (
        f"{warning.file}:{warning.line}:{warning.column}: warning: {warning.message}" for warning in checked.warnings
    )


def _as_json(checked: Sequence[Checked]) -> str:
    return json.dumps({"files": [_json(one) for one in checked]}, indent=2, ensure_ascii=False)


def _json(checked: Checked) -> dict[str, Any]:
    found = None if checked.problems else checked.policy
    return {
        "file": checked.file,
        "valid": found is not None,
        "policy": found
        and {"name": found.name, "version": found.version, "digest": found.digest, "status": found.status},
        "waivers": found and waivers_json(found.waivers),
        "problems": [_problem_json(problem) for problem in checked.problems],
        "warnings": [_problem_json(warning) for warning in checked.warnings],
    }


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message}


def _as_annotations(checked: Sequence[Checked]) -> str:
    """GitHub's workflow commands: errors and warnings at their places, and a notice for each waiver and each count."""
    lines = [_annotation("error", problem) for one in checked for problem in one.problems]
    lines += [_annotation("warning", warning) for one in checked for warning in one.warnings]
    for one in checked:
        if one.policy and not one.problems:
            lines.append(_annotation("notice", Problem(one.file, 0, 0, f"valid, {waiver_count(one.policy.waivers)}")))
            lines += [_annotation("notice", waiver.place.problem(waiver_text(waiver))) for waiver in one.policy.waivers]
    return "\n".join(lines)


def _annotation(kind: str, problem: Problem) -> str:
    """A workflow command in GitHub's escapes; what concerns a whole file is put at line 1."""

    def escaped(text: str, more: str = "") -> str:
        return "".join(f"%{ord(letter):02X}" if letter in "%\r\n" + more else letter for letter in text)

    place = f"file={escaped(problem.file, ':,')},line={problem.line or 1},col={problem.column or 1}"
    return f"::{kind} {place}::{escaped(problem.message)}"


_LAYOUTS: Final[dict[str, Callable[[Sequence[Checked]], str]]] = {
    "text": _as_text,
    "json": _as_json,
    "github": _as_annotations,
}
