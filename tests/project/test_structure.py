"""The project's own rules: who imports whom, what is declared, what the repository holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "saeuron_guard"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", name)[0]).lower()


def imported_names(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def run_import_linter(config: Path) -> tuple[int, str]:
    """Exit code and output of the import contracts in ``config``."""
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.returncode, done.stdout + done.stderr


def test_layers_are_kept(tmp_path: Path) -> None:
    """All import contracts hold; with two layers exchanged the first one is broken, so the check does check."""
    code, output = run_import_linter(ROOT / "pyproject.toml")
    assert code == 0, output
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    begin = text.index('id = "layers"')
    end = text.index("]", begin)
    upper, lower = "saeuron_guard.judges", "saeuron_guard.documents"
    layers = text[begin:end].replace(lower, "LOWER").replace(upper, lower).replace("LOWER", upper)
    exchanged = tmp_path / "pyproject.toml"
    exchanged.write_text(text[:begin] + layers + text[end:], encoding="utf-8")
    code, output = run_import_linter(exchanged)
    assert code != 0
    assert "BROKEN" in output


def test_every_module_has_a_layer() -> None:
    """No top-level module escapes the layer contract."""
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "layers")
    layered = {
        part.strip(" ()").removeprefix("saeuron_guard.") for layer in contract["layers"] for part in layer.split("|")
    }
    present = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    present |= {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert "compiler" in present
    assert present - layered == set()


def test_every_import_is_a_declared_dependency() -> None:
    """What the package imports is the standard library, itself, or declared; and what is declared is used."""
    project = PROJECT["project"]
    declared = {canonical(entry) for entry in project["dependencies"]}
    optional = {canonical(entry) for entry in project["optional-dependencies"]["build"]}
    distributions = packages_distributions()
    used: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for name in imported_names(path) - set(sys.stdlib_module_names) - {"saeuron_guard"}:
            owners = {canonical(owner) for owner in distributions.get(name, [name])}
            assert owners & (declared | optional), f"{path}: {name} is not declared"
            used |= owners
    # open_clip imports torchvision and diffusers imports accelerate; the package itself need not.
    assert declared - used <= {"torchvision", "accelerate"}


def test_sub_packages_export_nothing() -> None:
    """Only the package's root re-exports: the __init__ of a sub-package is its docstring."""
    for path in PACKAGE.rglob("*/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path


def test_files_stay_readable() -> None:
    """No module is longer than a sitting: 300 lines, with a little tolerance."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(lengths) > 20
    assert {str(path): length for path, length in lengths.items() if length > 330} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "import saeuron_guard",
        "from saeuron_guard import load_policy",
        "from saeuron_guard import FeatureRegistry",
        "from saeuron_guard import compile_policy",
        "import saeuron_guard.cli.policy, saeuron_guard.cli.explain, saeuron_guard.cli.registry",
        "import saeuron_guard.cli.compile, saeuron_guard.cli.guard",
        "import saeuron_guard.report.text, saeuron_guard.report.json, saeuron_guard.report.html",
        "import saeuron_guard.verify.result",
        "import saeuron_guard.discovery.sparse_files, saeuron_guard.discovery.artefact, saeuron_guard.cli.score",
    ],
)
def test_work_on_policies_loads_no_torch(statement: str) -> None:
    """Each import leaves torch and the libraries on top of it alone."""
    assert heavy_modules_after(statement) == set()


def test_loading_torch_would_be_noticed() -> None:
    """Control: importing the guard loads torch, and the check above sees it."""
    assert "torch" in heavy_modules_after("from saeuron_guard import Guard")


def heavy_modules_after(statement: str) -> set[str]:
    """Which of the heavy libraries a fresh process has loaded after ``statement``."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split()) & {"torch", "torchvision", "diffusers", "transformers", "open_clip", "accelerate"}


def test_top_level_holds_nothing_else() -> None:
    """Data, code, tests, migrations, the readme, the licence and one configuration file; the rest is hidden."""
    command = ["git", "ls-files"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    tracked = done.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    top = {Path(path).parts[0] for path in tracked}
    expected = {
        "LICENSE",
        "README.md",
        "migrations",
        "policies",
        "pyproject.toml",
        "registry",
        "saeuron_guard",
        "tests",
    }
    assert {name for name in top if not name.startswith(".")} <= expected
    assert "pyproject.toml" in top


def test_checks_are_defined_once() -> None:
    """pre-commit calls tasks of pyproject.toml and nothing of its own; .ci/run calls those and the README's command."""
    tasks = set(PROJECT["tool"]["poe"]["tasks"])
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert hooks
    assert {hook.removeprefix("poe ") for hook in hooks} <= tasks
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = set(re.findall(r"^poe (\S+)", script, flags=re.MULTILINE))
    assert called <= tasks
    assert "README.md" in script
