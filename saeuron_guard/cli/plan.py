"""``policy plan``: what changes when one policy takes another's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from saeuron_guard.cli.tables import aligned
from saeuron_guard.policy.waivers import waiver_lines, waivers_json

if TYPE_CHECKING:
    from saeuron_guard.compiler.plan import Change, Plan

CHANGED: Final = 5
"""Exit code of ``--detailed-exitcode`` when there is a change; 1 to 4 have another meaning already."""


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--detailed-exitcode", is_flag=True, help=f"Exit with {CHANGED} when anything changes.")
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def plan(ctx: click.Context, old: Path, new: Path, detailed_exitcode: bool, layout: str) -> None:
    """Say what changes when the policy NEW takes the place of OLD.

    Concepts, strengths and requirements, what is retained, the features that are edited, and those that retained
    concepts need as well. Each change of a rule tightens or loosens.

    \b
    Example:
      saeuron-guard policy plan policies/no-weapons.yaml my-no-weapons.yaml
    """
    from saeuron_guard.compiler.plan import plan_policies
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.registry.store import FeatureRegistry

    before, after = load_policy(old), load_policy(new)
    with FeatureRegistry.open() as registry:
        found = plan_policies(before, after, registry)
    if layout == "json":
        click.echo(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(as_text(found)))
    if detailed_exitcode and found.changes:
        ctx.exit(CHANGED)


def _as_json(plan: Plan) -> dict[str, Any]:
    old, new = (asdict(side) | {"waivers": waivers_json(side.waivers)} for side in (plan.old, plan.new))
    return {"old": old, "new": new, "changes": [asdict(change) for change in plan.changes]}


def as_text(plan: Plan) -> Iterator[str]:
    """The plan as lines for a terminal."""
    for name, side in (("old", plan.old), ("new", plan.new)):
        yield f"{name}  {side.policy} {side.version}  policy {side.policy_digest}  guard {side.guard_digest}"
        yield from (f"     {line}" for line in waiver_lines(side.waivers))
    if not plan.changes:
        yield "nothing changes"
        return
    yield ""
    rows = [(each.effect, each.section, each.name, _told(each)) for each in plan.changes]
    yield from aligned(("effect", "section", "name", "change"), rows)
    yield ""
    effects = [each.effect for each in plan.changes]
    yield f"{len(effects)} changes, of which {effects.count('tightens')} tighten and {effects.count('loosens')} loosen"


def _told(change: Change) -> str:
    waived = f", waived: {change.waiver}" if change.waiver else ""
    if change.before is None and not change.field:
        return f"added ({change.after})"
    if change.after is None and not change.field:
        return f"removed (was {change.before}){waived}"
    unset = "as calibrated"
    return f"{change.field} {change.before or unset} -> {change.after or unset}{waived}"
