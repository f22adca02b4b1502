"""The log's file: whole lines or none, whoever writes at the same time, whatever happens to it meanwhile."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeuron_guard.errors import DecisionLogError
from saeuron_guard.guard import decision_log
from saeuron_guard.guard.decision_log import DecisionLog, hashed, mask
from saeuron_guard.guard.decision_reading import Damage, read_decisions
from saeuron_guard.guard.decisions import Decision, PromptNote, parse_decision
from tests.guard.logbook import NEON, PISTOL, decision, decisions_of, write

ROOT = Path(__file__).parents[2]


@given(
    prompt=st.text(),
    why=st.text(),
    seed=st.none() | st.integers(0, 2**63 - 1).filter(lambda seed: seed < 10**18),
    image=st.none() | st.integers(0, 99),
    peak=st.floats(0, 3.4e38),
    concepts=st.sampled_from([(), (PISTOL,), (PISTOL, NEON)]),
)
def test_what_is_written_is_read(prompt: str, why: str, seed: Any, image: Any, peak: float, concepts: Any) -> None:
    """Any decision survives as one line of ASCII, whatever its texts hold."""
    wanted = decision(
        prompts=(PromptNote("plain", prompt, ""),),
        why=why,
        seed=seed,
        image=image,
        concepts=tuple(replace(found, peak=peak) for found in concepts),
    )
    line = wanted.line()
    assert line.isascii()
    assert line.isprintable()
    assert parse_decision(line) == wanted


def test_lines_are_appended(tmp_path: Path) -> None:
    """Two logs on one file, one call with two images among them: all lines, in order, for the owner's group to read."""
    path = tmp_path / "log.jsonl"
    wanted = [decision(number) for number in range(4)]
    DecisionLog(path).append(wanted[:1])
    DecisionLog(path).append(wanted[1:3])
    DecisionLog(path).append(wanted[3:])
    assert decisions_of(path) == wanted
    assert path.stat().st_mode & 0o007 == 0


def append_many(path: str, first: int, count: int) -> None:
    """What a process of several does."""
    for number in range(first, first + count):
        DecisionLog(path).append([decision(number, why="x" * (number % 7) * 1000), decision(number)])


