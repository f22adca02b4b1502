"""``compile`` and ``guard inspect``: what is written, what is refused, what is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from saeuron_guard.cli.compile import refuse_to_lose_files
from saeuron_guard.cli.main import program
from saeuron_guard.compiler.files import guard_digest, parse_guard_json
from saeuron_guard.errors import ArtefactError
from saeuron_guard.guard.bundle import write_bundle
from saeuron_guard.resources import data_folder
from tests.compiler.test_cases import compile_case
from tests.tiny import make_coder

CASE = Path(__file__).parents[1] / "compiler" / "cases" / "stronger-rule-keeps-shared-feature"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The guard folder of a case of the compiler, with SAEs of random weights."""
    config = parse_guard_json(compile_case(CASE), "guard.json")
    coders = {
        point.hookpoint: make_coder(d_in=point.d_in, num_latents=point.num_latents, k=point.k)
        for point in config.hookpoints
    }
    points = tuple(replace(point, sae_digest=coders[point.hookpoint].digest) for point in config.hookpoints)
    unpinned = replace(config, hookpoints=points)
    write_bundle(tmp_path, replace(unpinned, digest=guard_digest(unpinned)), coders)
    return tmp_path


def test_inspect_shows_what_a_guard_does(folder: Path) -> None:
    """Concepts, features, merges, model and digest are on the screen."""
    result = CliRunner().invoke(program, ["guard", "inspect", str(folder)])
    assert result.exit_code == 0, result.stderr
    config = json.loads((folder / "guard.json").read_text(encoding="utf-8"))
    for expected in (
        config["digest"],
        config["policy_digest"],
        "2 concepts, 4 features at 1 hookpoint; 1 merge, 0 collisions with retained concepts",
        "knife (object): scale, enforce, strength 1.5, multiplier -20, 3 features",
        "3 timesteps 900..100, largest gap 400",
        "objects:3 is edited for knife",
        "weights are the pinned ones: 1 SAE, ",
    ):
        assert expected in result.stdout


def test_inspect_gives_the_same_as_json(folder: Path) -> None:
    """The JSON form holds the whole configuration, and says which weights were verified."""
    result = CliRunner().invoke(program, ["guard", "inspect", str(folder), "--format", "json"])
    shown = json.loads(result.stdout)
    weights = shown.pop("weights")
    assert shown == json.loads((folder / "guard.json").read_text(encoding="utf-8"))
    assert weights["verified"]
    assert [sae["digest"] for sae in weights["saes"]] == [point["sae_digest"] for point in shown["hookpoints"]]


@pytest.mark.parametrize("name", ["guard.json", "guard.safetensors"])
def test_inspect_refuses_half_a_guard(folder: Path, name: str) -> None:
    """A folder without one of the two files is no guard, and the message says how to make one."""
    (folder / name).unlink()
    result = CliRunner().invoke(program, ["guard", "inspect", str(folder)])
    assert result.exit_code == 3
    assert f"no {name}" in result.stderr
    assert "saeuron-guard compile" in result.stderr


def test_inspect_refuses_a_changed_guard(folder: Path) -> None:
    """A value changed by hand is noticed by the digest."""
    path = folder / "guard.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"strength": 1.5', '"strength": 0.0'), encoding="utf-8")
    result = CliRunner().invoke(program, ["guard", "inspect", str(folder)])
    assert result.exit_code == 3
    assert "changed by hand or damaged" in result.stderr


def test_inspect_refuses_changed_weights(folder: Path) -> None:
    """One bit of one weight is noticed, too, and torch is not loaded for it."""
    path = folder / "guard.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    program_text = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "from saeuron_guard.cli.main import program\n"
        "program.main(['guard', 'inspect', sys.argv[1]])\n"
    )
    command = [sys.executable, "-c", program_text, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "not the SAE that the guard was compiled for" in done.stderr
    assert done.stdout == "False\n"


@pytest.mark.parametrize("force", [False, True])
def test_a_new_or_empty_folder_may_be_written(tmp_path: Path, force: bool) -> None:
    """Nothing is lost there, so nothing is refused."""
    refuse_to_lose_files(tmp_path / "new", force)
    refuse_to_lose_files(tmp_path, force)


def test_a_guard_is_replaced_only_when_asked(folder: Path) -> None:
    """An existing guard needs --force."""
    refuse_to_lose_files(folder, force=True)
    with pytest.raises(ArtefactError, match="holds a guard already; replace it with --force"):
        refuse_to_lose_files(folder, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_replaced(folder: Path, force: bool) -> None:
    """A folder with anything else in it, and a file in the folder's place, are refused even with --force."""
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"holds other files \(thesis.tex\)"):
        refuse_to_lose_files(folder, force)
    with pytest.raises(ArtefactError, match="is a file"):
        refuse_to_lose_files(folder / "thesis.tex", force)


@pytest.mark.parametrize("leads_to", ["nowhere", "folder"])
def test_a_symbolic_link_is_neither_followed_nor_replaced(tmp_path: Path, leads_to: str) -> None:
    """Whether it dangles or leads to an empty folder; a folder of that name beside it may be written."""
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / leads_to)
    with pytest.raises(ArtefactError, match="link is a symbolic link"):
        refuse_to_lose_files(link, force=True)
    assert link.is_symlink()
    refuse_to_lose_files(tmp_path / "folder", force=False)


def test_a_place_that_cannot_be_written_is_an_error_for_users(tmp_path: Path) -> None:
    """A folder below a file: one message, exit code 3, and the file stays as it was."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    policy = data_folder("policies") / "no-weapons.yaml"
    result = CliRunner().invoke(
        program, ["compile", str(policy), "--out", str(tmp_path / "file" / "guard"), "--no-record"]
    )
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 3
    assert "the guard cannot be written there" in result.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_all_files_of_a_guard_may_be_read_by_the_same_accounts(tmp_path: Path) -> None:
    """The weights are no more private than the configuration: one account compiles, another runs the pipeline."""
    policy = data_folder("policies") / "no-weapons.yaml"
    result = CliRunner().invoke(program, ["compile", str(policy), "--out", str(tmp_path / "guard"), "--no-record"])
    assert result.exit_code == 0, result.stderr
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "guard").iterdir()}
    assert modes["guard.safetensors"] == modes["guard.json"]
