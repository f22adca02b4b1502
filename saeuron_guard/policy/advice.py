"""What a valid policy's author should know all the same: nothing here makes a policy invalid."""

from __future__ import annotations

from collections.abc import Iterator

from saeuron_guard.errors import Problem
from saeuron_guard.policy.model import Place, Policy
from saeuron_guard.wording import quote


def advice(policy: Policy) -> list[Problem]:
    """Warnings about ``policy``, each at its place, in the order of the file."""
    return sorted([*_about_status(policy), *_about_rules(policy), *_about_waivers(policy), *_about_tests(policy)])


def _about_status(policy: Policy) -> Iterator[Problem]:
    whole = Place(policy.file, 1, 1)
    if policy.status == "deprecated":
        yield whole.problem(f"the policy {policy.name} {policy.version} is deprecated")
    for base in policy.bases:
        if base.status == "deprecated":
            yield whole.problem(f"{base.name} {base.version} ({base.file}), which this policy extends, is deprecated")


def _about_rules(policy: Policy) -> Iterator[Problem]:
    for rule in policy.concepts:
        if rule.mode == "enforce" and rule.strength == 0 and rule.action != "detect":
            place = policy.places.get(f"concepts.{rule.concept}.strength", rule.place)
            yield place.problem(f"strength 0 edits nothing for {quote(rule.concept)}; to watch it, say mode: observe")


def _about_waivers(policy: Policy) -> Iterator[Problem]:
    for waiver in policy.waivers:
        if waiver.state == "expired":
            yield waiver.place.problem(f"the waiver for {quote(waiver.what)} expired on {waiver.expires}; remove it")
        elif waiver.state == "unused":
            yield waiver.place.problem(f"the waiver for {quote(waiver.what)} covers nothing; remove it")


def _about_tests(policy: Policy) -> Iterator[Problem]:
    for test in policy.tests:
        if test.todo:
            yield test.place.problem(f"known gap: {quote(test.prompt)} should {test.expect}: {test.todo}")
