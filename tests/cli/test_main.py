"""The program: its exit codes, its messages, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

from saeuron_guard import errors
from saeuron_guard.cli.lazy import LazyCommand, LazyGroup
from saeuron_guard.cli.main import COMMANDS, EXIT_CODES, Program, program

PROBLEM = errors.Problem("policy.yaml", 3, 7, "unknown key 'strenght'")


def run_raising(error: BaseException) -> Result:
    """The program's answer when its command raises ``error``."""

    @click.command()
    def broken() -> None:
        raise error

    return CliRunner().invoke(Program(name="p", lazy_commands={}, commands={"broken": broken}), ["broken"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.PolicyError([PROBLEM]), 2, "policy.yaml:3:7: unknown key 'strenght'\n"),
        (errors.PromptSetError([PROBLEM]), 2, "policy.yaml:3:7: unknown key 'strenght'\n"),
        (errors.CompileError([PROBLEM]), 2, "policy.yaml:3:7: unknown key 'strenght'\n"),
        (errors.ManifestError([PROBLEM]), 3, "policy.yaml:3:7: unknown key 'strenght'\n"),
        (errors.RegistryError("no database"), 3, "error: no database\n"),
        (errors.ArtefactError("no weights"), 3, "error: no weights\n"),
        (errors.ModelMismatch("another model"), 3, "error: another model\n"),
        (errors.GuardNotEffective("a step without the guard"), 3, "error: a step without the guard\n"),
        (errors.CannotEvaluate("no images"), 3, "error: no images\n"),
        (click.UsageError("no such thing"), 2, "no such thing"),
        (click.FileError("x", "unreadable"), 2, "unreadable"),
        (click.Abort(), 130, "interrupted\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("two\nlines"), 3, "error: unexpected ValueError: two lines."),
        (AssertionError(), 3, "error: unexpected AssertionError: no message."),
        (BrokenPipeError(32, "closed"), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_become_messages_and_exit_codes(error: BaseException, code: int, message: str) -> None:
    """Each error ends in its exit code and a message on stderr; no user sees a traceback."""
    result = run_raising(error)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_every_error_class_has_a_documented_exit_code() -> None:
    """No error leaves with a code that the program's help does not explain, and none with 0 or 1."""
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    classes = [kind for kind in kinds if issubclass(kind, Exception) and not issubclass(kind, Warning)]
    assert len(classes) > 5
    assert {kind.exit_code for kind in classes} <= {code for code, _ in EXIT_CODES} - {0, 1}


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SAEURON_GUARD_DEBUG set the traceback comes before the message, and the exit code stays."""
    monkeypatch.setenv("SAEURON_GUARD_DEBUG", "1")
    result = run_raising(ValueError("odd"))
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (1, 1), (4, 4), ("text", 0)])
def test_a_command_decides_its_exit_code(outcome: object, code: int) -> None:
    """A command that returns a number or calls ctx.exit() leaves with it; any other result is success."""

    @click.command()
    @click.pass_context
    def returning(ctx: click.Context) -> object:
        return outcome

    @click.command()
    @click.pass_context
    def exiting(ctx: click.Context) -> None:
        ctx.exit(code)

    group = Program(name="p", lazy_commands={}, commands={"returning": returning, "exiting": exiting})
    assert CliRunner().invoke(group, ["returning"]).exit_code == code
    assert CliRunner().invoke(group, ["exiting"]).exit_code == code


def test_a_missing_command_does_not_break_the_others() -> None:
    """A command whose module is not installed is neither listed nor found; its neighbour works."""
    group = LazyGroup(
        name="p",
        lazy_commands={
            "there": LazyCommand("saeuron_guard.cli.guard:guard", "Is there."),
            "gone": LazyCommand("saeuron_guard.cli.nowhere:gone", "Is not."),
        },
    )
    listed = CliRunner().invoke(group, ["--help"]).stdout
    assert "there  Is there." in listed
    assert "gone" not in listed
    assert CliRunner().invoke(group, ["there", "--help"]).exit_code == 0
    assert CliRunner().invoke(group, ["gone"]).exit_code == 2


def test_the_nearest_command_is_offered() -> None:
    """Mistyped commands are usage errors."""
    result = CliRunner().invoke(program, ["complie"])
    assert result.exit_code == 2
    assert "No such command 'complie'" in result.stderr


@pytest.mark.parametrize("name", list(program.lazy_commands))
def test_every_command_loads_and_shows_an_example(name: str) -> None:
    """Each command, or each command of a group, explains itself with an example."""
    command = COMMANDS[name].load()
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    assert commands
    for each in commands:
        assert "saeuron-guard " in (each.help or ""), f"{name} {each.name}: no example"


def imported_by(*arguments: str) -> tuple[int, set[str]]:
    """Exit code and top-level modules of a fresh process that ran the program with ``arguments``."""
    script = (
        "import sys, atexit\n"
        "from saeuron_guard.cli.main import program\n"
        "atexit.register(lambda: print('modules', *{m.partition('.')[0] for m in sys.modules}, file=sys.stderr))\n"
        "program.main(sys.argv[1:], prog_name='saeuron-guard')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, set(done.stderr.splitlines()[-1].split()[1:])


HEAVY = {"torch", "diffusers", "transformers", "open_clip", "sqlalchemy", "alembic"}


def test_help_imports_nothing_heavy() -> None:
    """``--help`` answers without torch and without a database; the control shows that such an import is noticed."""
    code, modules = imported_by("--help")
    assert code == 0
    assert "click" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize("name", list(program.lazy_commands))
def test_help_of_no_command_imports_torch(name: str) -> None:
    """Every command's own help answers without torch."""
    code, modules = imported_by(name, "--help")
    assert code == 0
    assert not modules & {"torch", "diffusers", "transformers", "open_clip"}
