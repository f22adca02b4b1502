"""How reviews, changes and recorded guards look in a terminal, and as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from saeuron_guard.cli.tables import aligned

if TYPE_CHECKING:
    from saeuron_guard.registry.history import Change, RecordedGuard, ReviewState
    from saeuron_guard.registry.records import Review

_NAMED: Final = 3
"""Changed things of a kind that a line of history names; of more it tells the number."""


def review_values(review: Review) -> dict[str, Any]:
    """A review as JSON values, without the page that it keeps."""
    values = {name: value for name, value in dataclasses.asdict(review).items() if name != "page"}
    return {"feature": review.feature, **values}


def review_lines(states: Sequence[ReviewState]) -> Iterator[str]:
    """A feature's reviews, newest last."""
    if not states:
        yield "not reviewed"
        return
    yield "reviews, newest last"
    for state in states:
        review = state.review
        yield f"  {review.when} {review.verdict} by {review.by}: {_one_line(review.why)}"
        yield f"    {_standing(state)}"


def _standing(state: ReviewState) -> str:
    if not state.counts:
        return f"counts no longer: it was of another SAE of this name, {state.review.sae_digest}"
    if state.unchanged is None:
        return "no page was kept with it"
    return "the page is unchanged since" if state.unchanged else "the page has changed since: --as-reviewed shows it"


def use_lines(guards: Sequence[RecordedGuard], feature: str) -> Iterator[str]:
    """Which recorded guards use a feature, and for what."""
    if not guards:
        yield "no recorded guard uses it"
        return
    yield "recorded guards that use it"
    for used in guards:
        concepts = (
            f"{part.concept} (strength {part.strength:g})" for part in used.guard.features if part.feature == feature
        )
        yield f"  {_short(used.guard.digest)} of policy {used.policy.name} {used.policy.version}: {', '.join(concepts)}"


def use_values(used: RecordedGuard, feature: str) -> dict[str, Any]:
    """A recorded guard that uses a feature, as JSON values."""
    parts = [dataclasses.asdict(part) for part in used.guard.features if part.feature == feature]
    return {"digest": used.guard.digest, "policy": dataclasses.asdict(used.policy), "features": parts}


def change_values(change: Change) -> dict[str, Any]:
    """An event as JSON values, with its payload read."""
    return {**dataclasses.asdict(change.event), "payload": dict(change.payload)}


def history_lines(changes: Sequence[Change]) -> list[str]:
    """One line for each change."""
    if not changes:
        return ["nothing changed"]
    rows = [
        [change.event.when, change.event.by, change.event.kind, _short(change.event.subject), _what(change)]
        for change in changes
    ]
    return aligned(["WHEN", "BY", "KIND", "SUBJECT", "WHAT"], rows)


def changes_text(payload: Mapping[str, Any]) -> str:
    """What a new content adds, removes and changes, on one line."""
    parts = []
    for part in ("added", "removed", "changed"):
        for kind, names in payload[part].items():
            named = ", ".join(names) if len(names) <= _NAMED else str(len(names))
            parts.append(f"{part} {kind}: {named}")
    return "; ".join(parts) or "the content is the same"


def _what(change: Change) -> str:
    describe = _DESCRIPTIONS.get(change.event.kind)
    return describe(change) if describe else change.event.payload


def _content(change: Change) -> str:
    return changes_text(change.payload)


def _migration(change: Change) -> str:
    return f"from revision {change.payload['from'] or 'none'}"


def _review(change: Change) -> str:
    event, payload = change.event, change.payload
    imported = (payload["by"], payload["when"]) != (event.by, event.when)
    whose = f" (by {payload['by']} at {payload['when']})" if imported else ""
    return f"{payload['verdict']}: {_one_line(payload['why'])}{whose}"


def _policy(change: Change) -> str:
    return "version {version} of {owner}, {file}".format(**change.payload)


def _guard(change: Change) -> str:
    concepts = sorted({used["concept"] for used in change.payload["features"]})
    return f"policy {change.payload['policy']} for {change.payload['model']}: {', '.join(concepts)}"


def _verification(change: Change) -> str:
    said = "{verdict} (exit code {exit_code}) of policy {policy}, {images} images judged by {judge}"
    return said.format(**change.payload)


_DESCRIPTIONS: Final[Mapping[str, Callable[[Change], str]]] = {
    "content": _content,
    "migration": _migration,
    "review": _review,
    "policy": _policy,
    "guard": _guard,
    "verification": _verification,
}


def guard_lines(guards: Sequence[RecordedGuard]) -> list[str]:
    """A table of guards, each followed by the reviews that speak against it."""
    if not guards:
        return ["no such guard is recorded"]
    headers = ["GUARD", "POLICY", "VERSION", "MODEL", "FEATURES", "RECORDED", "BY", "VERIFIED"]
    rows = [
        [
            _short(known.guard.digest),
            known.policy.name,
            known.policy.version,
            known.guard.model,
            str(len({part.feature for part in known.guard.features})),
            known.guard.when,
            known.guard.by,
            f"{known.verification.verdict} {known.verification.when}" if known.verification else "never",
        ]
        for known in guards
    ]
    header, *lines = aligned(headers, rows, right=["FEATURES"])
    found = [header]
    for line, known in zip(lines, guards, strict=True):
        found.append(line)
        for part, review in known.rejected:
            decided = f"{review.verdict} by {review.by} at {review.when}: {_one_line(review.why)}"
            found.append(f"  {part.feature} ({part.concept}) {decided}")
    return found


def guard_values(known: RecordedGuard) -> dict[str, Any]:
    """A recorded guard as JSON values."""
    return {
        **dataclasses.asdict(known.guard),
        "policy": dataclasses.asdict(known.policy),
        "verification": dataclasses.asdict(known.verification) if known.verification else None,
        "rejected": [
            {"concept": part.concept, "strength": part.strength, **review_values(review)}
            for part, review in known.rejected
        ],
    }


def _short(subject: str) -> str:
    return subject[:19] if subject.startswith("sha256:") else subject


def _one_line(text: str) -> str:
    return " ".join(text.split())
