"""``benchmark registry``: how long commands take on a registry as large as a real model's."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click

from saeuron_guard.cli.sae import layout_option, progress
from saeuron_guard.cli.tables import aligned
from saeuron_guard.errors import ArtefactError


@click.command("registry")
@click.option("--concepts", type=click.IntRange(2), default=70, show_default=True, help="Two objects for five styles.")
@click.option("--timesteps", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--latents", type=click.IntRange(64), default=20_480, show_default=True, help="Of each SAE.")
@click.option("--d-in", type=click.IntRange(1), default=1280, show_default=True, help="Width of each hookpoint.")
@click.option("--hookpoints", type=click.IntRange(1, 2), default=2, show_default=True, help="One SAE each.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Of each piece of work.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is made up.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this JSON file.")
@layout_option
def registry_command(repeats: int, out: Path | None, layout: str, **sizes: int) -> None:
    """Make up a registry of the size of SAeUron's on UnlearnCanvas, and time commands on it.

    Its statistics are as sparse as those of top-k codes, see saeuron_guard/benchmark/synthetic.py. Everything is in a
    temporary folder, 2.5 GB at full size (TMPDIR names another place), and takes some minutes.

    \b
    Example:
      saeuron-guard benchmark registry --concepts 14 --timesteps 10 --latents 2048 --repeats 3
    """
    from saeuron_guard.benchmark.registry import Clock, document_of, run_benchmark
    from saeuron_guard.benchmark.synthetic import Size

    # Of this process, then of its children, in user and system mode each; the fifth is the wall clock.
    clock = Clock(time.perf_counter, lambda: sum(os.times()[:4]))
    with tempfile.TemporaryDirectory(prefix="saeuron-guard-") as folder, progress() as log:
        found = run_benchmark(Path(folder), Size(**sizes), repeats, clock, log)
    document = document_of(found)
    if out:
        write_figures(out, document)
    click.echo(json.dumps(document, indent=2) if layout == "json" else "\n".join(_lines(document)))


def write_figures(out: Path, document: dict[str, Any]) -> None:
    """Write what a benchmark found to the file ``out``; ArtefactError when that cannot be."""
    from saeuron_guard.resources import write_whole

    try:
        write_whole(out, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written ({error.strerror or error}); name another file") from None


def machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    """What figures of time depend on, for a terminal."""
    yield f"machine: {machine['processor']}, {machine['cores']} cores, load {machine['load']}, {machine['system']}"
    versions = {"python": machine["python"], "sqlite": machine["sqlite"], **machine["libraries"]}
    yield "versions: " + ", ".join(f"{name} {number}" for name, number in versions.items())


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """The figures for a terminal."""
    yield from machine_lines(document["machine"])
    size, counts = document["size"], document["counts"]
    yield (
        f"registry: {size['concepts']} concepts x {size['timesteps']} timesteps x {size['latents']} latents at "
        f"{size['hookpoints']} hookpoints; {document['share_of_cells']:.0%} of the cells fire, "
        f"{counts['score rows']} scores"
    )
    yield "policy: " + ", ".join(f"{count} {name}" for name, count in document["guard"].items())
    yield ""
    yield from aligned(("SIZE", "MB"), [(name, f"{count / 1e6:.1f}") for name, count in document["bytes"].items()],
                       right=("MB",))  # fmt: skip
    yield ""
    yield from aligned(("MADE", "SECONDS"), [(name, f"{spent:.2f}") for name, spent in document["seconds"].items()],
                       right=("SECONDS",))  # fmt: skip
    yield ""
    headers = ("TIMED", "WHERE", "MEDIAN", "FASTEST", "SLOWEST", "PROCESSOR", "TARGET", "MET")
    yield from aligned(headers, [_row(timing) for timing in document["timings"]], right=headers[2:7])


def _row(timing: dict[str, Any]) -> tuple[str, ...]:
    target = "-" if timing["target"] is None else f"< {timing['target']:g} s"
    met = {None: "-", True: "yes", False: "NO"}[timing["met"]]
    figures = (timing["median"], min(timing["seconds"]), max(timing["seconds"]), median(timing["processor"]))
    return (timing["work"], timing["where"], *(f"{figure:.3f}" for figure in figures), target, met)
