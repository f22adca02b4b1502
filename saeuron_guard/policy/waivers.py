"""The one evaluator of waivers: which of them hold on a day, what they cover, and how they are counted and shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from saeuron_guard.documents import Document
from saeuron_guard.errors import Problem
from saeuron_guard.policy.declare import place_at
from saeuron_guard.policy.model import Waiver
from saeuron_guard.wording import count_of, did_you_mean, quote


def declared_waivers(document: Document, today: date) -> tuple[tuple[Waiver, ...], list[Problem]]:
    """The waivers of a document that fits the schema, as they stand on ``today``, and what is wrong with their dates.

    None covers anything yet.  A date that cannot be read is a problem, never "for ever".
    """
    waivers: list[Waiver] = []
    problems: list[Problem] = []
    for position, entry in enumerate(document.value.get("waivers", ())):
        try:
            expires = _day(entry["expires"])
        except ValueError:
            message = f"expected a date that exists, such as 2027-01-31, got {quote(entry['expires'])}"
            problems.append(
                document.problem(("waivers", position, "expires"), f"{message} (waivers[{position}].expires)")
            )
            continue
        waivers.append(
            Waiver(
                what=entry["what"],
                reason=entry["reason"],
                owner=entry["owner"],
                ticket=entry["ticket"],
                expires=expires,
                policy=document.value["metadata"]["name"],
                place=place_at(document, ("waivers", position, "what")),
                state="expired" if has_expired(expires, today) else "unused",
            )
        )
    return tuple(waivers), problems


def has_expired(expires: date, today: date) -> bool:
    """Whether a waiver that holds through the day ``expires`` is no longer there."""
    return expires < today


def _day(text: str) -> date:
    """A date in the one form that everybody reads alike; date.fromisoformat takes others, too."""
    day = date.fromisoformat(text)
    if day.isoformat() != text:
        raise ValueError(text)
    return day


def overlong(waivers: Iterable[Waiver], today: date, longest: int, base: str) -> list[Problem]:
    """Waivers that hold longer than ``base``, the strictest of the extended policies, allows: ``longest`` days."""
    last = today + timedelta(days=longest)
    return [
        waiver.place.problem(
            f"the waiver for {quote(waiver.what)} runs until {waiver.expires}, but {base} allows waivers of at most "
            f"{longest} days, until {last}. Give it a nearer date, or tighten instead."
            if longest
            else f"{base} allows no waivers (limits.waiver_days is 0); tighten instead.",
        )
        for waiver in waivers
        if waiver.state != "expired" and (longest == 0 or waiver.expires > last)
    ]


def unknown(waivers: Iterable[Waiver], known: Sequence[str]) -> list[Problem]:
    """Waivers for settings that no extended policy has: a typing error there would leave something unwaived."""
    problems = []
    for waiver in waivers:
        if not known:
            problems.append(
                waiver.place.problem("a waiver loosens a base policy, but this policy extends none; remove it")
            )
        elif not any(_within(name, waiver.what) for name in known):
            message = f"no extended policy has a setting {quote(waiver.what)}.{did_you_mean(waiver.what, known)}"
            problems.append(waiver.place.problem(message))
    return problems


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether a loosened setting is waived; if not, the waiver that would have covered it, had it not expired."""

    waived: bool
    expired: Waiver | None


class Evaluator:
    """Decides about loosened settings, one by one, and keeps which waiver covered which of them."""

    def __init__(self, waivers: Iterable[Waiver]) -> None:
        self._waivers = tuple(waivers)
        self._covers: dict[Waiver, list[str]] = {waiver: [] for waiver in self._waivers}

    def rule(self, setting: str) -> Ruling:
        """Rule on the loosened ``setting``, as ``concepts.pistol.strength``; every waiver that fits counts as used."""
        fitting = [waiver for waiver in self._waivers if _within(setting, waiver.what)]
        holding = [waiver for waiver in fitting if waiver.state != "expired"]
        for waiver in holding:
            if setting not in self._covers[waiver]:
                self._covers[waiver].append(setting)
        return Ruling(bool(holding), next((waiver for waiver in fitting if waiver.state == "expired"), None))

    def waivers(self) -> tuple[Waiver, ...]:
        """All waivers with what they covered."""
        return tuple(
            dataclasses.replace(waiver, state="active", covers=tuple(sorted(covers))) if covers else waiver
            for waiver, covers in self._covers.items()
        )


def _within(setting: str, what: str) -> bool:
    return setting == what or setting.startswith(f"{what}.")


def waiver_count(waivers: Sequence[Waiver]) -> str:
    """``2 waivers: 1 active, 1 expired``, or ``no waivers``."""
    if not waivers:
        return "no waivers"
    states = [waiver.state for waiver in waivers]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{count_of(len(waivers), 'waiver')}: {counted}"


def waiver_lines(waivers: Sequence[Waiver]) -> list[str]:
    """The count and a line for each waiver, for terminals; nothing but the count when there are none."""
    return [waiver_count(waivers), *(f"  {waiver_text(waiver)}" for waiver in waivers)]


def waiver_text(waiver: Waiver) -> str:
    """One waiver in a line."""
    covers = f" covers {', '.join(waiver.covers)}" if waiver.covers else ""
    return (
        f"{waiver.state} until {waiver.expires}: {waiver.what} of {waiver.policy}{covers} "
        f"({waiver.ticket}, {waiver.owner}): {waiver.reason}"
    )


def waivers_json(waivers: Sequence[Waiver]) -> Mapping[str, Any]:
    """The same for programs: how many of each state, and all of them."""
    states = [waiver.state for waiver in waivers]
    return {
        "count": {state: states.count(state) for state in ("active", "unused", "expired")},
        "waivers": [
            {
                "what": waiver.what,
                "state": waiver.state,
                "covers": list(waiver.covers),
                "reason": waiver.reason,
                "owner": waiver.owner,
                "ticket": waiver.ticket,
                "expires": waiver.expires.isoformat(),
                "policy": waiver.policy,
                "file": waiver.place.file,
                "line": waiver.place.line,
                "column": waiver.place.column,
            }
            for waiver in waivers
        ],
    }
