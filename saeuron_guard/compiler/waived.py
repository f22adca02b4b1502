"""The waivers that a compiled guard was made under."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

from saeuron_guard.compiler.config import AppliedWaiver
from saeuron_guard.policy.model import Waiver
from saeuron_guard.policy.waivers import has_expired
from saeuron_guard.wording import count_of


def applied_waivers(waivers: Iterable[Waiver]) -> tuple[AppliedWaiver, ...]:
    """Those that loosen something; whether others lie unused or expired in the file changes no byte of a guard."""
    applied = {
        AppliedWaiver(
            waiver.what, waiver.covers, waiver.reason, waiver.owner, waiver.ticket, waiver.expires.isoformat()
        )
        for waiver in waivers
        if waiver.state == "active"
    }
    return tuple(sorted(applied, key=lambda waiver: (waiver.what, waiver.ticket, waiver.expires)))


def applied_lines(waivers: Sequence[AppliedWaiver], today: date) -> list[str]:
    """The count and a line for each, for terminals; a guard outlives its waivers, so those that ran out are named."""
    if not waivers:
        return ["no waivers"]
    expired = [has_expired(date.fromisoformat(waiver.expires), today) for waiver in waivers]
    lines = [
        f"  {'EXPIRED on' if gone else 'until'} {waiver.expires}: {', '.join(waiver.covers)} ({waiver.ticket}, "
        f"{waiver.owner}): {waiver.reason}"
        for waiver, gone in zip(waivers, expired, strict=True)
    ]
    return [f"made under {count_of(len(waivers), 'waiver')}, {sum(expired)} expired by now", *lines]
