"""What guards with one policy and with several have in common: going onto a pipeline, and telling what they did."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import ArtefactError, DecisionLogError, GuardNotEffective, ModelMismatch, SaeuronGuardError
from saeuron_guard.guard import canary
from saeuron_guard.guard.admission import refuse_gate
from saeuron_guard.guard.attach import Attachment, Options
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.recording import Recorder
from saeuron_guard.guard.report import GuardReport
from saeuron_guard.guard.roster import Roster
from saeuron_guard.guard.site import find_site
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.tally import Tally
from saeuron_guard.names import GATES, REFUSALS
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """Whether the guard is on a pipeline and fit to serve.

    ``in_place``: all hooks are still where they were put, on the model they were put on.  ``canary``: the hooks changed
    a known activation as computed when they were installed.  ``calls``: denoiser calls guarded since then.
    ``digest``: that of the active guard; of a guard with several policies that of all, and ``policies`` has that of
    each.  ``finishing``: pipeline calls under way that belong to guards which it replaced.
    ``unlogged``: pipeline calls whose decisions could not be logged.  ``unguarded``: those whose images left although
    the guard did not run as it should, because no rule is enforced.
    """

    attached: bool
    in_place: bool
    canary: bool
    hookpoints: tuple[str, ...]
    calls: int
    digest: str
    finishing: int = 0
    unlogged: int = 0
    unguarded: int = 0
    policies: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """What a readiness probe asks."""
        return self.attached and self.in_place and self.canary


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a guard does, with what, and where; changed as a whole, so that no thread sees parts of two."""

    roster: Roster
    coders: dict[str, SparseCoder]
    tables: dict[str, HookpointTables]
    attachment: Attachment | None = None

    @classmethod
    def build(cls, configs: Mapping[str, GuardConfig], coders: Mapping[str, SparseCoder]) -> Content:
        """Of policies by id, with an SAE for each hookpoint; ArtefactError when these are not those that are pinned."""
        content = cls.stack(configs, coders)
        for hookpoint in content.roster.hookpoints:
            pinned = next(point for point in content.roster.at(hookpoint) if point is not None)
            if (actual := coders[hookpoint].digest) != pinned.sae_digest:
                raise ArtefactError(
                    f"{hookpoint}: SAE {pinned.sae!r} has digest {actual}, the guard was compiled for "
                    f"{pinned.sae_digest}; compile the policy again"
                )
        return content

    @classmethod
    def stack(cls, configs: Mapping[str, GuardConfig], coders: Mapping[str, SparseCoder]) -> Content:
        """The same for SAEs whose digests have been checked."""
        roster = Roster(dict(configs))
        for config in configs.values():
            hookpoints = [point.hookpoint for point in config.hookpoints]
            if not hookpoints or len(set(hookpoints)) != len(hookpoints):
                raise ArtefactError(f"the guard has hookpoints {hookpoints}; expected one or more, each once")
        if set(coders) != set(roster.hookpoints):
            raise ArtefactError(
                f"the guard has hookpoints {list(roster.hookpoints)}, and SAEs were given for {sorted(coders)}; "
                "expected one each"
            )
        tables = {name: HookpointTables.stack(roster.at(name), coders[name]) for name in roster.hookpoints}
        return cls(roster, dict(coders), tables)


_Kind = TypeVar("_Kind", bound="Attachable")


