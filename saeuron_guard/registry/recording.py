"""What people do to an open registry: review features, compile policies, verify guards. Each is one transaction."""

from __future__ import annotations

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import writing
from saeuron_guard.registry.events import HEAD_KEY
from saeuron_guard.registry.manifest import rounded
from saeuron_guard.registry.pages import feature_page
from saeuron_guard.registry.recorded import add_guard, add_policy, add_verification
from saeuron_guard.registry.records import GuardRecord, PolicyRecord, Review, Verdict, VerificationRecord
from saeuron_guard.registry.reviews import add_reviews
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.registry.tables import meta


def record_review(registry: FeatureRegistry, feature: str, verdict: Verdict, why: str, stamp: Stamp) -> Review:
    """Record what was decided about ``feature`` (``sae:index``), with its page as it is now.

    Raises RegistryError for an unknown feature, an empty reason or name, or a decision that is recorded already.
    """
    sae, index = registry.feature(feature)
    review = Review(
        sae=sae.name,
        index=index,
        sae_digest=sae.digest,
        verdict=verdict,
        by=_words("name of who decides", stamp.by),
        why=_words("reason", why),
        when=stamp.when,
        page=rounded(feature_page(registry, feature)),
    )
    with writing(registry.engine) as connection:
        if not add_reviews(connection, [review], stamp):
            raise RegistryError(f"{review.feature}: this decision of {review.by} at {review.when} is recorded already")
    return review


def record_guard(registry: FeatureRegistry, policy: PolicyRecord, guard: GuardRecord) -> bool:
    """Record a policy and the guard it was compiled to; False when both were recorded before, which then stands."""
    with writing(registry.engine) as connection:
        fresh = add_policy(connection, policy)
        return add_guard(connection, guard) or fresh


def record_verification(
    registry: FeatureRegistry, policy: PolicyRecord, guard: GuardRecord, run: VerificationRecord
) -> None:
    """Record what ``verify`` said of a guard, and policy and guard unless they were recorded before."""
    with writing(registry.engine) as connection:
        add_policy(connection, policy)
        add_guard(connection, guard)
        add_verification(connection, run)


def require_writable(registry: FeatureRegistry) -> None:
    """Raise RegistryError unless the database can be written to, now: before long work that is to be recorded."""
    with writing(registry.engine) as connection:
        # SQLite finds out at the first write only, not when it takes the lock; undone, it leaves the file as it was.
        connection.execute(meta.update().where(meta.c.key == HEAD_KEY).values(value=meta.c.value))
        connection.rollback()


def _words(what: str, text: str) -> str:
    """``text`` without white space around it; refused when nothing is left, or what is left cannot be shown."""
    words = text.strip()
    if not words:
        raise RegistryError(f"the {what} is empty; give one that tells others something")
    if not all(character.isprintable() or character == "\n" for character in words):
        raise RegistryError(f"the {what} {words!r} has characters that cannot be shown; leave them out")
    return words
