"""``registry show``: the page of a concept, of a group of concepts, or of a feature."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from saeuron_guard.cli.registry import as_json, database_option, layout_option
from saeuron_guard.errors import RegistryError

if TYPE_CHECKING:
    from saeuron_guard.registry.store import FeatureRegistry


@click.command()
@click.argument("name", metavar="CONCEPT|SAE:INDEX")
@database_option
@click.option(
    "--features",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Features to show where calibration chose none; text shows no more than that of those it chose.",
)
@click.option("--model", metavar="NAME", help="Of a concept: only what belongs to this model.")
@click.option("--as-reviewed", is_flag=True, help="Of a feature: its page as it was at the last review.")
@layout_option
def show(name: str, database: str | None, features: int, model: str | None, as_reviewed: bool, layout: str) -> None:
    """Show which features carry a concept, or which concepts and recorded guards use a feature.

    Of a feature all reviews are shown, of a concept's features the newest; of a group its members.

    \b
    Example:
      saeuron-guard registry show pistol
      saeuron-guard registry show emoji-canvas-up1-attn1:17
    """
    from saeuron_guard.registry.store import FeatureRegistry

    is_feature = ":" in name  # no concept's name has a colon
    if is_feature and model is not None:
        raise click.UsageError("--model chooses among the models of a concept; a feature belongs to one")
    if as_reviewed and not is_feature:
        raise click.UsageError("--as-reviewed is for features: name one as sae:index")
    with FeatureRegistry.open(database) as opened:
        if as_reviewed:
            _show_as_reviewed(opened, name, layout)
        elif is_feature:
            _show_feature(opened, name, layout)
        else:
            _show_concept(opened, name, features, model, layout)


def _show_concept(opened: FeatureRegistry, name: str, features: int, model: str | None, layout: str) -> None:
    from saeuron_guard.cli.audit_text import review_values
    from saeuron_guard.cli.registry_text import concept_lines, group_lines
    from saeuron_guard.registry.pages import concept_page, find_concept, group_page

    concept = find_concept(opened, name)
    if concept.name != name and layout != "json":
        click.echo(f"{name} is another word for {concept.name}")
    group = group_page(opened, concept)
    if group is not None:
        click.echo(as_json(dataclasses.asdict(group)) if layout == "json" else "\n".join(group_lines(group)))
        return
    page = concept_page(opened, concept.name, features=features, model=model)
    if layout == "json":
        reviews = {feature: review_values(review) for feature, review in page.reviews.items()}
        click.echo(as_json({**dataclasses.asdict(page), "reviews": reviews}))
    else:
        click.echo("\n".join(concept_lines(page, features)))


def _show_feature(opened: FeatureRegistry, name: str, layout: str) -> None:
    from saeuron_guard.cli.audit_text import review_lines, review_values, use_lines, use_values
    from saeuron_guard.cli.registry_text import feature_lines
    from saeuron_guard.registry.history import recorded_guards, reviews_of
    from saeuron_guard.registry.pages import feature_page

    page = feature_page(opened, name)
    reviews, guards = reviews_of(opened, name, page), recorded_guards(opened, feature=name)
    if layout == "json":
        states = [
            {**review_values(state.review), "counts": state.counts, "unchanged": state.unchanged} for state in reviews
        ]
        uses = [use_values(used, page.feature) for used in guards]
        click.echo(as_json({**dataclasses.asdict(page), "reviews": states, "guards": uses}))
    else:
        lines = [*feature_lines(page), "", *review_lines(reviews), *use_lines(guards, page.feature)]
        click.echo("\n".join(lines))


def _show_as_reviewed(opened: FeatureRegistry, name: str, layout: str) -> None:
    from saeuron_guard.cli.audit_text import review_lines, review_values
    from saeuron_guard.cli.registry_text import feature_lines
    from saeuron_guard.registry.history import reviews_of
    from saeuron_guard.registry.pages import feature_page, feature_page_from

    reviews = reviews_of(opened, name, feature_page(opened, name))
    if not reviews:
        raise RegistryError(f"{name} was never reviewed; leave out --as-reviewed to see its page as it is")
    review = reviews[-1].review
    try:
        page = feature_page_from(review.page)
    except ValueError:
        raise RegistryError(f"no page was kept with the review of {name} by {review.by} at {review.when}") from None
    if layout == "json":
        click.echo(as_json({**dataclasses.asdict(page), "review": review_values(review)}))
    else:
        click.echo("\n".join([*feature_lines(page), "", *review_lines(reviews[-1:])]))
