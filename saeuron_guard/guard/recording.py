"""From a pipeline call to the lines of the decision log: who asked for what, what fired, and how it ended."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from saeuron_guard.errors import DecisionLogError, ImageRefused, SaeuronGuardError
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.decisions import (
    REFUSED,
    RELEASED,
    SCHEMA,
    UNGUARDED,
    WITHHELD,
    Decision,
    finding,
    outcome_of,
    policy_name,
)
from saeuron_guard.guard.images import ImageReport
from saeuron_guard.guard.roster import Assignment, Roster, modes_of, rules_of
from saeuron_guard.guard.runtime import Generation
from saeuron_guard.guard.tally import ConceptFindings
from saeuron_guard.guard.telling import as_told, warn


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
    """One pipeline call: what was asked for, by which policies, and what came of it.

    ``generation``: what was counted, as soon as the model is called.
    ``problems``: why the guard did not run as it should, if its images leave all the same.
    """

    request: Request
    roster: Roster
    assignment: Assignment | None = None
    generation: Generation | None = None
    problems: list[Exception] = field(default_factory=list)
    _reports: tuple[ImageReport, ...] | None = None

    def reports(self) -> tuple[ImageReport, ...]:
        """What fired in each image of a call that has ended; waits for the device once, however many ask."""
        if self.generation is None:
            return ()
        if self._reports is None:
            self._reports = self.generation.images.reports(self.roster.concepts)
        return self._reports

    @property
    def refused(self) -> Mapping[int, tuple[str, ...]]:
        """Which images are refused, each with the concepts for which."""
        return self.generation.images.refused if self.generation else {}


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
def recorded(recorder: Recorder | None, record: Record) -> Iterator[Record]:
    """Log what comes of one pipeline call, if anybody wants to know; its images leave after their lines are written.

    Raises DecisionLogError in place of images that a guard which enforces cannot account for.
    """
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

    def __init__(self, log: DecisionLog, roster: Roster) -> None:
        self.log = log
        self.unlogged = 0
        self._roster = roster
        self._lock = threading.Lock()

    def check(self) -> None:
        """Find out whether the log can be written; DecisionLogError when it can't and the guard enforces."""
        with self._accounting("the guard was not attached", counted=False):
            self.log.check()

    def released(self, record: Record) -> None:
        """Log the images of a call that ended well; DecisionLogError when that fails and the guard enforces."""
        with self._accounting("the images were withheld"):
            self.log.append(self._decisions(record))

    def withheld(self, record: Record, error: SaeuronGuardError) -> None:
        """Log that the images of a call are withheld because of ``error``; whether or not that succeeds, they are."""
        try:
            if isinstance(error, ImageRefused):
                decisions = self._decisions(record, "another image of the call is refused")
            else:
                decisions = [self._all_images(record, str(uuid.uuid4()), WITHHELD, str(error))]
            self.log.append(decisions)
        except DecisionLogError as failure:
            self._count()
            error.add_note(f"This could not be logged: {failure}")

    @contextmanager
    def _accounting(self, consequence: str, *, counted: bool = True) -> Iterator[None]:
        try:
            yield
        except DecisionLogError as error:
            if counted:
                self._count()
            if self._roster.enforces:
                raise DecisionLogError(f"{error}. The guard enforces, so {consequence}") from error
            warn(f"{error}. The guard only observes or warns, so it goes on")

    def _count(self) -> None:
        with self._lock:
            self.unlogged += 1

    def _decisions(self, record: Record, withheld: str = "") -> list[Decision]:
        """A decision for each image; one for all of them where nothing is known of single ones.

        ``withheld``: why those that are not refused don't leave either, if they don't.
        """
        call = str(uuid.uuid4())
        if record.problems:
            return [self._all_images(record, call, UNGUARDED, as_told(record.problems[0]))]
        generation = record.generation
        images = generation.images.images if generation else None
        reports = record.reports() if images else ()
        if not images or len(reports) != images:
            return [self._all_images(record, call, WITHHELD if withheld else RELEASED, withheld)]
        return [self._one_image(record, call, report, images, withheld) for report in reports]

    def _one_image(self, record: Record, call: str, report: ImageReport, images: int, withheld: str) -> Decision:
        _, config = self._roster.chosen(record.assignment, report.index)
        rules = tuple(rules_of(config)) if config else ()
        known = {rule.concept for rule in rules}
        findings = tuple(
            finding(rules, found.concept, len(found.timesteps), found.positions, found.peak)
            for found in report.concepts
            if found.fired and found.concept in known
        )
        outcome = WITHHELD if withheld else outcome_of(config, findings) if config else RELEASED
        why = withheld
        if report.index in record.refused:
            outcome, why = REFUSED, f"present: {', '.join(record.refused[report.index])}"
        request = record.request
        return self._decision(
            call=call,
            guard=config.digest if config else "",
            policy=policy_name(config),
            modes=modes_of(rules),
            image=report.index,
            images=images,
            steps=report.calls,
            concepts=findings,
            outcome=outcome,
            why=why,
            seed=request.seed_of(report.index, images),
            prompts=request.prompts_of(report.index, images),
        )

    def _all_images(self, record: Record, call: str, outcome: str, why: str) -> Decision:
        generation, seeds = record.generation, record.request.seeds
        involved = self._roster.involved(record.assignment)
        rules = tuple(rule for config in involved for rule in rules_of(config))
        concepts = tuple(dict.fromkeys(rule.concept for rule in rules))
        found: tuple[ConceptFindings, ...] = generation.tally.findings(concepts) if generation else ()
        findings = tuple(finding(rules, one.concept, one.steps, one.positions, one.peak) for one in found if one.fired)
        (config,) = involved if len(involved) == 1 else (None,)
        if outcome == RELEASED and config:
            outcome = outcome_of(config, findings)
        return self._decision(
            call=call,
            guard=config.digest if config else self._roster.digest if involved else "",
            policy=policy_name(config),
            modes=modes_of(rules),
            image=None,
            images=generation.images.images if generation else None,
            steps=generation.tally.calls if generation else 0,
            concepts=findings,
            outcome=outcome,
            why=why,
            seed=seeds[0] if len(seeds) == 1 else None,
            prompts=record.request.prompts,
        )

    def _decision(self, *, prompts: tuple[str, ...], **facts: Any) -> Decision:
        return Decision(
            schema=SCHEMA,
            id=str(uuid.uuid4()),
            time=self.log.now(),
            model=next(iter(self._roster.configs.values())).model,
            prompts=tuple(self.log.note(prompt) for prompt in prompts),
            **facts,
        )
