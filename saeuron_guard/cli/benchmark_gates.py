"""``benchmark gates``: where the gate by thresholds decides otherwise than the exact one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saeuron_guard.cli.benchmark_registry import write_figures
from saeuron_guard.cli.progress import StageProgress
from saeuron_guard.cli.sae import layout_option, parse_seeds
from saeuron_guard.cli.tables import aligned
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.names import THRESHOLDS

if TYPE_CHECKING:
    from saeuron_guard.policy.model import Policy
    from saeuron_guard.verify.plan import Shot


@click.command("gates")
@click.argument("files", metavar="POLICY...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--threshold", "thresholds", multiple=True, type=click.Choice(THRESHOLDS),
    help="Compile with this threshold in place of the policy's; may be repeated, both if left out.",
)  # fmt: skip
@click.option(
    "--seeds", callback=parse_seeds, default="9401", show_default=True, help="Each prompt is drawn once for each."
)
@click.option("--images", type=click.IntRange(1), default=64, show_default=True, help="Images a policy, at most.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this JSON file.")
@layout_option
def gates_command(
    files: tuple[Path, ...],
    thresholds: tuple[str, ...],
    seeds: tuple[int, ...],
    images: int,
    out: Path | None,
    layout: str,
) -> None:
    """Draw audit prompts under both gates and count where they differ.

    While the exact gate guards, both are asked at every position of every step. The threshold gate leaves out whether a
    feature is among the top k, so it can only fire more often.

    \b
    Example:
      saeuron-guard benchmark gates policies/no-weapons.yaml --images 8
    """
    from saeuron_guard.benchmark.gates import GatesBenchmark, compare_gates, document_of
    from saeuron_guard.compiler.compile import compile_policy
    from saeuron_guard.guard.guard import Guard
    from saeuron_guard.pipelines.load import load_pipeline
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.registry.store import FeatureRegistry

    policies = [load_policy(file) for file in files]
    for policy in policies:
        _refuse_watchers(policy)
    found: list[GatesBenchmark] = []
    pipes: dict[str, Any] = {}
    with FeatureRegistry.open() as registry, StageProgress() as progress:
        for policy in policies:
            if policy.model not in pipes:
                pipes[policy.model] = load_pipeline(policy.model, registry=registry)
            shots = _shots(policy, seeds, images)
            for threshold in thresholds or THRESHOLDS:
                config = compile_policy(replace(policy, threshold=threshold), registry)
                guard = Guard.from_config(config, registry.artefact_root)
                model = registry.model(policy.model)
                found.append(compare_gates(pipes[policy.model], guard, model, shots, threshold, progress))
    document: dict[str, Any] = {"seeds": list(seeds), "policies": document_of(found)}
    if out:
        write_figures(out, document)
    click.echo(json.dumps(document, indent=2) if layout == "json" else "\n".join(_lines(document["policies"])))


def _refuse_watchers(policy: Policy) -> None:
    """Raise CannotEvaluate for a policy that the threshold gate cannot carry out."""
    watching = [rule for rule in policy.concepts if rule.refuses or rule.mode != "enforce"]
    if any(rule.refuses or rule.mode == "warn" for rule in watching) or len(watching) == len(policy.concepts):
        names = ", ".join(f"{rule.concept} (mode {rule.mode}, action {rule.action})" for rule in watching)
        raise CannotEvaluate(
            f"{policy.file}: the threshold gate edits, and neither refuses nor warns nor only watches, as this policy "
            f"asks for with {names}; give policies whose rules edit"
        )


def _shots(policy: Policy, seeds: tuple[int, ...], images: int) -> tuple[Shot, ...]:
    """As many of the policy's audit prompts as asked for, spread evenly over the set, in order of the seeds."""
    from saeuron_guard.prompts.load import find_prompt_set
    from saeuron_guard.verify.plan import Shot

    prompts = find_prompt_set(policy.audit.prompts, near=Path(policy.file).parent, role="audit").prompts
    every = [(prompt, seed) for seed in seeds for prompt in prompts]
    step = max(1, len(every) // images)
    return tuple(Shot(prompt, seed, ()) for prompt, seed in every[::step][:images])


def _lines(policies: list[dict[str, Any]]) -> Iterator[str]:
    """The figures for a terminal."""
    yield from aligned(
        ("POLICY", "THRESHOLD", "CONCEPT", "HOOKPOINT", "POSITIONS", "BOTH", "THRESHOLD ONLY", "EXACT ONLY", "DIFFER"),
        [_concept_row(one, concept) for one in policies for concept in one["concepts"]],
        right=("POSITIONS", "BOTH", "THRESHOLD ONLY", "EXACT ONLY", "DIFFER"),
    )
    yield ""
    yield from aligned(
        ("POLICY", "THRESHOLD", "DIFFER", "IMAGES", "IDENTICAL", "LARGEST DIFFERENCE", "LOWEST PSNR"),
        [_policy_row(one) for one in policies],
        right=("DIFFER", "IMAGES", "IDENTICAL", "LARGEST DIFFERENCE", "LOWEST PSNR"),
    )


def _concept_row(policy: dict[str, Any], concept: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(concept[name]) for name in ("positions", "both", "threshold_only", "exact_only"))
    names = (policy["policy"], policy["threshold"], concept["concept"], concept["hookpoint"])
    return (*names, *counts, f"{concept['disagreement']:.3%}")


def _policy_row(policy: dict[str, Any]) -> tuple[str, ...]:
    return (
        policy["policy"],
        policy["threshold"],
        f"{policy['disagreement']:.3%}",
        str(policy["images"]),
        str(policy["identical"]),
        f"{policy['largest_difference']} of 255",
        "-" if policy["lowest_psnr"] is None else f"{policy['lowest_psnr']:.1f} dB",
    )
