"""Which images a verification draws: for each removed concept its target prompts, and retain prompts beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saeuron_guard.digests import image_seed
from saeuron_guard.policy.model import Policy
from saeuron_guard.prompts.model import Prompt, PromptSet
from saeuron_guard.verify.figures import is_retained

RETAIN_IMAGES = 96
"""How many retain prompt and seed pairs are drawn at least, unless told otherwise.

With accuracy unchanged, 96 pairs bound the loss to about 4 points at 95 % confidence, for half a minute of drawing.
"""


@dataclass(frozen=True, slots=True)
class Shot:
    """One pair of images to draw; ``targets`` are the policy's concepts that the prompt asks for."""

    prompt: Prompt
    seed: int
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """All pairs to draw, by seed and then in the prompt set's order; ``skipped`` counts those that a limit left out."""

    shots: tuple[Shot, ...]
    skipped: int


def make_plan(
    policy: Policy,
    prompts: PromptSet,
    seeds: Sequence[int],
    *,
    max_per_concept: int | None = None,
    max_retain: int | None = None,
) -> AuditPlan:
    """Choose the pairs to draw, the same ones for the same arguments on every machine.

    Target prompts ask for one of the policy's concepts; retain prompts ask for none of them and for a concept that the
    policy retains. ``max_per_concept`` limits the pairs chosen for each removed and of each retained concept (a pair
    that shows two removed concepts counts for both); ``max_retain`` limits the retain pairs in all, by default to 1.5
    times the policy's ``minimum_n`` and no less than RETAIN_IMAGES. What is drawn is spread evenly over the concepts of
    each domain. ``skipped`` counts what ``max_per_concept`` left out of the targets: drawing a sample of the retain
    prompts is the rule. Without any target there is nothing to verify, so the plan is empty.
    """
    removed = [rule.concept for rule in policy.concepts]
    shots = [
        Shot(prompt, seed, tuple(concept for concept in removed if prompt.shows(concept)))
        for seed in dict.fromkeys(seeds)
        for prompt in prompts.prompts
    ]
    targets = [shot for shot in shots if shot.targets]
    chosen: set[tuple[str, int]] = set()
    for concept in removed:
        own = [shot for shot in targets if concept in shot.targets]
        chosen |= {_key(shot) for shot in _spread(own, max_per_concept, None)}
    candidates = [
        shot
        for shot in shots
        if not shot.targets and any(is_retained(policy.retain, *label) for label in shot.prompt.labels)
    ]
    limit = _retain_limit(policy, max_retain)
    retained = {_key(shot) for shot in _spread(candidates, limit, max_per_concept)} if targets else set()
    return AuditPlan(
        shots=tuple(shot for shot in shots if _key(shot) in chosen | retained),
        skipped=sum(_key(shot) not in chosen for shot in targets),
    )


def retained_shots(
    policy: Policy, prompts: PromptSet, seeds: Sequence[int], *, max_retain: int | None = None
) -> tuple[Shot, ...]:
    """The pairs to draw of a retained prompt set: of its prompts that ask for nothing removed, as many as of others."""
    removed = [rule.concept for rule in policy.concepts]
    candidates = [
        Shot(prompt, seed, ())
        for seed in dict.fromkeys(seeds)
        for prompt in prompts.prompts
        if not any(prompt.shows(concept) for concept in removed)
    ]
    chosen = {_key(shot) for shot in _spread(candidates, _retain_limit(policy, max_retain), None)}
    return tuple(shot for shot in candidates if _key(shot) in chosen)


def _retain_limit(policy: Policy, max_retain: int | None) -> int:
    return max(RETAIN_IMAGES, policy.audit.minimum_n * 3 // 2) if max_retain is None else max_retain


def _key(shot: Shot) -> tuple[str, int]:
    return shot.prompt.id, shot.seed


def _spread(candidates: list[Shot], limit: int | None, cap: int | None) -> list[Shot]:
    """At most ``limit`` candidates and at most ``cap`` of each concept, taking the rarest concepts first.

    A prompt that names no concept of a domain counts as showing one more concept there, so that such prompts get their
    share and no more. Ties are broken by a digest of prompt id and seed: the order of the prompt file doesn't matter.
    """
    if (limit is None or limit >= len(candidates)) and cap is None:
        return candidates
    domains = sorted({domain for shot in candidates for domain, _ in shot.prompt.labels})
    pool = [
        (shot, tuple((domain, shot.prompt.concept(domain)) for domain in domains))
        for shot in sorted(candidates, key=lambda shot: image_seed(shot.prompt.id, shot.seed))
    ]
    counts: Counter[tuple[str, str | None]] = Counter()
    chosen: list[Shot] = []
    while limit is None or len(chosen) < limit:
        if cap is not None:
            pool = [(shot, cells) for shot, cells in pool if all(counts[cell] < cap or not cell[1] for cell in cells)]
        if not pool:
            break
        index = min(range(len(pool)), key=lambda i: (sorted((counts[cell] for cell in pool[i][1]), reverse=True), i))
        shot, cells = pool.pop(index)
        chosen.append(shot)
        counts.update(cells)
    return chosen
