"""Reviews of features, as rows: what was decided, oldest first, and what of it counts today."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from saeuron_guard.digests import digest_of
from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.events import append_event
from saeuron_guard.registry.ordering import by_code_points
from saeuron_guard.registry.records import Review
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.tables import reviews, saes


def all_reviews(connection: Connection, sae: str | None = None, index: int | None = None) -> list[Review]:
    """Every review (of an SAE, of one of its features), oldest first, whether it counts or not."""
    query = select(reviews).order_by(by_code_points(reviews.c.when), reviews.c.id)
    if sae is not None:
        query = query.where(reviews.c.sae == sae)
    if index is not None:
        query = query.where(reviews.c.feature == index)
    return [_review(row) for row in connection.execute(query)]


def newest_reviews(connection: Connection, sae: str | None = None) -> dict[str, Review]:
    """By feature's name, the newest review that was made of the SAE as it is now."""
    query = (
        select(reviews)
        .join(saes, (saes.c.name == reviews.c.sae) & (saes.c.digest == reviews.c.sae_digest))
        .order_by(by_code_points(reviews.c.when), reviews.c.id)
    )
    if sae is not None:
        query = query.where(reviews.c.sae == sae)
    return newest(_review(row) for row in connection.execute(query))


def newest(found: Iterable[Review]) -> dict[str, Review]:
    """The last review of each feature among ``found``, which come oldest first."""
    return {review.feature: review for review in found}


def add_reviews(connection: Connection, found: Iterable[Review], stamp: Stamp) -> tuple[str, ...]:
    """Add those reviews that are not there yet, each with its event; gives them in words."""
    known = {review.identity for review in all_reviews(connection)}
    added: list[str] = []
    for review in found:
        if review.identity in known:
            continue
        known.add(review.identity)
        connection.execute(reviews.insert(), _columns(review))
        append_event(connection, stamp, "review", review.feature, review_payload(review))
        added.append(f"{review.feature} {review.verdict} by {review.by} at {review.when}: {review.why}")
    return tuple(added)


def refuse_changed_reviews(connection: Connection, stated: Collection[Review]) -> None:
    """Raise RegistryError when a review that a manifest states is a changed copy of one that is here.

    It is one when it is new, and the manifest lacks a review that was made of the same feature by the same person at
    the same time. Decisions that are made here need no such check: one second may see two of them.
    """
    held = all_reviews(connection)
    known, given = ({review.identity for review in some} for some in (held, stated))
    missing = {_moment(review): review for review in held if review.identity not in given}
    for review in stated:
        if review.identity not in known and (other := missing.get(_moment(review))) is not None:
            raise RegistryError(
                f"a review of {review.feature} by {review.by} at {review.when} says {review.verdict} ({review.why}), "
                f"but the one in the database says {other.verdict} ({other.why}); one of them was changed afterwards. "
                f"Find out which, and correct the manifest."
            )


def _moment(review: Review) -> tuple[str, str, str]:
    return (review.feature, review.by, review.when)


def review_payload(review: Review) -> dict[str, Any]:
    """What the event of a review says; ``concepts``: those that the feature was edited to remove, by its page."""
    return {
        "sae": review.sae,
        "index": review.index,
        "sae_digest": review.sae_digest,
        "verdict": review.verdict,
        "by": review.by,
        "why": review.why,
        "when": review.when,
        "page": digest_of(review.page),
        "concepts": _concepts_of(review.page),
    }


def _concepts_of(page: Mapping[str, Any]) -> list[str]:
    """Pages come from manifests, too, where people write: what is no page names no concepts."""
    uses = page.get("uses")
    found = [use for use in uses if isinstance(use, Mapping)] if isinstance(uses, list) else []
    summaries = [(use.get("concept"), use.get("summary")) for use in found]
    return sorted(
        {str(concept) for concept, summary in summaries if isinstance(summary, Mapping) and summary.get("chosen_at")}
    )


def _review(row: Row[Any]) -> Review:
    return Review(
        sae=row.sae,
        index=row.feature,
        sae_digest=row.sae_digest,
        verdict=row.verdict,
        by=row.by,
        why=row.why,
        when=row.when,
        page=row.page,
    )


def _columns(review: Review) -> dict[str, Any]:
    return {
        "sae": review.sae,
        "feature": review.index,
        "sae_digest": review.sae_digest,
        "verdict": review.verdict,
        "by": review.by,
        "why": review.why,
        "when": review.when,
        "page": dict(review.page),
    }
