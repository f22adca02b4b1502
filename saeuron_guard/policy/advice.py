"""What a valid policy's author should know all the same: nothing here makes a policy invalid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from statistics import NormalDist

from saeuron_guard.errors import Problem
from saeuron_guard.policy.model import Place, Policy
from saeuron_guard.wording import quote


def advice(policy: Policy) -> list[Problem]:
    """Warnings about ``policy``, each at its place, in the order of the file."""
    return sorted([*_about_status(policy), *_about_rules(policy), *_about_waivers(policy), *_about_tests(policy)])


def sample_advice(policy: Policy, images: Mapping[str, int]) -> list[Problem]:
    """Warnings about requirements that cannot be shown; ``images``: how many the audit draws for each concept.

    With n images and no failure, Wilson's interval reaches up from n / (n + z^2).
    """
    found = []
    for rule in policy.concepts:
        n = images.get(rule.concept, 0)
        z = NormalDist().inv_cdf(0.5 + rule.confidence / 2)
        best = n / (n + z * z)
        if rule.edits and best < rule.removal:
            needed = ceil(rule.removal * z * z / (1 - rule.removal)) if rule.removal < 1 else 0
            most = f"; it takes {needed} without a failure" if needed else "; no number of images shows that"
            message = (
                f"the audit draws {n} images for {quote(rule.concept)}, which show a removal of at most {best:.3f} "
                f"at {rule.confidence:g} confidence, but {rule.removal:g} is required{most}. Add seeds or prompts."
            )
            found.append(rule.place.problem(message))
        elif n < policy.audit.minimum_n:
            found.append(
                rule.place.problem(
                    f"the audit draws {n} images for {quote(rule.concept)}, fewer than minimum_n "
                    f"({policy.audit.minimum_n}), so verify will be inconclusive. Add seeds or prompts."
                )
            )
    return sorted(found)


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
        if rule.window is not None and (rule.refuses or rule.mode == "warn"):
            yield rule.place.problem(
                f"{quote(rule.concept)} is looked for at timesteps {rule.window.first} to {rule.window.last} alone, "
                f"and its share ({rule.share:g}) counts over all steps of an image, so it may never be reached; drop "
                "timesteps, or lower share"
            )


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
