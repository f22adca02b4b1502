"""``guard decisions``: what it counts and lists, and what it says of lines that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from saeuron_guard.cli.main import program
from saeuron_guard.guard.decisions import PromptNote
from tests.guard.logbook import NEON, PISTOL, decision, write


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Four decisions, an hour apart: a pistol, nothing, a withheld call, and Neon with a warning by another guard."""
    path = tmp_path / "log.jsonl"
    write(
        path,
        decision(0),
        decision(1, concepts=()),
        decision(2, image=None, images=None, outcome="withheld", why="hooks were removed", concepts=(PISTOL, NEON)),
        decision(3, guard="sha256:" + "b" * 64, outcome="released-with-warning", concepts=(NEON,), seed=None),
    )
    return path


def run(*arguments: object) -> Any:
    """The result of ``guard decisions``."""
    return CliRunner().invoke(program, ["guard", "decisions", *map(str, arguments)])


def listed(*arguments: object) -> list[str]:
    """The ids of the decisions that the JSON form lists."""
    result = run(*arguments, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return [one["id"] for one in json.loads(result.stdout)["last"]]


def test_everything_is_counted_and_listed(log: Path) -> None:
    """In words and as JSON, the same figures."""
    result = run(log)
    assert result.exit_code == 0
    for line in (
        "4 decisions: 2 released, 1 released-with-warning, 0 released-unguarded, 0 refused, 1 withheld",
        "  3 by guard sha256:" + "a" * 64,
        "pistol           2          2.50",
        "2026-11-24T20:00:00Z  released               0 of 1  7     pistol in 3 of 3 steps",
        "  2026-11-24T22:00:00Z withheld: hooks were removed",
    ):
        assert line in result.stdout
    shown = json.loads(run(log, "--format", "json").stdout)
    assert shown["outcomes"] == {
        "released": 2,
        "released-with-warning": 1,
        "released-unguarded": 0,
        "refused": 0,
        "withheld": 1,
    }
    assert shown["guards"] == {"sha256:" + "a" * 64: 3, "sha256:" + "b" * 64: 1}
    assert shown["concepts"] == [
        {"concept": "pistol", "decisions": 2, "peak": 2.5},
        {"concept": "Neon", "decisions": 2, "peak": 1.5},
    ]
    assert (shown["decisions"], shown["damaged"], len(shown["last"])) == (4, 0, 4)


def test_decisions_can_be_chosen(log: Path) -> None:
    """By concept, from a time on (in any zone), the latest few, and all of it together."""
    assert listed(log) == [f"decision-{number}" for number in range(4)]
    assert listed(log, "--concept", "Neon") == ["decision-2", "decision-3"]
    assert listed(log, "--concept", "neon") == []
    for time in ("2026-11-24T21:00:00Z", "2026-11-24T21:00", "2026-11-24T23:00:00+02:00"):
        assert listed(log, "--since", time) == ["decision-1", "decision-2", "decision-3"]
    assert listed(log, "--since", "2026-11-25") == []
    assert listed(log, "--last", 1) == ["decision-3"]
    assert listed(log, "--last", 0) == []
    assert listed(log, "--concept", "pistol", "--since", "2026-11-24T20:30", "--last", 5) == ["decision-2"]
    assert "4 decisions" in run(log, "--last", 0).stdout


def test_rotated_logs_are_read_together(log: Path) -> None:
    """Several files, in the order in which they are given."""
    old = log.with_name("log.jsonl.1")
    log.rename(old)
    write(log, decision(9))
    assert listed(old, log)[-2:] == ["decision-3", "decision-9"]


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_what_is_no_time_is_refused(log: Path, time: str) -> None:
    """With an example of one."""
    result = run(log, "--since", time)
    assert result.exit_code == 2
    assert f"'{time}' is no time; expected one such as 2026-11-24" in " ".join(result.stderr.split())


def test_a_line_cut_short_is_tolerated_and_told(log: Path) -> None:
    """What a crash leaves is named by its line; the others are shown, and the exit code is 0."""
    os.truncate(log, log.stat().st_size - 30)
    result = run(log)
    assert result.exit_code == 0
    assert "3 decisions" in result.stdout
    assert f"1 damaged line:\n  {log}:4: cut short, as by a crash" in result.stdout


SOUND = decision().line()
DAMAGE: dict[str, tuple[bytes, str]] = {
    "text": (b"hello", "Expecting value"),
    "blank": (b"", "Expecting value"),
    "not ASCII": (SOUND.encode().replace(b"tiny", b"t\xffny"), "other than ASCII"),
    "other schema": (SOUND.replace("decision-v1", "decision-v9").encode(), "schema is 'saeuron-guard/decision-v9'"),
    "unknown key": (SOUND.replace('"steps":3,"concepts"', '"step":3,"concepts"').encode(), "unknown key 'step'"),
    "key twice": (SOUND.replace('"seed":7', '"seed":7,"seed":8').encode(), "key 'seed' occurs twice"),
    "text for a number": (SOUND.replace('"seed":7', '"seed":"7"').encode(), "seed is '7', expected a whole number"),
    "other outcome": (SOUND.replace('"released"', '"erased"').encode(), "outcome is 'erased'"),
    "no time": (SOUND.replace("2026-11-24T20", "2026-11-24 at 20").encode(), "Invalid isoformat string"),
    "no such time": (SOUND.replace("2026-11-24T20:00:00Z", "0001-01-01T00:00:00+14:00").encode(), "out of range"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "control characters": (SOUND.replace('"released"', '"\\u001b[2J"').encode(), r"outcome is '\x1b[2J'"),
    "two in one": (SOUND.encode() * 2, "Extra data"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_line_is_told_and_left_out(log: Path, name: str) -> None:
    """Its neighbours are counted, the line and what is wrong are named, and the exit code is 3, in both forms."""
    line, problem = DAMAGE[name]
    log.write_bytes(log.read_bytes() + line + b"\n" + decision(8).line().encode() + b"\n")
    result = run(log)
    assert result.exit_code == 3
    assert "5 decisions" in result.stdout
    assert f"{log}:5: no decision: " in result.stdout
    assert problem in result.stdout
    shown = json.loads(run(log, "--format", "json").stdout)
    assert (shown["decisions"], shown["damaged"], shown["damage"][0]["line"]) == (5, 1, 5)


def test_a_line_without_end_takes_no_memory(log: Path) -> None:
    """A quarter of a gigabyte of zeros between two decisions is one damaged line."""
    os.truncate(log, log.stat().st_size + (1 << 28))
    with log.open("ab") as stream:
        stream.write(b"\n" + decision(8).line().encode() + b"\n")
    result = run(log)
    assert result.exit_code == 3
    assert f"{log}:5: longer than 16777216 bytes" in result.stdout
    assert "5 decisions" in result.stdout


def test_what_a_log_holds_does_not_reach_the_terminal(log: Path) -> None:
    """Escape sequences in prompts and reasons are shown, not obeyed."""
    evil = "\x1b[2J\u202e"
    write(log, decision(5, why=evil, outcome="withheld", prompts=(PromptNote("plain", evil, ""),)))
    result = run(log)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe end in one line and exit code 3; so does a file of another kind."""
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("none", "No such file"), (".", "Is a directory"), ("pipe", "not a regular file")):
        result = run(tmp_path / name)
        assert result.exit_code == 3
        assert problem in result.stderr
    (tmp_path / "other").write_text("some\nother\nfile\n" * 1000)
    result = run(tmp_path / "other")
    assert result.exit_code == 3
    assert "3000 damaged lines:" in result.stdout
    assert "and 2000 more" in result.stdout


def test_logs_are_read_without_torch(log: Path) -> None:
    """So that a look at them takes no seconds."""
    text = "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules))\n"
    text += "from saeuron_guard.cli.main import program\nprogram.main(sys.argv[1:])\n"
    command = [sys.executable, "-c", text, "guard", "decisions", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
