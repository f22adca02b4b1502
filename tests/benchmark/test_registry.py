"""The registry benchmark: what it makes up is sound and sparse, and what it times are the real commands."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from saeuron_guard.benchmark import registry as timing
from saeuron_guard.benchmark.registry import Clock, Timing, run_benchmark
from saeuron_guard.benchmark.synthetic import POSITIONS, PROMPTS, Size, synthetic_statistics
from saeuron_guard.cli.benchmark_registry import _lines
from saeuron_guard.cli.main import program
from saeuron_guard.discovery.sparse import dense_of
from saeuron_guard.discovery.sparse_files import read_sparse, write_sparse
from saeuron_guard.errors import CannotEvaluate

SMALL = Size(concepts=7, timesteps=3, latents=512, d_in=8, k=8, hookpoints=2)
OPTIONS = ("--concepts", "7", "--timesteps", "3", "--latents", "512", "--d-in", "8", "--repeats", "1")


def test_the_default_is_saeurons_size() -> None:
    """50 styles and 20 objects, 50 timesteps, 20,480 latents; 20 of the concepts are removed."""
    table = Size().table
    assert {domain: len(group) for domain, group in zip(table.domains, table.concepts, strict=True)} == {
        "object": 20,
        "style": 50,
    }
    assert (len(Size().steps), Size().steps[0], Size().steps[-1], Size().latents) == (50, 981, 1, 20_480)


def test_made_up_statistics_are_those_of_top_k_codes(tmp_path: Path) -> None:
    """They are sound, equal for equal seeds, and k latents fire at a position on average, of which most fire seldom."""
    statistics = synthetic_statistics(SMALL, 0)
    path = tmp_path / "statistics.safetensors"
    digest = write_sparse(statistics, path, {"hookpoint": "unet"})
    assert read_sparse(path).statistics.table == SMALL.table
    assert write_sparse(synthetic_statistics(SMALL, 0), path, {"hookpoint": "unet"}) == digest
    assert write_sparse(synthetic_statistics(SMALL, 1), path, {"hookpoint": "unet"}) != digest
    rate = dense_of(statistics).rate
    assert statistics.count.tolist() == [[PROMPTS * POSITIONS] * 3] * 7
    assert rate.sum(-1) == pytest.approx(SMALL.k, rel=0.3)
    assert np.median(rate) < SMALL.k / SMALL.latents / 2
    assert 0.5 < statistics.share < 1


def test_more_latents_make_it_sparser() -> None:
    """With k fixed, a larger dictionary leaves more cells in which nothing fires."""
    shares = [synthetic_statistics(Size(2, 2, latents), 0).share for latents in (1024, 8192, 65_536)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.6


def test_every_command_is_timed_on_a_registry_that_works(tmp_path: Path) -> None:
    """Each piece of work in this process and as a process; sizes and rows are those of the files."""
    ticks = itertools.count()
    clock = Clock(lambda: float(next(ticks)), lambda: 0.0)
    lines: list[str] = []
    found = run_benchmark(tmp_path, SMALL, 1, clock, lines.append)
    work = [(timed.where, timed.work) for timed in found.timings]
    shown = ["policy explain", "registry show CONCEPT", "registry show SAE:INDEX", "policy validate"]
    assert work[:6] == [("in process", name) for name in ("open the registry", "compile_policy", *shown)]
    assert work[6:] == [("whole process", name) for name in ("--version", *shown, "compile")]
    assert {timed.seconds for timed in found.timings} == {(1.0,)}
    assert {timed.processor for timed in found.timings} == {(0.0,)}
    assert found.notes.counts["score rows"] == 2 * 7 * 3 * SMALL.top
    # Compiling records the guard, so the database has grown since.
    assert 0 < found.notes.sizes["database"] <= (tmp_path / "registry" / "registry.sqlite").stat().st_size
    assert len({rule.concept for point in found.guard.hookpoints for rule in point.rules}) == 3
    assert found.guard.collisions
    assert not found.passed, "half a second for registry show, and the clock says one"


def test_a_command_that_fails_stops_the_benchmark(tmp_path: Path) -> None:
    """A command's exit code and message come through; nobody reads how quickly it failed."""
    act = timing._command(tmp_path, ("registry", "show", "pistol"))
    with pytest.raises(CannotEvaluate, match="registry show pistol failed with exit code 3: error: no registry folder"):
        act()


@pytest.mark.parametrize(
    ("target", "met"), [(None, None), (2.0, True), (1.5, False), (1.0, False)], ids=["none", "met", "equal", "missed"]
)
def test_the_median_meets_the_target(target: float | None, met: bool | None) -> None:
    """One slow repetition among three misses nothing; a target that is just reached is not met."""
    assert Timing("work", "here", (9.0, 1.5, 1.0), (1.0, 1.0, 1.0), target).met is met


def test_the_command_prints_and_writes_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON with machine, sizes and timings, the same in the file, and a table of them that names what was missed."""
    out = tmp_path / "new" / "figures.json"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(program, ["benchmark", "registry", *OPTIONS, "--format", "json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found == json.loads(out.read_text(encoding="utf-8"))
    assert {"cores", "python", "libraries", "load"} <= set(found["machine"])
    assert found["bytes"]["published statistics, one hookpoint"] == 10_700_000_000
    assert 12 * found["counts"]["cells"] < found["bytes"]["sparse statistics, all hookpoints"]
    assert all(
        set(timed) == {"work", "where", "seconds", "processor", "target", "median", "met"} for timed in found["timings"]
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert all(timed["met"] == (timed["median"] < timed["target"]) for timed in found["timings"] if timed["target"])
    rows = [line.split() for line in _lines(found)]
    assert ["compile_policy", "in", "process"] in [row[:3] for row in rows if row[-1:] == ["yes"]]
    (first, *_) = (timed for timed in found["timings"] if timed["work"] == "registry show CONCEPT")
    for timed in found["timings"]:
        timed["met"] = None if timed["target"] is None else timed is not first
    assert [line.split()[:3] for line in _lines(found) if line.endswith("NO")] == [["registry", "show", "CONCEPT"]]
