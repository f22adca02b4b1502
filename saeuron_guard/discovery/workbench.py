"""Draws and judges calibration images under an intervention, beside the same images without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

from saeuron_guard.discovery.runs import prompts_digest
from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.judges.interface import Judge
from saeuron_guard.pipelines.generation import generate
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import ModelRecord

Intervention = Callable[[Any], AbstractContextManager[Any]]
"""Given a pipeline, a context in which the pipeline is edited."""

Labels = dict[str, str]
"""What a judge calls one image, by domain."""


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``n`` images."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share; 1 of no images, so that an empty group neither helps nor harms."""
        return self.hits / self.n if self.n else 1.0

    def __add__(self, other: Share) -> Share:
        return Share(self.hits + other.hits, self.n + other.n)


@dataclass(frozen=True, slots=True)
class Effect:
    """What an intervention does, as UnlearnCanvas (arXiv 2402.11846) counts it.

    ``ua``: target images that are not called the target; ``survival``: target images whose other domains are still
    right; ``ira`` and ``cra``: retain images right in the target's domain / in the other ones.
    ``*_base``: the same without the intervention.
    """

    ua: Share
    ua_base: Share
    survival: Share
    survival_base: Share
    ira: Share
    ira_base: Share
    cra: Share
    cra_base: Share

    @property
    def kept(self) -> tuple[float, float]:
        """``ira`` and ``cra`` relative to the unguarded images, at most 1 each."""
        return (_relative(self.ira, self.ira_base), _relative(self.cra, self.cra_base))

    @property
    def survived(self) -> float:
        """``survival`` relative to the unguarded images, at most 1."""
        return _relative(self.survival, self.survival_base)

    def __add__(self, other: Effect) -> Effect:
        return Effect(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


class Workbench:
    """A pipeline, a judge and labelled prompts; remembers what the judge calls the unguarded images.

    ``batch_size`` images are drawn together.
    """

    def __init__(
        self, pipe: Any, model: ModelRecord, judge: Judge, prompts: Sequence[Prompt], *, batch_size: int = 16
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.judge = judge
        self.prompts = tuple(prompts)
        self.domains = tuple(sorted({domain for prompt in prompts for domain, _ in prompt.labels}))
        self.prompts_digest = prompts_digest(prompts)
        self._batch_size = batch_size
        self._base: dict[tuple[str, int], Labels] = {}

    def targets(self, concept: str) -> tuple[Prompt, ...]:
        """The prompts that ask for ``concept``; CannotEvaluate when there are none."""
        found = tuple(prompt for prompt in self.prompts if prompt.shows(concept))
        if not found:
            raise CannotEvaluate(f"no prompt asks for {concept!r}; add some to the prompt set")
        return found

    def retained(self, concept: str) -> tuple[Prompt, ...]:
        """The prompts that don't ask for ``concept``."""
        return tuple(prompt for prompt in self.prompts if not prompt.shows(concept))

    def effect(
        self, concept: str, domain: str, intervention: Intervention, images: Sequence[tuple[Prompt, int]]
    ) -> Effect:
        """Draw ``images`` (prompt, seed) under ``intervention`` and compare them with the unguarded ones."""
        return self.compared(concept, domain, self.judged(intervention, images), images)

    def compared(
        self, concept: str, domain: str, guarded: list[Labels], images: Sequence[tuple[Prompt, int]]
    ) -> Effect:
        """What separates ``guarded``, the labels of ``images`` under an intervention, from the unguarded ones."""
        base = self.base(images)
        others = tuple(name for name in self.domains if name != domain)
        target = [row for row, (prompt, _) in enumerate(images) if prompt.shows(concept)]
        retain = [row for row, (prompt, _) in enumerate(images) if not prompt.shows(concept)]

        def right(labels: list[Labels], rows: list[int], domains: tuple[str, ...]) -> Share:
            checks = [
                labels[row][name] == wanted
                for row in rows
                for name in domains
                if (wanted := images[row][0].concept(name)) is not None
            ]
            return Share(sum(checks), len(checks))

        def missed(labels: list[Labels]) -> Share:
            return Share(sum(labels[row][domain] != concept for row in target), len(target))

        return Effect(
            ua=missed(guarded),
            ua_base=missed(base),
            survival=right(guarded, target, others),
            survival_base=right(base, target, others),
            ira=right(guarded, retain, (domain,)),
            ira_base=right(base, retain, (domain,)),
            cra=right(guarded, retain, others),
            cra_base=right(base, retain, others),
        )

    def base(self, images: Sequence[tuple[Prompt, int]]) -> list[Labels]:
        """What the judge calls the images without any intervention; drawn once."""
        wanted = {(prompt.id, seed): (prompt, seed) for prompt, seed in images}
        missing = [image for key, image in wanted.items() if key not in self._base]
        for (prompt, seed), labels in zip(missing, self.judged(nullcontext, missing), strict=True):
            self._base[prompt.id, seed] = labels
        return [self._base[prompt.id, seed] for prompt, seed in images]

    def judged(self, intervention: Intervention, images: Sequence[tuple[Prompt, int]]) -> list[Labels]:
        """What the judge calls ``images`` drawn under ``intervention``, in their order."""
        found: dict[int, Labels] = {}
        with intervention(self.pipe):
            for seed, rows in _by_seed(images):
                pictures = generate(
                    self.pipe,
                    [images[row][0] for row in rows],
                    seed,
                    steps=self.model.steps,
                    guidance=self.model.guidance,
                    batch_size=self._batch_size,
                )
                named = {domain: self.judge.classify(pictures, domain) for domain in self.domains}
                for place, row in enumerate(rows):
                    found[row] = {domain: labels[place] for domain, labels in named.items()}
        return [found[row] for row in range(len(images))]


def _by_seed(images: Sequence[tuple[Prompt, int]]) -> Iterator[tuple[int, list[int]]]:
    for seed in sorted({seed for _, seed in images}):
        yield seed, [row for row, image in enumerate(images) if image[1] == seed]


def _relative(share: Share, base: Share) -> float:
    return min(1.0, share.value / base.value) if base.value > 0 else 1.0
