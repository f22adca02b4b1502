"""``guard inspect``: look into a compiled guard without loading a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saeuron_guard.cli.compile import summary
from saeuron_guard.compiler.waived import applied_lines
from saeuron_guard.wording import count_of, printable

if TYPE_CHECKING:
    from saeuron_guard.compiler.config import HookpointConfig
    from saeuron_guard.guard.folder import CheckedFolder


@click.group()
def guard() -> None:
    """Look into a compiled guard, and into what guards decided."""


@guard.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(folder: Path, layout: str) -> None:
    """Check a guard folder, its weights included, bit for bit, and say what the guard does.

    \b
    Example:
      saeuron-guard guard inspect build/no-weapons
    """
    from saeuron_guard.guard.folder import check_folder

    checked = check_folder(folder)
    if layout == "json":
        click.echo(json.dumps(as_json(checked), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(map(printable, as_text(checked, datetime.now(UTC).date()))))


_BRANCHES = {
    "conditional": "the conditional branch of guidance; all branches where a pipeline's layout is not known",
    "all": "all branches of guidance",
}


def as_json(checked: CheckedFolder) -> dict[str, Any]:
    """The whole configuration, and what was found of the weights; a guard whose weights are others is not shown."""
    saes = [{"hookpoint": point.hookpoint, "digest": point.sae_digest} for point in checked.config.hookpoints]
    return {**asdict(checked.config), "weights": {"verified": True, "bytes": len(checked.weights), "saes": saes}}


def as_text(checked: CheckedFolder, today: date) -> Iterator[str]:
    """A guard as lines for a terminal, its waivers as they stand ``today``."""
    config = checked.config
    yield f"policy {config.policy_name} {config.policy_version}, {config.policy_digest}"
    yield f"guard  {config.digest}"
    yield f"model  {config.model}, {config.model_fingerprint}"
    yield f"edits  {_BRANCHES[config.branches]}"
    saes = count_of(len(config.hookpoints), "SAE")
    yield f"weights are the pinned ones: {saes}, {len(checked.weights)} bytes, every digest computed anew"
    yield summary(config)
    yield from applied_lines(config.waivers, today)
    for hookpoint in config.hookpoints:
        yield ""
        yield from _hookpoint_lines(hookpoint)
    if config.merges:
        yield ""
        yield "features that several rules chose:"
        yield from (f"  {merge.feature} is edited for {merge.kept}: {merge.why}" for merge in config.merges)
    if config.collisions:
        yield ""
        yield "features that retained concepts need, too:"
        yield from (
            f"  {collision.feature} for {collision.concept}: among the best of {collision.retained}"
            for collision in config.collisions
        )


def _hookpoint_lines(hookpoint: HookpointConfig) -> Iterator[str]:
    first, last = hookpoint.timesteps[0], hookpoint.timesteps[-1]
    yield f"{hookpoint.hookpoint}: SAE {hookpoint.sae}, {hookpoint.sae_digest}"
    yield f"  {len(hookpoint.timesteps)} timesteps {first}..{last}, largest gap {hookpoint.largest_gap}"
    for rule in hookpoint.rules:
        yield (
            f"  {rule.concept} ({rule.domain}): {rule.action}, {rule.mode}, strength {rule.strength:g}, "
            f"multiplier {rule.multiplier:g}, {len(rule.features)} features"
        )
