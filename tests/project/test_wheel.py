"""The wheel: built, installed outside the checkout, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.project.shipped import ROOT

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, state: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder of its own, with a home of its own and nothing of the checkout on its path."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SAEURON_GUARD", "COV_"))
    }
    environment |= {"HOME": str(state), "XDG_DATA_HOME": str(state / "data")}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend that pyproject.toml names, without an isolated environment to download."""
    folder = tmp_path_factory.mktemp("wheel")
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the wheel in it.

    Its dependencies are those of the environment that runs the tests, seen through a .pth file: the same several
    gigabytes need not be fetched again.  The project itself is not seen that way when it is installed as editable,
    because .pth files of a folder that a .pth file names are not read.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    done = run(programs / "pip", "install", "--no-deps", "--no-index", wheel, folder=folder, state=folder)
    assert done.returncode == 0, done.stderr
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def test_wheel_carries_the_data_and_no_database(wheel: Path) -> None:
    """Registry, policies and migrations are inside the package; built databases and tests are not."""
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "saeuron_guard/py.typed",
        "saeuron_guard/policy/schema.json",
        "saeuron_guard/_data/registry/manifest.yaml",
        "saeuron_guard/_data/policies/no-weapons.yaml",
        "saeuron_guard/_data/policies/prompts/audit/emoji-canvas.yaml",
        "saeuron_guard/_data/migrations/env.py",
    ):
        assert expected in names
    assert [name for name in names if ".sqlite" in name or "__pycache__" in name] == []
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"saeuron_guard"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_program_is_the_wheels_own(installed: Path, tmp_path: Path) -> None:
    """Outside the checkout the package comes from the fresh environment, and its data from inside the package."""
    script = "import saeuron_guard.resources as r; print(r.data_folder('registry')); print(r.state_folder())"
    done = run(installed / "python", "-c", script, folder=tmp_path, state=tmp_path)
    assert done.returncode == 0, done.stderr
    data, state = (Path(line) for line in done.stdout.splitlines())
    assert data.is_relative_to(installed.parent.resolve())
    assert state.is_relative_to(tmp_path)


def test_installed_program_validates_a_policy(installed: Path, tmp_path: Path) -> None:
    """``policy validate`` accepts a policy outside the checkout and places the mistake of a faulty one."""
    text = (ROOT / "policies" / "no-weapons.yaml").read_text(encoding="utf-8")
    (tmp_path / "good.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(text.replace("concepts:", "concept:", 1), encoding="utf-8")
    program = installed / "saeuron-guard"
    good = run(program, "policy", "validate", "good.yaml", folder=tmp_path, state=tmp_path)
    assert good.returncode == 0, good.stderr
    bad = run(program, "policy", "validate", "bad.yaml", folder=tmp_path, state=tmp_path)
    assert bad.returncode == 2
    assert "bad.yaml:" in bad.stdout + bad.stderr


def test_installed_program_verifies(installed: Path, tmp_path: Path) -> None:
    """``verify`` with a small budget reaches a verdict from the wheel alone: every file that it needs is inside."""
    text = (ROOT / "policies" / "no-weapons.yaml").read_text(encoding="utf-8")
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    budget = ("--seeds", "1", "--max-images-per-concept", "2", "--max-retain-images", "4")
    done = run(
        installed / "saeuron-guard",
        "verify",
        "policy.yaml",
        "--format",
        "json",
        *budget,
        folder=tmp_path,
        state=tmp_path,
    )
    # So few images can never pass: the honest answer is "inconclusive", which is 3, with the whole result on stdout.
    assert done.returncode == 3, done.stderr
    assert '"verdict": "inconclusive"' in done.stdout
    assert '"concept": "pistol"' in done.stdout
