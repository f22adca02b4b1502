"""What other repositories take from this one: hooks for pre-commit and an action for GitHub, run as written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from saeuron_guard.policy.format import format_policy
from tests.project.shipped import ROOT
from tests.project.test_readme import blocks

HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
FOLDER = ROOT / ".github" / "actions" / "policy-check"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text(encoding="utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load((FOLDER / "example-workflow.yml").read_text(encoding="utf-8"))
GOOD = (ROOT / "tests" / "policies" / "no-weapons.yaml").read_text(encoding="utf-8")
ODD = GOOD.replace("target:\n  model: emoji-canvas\n", "target:   {model: 'emoji-canvas'}   # where\n")
BAD = GOOD.replace("pistol", "pistl")


def hook(name: str) -> dict[str, Any]:
    """The hook of a name."""
    (found,) = [each for each in HOOKS if each["id"] == name]
    return found


def step(name: str) -> dict[str, Any]:
    """The action's step of a name."""
    (found,) = [each for each in ACTION["runs"]["steps"] if each["name"] == name]
    return found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a shell in which ``saeuron-guard`` is this checkout's, with a home of its own."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "saeuron-guard"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m saeuron_guard "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SAEURON_GUARD"))}
    return ours | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
        "PRE_COMMIT_HOME": str(tmp_path / "pre-commit"),
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with a valid and formatted policy, and a file beside it that is no policy."""
    folder = tmp_path / "repository"
    (folder / "policies" / "prompts").mkdir(parents=True)
    (folder / "policies" / "good.yaml").write_text(GOOD, encoding="utf-8")
    (folder / "policies" / "prompts" / "mine.yaml").write_text("kind:   PromptSet\n", encoding="utf-8")
    (folder / "other.yaml").write_text("kind:   Deployment\n", encoding="utf-8")
    return folder


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command's outcome."""
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_the_program_of_the_hooks_is_installed_by_the_package() -> None:
    """pre-commit installs the package; what the entries call is one of its scripts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {shlex.split(each["entry"])[0] for each in HOOKS} == {"saeuron-guard"}
    assert "saeuron-guard" in project["scripts"]
    assert {each["language"] for each in HOOKS} == {"python"}


def test_only_policies_are_given_to_the_hooks() -> None:
    """The pattern takes policies/*.yaml and neither prompt sets nor other YAML files."""
    for each in HOOKS:
        assert re.search(each["files"], "policies/no-weapons.yaml")
        assert re.search(each["files"], "policies/kids.yml")
        for other in ("policies/prompts/audit/x.yaml", "src/policies/x.yaml", "x.yaml", "policies/README.md"):
            assert not re.search(each["files"], other)


def test_the_entries_do_what_they_say(repository: Path, environment: dict[str, str]) -> None:
    """Each entry passes the good file; formatting changes the odd one, validation names the bad one's mistake."""
    for each in HOOKS:
        assert run([*shlex.split(each["entry"]), "policies/good.yaml"], repository, environment).returncode == 0
    odd, bad = repository / "policies" / "odd.yaml", repository / "policies" / "bad.yaml"
    odd.write_text(ODD, encoding="utf-8")
    bad.write_text(BAD, encoding="utf-8")
    done = run([*shlex.split(hook("saeuron-guard-fmt")["entry"]), "policies/odd.yaml"], repository, environment)
    assert (done.returncode, done.stdout) == (0, "formatted policies/odd.yaml\n")
    assert odd.read_text(encoding="utf-8") == format_policy(ODD, "odd.yaml") != ODD
    done = run([*shlex.split(hook("saeuron-guard-validate")["entry"]), "policies/bad.yaml"], repository, environment)
    assert done.returncode == 2
    assert done.stdout.startswith("policies/bad.yaml:14:14: unknown concept 'pistl'. Did you mean 'pistol'?")


def test_pre_commit_takes_the_hooks(repository: Path, environment: dict[str, str]) -> None:
    """The manifest is valid, a broken copy is not, and so is the configuration that README.md shows."""
    check = [sys.executable, "-m", "pre_commit", "validate-manifest"]
    assert run([*check, str(ROOT / ".pre-commit-hooks.yaml")], repository, environment).returncode == 0
    broken = repository / "broken.yaml"
    broken.write_text((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8").replace("entry:", "enter:"), "utf-8")
    assert run([*check, str(broken)], repository, environment).returncode == 1
    (shown,) = [block for block in blocks("yaml") if "hooks:" in block]
    assert {each["id"] for each in yaml.safe_load(shown)["repos"][0]["hooks"]} == {each["id"] for each in HOOKS}
    (repository / "config.yaml").write_text(shown, encoding="utf-8")
    config = [sys.executable, "-m", "pre_commit", "validate-config", "config.yaml"]
    assert run(config, repository, environment).returncode == 0


def test_pre_commit_runs_the_hooks(repository: Path, environment: dict[str, str]) -> None:
    """In a repository that has the hooks, a commit with a good policy passes and one with an odd or bad one does not.

    Only how the program gets there differs: not by pip, which would fetch all dependencies, but from this checkout.
    """
    local = [{**each, "language": "system"} for each in HOOKS]
    config = yaml.safe_dump({"repos": [{"repo": "local", "hooks": local}]}, sort_keys=False)
    (repository / ".pre-commit-config.yaml").write_text(config, encoding="utf-8")
    all_files = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose"]
    run(["git", "init", "--quiet", "."], repository, environment)
    run(["git", "add", "."], repository, environment)
    done = run(all_files, repository, environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Passed") == 2
    assert "policies/good.yaml: valid" in done.stdout
    odd, bad = repository / "policies" / "odd.yaml", repository / "policies" / "bad.yaml"
    odd.write_text(ODD, encoding="utf-8")
    bad.write_text(BAD, encoding="utf-8")
    run(["git", "add", "."], repository, environment)
    done = run(all_files, repository, environment)
    assert done.returncode == 1
    assert "formatted policies/odd.yaml" in done.stdout
    assert "unknown concept 'pistl'" in done.stdout
    assert odd.read_text(encoding="utf-8") == format_policy(ODD, "odd.yaml")
    assert (repository / "other.yaml").read_text(encoding="utf-8") == "kind:   Deployment\n"


def substituted(text: str, inputs: dict[str, str]) -> str:
    """``text`` with the inputs in the place of GitHub's expressions."""
    return re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda match: inputs[match[1]], text)


def run_step(name: str, folder: Path, environment: dict[str, str], **inputs: str) -> subprocess.CompletedProcess[str]:
    """A ``run:`` step of the action as GitHub runs it: its script in a file, by bash with its flags."""
    chosen = step(name)
    assert chosen["shell"] == "bash"
    given = {key: str(each.get("default", "")) for key, each in ACTION["inputs"].items()}
    given |= {key.replace("_", "-"): value for key, value in inputs.items()}
    variables = {key: substituted(value, given) for key, value in chosen["env"].items()}
    script = folder.parent / "step.sh"
    script.write_text(chosen["run"], encoding="utf-8")
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return run(command, folder, environment | variables)


def test_every_step_is_run_by_a_test() -> None:
    """The steps are those that the tests of this module run; the first sets up Python with GitHub's own action."""
    names = [each["name"] for each in ACTION["runs"]["steps"]]
    assert names == ["Set up Python", "Install saeuron-guard", "Formatting", "Validity", "Release check"]
    assert [each["name"] for each in ACTION["runs"]["steps"] if "run" not in each] == ["Set up Python"]


def test_no_input_is_a_part_of_a_script() -> None:
    """Inputs reach scripts as variables, so a file's name cannot become a command."""
    for each in ACTION["runs"]["steps"]:
        assert "${{" not in each.get("run", "")


def test_installing_installs_what_is_named(repository: Path, environment: dict[str, str]) -> None:
    """The step calls pip with the one requirement as one word.

    pip itself is not run, because it would fetch several gigabytes: a program of the same name says what it was given.
    """
    fake = Path(environment["PATH"].partition(":")[0]) / "python"
    fake.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n', encoding="utf-8")
    fake.chmod(0o755)
    done = run_step("Install saeuron-guard", repository, environment, package="a; echo b")
    assert (done.returncode, done.stdout.split("\n")) == (0, ["<-m>", "<pip>", "<install>", "<a; echo b>", ""])


def test_formatting_is_checked(repository: Path, environment: dict[str, str]) -> None:
    """A formatted policy passes; one that is not fails with its diff and is not changed."""
    assert run_step("Formatting", repository, environment).returncode == 0
    odd = repository / "policies" / "odd.yaml"
    odd.write_text(ODD, encoding="utf-8")
    done = run_step("Formatting", repository, environment)
    assert done.returncode == 2
    assert "-target:   {model: 'emoji-canvas'}   # where\n" in done.stdout
    assert odd.read_text(encoding="utf-8") == ODD
    assert run_step("Formatting", repository, environment, files="policies/good.yaml").returncode == 0


def test_validity_is_checked(repository: Path, environment: dict[str, str]) -> None:
    """A valid policy passes with a notice; a mistake is marked at its place in the pull request."""
    done = run_step("Validity", repository, environment)
    notice = "::notice file=policies/good.yaml,line=1,col=1::valid, no waivers\n"
    assert (done.returncode, done.stdout) == (0, notice)
    (repository / "policies" / "bad.yaml").write_text(BAD, encoding="utf-8")
    done = run_step("Validity", repository, environment)
    assert done.returncode == 2
    assert done.stdout.startswith("::error file=policies/bad.yaml,line=14,col=14::unknown concept 'pistl'.")


@pytest.mark.parametrize("name", ["Formatting", "Validity", "Release check"])
@pytest.mark.parametrize("files", ["nowhere/*.yaml", "policies/missing.yaml", "$(touch run) `touch run`"])
def test_checking_nothing_is_a_failure(name: str, files: str, repository: Path, environment: dict[str, str]) -> None:
    """Patterns that match nothing and files that do not exist fail; nothing in the input is run."""
    assert run_step(name, repository, environment, files=files).returncode == 2
    assert not (repository / "run").exists()


def test_every_policy_is_judged(repository: Path, environment: dict[str, str]) -> None:
    """The release check goes on after a failure and fails in the end; options reach the program as words.

    A program of the same name stands in for the drawing of pictures, which has a slow test of its own.
    """
    fake = Path(environment["PATH"].partition(":")[0]) / "saeuron-guard"
    fake.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *bad*) exit 1;; esac\n', encoding="utf-8")
    done = run_step("Release check", repository, environment, verify_options="--strict --seeds 1")
    assert (done.returncode, done.stdout) == (0, "verify --strict --seeds 1 -- policies/good.yaml\n")
    shutil.copy(repository / "policies" / "good.yaml", repository / "policies" / "bad.yaml")
    done = run_step("Release check", repository, environment)
    assert (done.returncode, done.stdout) == (1, "verify -- policies/bad.yaml\nverify -- policies/good.yaml\n")


@pytest.mark.slow
def test_the_release_check_runs(repository: Path, environment: dict[str, str]) -> None:
    """The real program reaches a verdict: with so few images, inconclusive, which is 3 and never a pass."""
    few = "--seeds 1 --max-images-per-concept 2 --max-retain-images 4"
    done = run_step("Release check", repository, environment, verify_options=few)
    assert done.returncode == 3, done.stderr
    assert "inconclusive" in done.stdout.lower()


def test_the_example_calls_the_action_as_it_is() -> None:
    """The workflow names the action's folder and only inputs that the action has, all that it requires among them."""
    (call,) = [each for each in WORKFLOW["jobs"]["check"]["steps"] if "policy-check" in each["uses"]]
    assert f"/{FOLDER.relative_to(ROOT)}@" in call["uses"]
    required = {name for name, each in ACTION["inputs"].items() if each["required"]}
    assert required <= set(call["with"]) <= set(ACTION["inputs"])
