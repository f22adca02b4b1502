"""``registry history`` and ``guards``: what auditors ask of the records."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import click

from saeuron_guard.cli.registry import as_json, database_option, layout_option


def _moment(text: str, *, end: bool) -> str:
    """``2025-01-31`` (its beginning or its end) or ``2025-01-31T12:00:00+01:00`` as the registry writes times.

    A time without a zone is UTC. Raises click.BadParameter for any other text.
    """
    from saeuron_guard.registry.stamp import moment_text

    try:
        try:
            moment = datetime.combine(date.fromisoformat(text), time.max if end else time.min)
        except ValueError:
            moment = datetime.fromisoformat(text)
        return moment_text(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        message = f"{text!r} is neither a date nor a time; write 2025-01-31 or 2025-01-31T12:00:00"
        raise click.BadParameter(message) from None


def _since(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    return None if value is None else _moment(value, end=False)


def _until(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    return None if value is None else _moment(value, end=True)


@click.command()
@click.argument("name", required=False)
@click.option("--since", callback=_since, metavar="DATE", help="Nothing before this date or time (UTC).")
@click.option("--until", callback=_until, metavar="DATE", help="Nothing after this date or time (UTC).")
@database_option
@layout_option
def history(name: str | None, since: str | None, until: str | None, database: str | None, layout: str) -> None:
    """Show what changed, and by whom: everything, or what concerns a concept, feature, policy, guard or SAE.

    Both dates are included; the newest change comes last. The beginning of a guard's digest is enough.

    \b
    Example:
      saeuron-guard registry history pistol --since 2025-01-01 --until 2025-03-31
    """
    from saeuron_guard.cli.audit_text import change_values, history_lines
    from saeuron_guard.registry.history import history as changes_of
    from saeuron_guard.registry.store import FeatureRegistry

    if since and until and since > until:
        raise click.UsageError(f"--since {since} is after --until {until}")
    with FeatureRegistry.open(database) as opened:
        changes = changes_of(opened, name, since, until)
    if layout == "json":
        click.echo(as_json([change_values(change) for change in changes]))
    else:
        click.echo("\n".join(history_lines(changes)))


@click.command()
@click.option("--rejected", is_flag=True, help="Only those built on a feature that was rejected or quarantined.")
@click.option("--policy", metavar="NAME", help="Only those of this policy.")
@database_option
@layout_option
def guards(rejected: bool, policy: str | None, database: str | None, layout: str) -> None:
    """List the guards that were compiled, with their policies, newest verifications and rejected features.

    \b
    Example:
      saeuron-guard registry guards --rejected
    """
    from saeuron_guard.cli.audit_text import guard_lines, guard_values
    from saeuron_guard.registry.history import recorded_guards
    from saeuron_guard.registry.store import FeatureRegistry

    with FeatureRegistry.open(database) as opened:
        found = recorded_guards(opened, policy=policy, rejected=rejected)
    if layout == "json":
        click.echo(as_json([guard_values(guard) for guard in found]))
    else:
        click.echo("\n".join(guard_lines(found)))
