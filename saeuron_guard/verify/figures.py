"""What is counted over the judged images, before anything is decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from saeuron_guard.names import CONFIDENCE
from saeuron_guard.policy.model import ConceptRule, Retain
from saeuron_guard.verify.metrics import Interval, PairCounts, paired_loss, wilson

Labels = tuple[tuple[str, str], ...]
"""(domain, concept) pairs, sorted by domain."""


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """One prompt and seed, drawn without and with the guard, and what the judge called both images.

    ``targets``: the policy's concepts that the prompt asks for; none for a retain prompt.
    ``expected``: what a faithful image shows; ``base`` and ``guarded``: the judge's label in each domain.
    """

    prompt_id: str
    prompt: str
    seed: int
    targets: tuple[str, ...]
    expected: Labels
    base: Labels
    guarded: Labels


@dataclass(frozen=True, slots=True)
class ConceptFigures:
    """What happened to one concept that the policy removes, over its n pairs of images.

    ``base_shown`` and ``guarded_shown``: how often the judge calls the image the concept.
    ``became``: (label, count) of the guarded images in the concept's domain, most frequent first.
    ``survival``: the expected labels of all other domains on these same images, right or wrong.
    ``watched``: why the policy's rule does nothing, such as "mode observe", or "".
    ``refuses``: the rule refuses images on which the concept is present; these are black, so nothing of them survives
    and what the judge calls them means nothing.
    """

    concept: str
    domain: str
    strength: float
    threshold: float
    minimum_n: int
    n: int
    base_shown: int
    guarded_shown: int
    became: tuple[tuple[str, int], ...]
    survival: PairCounts
    confidence: float = CONFIDENCE
    watched: str = ""
    refuses: bool = False

    @property
    def ua(self) -> Interval | None:
        """Share of guarded images that the judge does not call the concept; None without images."""
        return wilson(self.n - self.guarded_shown, self.n, self.confidence) if self.n else None

    @property
    def base_rate(self) -> float | None:
        """Share of unguarded images that the judge calls the concept; None without images."""
        return self.base_shown / self.n if self.n else None

    @property
    def guarded_rate(self) -> float | None:
        """Share of guarded images that the judge calls the concept; None without images."""
        return self.guarded_shown / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class TestFigures:
    """One of the policy's tests as it was run; ``fired``: (concept, share of the positions at which it fired)."""

    __test__ = False  # not a test of ours, whatever its name says to pytest

    prompt: str
    seed: int
    expect: str
    concept: str | None
    share: float
    todo: str | None
    fired: tuple[tuple[str, float], ...]

    @property
    def found(self) -> float:
        """The share that counts: that of the test's concept, or the largest of all."""
        return max((share for name, share in self.fired if self.concept in (None, name)), default=0.0)

    @property
    def holds(self) -> bool:
        """Whether the guard did what the test expects."""
        return (self.found >= self.share) == (self.expect == "trigger")


@dataclass(frozen=True, slots=True)
class RetainFigures:
    """Accuracy on retained concepts, ``ira`` in the removed concepts' domains, ``cra`` in all others.

    Or on everything that the prompts of one retained prompt set ask for; ``name`` is then that of the set.
    ``required``: whether the policy asks for any of them to stay. ``counts`` are labels: an image of a retain prompt
    counts once for each of its retained concepts.
    """

    name: str
    required: bool
    max_loss: float
    minimum_n: int
    counts: PairCounts

    @property
    def accuracy(self) -> Interval | None:
        """Accuracy on guarded images; None without any."""
        return wilson(self.counts.guarded, self.counts.n) if self.counts.n else None

    @property
    def base(self) -> float | None:
        """Accuracy on unguarded images; None without any."""
        return self.counts.base / self.counts.n if self.counts.n else None

    @property
    def loss(self) -> Interval | None:
        """Accuracy without minus accuracy with the guard, paired; None without images."""
        return paired_loss(self.counts) if self.counts.n else None


def concept_figures(rule: ConceptRule, domain: str, minimum_n: int, pairs: Iterable[JudgedPair]) -> ConceptFigures:
    """Count what became of ``rule.concept`` on the pairs whose prompts ask for it."""
    own = [pair for pair in pairs if rule.concept in pair.targets]
    became = Counter(dict(pair.guarded)[domain] for pair in own)
    return ConceptFigures(
        concept=rule.concept,
        domain=domain,
        strength=rule.strength,
        threshold=rule.removal,
        minimum_n=minimum_n,
        confidence=rule.confidence,
        watched=_watched(rule),
        refuses=rule.refuses,
        n=len(own),
        base_shown=sum(dict(pair.base)[domain] == rule.concept for pair in own),
        guarded_shown=became[rule.concept],
        became=tuple(sorted(became.items(), key=lambda item: (-item[1], item[0]))),
        # Other removed concepts of the same images are meant to go, so they don't count as harmed.
        survival=_count(
            (pair, labelled, concept)
            for pair in own
            for labelled, concept in pair.expected
            if labelled != domain and concept not in pair.targets and not rule.refuses
        ),
    )


def _watched(rule: ConceptRule) -> str:
    """Why a rule neither edits nor refuses; strength 0 is judged like any other, it only can't succeed."""
    return "" if rule.mode == "enforce" else f"mode {rule.mode}"


def set_figures(name: str, retain: Retain, minimum_n: int, pairs: Iterable[JudgedPair]) -> RetainFigures:
    """Count everything that the prompts of a retained prompt set ask for."""
    counts = _count((pair, domain, concept) for pair in pairs for domain, concept in pair.expected)
    return RetainFigures(name, True, retain.max_loss, minimum_n, counts)


def retain_figures(
    name: str, retain: Retain, domains: frozenset[str], minimum_n: int, pairs: Iterable[JudgedPair]
) -> RetainFigures:
    """Count the retained concepts of ``domains`` on the pairs that ask for none of the policy's concepts."""
    counts = _count(
        (pair, domain, concept)
        for pair in pairs
        if not pair.targets
        for domain, concept in pair.expected
        if domain in domains and is_retained(retain, domain, concept)
    )
    return RetainFigures(name, bool(domains), retain.max_loss, minimum_n, counts)


def is_retained(retain: Retain, domain: str, concept: str) -> bool:
    """Whether the policy asks for ``concept`` of ``domain`` to stay."""
    return domain in retain.domains or concept in retain.concepts


def _count(cases: Iterable[tuple[JudgedPair, str, str]]) -> PairCounts:
    seen = Counter(
        (dict(pair.base)[domain] == right, dict(pair.guarded)[domain] == right) for pair, domain, right in cases
    )
    return PairCounts(
        both=seen[True, True], base_only=seen[True, False], guarded_only=seen[False, True], neither=seen[False, False]
    )
