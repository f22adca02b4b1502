"""README.md is what the program says of itself, and what it shows can be run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import saeuron_guard
from saeuron_guard import errors
from saeuron_guard.cli.main import EXIT_CODES, program
from saeuron_guard.policy.load import load_policy
from tests.project.shipped import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, ...]]:
    """Every command of the program, by the words that call it."""
    found: list[tuple[str, ...]] = []

    def walk(path: tuple[str, ...], command: click.Command) -> None:
        found.append(path)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                walk((*path, name), command.get_command(context, name))

    walk(("saeuron-guard",), program)
    return found


def check_generated(path: Path) -> int:
    """The exit code of cog's check."""
    command = [sys.executable, "-m", "cogapp", "--check", str(path)]
    return subprocess.run(command, capture_output=True, check=False, cwd=ROOT).returncode


def test_generated_parts_are_current(tmp_path: Path) -> None:
    """Running the generators changes nothing ("poe write-docs" brings them up to date); a stale copy is noticed."""
    assert check_generated(ROOT / "README.md") == 0
    assert check_generated(ROOT / "registry" / "README.md") == 0
    stale = tmp_path / "stale.md"
    stale.write_text(README.replace("| 0 | done", "| 0 | gone"), encoding="utf-8")
    assert check_generated(stale) != 0


def test_every_command_error_and_exit_code_is_named() -> None:
    """Nothing that users can meet is missing from the documentation."""
    names = commands()
    assert len(names) > 5
    assert [name for name in names if f"#### `{' '.join(name)}`" not in README] == []
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert [name for name in kinds if f"`{name}`" not in README] == []
    assert [code for code, _ in EXIT_CODES if f"| {code} |" not in README] == []


def test_policy_in_the_readme_is_valid(tmp_path: Path) -> None:
    """What is shown as a policy loads as one."""
    (text,) = [block for block in blocks("yaml") if "kind: Policy" in block]
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_policy(path).concepts[0].concept == "cigarette"


def test_python_in_the_readme_uses_public_names() -> None:
    """Each example is Python, and imports only what the package exports."""
    examples = blocks("python")
    assert examples
    for example in examples:
        imports = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
        names = {alias.name for node in imports for alias in node.names}
        assert {node.module for node in imports} == {"saeuron_guard"}
        assert names <= set(saeuron_guard.__all__)


def test_pictures_and_files_that_are_linked_exist() -> None:
    """No link of the README leads nowhere."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.slow
def test_python_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the compile command that the README shows, its example draws a guarded picture and prints a report."""
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    policy = "policies/no-weapons.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        program.main(["compile", policy, "--out", "build/no-weapons", "--no-record"])
    assert left.value.code == 0
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102 - running the documentation is the test
    assert "ConceptFindings(concept='pistol'" in capsys.readouterr().out


def test_example_calls_are_understood() -> None:
    """Every call of the program in a shell example names an existing command and only options that it has."""
    calls = [line for block in blocks("sh") for line in block.splitlines() if re.match(r"saeuron-guard ", line)]
    assert calls
    known = {name[1:] for name in commands()}
    for call in calls:
        words = call.partition("#")[0].split()[1:]
        path = max((name for name in known if tuple(words[: len(name)]) == name), key=len)
        assert path, f"unknown command in: {call}"
        section = README.partition(f"#### `saeuron-guard {' '.join(path)}`")[2].partition("#### ")[0]
        for option in re.findall(r" (--[a-z-]+)", call):
            assert option in section, f"unknown option {option} in: {call}"


@pytest.mark.parametrize("ending", ["bin/saeuron-guard verify policies/no-weapons.yaml", "bin/poe test"])
def test_the_two_commands_do_all_set_up(ending: str) -> None:
    """Each is one line that makes its environment, installs the package there and then does its job."""
    (command,) = [line for line in README.splitlines() if line.endswith(ending)]
    steps = command.split(" && ")
    assert steps[0] == "python3 -m venv .venv"
    assert steps[1].startswith(".venv/bin/pip install ")
    assert len(steps) == 3


def test_prose_has_one_sentence_a_line() -> None:
    """Semantic newlines: no line of prose goes on after a full stop, so that diffs show sentences."""
    prose = re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->|^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "#", "!["))]
    assert len(lines) > 40
    assert [line for line in lines if re.search(r"[a-z)`]\. [A-Z`]", line)] == []