@pytest.mark.parametrize("kind", [threading.Thread, multiprocessing.get_context("fork").Process])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_many_writers_leave_whole_lines(tmp_path: Path, kind: Any) -> None:
    """Four at once, threads or processes, long and short lines: none is lost or torn, those of a call are together."""
    path = tmp_path / "log.jsonl"
    writers = [kind(target=append_many, args=(str(path), 100 * writer, 25)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = decisions_of(path)
    wanted = [decision(100 * writer + number).id for writer in range(4) for number in range(25)]
    assert sorted(one.id for one in found) == sorted(wanted * 2)
    assert [one.id for one in found[::2]] == [one.id for one in found[1::2]]


def test_a_rotated_file_is_followed(tmp_path: Path) -> None:
    """Renamed or emptied between two lines, the log goes on under its own name; nothing is lost."""
    path, old = tmp_path / "log.jsonl", tmp_path / "log.jsonl.1"
    log = DecisionLog(path)
    log.append([decision(0)])
    path.rename(old)
    log.append([decision(1)])
    assert (decisions_of(old), decisions_of(path)) == ([decision(0)], [decision(1)])
    os.truncate(path, 0)
    log.append([decision(2)])
    assert decisions_of(path) == [decision(2)]


@given(share=st.floats(0.01, 0.99))
def test_a_line_that_a_crash_cut_short_spoils_no_other(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    """The reader names it; the next writer begins a new line, and the reader still knows it for what it is."""
    path = tmp_path_factory.mktemp("crashed") / "log.jsonl"
    write(path, decision(0), decision(1))
    size = len(decision(0).line())
    os.truncate(path, size + 1 + max(1, int(size * share)))
    read = list(read_decisions(path))
    assert [type(entry) for entry in read] == [Decision, Damage]
    write(path, decision(2))
    again = list(read_decisions(path))
    assert [type(entry) for entry in again] == [Decision, Damage, Decision]
    assert again[1] == read[1] == Damage(str(path), 2, "cut short, as by a crash", cut=True)


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    """With room for one line and a half the second is refused whole; with more room it is written."""
    path = tmp_path / "log.jsonl"
    write(path, decision(0))
    room = len(decision(0).line()) * 3 // 2
    program = (
        "import resource, signal, sys, pathlib\n"
        "from tests.guard.logbook import decision, write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))\n"
        "write(pathlib.Path(sys.argv[1]), decision(1))\n"
        "assert 'torch' not in sys.modules\n"
    )
    outcomes = []
    for limit in (room, 10 * room):
        command = [sys.executable, "-c", program, str(path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        outcomes.append((done.returncode, "DecisionLogError" in done.stderr, len(decisions_of(path))))
    assert outcomes == [(1, True, 1), (0, False, 2)]


def test_a_log_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """A missing or read-only folder, a folder, a link, a pipe, a device: each in one line, at once."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for place, problem in [
        (tmp_path / "none" / "log", "No such file"),
        (tmp_path / "file" / "log", "Not a directory"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "link", "symbolic links"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/full"), "not a regular file"),
    ]:
        for attempt in (DecisionLog(place).check, lambda place=place: DecisionLog(place).append([decision()])):
            with pytest.raises(DecisionLogError, match=problem) as caught:
                attempt()
            assert str(caught.value).startswith(f"{place}: ")
            assert caught.value.exit_code == 3
    assert not (tmp_path / "target").exists()
    DecisionLog(tmp_path / "log").check()


def test_a_lock_that_is_never_given_up_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds (here a tenth) the log counts as one that cannot be written; freed, it can."""
    monkeypatch.setattr(decision_log, "_PATIENCE", 0.1)
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path)
    log.append([decision(0)])
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DecisionLogError, match="locked by others"):
            log.append([decision(1)])
    log.append([decision(2)])
    assert decisions_of(path) == [decision(0), decision(2)]


def test_prompts_are_hashed_with_the_salt_of_the_log(tmp_path: Path) -> None:
    """Equal prompts of one log are equal, in another process, too, and after rotation; those of another log are not."""
    path = tmp_path / "log.jsonl"
    first = DecisionLog(path).note("a pistol")
    path.rename(tmp_path / "log.jsonl.1")
    assert DecisionLog(path).note("a pistol") == first
    assert DecisionLog(path).note("a pistol ") != first
    other = DecisionLog(tmp_path / "other.jsonl").note("a pistol")
    assert (other.text == first.text, other.salt == first.salt) == (False, False)
    salt = tmp_path / "log.jsonl.salt"
    assert salt.stat().st_mode & 0o077 == 0
    assert first == PromptNote("hashed", hashed("a pistol", bytes.fromhex(salt.read_text())), first.salt)
    assert "pistol" not in str(first)


def test_a_salt_may_be_given(tmp_path: Path) -> None:
    """Then logs of several machines can be compared, and no file is made for it."""
    notes = [DecisionLog(tmp_path / name, salt=b"ours" * 4).note("a \ud800 pistol") for name in ("one", "two")]
    assert notes[0] == notes[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "abc", "ff" * 31, "zz" * 32, "\xff"])
def test_a_damaged_salt_is_refused(tmp_path: Path, content: str) -> None:
    """A short or empty one would make hashes that can be guessed; a sound one is taken."""
    salt = tmp_path / "log.jsonl.salt"
    salt.write_text(content, encoding="utf-8")
    with pytest.raises(DecisionLogError, match="not a salt"):
        DecisionLog(tmp_path / "log.jsonl").check()
    salt.write_text("ff" * 32)
    DecisionLog(tmp_path / "log.jsonl").check()


@given(st.text())
def test_a_masked_prompt_keeps_lengths_only(prompt: str) -> None:
    """As many words of the same lengths, and nothing else of them."""
    masked = mask(prompt)
    assert [len(word) for word in masked.split()] == [len(word) for word in prompt.split()]
    assert len(masked) == len(prompt)
    assert set(masked) <= {"x", " "}


def test_prompts_are_kept_as_asked(tmp_path: Path) -> None:
    """Masked or plain, by choice; any other choice is refused."""
    for form, text in (("masked", "x xxxxxx"), ("plain", "a pistol")):
        assert DecisionLog(tmp_path / "log", prompts=form).note("a pistol") == PromptNote(form, text, "")
    with pytest.raises(DecisionLogError, match="expected hashed, masked, plain"):
        DecisionLog(tmp_path / "log", prompts="none")


def test_times_are_utc(tmp_path: Path) -> None:
    """Whatever zone the clock is in."""
    zone = timezone(timedelta(hours=2))
    log = DecisionLog(tmp_path / "log", clock=lambda: datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=zone))
    assert log.now() == "2026-11-23T23:02:03.000004Z"
