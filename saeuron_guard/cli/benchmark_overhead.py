"""``benchmark overhead``: what a guard costs in time and memory on a denoiser of SD 1.5's size."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click

from saeuron_guard.cli.benchmark_registry import machine_lines, write_figures
from saeuron_guard.cli.sae import layout_option, progress
from saeuron_guard.cli.tables import aligned


@click.command("overhead")
@click.option(
    "--size", type=click.Choice(["sd15", "small"]), default="sd15", show_default=True,
    help="small shows that it works, not what it costs.",
)  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Steps of each variant.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this JSON file.")
@layout_option
def overhead_command(size: str, repeats: int, out: Path | None, layout: str) -> None:
    """Time one denoising step without a guard, with one, and with the published formula.

    The denoiser is SD 1.5's with random weights (859 million); the SAEs are read from checkpoints in the layout of
    SAeUron's public ones, 1,280 channels and 20,480 latents at two hookpoints. Takes 8 GB of memory, 0.5 GB of a
    temporary folder (TMPDIR names another place) and about a minute for each repetition on two cores.
    Exit code 1 if a guard costs more than it may.

    \b
    Example:
      saeuron-guard benchmark overhead --size small --repeats 1
    """
    from saeuron_guard.benchmark.full_size import SIZES
    from saeuron_guard.benchmark.overhead import document_of, run_benchmark

    with tempfile.TemporaryDirectory(prefix="saeuron-guard-") as folder, progress() as log:
        found = run_benchmark(Path(folder), SIZES[size], repeats, time.perf_counter, log)
    document = document_of(found)
    if out:
        write_figures(out, document)
    click.echo(json.dumps(document, indent=2) if layout == "json" else "\n".join(_lines(document)))
    raise SystemExit(0 if found.passed else 1)


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """The figures for a terminal."""
    yield from machine_lines(document["machine"])
    size = document["size"]
    yield (
        f"denoiser: {document['parameters'] / 1e6:.0f} million parameters, {size['sample']} x {size['sample']} "
        f"latents, 2 rows; {document['positions']} positions at each of {len(document['hookpoints'])} hookpoints"
    )
    yield ""
    headers = ("VARIANT", "FIRED", "STEP", "FASTEST", "SLOWEST", "HOOKS", "A HOOKPOINT", "TARGET", "MET")
    yield from aligned(headers, [_row(variant) for variant in document["variants"]], right=headers[1:8])
    yield ""
    resident = document["resident"]
    rows = [
        (name, f"{spent:.3f}", "-" if resident[name] is None else f"{resident[name] / 1e6:.0f}")
        for name, spent in document["seconds"].items()
    ]
    yield from aligned(("STAGE", "SECONDS", "RESIDENT MB"), rows, right=("SECONDS", "RESIDENT MB"))
    yield ""
    held = ", ".join(f"{count / 1e6:.1f} MB {name}" for name, count in document["held"].items())
    yield f"the guard holds {held}; the process at its largest {resident['largest'] / 1e6:.0f} MB"


def _row(variant: dict[str, Any]) -> tuple[str, ...]:
    guarded = variant["gate"] is not None
    return (
        variant["name"],
        "-" if variant["fired"] is None else f"{variant['fired']:.1%}",
        *(f"{figure:.3f}" for figure in (variant["step"], min(variant["steps"]), max(variant["steps"]))),
        f"{median(variant['hooks']) * 1000:.1f} ms" if guarded else "-",
        f"{variant['share_a_hookpoint']:.3%}" if guarded else "-",
        "-" if variant["target"] is None else f"<= {variant['target']:.1%}",
        {None: "-", True: "yes", False: "NO"}[variant["met"]],
    )
