"""``guard decisions``: what guarded pipelines have decided, from their logs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from saeuron_guard.cli.tables import aligned
from saeuron_guard.wording import count_of, printable

if TYPE_CHECKING:
    from saeuron_guard.guard.decision_reading import Damage, Summary
    from saeuron_guard.guard.decisions import Decision

DAMAGED: Final = 3
_MOST_DAMAGE: Final = 1000
"""Damaged lines that are told one by one; a file of another kind is damaged in every line."""


def _moment(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    """An option's value as a time in UTC."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        expected = "expected one such as 2026-11-24 or 2026-11-24T20:00:00Z"
        raise click.BadParameter(f"{value!r} is no time; {expected}") from None


@dataclass(slots=True)
class Listing:
    """What is shown of the logs."""

    summary: Summary
    last: deque[Decision]
    damage: list[Damage] = field(default_factory=list)
    damaged: int = 0
    broken: bool = False

    def note_damage(self, damage: Damage) -> None:
        """Remember a line that is no decision."""
        self.damaged += 1
        self.broken |= not damage.cut
        if len(self.damage) < _MOST_DAMAGE:
            self.damage.append(damage)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--concept", help="Only images in which this concept fired.")
@click.option(
    "--since",
    metavar="TIME",
    callback=_moment,
    help="Only decisions from this time on, as ISO 8601 has it; UTC by default.",
)
@click.option(
    "--last", type=click.IntRange(min=0), default=20, show_default=True, help="How many of them to list, the latest."
)
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def decisions(
    ctx: click.Context, files: tuple[Path, ...], concept: str | None, since: datetime | None, last: int, layout: str
) -> None:
    """Count and list the decisions in logs of guarded pipelines, given in the order of time.

    Lines that are no decisions are named and left out; the exit code is then 3, unless they were only cut short, which
    is what a crash leaves.

    \b
    Example:
      saeuron-guard guard decisions decisions.jsonl.1 decisions.jsonl --concept pistol --since 2026-11-24
    """
    listing = gather(files, concept, since, last)
    if layout == "json":
        click.echo(json.dumps(as_json(listing), indent=2))
    else:
        click.echo("\n".join(map(printable, as_text(listing))))
    ctx.exit(DAMAGED if listing.broken else 0)


def gather(files: tuple[Path, ...], concept: str | None, since: datetime | None, last: int) -> Listing:
    """Read the logs through, a line at a time; keeps the ``last`` decisions that are asked for."""
    from saeuron_guard.guard.decision_reading import Damage, Summary, moment, read_decisions

    listing = Listing(Summary(), deque(maxlen=last))
    for file in files:
        for entry in read_decisions(file):
            if isinstance(entry, Damage):
                listing.note_damage(entry)
            elif (since is None or moment(entry) >= since) and (concept is None or _fired(entry, concept)):
                listing.summary.add(entry)
                listing.last.append(entry)
    return listing


def _fired(decision: Decision, concept: str) -> bool:
    return any(found.concept == concept for found in decision.concepts)


def as_json(listing: Listing) -> dict[str, Any]:
    """Counts, the latest decisions and every damaged line as plain values."""
    summary = listing.summary
    return {
        "decisions": summary.decisions,
        "outcomes": dict(summary.outcomes),
        "guards": dict(summary.guards),
        "concepts": [
            {"concept": name, "decisions": number, "peak": summary.peaks[name]}
            for name, number in summary.concepts.most_common()
        ],
        "damaged": listing.damaged,
        "damage": [asdict(damage) for damage in listing.damage],
        "last": [asdict(decision) for decision in listing.last],
    }


def as_text(listing: Listing) -> Iterator[str]:
    """The same for a terminal."""
    summary = listing.summary
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in summary.outcomes.items())
    yield f"{count_of(summary.decisions, 'decision')}: {outcomes}"
    for digest, number in summary.guards.items():
        yield f"  {number} by guard {digest}" if digest else f"  {number} by no guard: the image had no policy"
    if summary.concepts:
        yield ""
        rows = [(name, str(number), f"{summary.peaks[name]:.2f}") for name, number in summary.concepts.most_common()]
        yield from aligned(("concept", "decisions", "largest peak"), rows, right=("decisions", "largest peak"))
    if listing.last:
        yield ""
        yield from aligned(("time", "outcome", "image", "seed", "concepts", "prompt"), [*map(_row, listing.last)])
        yield from (f"  {one.time} {one.outcome}: {one.why}" for one in listing.last if one.why)
    if listing.damaged:
        yield ""
        yield f"{count_of(listing.damaged, 'damaged line')}:"
        yield from (f"  {damage}" for damage in listing.damage)
        if listing.damaged > len(listing.damage):
            yield f"  and {listing.damaged - len(listing.damage)} more"


def _row(decision: Decision) -> tuple[str, ...]:
    image = "all" if decision.image is None else str(decision.image)
    return (
        decision.time,
        decision.outcome,
        f"{image} of {decision.images}" if decision.images is not None else image,
        "" if decision.seed is None else str(decision.seed),
        ", ".join(f"{found.concept} in {found.steps} of {decision.steps} steps" for found in decision.concepts) or "-",
        "; ".join(_short(prompt.text) for prompt in decision.prompts),
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
