"""``benchmark removal``: the guard beside other ways of removing a concept, on the same images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saeuron_guard.cli.sae import parse_seeds, progress
from saeuron_guard.cli.tables import aligned

if TYPE_CHECKING:
    from saeuron_guard.benchmark.removal import Contest, Outcome, Summary
    from saeuron_guard.registry.store import FeatureRegistry


@click.group()
def benchmark() -> None:
    """Compare guards on the same images."""


@benchmark.command()
@click.argument("model")
@click.option("--concept", "concepts", multiple=True, help="May be repeated; all concepts of the registry if left out.")
@click.option(
    "--method", "methods", multiple=True,
    type=click.Choice(["guard", "guard-all-branches", "published", "mean-difference"]),
    help="May be repeated; all of them if left out.",
)  # fmt: skip
@click.option("--audit", default="audit/emoji-canvas", show_default=True, help="Audit prompt set: name or path.")
@click.option("--anchor", default="anchor/emoji-canvas", show_default=True, help="Anchor prompt set: name or path.")
@click.option("--calibration", default="calibration/emoji-canvas", show_default=True, help="Calibration prompt set.")
@click.option("--calibration-judge", default="emoji-canvas-judges", show_default=True, help="Judge that settings see.")
@click.option(
    "--seeds", callback=parse_seeds, default="9301-9303", show_default=True,
    help="Seeds of the audit images; give some that no calibration or policy uses.",
)  # fmt: skip
@click.option("--targets", type=click.IntRange(1), default=24, show_default=True, help="Target images a concept.")
@click.option("--retains", type=click.IntRange(1), default=24, show_default=True, help="Retain images a concept.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this JSON file.")
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
def removal(
    model: str,
    concepts: tuple[str, ...],
    methods: tuple[str, ...],
    audit: str,
    anchor: str,
    calibration: str,
    calibration_judge: str,
    seeds: tuple[int, ...],
    targets: int,
    retains: int,
    out: Path | None,
    layout: str,
) -> None:
    """Remove each concept of MODEL by each method and let the audit judge count.

    Prints UA, IRA, CRA (the latter two relative to the unguarded images) and how often the other domain survives on
    the target's own images. What OUT holds already, by concept and method, is not measured again.

    \b
    Example:
      saeuron-guard benchmark removal emoji-canvas --concept pistol --concept Neon
    """
    from saeuron_guard.benchmark.removal import METHODS, summarise
    from saeuron_guard.registry.store import FeatureRegistry

    known = read_outcomes(out)
    with FeatureRegistry.open() as registry, progress() as log:
        wanted = [registry.concept(name) for name in concepts] or list(registry.concepts())
        measured = {(found.concept, found.method) for found in known}
        missing = {
            concept: [method for method in methods or METHODS if (concept.name, method) not in measured]
            for concept in wanted
        }
        if any(missing.values()):
            contest = _contest(
                registry, model, prompts=(audit, anchor, calibration), judge=calibration_judge, seeds=seeds,
                targets=targets, retains=retains, steering=any("mean-difference" in left for left in missing.values()),
                log=log,
            )  # fmt: skip
            order = [concept.name for concept in registry.concepts()]
            for concept, left in missing.items():
                known += contest.outcomes(concept, registry.calibration(model, concept.name), left, log)
                known.sort(key=lambda found: (order.index(found.concept), METHODS.index(found.method)))
                _write(out, known)
    if layout == "json":
        click.echo(json.dumps(_document(known), indent=2))
        return
    click.echo(_table(summarise(known)))


def _contest(
    registry: FeatureRegistry,
    model: str,
    *,
    prompts: tuple[str, str, str],
    judge: str,
    seeds: tuple[int, ...],
    targets: int,
    retains: int,
    steering: bool,
    log: Any,
) -> Contest:
    """What the methods share; means of raw activations, which take a minute to gather, only for ``steering``."""
    from saeuron_guard.benchmark.removal import Contest
    from saeuron_guard.discovery.calibration import Calibrator, Grid
    from saeuron_guard.discovery.search import Budget
    from saeuron_guard.discovery.setup import set_up
    from saeuron_guard.discovery.statistics import collect_statistics
    from saeuron_guard.discovery.stream import Sampling
    from saeuron_guard.discovery.workbench import Workbench
    from saeuron_guard.judges.load import audit_judge, load_judge
    from saeuron_guard.prompts.load import find_prompt_set

    audit, anchor, calibration = prompts
    ready = set_up(registry, model, calibration, judge)
    record = registry.model(model)
    sampling = Sampling(record.steps, record.guidance, 16)
    hookpoints = list(dict.fromkeys(ready.hookpoints.values()))
    statistics = {}
    if steering:
        statistics = collect_statistics(
            ready.bench.pipe,
            {hookpoint: lambda x: x for hookpoint in hookpoints},
            find_prompt_set(anchor, role="anchor").prompts,
            (31,),
            sampling,
            log,
        )
    grid = Grid(arrangements=())
    return Contest(
        settings=ready.bench,
        audit=Workbench(
            ready.bench.pipe,
            record,
            load_judge(audit_judge(registry).name, registry),
            find_prompt_set(audit, role="audit").prompts,
        ),
        calibrator=Calibrator(ready.bench, registry, ready.coders, ready.runs, grid=grid, budget=Budget(), log=log),
        coders=ready.coders,
        hookpoints=ready.hookpoints,
        home=_home(registry, model),
        statistics=statistics,
        seeds=seeds,
        targets=targets,
        retains=retains,
    )


def _home(registry: FeatureRegistry, model: str) -> dict[str, str]:
    """By domain, the SAE that most of its calibrations use: where SAeUron's paper, too, would put its one hook."""
    uses: dict[str, list[str]] = {}
    for calibration in registry.calibrations(model):
        domain = registry.concept(calibration.concept).domain
        uses.setdefault(domain, []).extend(point.sae for point in calibration.points)
    return {domain: max(sorted(set(names)), key=names.count) for domain, names in uses.items()}


def _document(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [asdict(outcome) for outcome in outcomes]


def _write(path: Path | None, outcomes: list[Outcome]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_document(outcomes), indent=1) + "\n", encoding="utf-8")


def read_outcomes(path: Path | None) -> list[Outcome]:
    """The outcomes in a file that ``--out`` wrote; none when there is no such file."""
    from saeuron_guard.benchmark.removal import Outcome
    from saeuron_guard.discovery.workbench import Effect, Share

    if path is None or not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Outcome(**{**row, "effect": Effect(**{name: Share(**share) for name, share in row["effect"].items()})})
        for row in rows
    ]


def _table(summaries: list[Summary]) -> str:
    header = ("domain", "method", "concepts", "UA", "IRA", "CRA", "survival", "worst", "of")
    rows = [
        (
            each.domain, each.method, str(each.concepts), f"{each.ua:.1%}", f"{each.ira:.1%}", f"{each.cra:.1%}",
            f"{each.survival:.1%}", f"{each.worst:.1%}", each.worst_concept,
        )
        for each in summaries
    ]  # fmt: skip
    return "\n".join(aligned(header, rows, right=header[2:8]))