class Attachable:
    """A guard that can be on a pipeline.

    While attached, no image leaves the pipeline unless the guard ran in every denoising step of it; if no rule is
    enforced, images leave, with a GuardWarning.
    Attach and detach while no other thread is using the pipeline; several threads may generate with it afterwards,
    also while what the guard does is replaced.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._changing = threading.Lock()

    @property
    def coders(self) -> Mapping[str, SparseCoder]:
        """The SAE of each hookpoint."""
        return dict(self._content.coders)

    @property
    def tables(self) -> Mapping[str, HookpointTables]:
        """What all rules say at each hookpoint."""
        return dict(self._content.tables)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that the guard has rules for, in the order of the configuration."""
        return self._content.roster.concepts

    def attach(  # noqa: PYI019 - tests check the types of one method at a time, where Self means nothing
        self: _Kind, pipe: Any, *, gate: str = GATES[0], log: DecisionLog | None = None, refuse: str = REFUSALS[0]
    ) -> _Kind:
        """Install the guard on a diffusers pipeline; gives itself.

        ``gate``: one of ``names.GATES``.  ``log`` keeps what is decided of each image.
        ``refuse``: what a pipeline call gives when an image is refused, one of ``names.REFUSALS``: ``error`` raises
        ImageRefused; ``blank`` gives a black image, ``output.refused`` tells which, and so does ``report()``.

        Raises ModelMismatch when the pipeline is not the model that the guard was compiled for, GuardNotEffective when
        there is a guard already, the canary finds that the installed hooks don't compute what the policy says, or the
        gate cannot do what it asks for, and DecisionLogError when the guard enforces and the log cannot be written.
        After an error the pipeline is as it was.
        """
        with self._changing:
            content = self._content
            if content.attachment is not None:
                raise GuardNotEffective("this guard is already attached; detach it first, or load it once more")
            refuse_gate(gate, refuse, content.roster, logged=log is not None)
            options = Options(gate, refuse, _recorder(log, content.roster))
            self._content = replace(content, attachment=_install(content, pipe, options))
        return self

    def _hand_over(self, content: Content) -> None:
        """Have pipeline calls that begin from now on guarded by ``content``, checked first, on the same pipeline.

        Raises the errors of ``attach``, which say what is still active.
        """
        active = self._content
        attachment = active.attachment
        if attachment is None:
            raise GuardNotEffective("this guard is not attached to a pipeline; load the other one and attach that")
        with self._still_active():
            options = attachment.options
            former = options.recorder
            log = former.log if former is not None else None
            refuse_gate(options.gate, options.refuse, content.roster, logged=log is not None)
            options = replace(options, recorder=_recorder(log, content.roster))
            successor = _install(content, attachment.pipe, options, attachment)
        attachment.succession.hand_over(successor)
        self._content = replace(content, attachment=successor)

    @contextmanager
    def _still_active(self) -> Iterator[None]:
        """Add to an error that comes up inside which guard goes on being active."""
        try:
            yield
        except SaeuronGuardError as error:
            named = " and ".join(
                f"guard {config.digest} (policy {config.policy_name} {config.policy_version})"
                for config in self._content.roster.configs.values()
            )
            verb = "is" if len(self._content.roster.configs) == 1 else "are"
            text = str(error)
            told = f"{text}{'' if text.endswith(('.', '?')) else '.'} {named[0].upper()}{named[1:]} {verb} still active"
            raise type(error)(told) from error

    def detach(self) -> None:
        """Take the guard off; the pipeline is then as it was. Does nothing when it is not attached."""
        with self._changing:
            if self._content.attachment is not None:
                self._content.attachment.remove()
                self._content = replace(self._content, attachment=None)

    def status(self) -> GuardStatus:
        """Whether the guard is attached, in place and proven."""
        content = self._content
        attachment, roster = content.attachment, content.roster
        recorder = attachment.options.recorder if attachment else None
        return GuardStatus(
            attached=attachment is not None,
            in_place=attachment is not None and _in_place(attachment),
            canary=attachment is not None,  # attach() fails when the canary does
            hookpoints=tuple(content.tables),
            calls=attachment.runtime.calls if attachment else 0,
            digest=roster.digest,
            finishing=attachment.succession.finishing if attachment else 0,
            unlogged=recorder.unlogged if recorder else 0,
            unguarded=attachment.unguarded if attachment else 0,
            policies={} if roster.single else {name: config.digest for name, config in roster.configs.items()},
        )

    def report(self) -> GuardReport:
        """What fired since the guard was attached or replaced, in the calls that have ended; by image for the last."""
        content = self._content
        if content.attachment is None:
            return GuardReport(0, Tally().findings(content.roster.concepts))
        return content.attachment.runtime.report(content.roster.concepts)


@torch.no_grad()
def _install(content: Content, pipe: Any, options: Options, predecessor: Attachment | None = None) -> Attachment:
    """Put a guard's hooks on ``pipe``, proven by the canary; after an error they are gone.

    With a ``predecessor`` they do nothing yet, except for the canary.
    """
    site = find_site(pipe, content.tables)
    for config in content.roster.configs.values():
        _check_model(pipe, config)
    attachment = Attachment(pipe, site, content.tables, content.roster, options, predecessor)
    try:
        attachment.install()
        with attachment.succession.turn_of(attachment):
            canary.sing(attachment, content.coders)
    except BaseException:
        if predecessor is None:
            attachment.remove()
        else:
            attachment.retire()
        raise
    return attachment


def _recorder(log: Any, roster: Roster) -> Recorder | None:
    """What keeps the decisions of a guard in ``log``, checked; None without a log."""
    if log is None:
        return None
    if not isinstance(log, DecisionLog):
        raise DecisionLogError(f"log was given as {type(log).__name__}; expected a DecisionLog")
    recorder = Recorder(log, roster)
    recorder.check()
    return recorder


def _check_model(pipe: Any, config: GuardConfig) -> None:
    wanted = config.model_fingerprint
    if wanted and (actual := fingerprint(pipe)) != wanted:
        raise ModelMismatch(
            f"the guard was compiled for {config.model!r} ({wanted}), this pipeline holds another model "
            f"({actual}); features of one model mean nothing in another. Load {config.model!r}, or compile "
            "the policy for this one"
        )


def _in_place(attachment: Attachment) -> bool:
    try:
        attachment.check_in_place(attachment.pipe)
    except GuardNotEffective:
        return False
    return True
