"""``sae calibrate``: how many features and how hard, for each concept of a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saeuron_guard.cli.sae import layout_option, parse_seeds, print_rows, progress


@click.command()
@click.argument("model")
@click.option("--concept", "concepts", multiple=True, help="May be repeated; all concepts of the registry if left out.")
@click.option("--prompts", required=True, help="Calibration prompt set: a shipped name, or a path.")
@click.option("--judge", required=True, help="A judge that the release check does not use: a registered name or path.")
@click.option(
    "--arrangement", "arrangements", multiple=True,
    help="SAEs to edit together, joined by +; may be repeated. Each SAE alone, then all together, if left out.",
)  # fmt: skip
@click.option("--method", default="paper", show_default=True, help="Score that ranks the features.")
@click.option("--seeds", callback=parse_seeds, default="7001-7003", show_default=True, help="Seeds of the images.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images at a time.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="One file a concept.")
@click.option("--manifest", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Also write them there.")
@layout_option
def calibrate(
    model: str,
    concepts: tuple[str, ...],
    prompts: str,
    judge: str,
    arrangements: tuple[str, ...],
    method: str,
    seeds: tuple[int, ...],
    batch_size: int,
    out: Path,
    manifest: Path | None,
    layout: str,
) -> None:
    """Choose hookpoints, number of features and multiplier of each concept of MODEL, a registered name.

    Concepts that have a file in OUT are not calibrated again, so a run that was stopped can go on.

    \b
    Example:
      saeuron-guard sae calibrate emoji-canvas --prompts calibration/emoji-canvas \\
        --judge emoji-canvas-judges --concept pistol --out build/calibration
    """
    from saeuron_guard.discovery.calibration import Calibrator, Grid
    from saeuron_guard.discovery.calibration_files import merge_into_manifest, read_calibration, write_calibration
    from saeuron_guard.discovery.search import Budget
    from saeuron_guard.discovery.setup import set_up
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.open(manifest=manifest) as registry, progress() as log:
        wanted = [registry.concept(name) for name in concepts] or list(registry.concepts())
        paths = {concept.name: out / f"{concept.name}.json" for concept in wanted}
        todo = [concept for concept in wanted if not paths[concept.name].exists()]
        if todo:
            ready = set_up(registry, model, prompts, judge, method=method, batch_size=batch_size)
            grid = Grid(arrangements=_arrangements(arrangements, list(ready.coders)))
            calibrator = Calibrator(
                ready.bench, registry, ready.coders, ready.runs,
                grid=grid, budget=Budget(seeds=seeds), log=log,
            )  # fmt: skip
            for concept in todo:
                write_calibration(calibrator.calibrate(concept), out)
    found = [read_calibration(path) for path in paths.values()]
    if manifest is not None:
        merge_into_manifest(found, manifest)
    print_rows([_row(calibration) for calibration in found], layout)


def _arrangements(texts: tuple[str, ...], saes: list[str]) -> tuple[tuple[str, ...], ...]:
    """SAEs that are edited together; by default each alone, then all."""
    if not texts:
        return (*((name,) for name in saes), *([tuple(saes)] if len(saes) > 1 else []))
    chosen = tuple(tuple(part.strip() for part in text.split("+")) for text in texts)
    if unknown := sorted({name for group in chosen for name in group} - set(saes)):
        raise click.UsageError(f"the model has no SAE {unknown[0]!r}; it has: {', '.join(saes)}")
    return chosen


def _row(calibration: Any) -> dict[str, Any]:
    return {"concept": calibration.concept, "points": calibration.setting, **calibration.figures}
