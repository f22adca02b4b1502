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
"""How many retain prompt and seed pairs are drawn unless told otherwise.

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
    max_retain: int | None = RETAIN_IMAGES,
) -> AuditPlan:
    """Choose the pairs to draw, the same ones for the same arguments on every machine.

    Target prompts ask for one of the policy's concepts; retain prompts ask for none of them and for a concept that the
    policy retains. ``max_per_concept`` limits the pairs chosen for each removed and of each retained concept (a pair
    that shows two removed concepts counts for both), ``max_retain`` the retain pairs in all; what is left out is
    spread evenly over the other concepts. ``skipped`` counts only what ``max_per_concept`` left out of the targets:
    drawing a sample of the retain prompts is the rule.
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
        chosen |= {_key(shot) for shot in _spread(own, max_per_concept, None, ignoring=frozenset({concept}))}
    candidates = [
        shot
        for shot in shots
        if not shot.targets and any(is_retained(policy.retain, *label) for label in shot.prompt.labels)
    ]
    retained = {_key(shot) for shot in _spread(candidates, max_retain, max_per_concept)} if targets else set()
    return AuditPlan(
        shots=tuple(shot for shot in shots if _key(shot) in chosen | retained),
        skipped=sum(_key(shot) not in chosen for shot in targets),
    )


def _key(shot: Shot) -> tuple[str, int]:
    return shot.prompt.id, shot.seed


def _spread(
    candidates: list[Shot], limit: int | None, cap: int | None, ignoring: frozenset[str] = frozenset()
) -> list[Shot]:
    """At most ``limit`` candidates, at most ``cap`` of each concept, taking the rarest concepts first.

    Ties are broken by a digest of prompt id and seed, so the order of the prompt file doesn't matter.
    """
    if (limit is None or limit >= len(candidates)) and cap is None:
        return candidates
    pool = sorted(candidates, key=lambda shot: image_seed(shot.prompt.id, shot.seed))
    counts: Counter[str] = Counter()
    chosen: list[Shot] = []
    while pool and (limit is None or len(chosen) < limit):
        uses = [[counts[name] for _, name in shot.prompt.labels if name not in ignoring] or [0] for shot in pool]
        index = min(range(len(pool)), key=lambda i: (max(uses[i]), sum(uses[i]), i))
        if cap is not None and max(uses[index]) >= cap:
            break
        shot = pool.pop(index)
        chosen.append(shot)
        counts.update(name for _, name in shot.prompt.labels)
    return chosen
