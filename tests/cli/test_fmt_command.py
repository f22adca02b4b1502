from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.policy.format import format_policy
from saeuron_guard.resources import data_folder

WEAPONS = data_folder("policies") / "no-weapons.yaml"
ODD = "# c1\nkind:   Policy   # c2\napiVersion: 'saeuron-guard/v1'"
NEAT = "apiVersion: saeuron-guard/v1\n# c1\nkind: Policy  # c2\n"


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """What ``policy fmt`` answers."""
    return CliRunner().invoke(program, ["policy", "fmt", *(str(argument) for argument in arguments)], input=stdin)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A policy that is not formatted."""
    path = tmp_path / "odd.yaml"
    path.write_text(ODD, encoding="utf-8")
    return path


def test_a_file_is_formatted_in_place(odd: Path) -> None:
    """One line names the changed file, a second run has nothing to say, and nothing is left beside the file."""
    result = run(odd, WEAPONS)
    assert (result.exit_code, result.output) == (0, f"formatted {odd}\n")
    assert odd.read_text(encoding="utf-8") == NEAT
    again = run(odd)
    assert (again.exit_code, again.output) == (0, "")
    assert list(odd.parent.iterdir()) == [odd]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_stay(odd: Path, mode: int) -> None:
    """The new file may be read and run by those who might the old one."""
    odd.chmod(mode)
    assert run(odd).exit_code == 0
    assert odd.read_text(encoding="utf-8") == NEAT
    assert stat.S_IMODE(odd.stat().st_mode) == mode


def test_check_writes_nothing(odd: Path) -> None:
    """Exit code 2 when a file would change, which is named; 0 when none would."""
    result = run("--check", odd, WEAPONS)
    assert (result.exit_code, result.output) == (2, f"would format {odd}\n")
    assert odd.read_text(encoding="utf-8") == ODD
    assert (run("--check", WEAPONS).exit_code, run("--check", WEAPONS).output) == (0, "")


def test_diff_writes_nothing(odd: Path) -> None:
    """A unified diff on stdout that turns one text into the other; exit code 0, and 2 with --check."""
    result = run("--diff", odd, WEAPONS)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"--- {odd}",
        f"+++ {odd} (formatted)",
        "@@ -1,3 +1,3 @@",
        "+apiVersion: saeuron-guard/v1",
        " # c1",
        "-kind:   Policy   # c2",
        "-apiVersion: 'saeuron-guard/v1'",
        "\\ No newline at end of file",
        "+kind: Policy  # c2",
    ]
    assert odd.read_text(encoding="utf-8") == ODD
    both = run("--check", "--diff", odd)
    assert (both.exit_code, both.stdout) == (2, result.stdout)


def test_standard_input_goes_to_standard_output() -> None:
    """The formatted text and nothing else on stdout; with --check nothing, and exit code 2."""
    result = run("-", stdin=ODD.encode())
    assert (result.exit_code, result.stdout, result.stderr) == (0, NEAT, "")
    checked = run("-", "--check", stdin=ODD.encode())
    assert (checked.exit_code, checked.stdout, checked.stderr) == (2, "", "would format <stdin>\n")
    assert run("-", "--check", stdin=NEAT.encode()).exit_code == 0
    faulty = run("-", stdin=b"kind: on\n")
    assert (faulty.exit_code, faulty.stdout) == (2, "")
    assert faulty.stderr.startswith("<stdin>:1:7: some programs read on as true")
    assert run("-", stdin=b"kind: \xff\n").stderr == "<stdin>:1:7: byte 0xff is not UTF-8; save the file as UTF-8\n"
    assert run("-", WEAPONS).exit_code == 2


def test_byte_order_mark_and_line_ends_are_changes(tmp_path: Path) -> None:
    """A file that differs in nothing else is still not formatted."""
    for data in (b"\xef\xbb\xbf" + NEAT.encode(), NEAT.replace("\n", "\r\n").encode()):
        path = tmp_path / "policy.yaml"
        path.write_bytes(data)
        assert run("--check", path).exit_code == 2
        assert run(path).exit_code == 0
        assert path.read_bytes() == NEAT.encode()


def test_all_files_are_tried(odd: Path, tmp_path: Path) -> None:
    """The problems of every file are told, the good one is formatted, and the exit code is that of the bad ones."""
    faulty = tmp_path / "faulty.yaml"
    faulty.write_text("kind: on\nkind: [\n", encoding="utf-8")
    result = run(tmp_path / "missing.yaml", faulty, odd)
    assert (result.exit_code, result.stdout) == (2, f"formatted {odd}\n")
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        f"{tmp_path}/missing.yaml",
        f"{faulty}:1:7",
        f"{faulty}:2:1",
        f"{faulty}:3:1",
    ]
    assert faulty.read_text(encoding="utf-8") == "kind: on\nkind: [\n"


def test_links_are_not_written_through(odd: Path, tmp_path: Path) -> None:
    """A symbolic link is refused and stays one, its target as it was; without anything to change it may be named."""
    link = tmp_path / "link.yaml"
    link.symlink_to(odd)
    result = run(link)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"{link}: this is a symbolic link, not written through; name its target\n"
    assert link.is_symlink()
    assert odd.read_text(encoding="utf-8") == ODD
    assert run("--check", link).exit_code == 2
    odd.write_text(NEAT, encoding="utf-8")
    assert run(link).exit_code == 0


def test_a_write_that_fails_leaves_the_file(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the old file is whole, nothing is left beside it, and the exit code is 3."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        result = run(odd)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {odd}: cannot be written: ")
    assert odd.read_text(encoding="utf-8") == ODD
    assert list(odd.parent.iterdir()) == [odd]
    assert run(odd).exit_code == 0


def test_a_read_only_file_is_not_written(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who took away the permission to write did not want the file replaced either."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # the superuser may write everything
    result = run(odd)
    assert (result.exit_code, result.stderr) == (3, f"error: {odd}: cannot be written: it is read-only\n")
    assert odd.read_text(encoding="utf-8") == ODD


def test_formatting_loads_nothing_heavy(odd: Path) -> None:
    """A whole process formats a file without torch, numpy or a database."""
    code = (
        "import sys, atexit\n"
        "from saeuron_guard.cli.main import program\n"
        "atexit.register(lambda: print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr))\n"
        "program.main(['policy', 'fmt', sys.argv[1]], prog_name='saeuron-guard')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(odd)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"formatted {odd}\n")
    loaded = set(done.stderr.split())
    assert "yaml" in loaded
    assert not loaded & {"torch", "numpy", "diffusers", "transformers", "sqlalchemy", "alembic"}


def test_text_outside_ascii_survives(tmp_path: Path) -> None:
    """Emoji and accents come out as they went in, also through a pipe."""
    text = "kind: Policy\nx: é🔫  # ü\n"
    assert format_policy(text, "policy.yaml") == text
    assert run("-", stdin=text.encode()).stdout_bytes == text.encode()
