"""``benchmark removal``: the guard beside other ways of removing a concept, on the same images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saeuron_guard.cli.sae import parse_seeds, progress
from saeuron_guard.cli.tables import aligned
from saeuron_guard.names import GUARD_METHODS, REMOVAL_METHODS

if TYPE_CHECKING:
    from saeuron_guard.benchmark.removal import Contest, Outcome, Summary
    from saeuron_guard.registry.records import Calibration
    from saeuron_guard.registry.store import FeatureRegistry


@click.group()
def benchmark() -> None:
    """Compare guards on the same images, and time the registry."""


@benchmark.command()
@click.argument("model")
@click.option("--concept", "concepts", multiple=True, help="May be repeated; all concepts of the registry if left out.")
@click.option(
    "--method", "methods", multiple=True,
    type=click.Choice(REMOVAL_METHODS),
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
    the target's own images. What OUT holds already, by concept and method, is not measured again unless the concept has
    been calibrated anew.

    \b
    Example:
      saeuron-guard benchmark removal emoji-canvas --concept pistol --concept Neon
    """
    from saeuron_guard.benchmark.files import document_of, read_outcomes, write_outcomes
    from saeuron_guard.benchmark.removal import summarise
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.open() as registry, progress() as log:
        plan = _Plan(model, audit, anchor, calibration, calibration_judge, seeds, targets, retains)
        settings = plan.settings(registry)
        known = read_outcomes(out, settings) if out and out.exists() else []
        wanted = [registry.concept(name) for name in concepts] or list(registry.concepts())
        known = [found for found in known if _is_current(found, registry.calibration(model, found.concept))]
        measured = {(found.concept, found.method) for found in known}
        missing = {
            concept: [method for method in methods or REMOVAL_METHODS if (concept.name, method) not in measured]
            for concept in wanted
        }
        if any(missing.values()):
            steering = any("mean-difference" in left for left in missing.values())
            contest = plan.contest(registry, steering=steering, log=log)
            order = [concept.name for concept in registry.concepts()]
            for concept, left in missing.items():
                known += contest.outcomes(concept, registry.calibration(model, concept.name), left, log)
                known.sort(key=lambda found: (order.index(found.concept), REMOVAL_METHODS.index(found.method)))
                if out:
                    write_outcomes(out, settings, known)
    if layout == "json":
        click.echo(json.dumps(document_of(settings, known), indent=2))
        return
    click.echo(_table(summarise(known)))


def _is_current(outcome: Outcome, calibration: Calibration | None) -> bool:
    """Whether the outcome is of the calibration that is registered now; a rival's does not depend on one."""
    return outcome.method not in GUARD_METHODS or (calibration is not None and outcome.setting == calibration.setting)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the command was asked for: names of the model, prompt sets and judge, seeds, images a concept."""

    model: str
    audit: str
    anchor: str
    calibration: str
    judge: str
    seeds: tuple[int, ...]
    targets: int
    retains: int

    def settings(self, registry: FeatureRegistry) -> dict[str, Any]:
        """What figures depend on, with the digest of everything that has one."""
        from saeuron_guard.discovery.runs import prompts_digest
        from saeuron_guard.judges.load import audit_judge, load_judge
        from saeuron_guard.prompts.load import find_prompt_set

        judges = {"audit": audit_judge(registry).name, "calibration": self.judge}
        sets = {"audit": self.audit, "anchor": self.anchor, "calibration": self.calibration}
        return {
            "model": {"name": self.model, "fingerprint": registry.model(self.model).fingerprint},
            **{
                f"{role}_prompts": {"name": name, "digest": prompts_digest(find_prompt_set(name, role=role).prompts)}
                for role, name in sets.items()
            },
            **{
                f"{role}_judge": {"name": name, "digest": load_judge(name, registry).digest}
                for role, name in judges.items()
            },
            "seeds": list(self.seeds),
            "targets": self.targets,
            "retains": self.retains,
        }

    def contest(self, registry: FeatureRegistry, *, steering: bool, log: Any) -> Contest:
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

        ready = set_up(registry, self.model, self.calibration, self.judge)
        record = registry.model(self.model)
        statistics = {}
        if steering:
            statistics = collect_statistics(
                ready.bench.pipe,
                {hookpoint: lambda x: x for hookpoint in dict.fromkeys(ready.hookpoints.values())},
                find_prompt_set(self.anchor, role="anchor").prompts,
                (31,),
                Sampling(record.steps, record.guidance, 16),
                log,
            )
        grid = Grid(arrangements=())
        return Contest(
            settings=ready.bench,
            audit=Workbench(
                ready.bench.pipe,
                record,
                load_judge(audit_judge(registry).name, registry),
                find_prompt_set(self.audit, role="audit").prompts,
            ),
            calibrator=Calibrator(ready.bench, registry, ready.coders, ready.runs, grid=grid, budget=Budget(), log=log),
            coders=ready.coders,
            hookpoints=ready.hookpoints,
            home=_home(registry, self.model),
            statistics=statistics,
            seeds=self.seeds,
            targets=self.targets,
            retains=self.retains,
        )


def _home(registry: FeatureRegistry, model: str) -> dict[str, str]:
    """By domain, the SAE that most of its calibrations use: where SAeUron's paper, too, would put its one hook."""
    uses: dict[str, list[str]] = {}
    for calibration in registry.calibrations(model):
        domain = registry.concept(calibration.concept).domain
        uses.setdefault(domain, []).extend(point.sae for point in calibration.points)
    return {domain: max(sorted(set(names)), key=names.count) for domain, names in uses.items()}


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
