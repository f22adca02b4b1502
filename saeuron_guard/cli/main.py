"""The program's entry point: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from saeuron_guard.cli.lazy import LazyCommand, LazyGroup
from saeuron_guard.errors import InvalidFile, SaeuronGuardError

USAGE: Final = 2
BROKEN: Final = 3
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

DEBUG_VARIABLE: Final = "SAEURON_GUARD_DEBUG"

COMMANDS: Final[dict[str, LazyCommand]] = {
    "policy": LazyCommand(
        "saeuron_guard.cli.policy:policy",
        "Check, format, explain and describe policy files.",
        members=(
            "saeuron_guard.cli.validate:validate",
            "saeuron_guard.cli.explain:explain",
            "saeuron_guard.cli.fmt:fmt",
            "saeuron_guard.cli.init:init",
            "saeuron_guard.cli.plan:plan",
            "saeuron_guard.cli.upgrade:upgrade",
        ),
    ),
    "registry": LazyCommand(
        "saeuron_guard.cli.registry:registry",
        "Look up, review and record models, concepts and features.",
        members=(
            "saeuron_guard.cli.add_model:add_model",
            "saeuron_guard.cli.registry_show:show",
            "saeuron_guard.cli.registry_reviews:approve",
            "saeuron_guard.cli.registry_reviews:reject",
            "saeuron_guard.cli.registry_reviews:quarantine",
            "saeuron_guard.cli.registry_history:history",
            "saeuron_guard.cli.registry_history:guards",
            "saeuron_guard.cli.registry_transfer:import_command",
            "saeuron_guard.cli.registry_transfer:export",
        ),
    ),
    "compile": LazyCommand("saeuron_guard.cli.compile:compile_command", "Turn a policy into a guard folder."),
    "guard": LazyCommand(
        "saeuron_guard.cli.guard:guard",
        "Look into a compiled guard, and into what guards decided.",
        members=("saeuron_guard.cli.decisions:decisions",),
    ),
    "generate": LazyCommand("saeuron_guard.cli.generate:generate", "Draw a picture without and with the guard."),
    "verify": LazyCommand("saeuron_guard.cli.verify:verify", "Pass or fail a policy on audit prompts."),
    "sae": LazyCommand(
        "saeuron_guard.cli.sae:sae",
        "Train, import, score and calibrate sparse autoencoders for a model.",
        members=(
            "saeuron_guard.cli.calibrate:calibrate",
            "saeuron_guard.cli.sae_import:import_command",
            "saeuron_guard.cli.score:collect",
            "saeuron_guard.cli.score:score",
        ),
    ),
    "benchmark": LazyCommand(
        "saeuron_guard.cli.benchmark:benchmark",
        "Compare guards on the same images, and time the registry.",
        members=(
            "saeuron_guard.cli.benchmark_gates:gates_command",
            "saeuron_guard.cli.benchmark_overhead:overhead_command",
            "saeuron_guard.cli.benchmark_registry:registry_command",
        ),
    ),
}

EXIT_CODES: Final = (
    (0, "done; for verify: the policy passed"),
    (1, "the policy failed its verification"),
    (2, "wrong usage, or a file that people write (policy, prompt set) is not valid, or would change under --check"),
    (3, "could not evaluate, or a model, database or other artefact is not as expected"),
    (4, "passed with warnings under --strict"),
    (5, "policy plan --detailed-exitcode: something changes"),
    (130, "interrupted from the keyboard"),
)


class PipeClosedError(Exception):
    """Whoever read the program's output stopped reading, as ``head`` does."""


class Program(LazyGroup):
    """The root group: whoever calls it as a program gets messages and exit codes instead of exceptions."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; click would answer a closed pipe with exit 1, which here means a failed policy."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise PipeClosedError from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program and leave with its exit code; without ``standalone_mode``, raise and return as click does."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except Exception as error:  # noqa: BLE001 - the outermost boundary: users get a line, never a traceback
            sys.exit(report_error(error))
        # click hands back the code of ctx.exit() as the result.
        sys.exit(result if isinstance(result, int) else 0)


def report_error(error: Exception) -> int:
    """Tell the user about ``error`` on stderr; the exit code that it means."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, PipeClosedError):
        # Nobody is left to tell; and the interpreter's last flush of stdout must not fail as well.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN
    if isinstance(error, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show()
        return USAGE
    if isinstance(error, InvalidFile):
        # No prefix: editors and CI find the places in lines that start with file:line:col.
        click.echo(str(error), err=True)
        return error.exit_code
    if isinstance(error, SaeuronGuardError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    text = " ".join(str(error).split()) or "no message"
    click.echo(
        f"error: unexpected {type(error).__name__}: {text}. "
        f"This is a fault of the program; set {DEBUG_VARIABLE}=1 to see the traceback.",
        err=True,
    )
    return BROKEN


@click.command(
    cls=Program,
    lazy_commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes:\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES),
)
@click.version_option(package_name="saeuron-guard", prog_name="saeuron-guard")
def program() -> None:
    """Policy-as-code safety filter for text-to-image diffusion pipelines.

    \b
    Example:
      saeuron-guard policy validate policies/no-weapons.yaml
      saeuron-guard verify policies/no-weapons.yaml
    """


def run() -> NoReturn:
    """Run the program on the process's arguments and exit."""
    program.main(prog_name="saeuron-guard")
    raise AssertionError("unreachable: the program exits")
