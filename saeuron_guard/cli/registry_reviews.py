"""``registry approve``, ``reject`` and ``quarantine``: what people decide about features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from saeuron_guard.cli.registry import as_json, database_option, layout_option

if TYPE_CHECKING:
    from saeuron_guard.registry.records import Verdict

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _words(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        wanted = "a name" if parameter.name == "by" else "what others should know"
        raise click.BadParameter(f"{parameter.name} is empty; write {wanted}")
    return value


def _review_options(command: _Command) -> _Command:
    for option in (
        layout_option,
        database_option,
        click.option("--by", metavar="NAME", callback=_words, help="Who decides.  [default: the login name]"),
        click.option("--why", metavar="TEXT", required=True, callback=_words, help="The reason, for others to read."),
        click.argument("feature", metavar="SAE:INDEX"),
    ):
        command = option(command)
    return command


@click.command()
@_review_options
def approve(feature: str, why: str, by: str | None, database: str | None, layout: str) -> None:
    """Approve a feature: somebody looked at it and found it fit to be edited.

    \b
    Example:
      saeuron-guard registry approve emoji-canvas-up1-attn1:17 --why "fires on pistols only"
    """
    _review("approved", feature, why, by, database, layout)


@click.command()
@_review_options
def reject(feature: str, why: str, by: str | None, database: str | None, layout: str) -> None:
    """Reject a feature: no policy may be compiled to a guard that edits it.

    \b
    Example:
      saeuron-guard registry reject emoji-canvas-up1-attn1:17 --why "fires on water pistols, too"
    """
    _review("rejected", feature, why, by, database, layout)


@click.command()
@_review_options
def quarantine(feature: str, why: str, by: str | None, database: str | None, layout: str) -> None:
    """Put a feature aside until it is approved or rejected; until then it counts as rejected.

    \b
    Example:
      saeuron-guard registry quarantine emoji-canvas-up1-attn1:17 --why "complaint 4711 is being looked at"
    """
    _review("quarantined", feature, why, by, database, layout)


def _review(verdict: Verdict, feature: str, why: str, by: str | None, database: str | None, layout: str) -> None:
    from saeuron_guard.cli.audit_text import review_values
    from saeuron_guard.registry.history import recorded_guards
    from saeuron_guard.registry.recording import record_review
    from saeuron_guard.registry.stamp import Stamp
    from saeuron_guard.registry.store import FeatureRegistry

    stamp = Stamp.now(by)
    with FeatureRegistry.open(database, stamp=stamp) as opened:
        review = record_review(opened, feature, verdict, why, stamp)
        using = recorded_guards(opened, feature=review.feature)
    if layout == "json":
        click.echo(as_json({**review_values(review), "guards": [used.guard.digest for used in using]}))
        return
    click.echo(f"{review.feature}: {review.verdict} by {review.by} at {review.when}: {review.why}")
    for used in using if verdict != "approved" else ():
        click.echo(f"used by guard {used.guard.digest} of policy {used.policy.name} {used.policy.version}")
