"""``policy explain``: which features block which concept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saeuron_guard.policy.waivers import waiver_lines, waivers_json

if TYPE_CHECKING:
    from saeuron_guard.compiler.explain import ExplainedConcept, ExplainedPoint, Explanation


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--concept", metavar="NAME", help="Explain only the rule for this concept.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Features to list, as text.")
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(file: Path, concept: str | None, limit: int, layout: str) -> None:
    """Say which features block which concept, with scores, timesteps and provenance.

    \b
    Example:
      saeuron-guard policy explain policies/no-weapons.yaml --concept pistol
    """
    from saeuron_guard.compiler.explain import explain_policy
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.registry.store import FeatureRegistry

    policy = load_policy(file)
    with FeatureRegistry.open() as registry:
        explanation = explain_policy(policy, registry, concept)
    if layout == "json":
        value = asdict(explanation) | {"waivers": waivers_json(explanation.waivers)}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(as_text(explanation, limit)))


def as_text(explanation: Explanation, limit: int) -> Iterator[str]:
    """The explanation as lines for a terminal, with at most ``limit`` features a hookpoint."""
    yield f"policy {explanation.policy} {explanation.version} for model {explanation.model}"
    yield f"guard  {explanation.guard_digest}"
    yield from waiver_lines(explanation.waivers)
    for concept in explanation.concepts:
        yield ""
        yield from _concept_lines(concept, limit)


def _concept_lines(concept: ExplainedConcept, limit: int) -> Iterator[str]:
    yield f"{concept.concept} ({concept.domain}), {concept.action}, {concept.mode}, strength {concept.strength:g}"
    figures = ", ".join(f"{name} {value:g}" for name, value in sorted(concept.figures.items()))
    if figures:
        yield f"  calibration: {figures}"
    for point in concept.points:
        yield from _point_lines(point, limit)
    if concept.merges:
        yield "  features that several rules chose:"
        yield from (f"    {merge.feature} is edited for {merge.kept}: {merge.why}" for merge in concept.merges)
    if concept.collisions:
        yield "  features that retained concepts need, too:"
        yield from (
            f"    {collision.feature} is among the best of {collision.retained}, score {collision.score:.4g}"
            for collision in concept.collisions
        )


def _point_lines(point: ExplainedPoint, limit: int) -> Iterator[str]:
    yield f"  at {point.hookpoint}, multiplier {point.multiplier:g}"
    yield f"    {point.why}"
    yield f"    SAE {point.sae}, {point.sae_digest}"
    yield f"    scores {point.run}, {point.statistics_digest}"
    yield from (f"      {name}: {value}" for name, value in sorted(point.run_provenance.items()))
    if not point.features:
        return
    width = max(len(feature.feature) for feature in point.features)
    yield f"    {'feature':<{width}}  {'score':>9}  {'rank':>4}  {'mean':>9}  timesteps"
    for feature in point.features[:limit]:
        span = f"{feature.timesteps[0]}..{feature.timesteps[-1]}"
        yield (
            f"    {feature.feature:<{width}}  {feature.score:>9.4g}  {feature.rank:>4}  {feature.largest_mean:>9.4g}  "
            f"{len(feature.timesteps)} of {len(point.calibrated_timesteps)}, {span}"
            + (f"  {feature.review}" if feature.review else "")
        )
    if len(point.features) > limit:
        yield f"    and {len(point.features) - limit} more; --limit shows them, --format json has all"
