"""From a pipeline call to the lines of the decision log: who asked for what, what fired, and how it ended."""

from __future__ import annotations

import inspect
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import DecisionLogError, SaeuronGuardError
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.decisions import (
    SCHEMA,
    WITHHELD,
    Decision,
    Finding,
    PolicyName,
    finding,
    modes_of,
    outcome_of,
)
from saeuron_guard.guard.images import ImageReport
from saeuron_guard.guard.runtime import Generation
from saeuron_guard.guard.tally import ConceptFindings


@dataclass(frozen=True, slots=True)
class Request:
    """What a pipeline call asks for, as far as its arguments tell: prompts, and the seeds of its generators."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def prompts_of(self, image: int, images: int) -> tuple[str, ...]:
        """The prompt of one image, or all where that cannot be told; the images of a prompt come in a row."""
        if not self.prompts or images % len(self.prompts):
            return self.prompts
        return (self.prompts[image * len(self.prompts) // images],)

    def seed_of(self, image: int, images: int) -> int | None:
        """The seed of the generator that an image is drawn with."""
        if len(self.seeds) == images:
            return self.seeds[image]
        return self.seeds[0] if len(self.seeds) == 1 else None


@dataclass(slots=True)
class Record:
    """One pipeline call: what was asked for, and what was counted as soon as the model is called."""

    request: Request
    generation: Generation | None = None


def request_of(call: Callable[..., Any], pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    """What the call ``call(pipe, *args, **kwargs)`` asks for; empty where its arguments don't say."""
    try:
        given = inspect.signature(call).bind_partial(pipe, *args, **kwargs).arguments
    except (TypeError, ValueError):  # the pipeline will say what is wrong with them
        given = {}
    prompts, generators = _listed(given.get("prompt")), _listed(given.get("generator"))
    return Request(
        tuple(prompt for prompt in prompts if isinstance(prompt, str)),
        tuple(generator.initial_seed() for generator in generators if isinstance(generator, torch.Generator)),
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@contextmanager
def recorded(recorder: Recorder | None, request: Request) -> Iterator[Record]:
    """Log what comes of one pipeline call, if anybody wants to know; its images leave after their lines are written.

    Raises DecisionLogError in place of images that a guard which enforces cannot account for.
    """
    record = Record(request)
    try:
        yield record
    except SaeuronGuardError as error:
        if recorder is not None:
            recorder.withheld(record, error)
        raise
    if recorder is not None:
        recorder.released(record)


class Recorder:
    """Writes the decisions of one attached guard to ``log``; ``unlogged`` counts pipeline calls of which it could not.

    A guard that enforces fails closed, so its images are withheld then; one that only observes or warns says so in a
    warning.
    """

    def __init__(self, log: DecisionLog, config: GuardConfig) -> None:
        self.log = log
        self.unlogged = 0
        self._config = config
        self._modes = modes_of(config)
        self._concepts = tuple(dict.fromkeys(rule.concept for point in config.hookpoints for rule in point.rules))
        self._lock = threading.Lock()

    def check(self) -> None:
        """Find out whether the log can be written; DecisionLogError when it can't and the guard enforces."""
        with self._accounting("the guard was not attached"):
            self.log.check()

    def released(self, record: Record) -> None:
        """Log the images of a call that ended well; DecisionLogError when that fails and the guard enforces."""
        with self._accounting("the images were withheld"):
            self.log.append(self._decisions(record))

    def withheld(self, record: Record, error: SaeuronGuardError) -> None:
        """Log that the images of a call are withheld because of ``error``; whether or not that succeeds, they are."""
        try:
            self.log.append([self._all_images(record, str(uuid.uuid4()), str(error))])
        except DecisionLogError as failure:
            self._count()
            error.add_note(f"This could not be logged: {failure}")

    @contextmanager
    def _accounting(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except DecisionLogError as error:
            self._count()
            if "enforce" in self._modes:
                raise DecisionLogError(f"{error}. The guard enforces, so {consequence}") from error
            warnings.warn(f"{error}. The guard only observes or warns, so it goes on", RuntimeWarning, stacklevel=2)

    def _count(self) -> None:
        with self._lock:
            self.unlogged += 1

    def _decisions(self, record: Record) -> list[Decision]:
        """A decision for each image; one for all of them where nothing is known of single ones."""
        call = str(uuid.uuid4())
        generation = record.generation
        images = generation.images.images if generation else None
        reports = generation.images.reports(self._concepts) if generation and images else ()
        if not images or len(reports) != images:
            return [self._all_images(record, call, "")]
        return [self._one_image(record, call, report, images) for report in reports]

    def _one_image(self, record: Record, call: str, report: ImageReport, images: int) -> Decision:
        findings = tuple(
            finding(self._config, found.concept, len(found.timesteps), found.positions, found.peak)
            for found in report.concepts
            if found.fired
        )
        request = record.request
        return self._decision(
            call=call,
            image=report.index,
            images=images,
            steps=report.calls,
            findings=findings,
            seed=request.seed_of(report.index, images),
            prompts=request.prompts_of(report.index, images),
        )

    def _all_images(self, record: Record, call: str, why: str) -> Decision:
        generation, seeds = record.generation, record.request.seeds
        found: tuple[ConceptFindings, ...] = generation.tally.findings(self._concepts) if generation else ()
        return self._decision(
            call=call,
            image=None,
            images=generation.images.images if generation else None,
            steps=generation.tally.calls if generation else 0,
            findings=tuple(
                finding(self._config, one.concept, one.steps, one.positions, one.peak) for one in found if one.fired
            ),
            seed=seeds[0] if len(seeds) == 1 else None,
            prompts=record.request.prompts,
            why=why,
        )

    def _decision(
        self,
        *,
        call: str,
        image: int | None,
        images: int | None,
        steps: int,
        findings: tuple[Finding, ...],
        seed: int | None,
        prompts: tuple[str, ...],
        why: str = "",
    ) -> Decision:
        config = self._config
        return Decision(
            schema=SCHEMA,
            id=str(uuid.uuid4()),
            call=call,
            time=self.log.now(),
            guard=config.digest,
            policy=PolicyName(config.policy_name, config.policy_version, config.policy_digest),
            model=config.model,
            modes=self._modes,
            image=image,
            images=images,
            steps=steps,
            concepts=findings,
            outcome=WITHHELD if why else outcome_of(findings),
            why=why,
            seed=seed,
            prompts=tuple(self.log.note(prompt) for prompt in prompts),
        )
