from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saeuron_guard.cli.main import program
from saeuron_guard.policy.format import format_policy
from saeuron_guard.policy.load import load_policy
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.policy.settings import settings_of
from saeuron_guard.policy.templates import TEMPLATES
from saeuron_guard.resources import data_folder


def run(*arguments: str | Path) -> Result:
    """What a command of ``policy`` answers."""
    return CliRunner().invoke(program, ["policy", *map(str, arguments)])


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_each_template_gives_a_policy(template: str, tmp_path: Path) -> None:
    """Formatted, valid by itself, under its new name and owner, with the template's rules and no claims."""
    path = tmp_path / "new" / "mine.yaml"
    result = run("init", template, "--name", "mine", "--owner", "Trust: & Safety's", "--out", path)
    assert result.exit_code == 0, result.output
    text = path.read_text(encoding="utf-8")
    assert format_policy(text, str(path)) == text
    policy = load_policy(path)
    assert (policy.name, policy.version, policy.owner) == ("mine", "0.1.0", "Trust: & Safety's")
    assert (policy.status, policy.side_effects) == ("experimental", ())
    shipped = load_policy(data_folder("policies") / TEMPLATES[template][0])
    assert policy.concepts
    ours, theirs = settings_of(policy), settings_of(shipped)
    assert ours == {
        **theirs,
        ("audit", "prompts"): str(theirs["audit", "prompts"]).replace(f"{shipped.name}-audit.yaml", "mine-audit.yaml")
        if "mine-audit" in str(ours["audit", "prompts"])
        else theirs["audit", "prompts"],
    }


def test_the_schema_lies_beside_the_policy(tmp_path: Path) -> None:
    """Editors find it by the file's first line; one that is there already stays."""
    path = tmp_path / "mine.yaml"
    assert run("init", "weapons", "--name", "mine", "--owner", "x", "--out", path).exit_code == 0
    first = path.read_text(encoding="utf-8").splitlines()[0]
    schema = tmp_path / first.removeprefix("# yaml-language-server: $schema=")
    assert json.loads(schema.read_text(encoding="utf-8")) == policy_schema()
    schema.write_text("{}", encoding="utf-8")
    assert run("init", "gore", "--name", "other", "--owner", "x", "--out", tmp_path / "other.yaml").exit_code == 0
    assert schema.read_text(encoding="utf-8") == "{}"


def test_a_policy_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    """Not even when it is a link to nowhere; the message says what to do."""
    path, link = tmp_path / "mine.yaml", tmp_path / "link.yaml"
    path.write_text("mine", encoding="utf-8")
    link.symlink_to(tmp_path / "nowhere.yaml")
    for file in (path, link):
        result = run("init", "weapons", "--name", "mine", "--owner", "x", "--out", file)
        assert result.exit_code == 3
        assert "exists already; name another file with --out" in result.stderr
    assert path.read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "nowhere.yaml").exists()


@pytest.mark.parametrize(("option", "value"), [("--name", "My policy"), ("--name", "a\n"), ("--owner", " ")])
def test_bad_names_are_usage_errors(option: str, value: str, tmp_path: Path) -> None:
    """Nothing is written for a name that the schema would refuse."""
    options = {"--name": "mine", "--owner": "x", "--out": str(tmp_path / "mine.yaml")} | {option: value}
    result = run("init", "weapons", *(part for pair in options.items() for part in pair))
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_templates_are_listed() -> None:
    """One line each, without other arguments."""
    result = run("init", "--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == list(TEMPLATES)
