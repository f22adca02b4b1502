"""``sae collect`` and ``sae score``: statistics of a model's features, and how strongly each belongs to a concept."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from saeuron_guard.cli.origin import origin_of
from saeuron_guard.cli.sae import (
    layout_option,
    opened,
    parse_seeds,
    print_rows,
    progress,
    prompts_option,
    sampling_options,
)
from saeuron_guard.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saeuron_guard.discovery.concept_statistics import ConceptStatistics, StatisticsSource
    from saeuron_guard.discovery.sparse import Collected, SparseStatistics

_COLLECTING: Final = {
    "model": "MODEL",
    "folders": "--sae",
    "prompts": "--prompts",
    "denoising_steps": "--denoising-steps",
    "guidance": "--guidance",
    "batch_size": "--batch-size",
    "seeds": "--seeds",
    "by": "--by",
}
"""What says how statistics are collected, as users write it; the first three are always needed for it."""

sae_option = partial(
    click.option, "--sae", "folders", type=click.Path(path_type=Path, file_okay=False), multiple=True,
    help="Folder with cfg.json and sae.safetensors; several share images.",
)  # fmt: skip
seeds_option = click.option(
    "--seeds", callback=parse_seeds, default="0,1", show_default=True, help="Seeds of the images."
)
by_option = click.option("--by", metavar="NAME", help="Who collects, for the provenance; the login name if left out.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the results."
)


@click.command()
@click.argument("model")
@sae_option(required=True)
@prompts_option
@sampling_options
@seeds_option
@by_option
@out_option
@layout_option
def collect(out: Path, layout: str, **asked: Any) -> None:
    """Collect the statistics of all features of trained autoencoders for every concept of an anchor prompt set.

    Writes one file for each autoencoder, OUT/<hookpoint>.statistics.safetensors: mean, second moment and firing rate
    of each feature that fires, at each timestep, with their provenance. MODEL is a registered name, a local folder or a
    hub id.

    \b
    Example:
      saeuron-guard sae collect emoji-canvas --prompts anchor/emoji-canvas --out build/statistics \\
        --sae build/saes/unet.up_blocks.1.attentions.1
    """
    from saeuron_guard.discovery.sparse import sparse_of
    from saeuron_guard.discovery.sparse_files import write_sparse

    rows = []
    for collected in _collect(**asked):
        statistics = sparse_of(collected.statistics)
        path = out / f"{collected.hookpoint}.statistics.safetensors"
        digest = write_sparse(statistics, path, collected.provenance)
        rows.append({
            "hookpoint": collected.hookpoint, "file": str(path), "digest": digest, "bytes": path.stat().st_size,
            "cells": len(statistics.index), "share": statistics.share,
        })  # fmt: skip
    print_rows(rows, layout)


@click.command()
@click.argument("model", required=False)
@click.option(
    "--statistics", "files", type=click.Path(path_type=Path, dir_okay=False), multiple=True,
    help="File of sae collect to score without MODEL; may be repeated, one for each hookpoint.",
)  # fmt: skip
@sae_option()
@partial(prompts_option, required=False)
@sampling_options
@seeds_option
@by_option
@out_option
@click.option(
    "--method", "methods", multiple=True, default=("paper",), show_default=True, help="Score; may be repeated."
)
@click.option(
    "--top", type=click.IntRange(1), default=48, show_default=True, help="Features kept for a concept and step."
)
@layout_option
@click.pass_context
def score(
    context: click.Context,
    /,
    files: tuple[Path, ...],
    out: Path,
    methods: tuple[str, ...],
    top: int,
    layout: str,
    **asked: Any,
) -> None:
    """Score the features of trained autoencoders for every concept of an anchor prompt set.

    Takes what sae collect found out, or collects it from MODEL first. Writes one statistics file for each autoencoder
    and method, OUT/<hookpoint>.<method>.safetensors; the same collected file gives the same bytes.

    \b
    Example:
      saeuron-guard sae score --out build/statistics --method paper --method difference \\
        --statistics build/statistics/unet.up_blocks.1.attentions.1.statistics.safetensors
      saeuron-guard sae score emoji-canvas --prompts anchor/emoji-canvas --out build/statistics \\
        --sae build/saes/unet.up_blocks.1.attentions.1
    """
    from saeuron_guard.discovery.artefact import write_statistics
    from saeuron_guard.discovery.scoring import METHODS

    if unknown := [method for method in methods if method not in METHODS]:
        raise click.UsageError(f"unknown method {unknown[0]!r}; expected one of {', '.join(METHODS)}")
    _check_way(context, files)
    found: Sequence[Collected[StatisticsSource]] = _read(files) if files else _collect(**asked)
    rows = []
    for collected in found:
        for method in methods:
            path = out / f"{collected.hookpoint}.{method}.safetensors"
            digest = write_statistics(collected.statistics, method, path, collected.provenance, top=top)
            rows.append({"hookpoint": collected.hookpoint, "method": method, "file": str(path), "digest": digest})
    print_rows(rows, layout)


def _check_way(context: click.Context, files: Sequence[Path]) -> None:
    """Raise UsageError unless either collected statistics or all that is needed to collect some was given."""
    given = [name for name in _COLLECTING if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if files and given:
        raise click.UsageError(
            f"{_COLLECTING[given[0]]} says how statistics are collected, and those of --statistics are; "
            "leave one of them out"
        )
    missing = [_COLLECTING[name] for name in ("model", "folders", "prompts") if name not in given]
    if not files and missing:
        raise click.UsageError(f"give --statistics, or a model to collect them from: {', '.join(missing)} missing")


def _read(files: Sequence[Path]) -> list[Collected[SparseStatistics]]:
    from saeuron_guard.discovery.sparse_files import read_sparse

    found = [read_sparse(path) for path in files]
    if len({collected.hookpoint for collected in found}) < len(found):
        raise click.UsageError("two files of statistics are of the same hookpoint; score them one after the other")
    return found


def _collect(
    model: str,
    folders: tuple[Path, ...],
    prompts: str,
    denoising_steps: int | None,
    guidance: float | None,
    batch_size: int,
    seeds: tuple[int, ...],
    by: str | None,
) -> list[Collected[ConceptStatistics]]:
    """What the options of both commands ask for, collected from the model."""
    from saeuron_guard.discovery.collecting import collect as collect_from
    from saeuron_guard.prompts.load import find_prompt_set
    from saeuron_guard.sae.sparse_coder import SparseCoder

    origin = origin_of(by)
    prompt_set = find_prompt_set(prompts, role="anchor")
    coders = {_hookpoint_of(folder): SparseCoder.load(folder) for folder in folders}
    if len(coders) < len(folders):
        raise click.UsageError("two autoencoders are of the same hookpoint; take them one after the other")
    pipe, sampling = opened(model, denoising_steps, guidance, batch_size)
    with progress() as log:
        return collect_from(pipe, coders, prompt_set, seeds, sampling, origin, log)


def _hookpoint_of(folder: Path) -> str:
    """The hookpoint that ``cfg.json`` names, else the folder's name, as sparsify lays its results out."""
    path = folder / "cfg.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}); expected a folder made by sae train") from None
    named = fields.get("hookpoint") if isinstance(fields, dict) else None
    return named if isinstance(named, str) else folder.resolve().name
