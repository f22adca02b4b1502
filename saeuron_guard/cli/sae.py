"""``sae train``: autoencoders for a model of one's own; the group takes further commands from its sibling modules."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saeuron_guard.discovery.stream import Sampling
    from saeuron_guard.registry.records import ModelRecord

_Command = TypeVar("_Command", bound=Callable[..., Any])


def parse_seeds(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """Whole numbers and ranges, such as ``0,1,10-12``: in the order given, each once."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            message = f"{part!r} is not a seed; expected whole numbers or ranges, such as 0,1,10-12"
            raise click.BadParameter(message, context, option)
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))


def sampling_options(command: _Command) -> _Command:
    """Options that say how images are made; the registry knows the defaults of its models."""
    for option in (
        click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images at a time."),
        click.option(
            "--guidance", type=float, help="Classifier-free guidance scale; the registered model's if left out."
        ),
        click.option(
            "--denoising-steps", type=click.IntRange(1), help="Steps an image; the registered model's if left out."
        ),
    ):
        command = option(command)
    return command


def prompts_option(command: _Command, *, required: bool = True) -> _Command:
    """The option that names the anchor prompts."""
    return click.option("--prompts", required=required, help="Anchor prompt set: a shipped name, or a path.")(command)


def layout_option(command: _Command) -> _Command:
    """The option that chooses what the output looks like."""
    return click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)(
        command
    )


@click.group()
def sae() -> None:
    """Train, import, score and calibrate sparse autoencoders for a model."""


@sae.command()
@click.argument("model")
@click.option(
    "--hookpoint", "hookpoints", multiple=True, required=True, help="Dotted module path; several share images."
)
@prompts_option
@sampling_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the results.")
@click.option("--num-latents", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--k", type=click.IntRange(1), default=32, show_default=True, help="Latents that fire at a position.")
@click.option("--variant", type=click.Choice(["unsupervised", "supervised"]), default="unsupervised", show_default=True)
@click.option("--batch-topk", is_flag=True, help="Share k over a batch in training.")
@click.option("--steps", type=click.IntRange(1), default=1500, show_default=True, help="Training steps.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=4e-4, show_default=True)
@click.option(
    "--assignment-weight", type=click.FloatRange(0), default=0.1, show_default=True, help="Of the supervised variant."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of first weights and of mixing.")
@click.option("--batch-positions", type=click.IntRange(1), default=4096, show_default=True, help="Vectors a step.")
@click.option(
    "--seeds", callback=parse_seeds, default="0,1", show_default=True, help="Seeds of the images to train on."
)
@click.option(
    "--held-out-seeds",
    callback=parse_seeds,
    default="1000",
    show_default=True,
    help="Seeds of the images to report on.",
)
@click.option(
    "--held-out-positions", type=click.IntRange(1), default=1_000_000, show_default=True, help="Vectors to report on."
)
@click.option("--buffer-mb", type=click.FloatRange(0, min_open=True), default=256.0, show_default=True)
@layout_option
def train(
    model: str,
    hookpoints: tuple[str, ...],
    prompts: str,
    denoising_steps: int | None,
    guidance: float | None,
    batch_size: int,
    out: Path,
    layout: str,
    **fields: Any,
) -> None:
    """Train an autoencoder for each hookpoint of MODEL: a registered name, a local folder or a hub id.

    All hookpoints learn from the same images. A training that was stopped goes on where it was.

    \b
    Example:
      saeuron-guard sae train emoji-canvas --prompts anchor/emoji-canvas --out build/saes \\
        --hookpoint unet.up_blocks.1.attentions.1 --hookpoint unet.up_blocks.1.attentions.2
    """
    from saeuron_guard.discovery.recipe import SaeRecipe
    from saeuron_guard.discovery.training import train_saes
    from saeuron_guard.prompts.load import find_prompt_set

    prompt_set = find_prompt_set(prompts, role="anchor")
    pipe, sampling = opened(model, denoising_steps, guidance, batch_size)
    try:
        recipe = SaeRecipe(sampling=sampling, **fields)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with progress() as log:
        trained = train_saes(pipe, prompt_set.prompts, hookpoints, recipe, out, log)
    rows = [{"hookpoint": each.hookpoint, "folder": str(each.folder), "digest": each.digest, **asdict(each.figures)}
            for each in trained]  # fmt: skip
    print_rows(rows, layout)


def opened(model: str, steps: int | None, guidance: float | None, batch_size: int) -> tuple[Any, Sampling]:
    """The pipeline of ``model``, and how to make images with it: the options', else the registered model's."""
    from saeuron_guard.discovery.stream import Sampling
    from saeuron_guard.pipelines.load import load_pipeline

    record = _registered(model)
    if record is not None:
        steps = record.steps if steps is None else steps
        guidance = record.guidance if guidance is None else guidance
    if steps is None or guidance is None:
        raise click.UsageError(
            f"{model!r} is not in the registry, so give --denoising-steps and --guidance; "
            'list registered models with "saeuron-guard registry list"'
        )
    return load_pipeline(model), Sampling(steps, guidance, batch_size)


def _registered(model: str) -> ModelRecord | None:
    """The record of a registered name; None for other names, and for paths and hub ids, which have a slash."""
    from saeuron_guard.registry.store import FeatureRegistry

    if Path(model).name != model:
        return None
    with FeatureRegistry.open() as registry:
        return next((record for record in registry.models() if record.name == model), None)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Shows what is going on, on stderr: one line that changes on a terminal, a line each elsewhere."""
    live = sys.stderr.isatty()

    def log(line: str) -> None:
        click.echo(f"\r\033[K{line}" if live else line, err=True, nl=not live)

    try:
        yield log
    finally:
        if live:
            click.echo("\r\033[K", err=True, nl=False)


def print_rows(rows: list[dict[str, Any]], layout: str) -> None:
    """Results, as JSON or one line a row that starts with the row's first value."""
    if layout == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        figures = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in list(row.values())[1:])
        names = list(row)[1:]
        pairs = (f"{name} {figure}" for name, figure in zip(names, figures, strict=True))
        click.echo(f"{next(iter(row.values()))}: {', '.join(pairs)}")
