"""``guard``: look into a compiled guard without loading a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saeuron_guard.cli.compile import summary
from saeuron_guard.compiler.waived import applied_lines
from saeuron_guard.errors import ArtefactError

if TYPE_CHECKING:
    from saeuron_guard.compiler.config import GuardConfig, HookpointConfig


@click.group()
def guard() -> None:
    """Look into a compiled guard."""


@guard.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
def inspect(folder: Path, layout: str) -> None:
    """Check a guard folder's configuration and say what the guard does.

    \b
    Example:
      saeuron-guard guard inspect build/no-weapons
    """
    config = read_guard(folder)
    if layout == "json":
        click.echo(json.dumps(asdict(config), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(as_text(config, datetime.now(UTC).date())))


_BRANCHES = {
    "conditional": "the conditional branch of guidance; all branches where a pipeline's layout is not known",
    "all": "all branches of guidance",
}


def read_guard(folder: Path) -> GuardConfig:
    """The configuration of the guard in ``folder``; raises ArtefactError when it is not a sound guard folder."""
    from saeuron_guard.compiler.files import parse_guard_json

    for name in ("guard.json", "guard.safetensors"):
        if not (folder / name).is_file():
            raise ArtefactError(f'{folder}: no {name}; write a guard folder with "saeuron-guard compile"')
    path = folder / "guard.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: cannot be read: {error}") from error
    return parse_guard_json(text, str(path))


def as_text(config: GuardConfig, today: date) -> Iterator[str]:
    """A guard as lines for a terminal, its waivers as they stand ``today``."""
    yield f"policy {config.policy_name} {config.policy_version}, {config.policy_digest}"
    yield f"guard  {config.digest}"
    yield f"model  {config.model}, {config.model_fingerprint}"
    yield f"edits  {_BRANCHES[config.branches]}"
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
