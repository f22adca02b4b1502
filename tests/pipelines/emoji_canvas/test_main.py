"""The command that builds the model: which stages it runs, and what it answers when one fails."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saeuron_guard.errors import ArtefactError, PolicyError, Problem, SaeuronGuardError
from saeuron_guard.pipelines.emoji_canvas import __main__ as command
from saeuron_guard.pipelines.emoji_canvas.stages import STAGES
from saeuron_guard.pipelines.emoji_canvas.workspace import Workspace

Stage = Callable[[Workspace], None]


@pytest.fixture
def ran() -> list[tuple[str, Workspace]]:
    """The stages that were run, each with its workspace."""
    return []


@pytest.fixture(autouse=True)
def table(ran: list[tuple[str, Workspace]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """Puts three stages that only note their call in the place of the real ones."""

    def noting(name: str) -> Stage:
        return lambda space: ran.append((name, space))

    stages = {name: noting(name) for name in ("first", "second", "third")}
    monkeypatch.setattr(command, "STAGES", stages)
    return stages


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command with the given arguments in an empty folder; gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def run_with(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["emoji_canvas", *arguments])
        return command.main()

    return run_with


def failing(error: BaseException) -> Stage:
    """A stage that logs a line and then fails."""

    def stage(space: Workspace) -> None:
        space.log("half done")
        raise error

    return stage


def test_an_unknown_stage_is_wrong_usage(
    ran: list[tuple[str, Workspace]], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, a message that names the stage and the possible ones, and not even the known stages are run."""
    with pytest.raises(SystemExit) as caught:
        run("first", "secnd")
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert "unknown stage 'secnd'; expected one of first, second, third" in captured.err
    assert captured.out == ""
    assert ran == []
    assert run("first", "second") == 0
    assert [name for name, _ in ran] == ["first", "second"]


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        ((), ["first", "second", "third"]),
        (("second",), ["second"]),
        (("third", "first"), ["first", "third"]),
        (("second", "second"), ["second"]),
    ],
)
def test_stages_run_in_the_order_of_the_build(
    ran: list[tuple[str, Workspace]], run: Callable[..., int], arguments: tuple[str, ...], stages: list[str]
) -> None:
    """All of them if none is named; else the named ones, once each, whatever the order of the arguments."""
    assert run(*arguments) == 0
    assert [name for name, _ in ran] == stages


def test_folders_are_the_given_ones(
    ran: list[tuple[str, Workspace]], run: Callable[..., int], tmp_path: Path, shipped_models: Path
) -> None:
    """Results go to the shipped registry unless another is given; intermediate files never do."""
    run("first")
    run("first", "--work", str(tmp_path / "w"), "--registry", str(tmp_path / "r"))
    (_, default), (_, given) = ran
    assert (default.work, default.registry) == (Path("build/emoji-canvas"), shipped_models.parent)
    assert (given.work, given.registry) == (tmp_path / "w", tmp_path / "r")


@pytest.mark.parametrize(
    "error",
    [
        ArtefactError("model.safetensors: not the pinned one; rebuild it"),
        PolicyError([Problem("p.yaml", 1, 2, "wrong")]),
        SaeuronGuardError("something else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_stage_is_said_on_stderr_and_by_the_exit_code(
    ran: list[tuple[str, Workspace]],
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    table: dict[str, Stage],
    error: SaeuronGuardError,
) -> None:
    """The error's message and exit code, no traceback, no further stage; the stages before it have run."""
    assert run() == 0
    assert capsys.readouterr().err == ""
    ran.clear()
    table["second"] = failing(error)
    assert run() == error.exit_code != 0
    captured = capsys.readouterr()
    half, said = captured.err.splitlines()
    assert re.fullmatch(r"\[ +\d+\.\d min\] half done", half)
    assert re.fullmatch(rf"\[ +\d+\.\d min\] error: {re.escape(str(error))}", said)
    assert captured.out == ""
    assert [name for name, _ in ran] == ["first"]


def test_a_mistake_in_the_program_keeps_its_traceback(run: Callable[..., int], table: dict[str, Stage]) -> None:
    """Only the package's own errors become messages; any other one is not hidden."""
    table["second"] = failing(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run()


def test_an_interrupted_build_says_how_to_go_on(
    ran: list[tuple[str, Workspace]],
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    table: dict[str, Stage],
) -> None:
    """Control-C ends with 130, as shells have it, and a line instead of a traceback."""
    table["second"] = failing(KeyboardInterrupt())
    assert run() == 130
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err
    assert [name for name, _ in ran] == ["first"]


def test_a_missing_registry_is_said_before_any_stage(
    ran: list[tuple[str, Workspace]],
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Where no registry is shipped the command says so and runs nothing; with a folder given it needs none."""
    monkeypatch.setenv("SAEURON_GUARD_HOME", str(tmp_path / "nowhere"))
    assert run() == ArtefactError.exit_code
    assert "error: no registry folder" in capsys.readouterr().err
    assert ran == []
    assert run("first", "--registry", str(tmp_path / "r")) == 0
    assert [name for name, _ in ran] == ["first"]


def test_help_names_every_stage(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All real stages are listed in their order."""
    monkeypatch.setattr(command, "STAGES", STAGES)
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    assert ", ".join(STAGES) in " ".join(capsys.readouterr().out.split())
    assert list(STAGES) == ["data", "vae", "pipeline", "judges", "evaluate", "sae", "statistics", "calibration"]
