"""The guard as users hold it: load or compile it, attach it to a pipeline, ask what it did."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import ArtefactError, DecisionLogError, GuardNotEffective, ModelMismatch, SaeuronGuardError
from saeuron_guard.guard import canary
from saeuron_guard.guard.attach import Attachment, find_site
from saeuron_guard.guard.bundle import read_bundle, write_bundle
from saeuron_guard.guard.decision_log import DecisionLog
from saeuron_guard.guard.recording import Recorder
from saeuron_guard.guard.report import GuardReport
from saeuron_guard.guard.tables import HookpointTables
from saeuron_guard.guard.tally import Tally
from saeuron_guard.names import GATES
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.registry.manifest import configured_manifest
from saeuron_guard.resources import data_folder, inside
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """Whether the guard is on a pipeline and fit to serve.

    ``in_place``: all hooks are still where they were put, on the model they were put on.  ``canary``: the hooks changed
    a known activation as computed when they were installed.  ``calls``: denoiser calls guarded since then.
    ``digest``: that of the active guard.  ``finishing``: pipeline calls under way that belong to guards which it
    replaced.  ``unlogged``: pipeline calls whose decisions could not be logged.
    """

    attached: bool
    in_place: bool
    canary: bool
    hookpoints: tuple[str, ...]
    calls: int
    digest: str
    finishing: int = 0
    unlogged: int = 0

    @property
    def ready(self) -> bool:
        """What a readiness probe asks."""
        return self.attached and self.in_place and self.canary


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """What a guard does, with what, and where; changed as a whole, so that no thread sees parts of two."""

    config: GuardConfig
    coders: dict[str, SparseCoder]
    tables: dict[str, HookpointTables]
    attachment: Attachment | None = None


class Guard:
    """A compiled policy with the SAEs that it needs.

    While attached, no image leaves the pipeline unless the guard ran in every denoising step of it.
    Attach and detach while no other thread is using the pipeline; several threads may generate with it afterwards,
    also while ``set_policy`` replaces what the guard does.

    ``coders``: an SAE for each hookpoint of ``config``.
    Raises ArtefactError when they are not those that the configuration pins.
    """

    def __init__(self, config: GuardConfig, coders: Mapping[str, SparseCoder]) -> None:
        hookpoints = [point.hookpoint for point in config.hookpoints]
        if not hookpoints or len(set(hookpoints)) != len(hookpoints) or set(coders) != set(hookpoints):
            raise ArtefactError(
                f"the guard has hookpoints {hookpoints}, and SAEs were given for {sorted(coders)}; expected one each"
            )
        for point in config.hookpoints:
            if (actual := coders[point.hookpoint].digest) != point.sae_digest:
                raise ArtefactError(
                    f"{point.hookpoint}: SAE {point.sae!r} has digest {actual}, the guard was compiled for "
                    f"{point.sae_digest}; compile the policy again"
                )
        tables = {point.hookpoint: HookpointTables.build(point, coders[point.hookpoint]) for point in config.hookpoints}
        self._content = _Content(config, dict(coders), tables)
        self._changing = threading.Lock()

    @classmethod
    def from_config(cls, config: GuardConfig, root: str | Path | None = None) -> Guard:
        """Load the SAEs that ``config`` names from below ``root``.

        Default: the folder of the manifest that SAEURON_GUARD_MANIFEST names, else the shipped registry's.
        """
        own = configured_manifest()
        folder = Path(root) if root is not None else own.parent if own else data_folder("registry")
        coders = {
            point.hookpoint: SparseCoder.load(inside(folder, point.sae_path), point.sae_digest)
            for point in config.hookpoints
        }
        return cls(config, coders)

    @classmethod
    def load(cls, folder: str | Path) -> Guard:
        """Read a compiled guard's folder; ArtefactError unless everything in it is what its digests say."""
        return cls(*read_bundle(Path(folder)))

    def save(self, folder: str | Path) -> None:
        """Write ``guard.json`` and ``guard.safetensors`` to ``folder``, made if missing."""
        content = self._content
        write_bundle(Path(folder), content.config, content.coders)

    @property
    def config(self) -> GuardConfig:
        """What the guard was compiled to; another one after ``set_policy``."""
        return self._content.config

    @property
    def coders(self) -> Mapping[str, SparseCoder]:
        """The SAE of each hookpoint."""
        return dict(self._content.coders)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that the guard has rules for, in the order of the configuration."""
        return _concepts(self.config)

    def attach(self, pipe: Any, *, gate: str = GATES[0], log: DecisionLog | None = None) -> Guard:
        """Install the guard on a diffusers pipeline; gives itself.

        ``gate``: one of ``names.GATES``.  ``log`` keeps what is decided of each image.

        Raises ModelMismatch when the pipeline is not the model that the guard was compiled for, GuardNotEffective when
        there is a guard already or the canary finds that the installed hooks don't compute what the policy says, and
        DecisionLogError when the guard enforces and the log cannot be written.
        After an error the pipeline is as it was.
        """
        with self._changing:
            content = self._content
            if content.attachment is not None:
                raise GuardNotEffective("this guard is already attached; detach it first, or load it once more")
            if gate not in GATES:
                raise ValueError(f"gate is {gate!r}, expected {' or '.join(GATES)}")
            if log is not None and gate != "exact":
                raise DecisionLogError(f"the gate {gate!r} does not tell images apart; a log needs the gate 'exact'")
            recorder = _recorder(log, content.config)
            self._content = replace(content, attachment=_install(content, pipe, gate, recorder))
        return self

    def set_policy(self, other: Guard | str | Path) -> Guard:
        """Do from now on what ``other`` does, a compiled guard's folder or a loaded guard; gives itself.

        Images whose pipeline call is under way are finished by the guard that they were begun with, whichever thread
        draws them; calls that begin afterwards are guarded by the new one.  The decision log stays.
        ``other`` itself is not attached.

        Everything that ``load`` and ``attach`` check is checked first.  When it fails, with the errors of these, the
        guard that was active still is; so it is after GuardNotEffective because nothing is attached.
        """
        with self._changing:
            active = self._content
            if active.attachment is None:
                raise GuardNotEffective("this guard is not attached to a pipeline; load the other one and attach that")
            try:
                new = other if isinstance(other, Guard) else Guard.load(other)
                content = new._content  # noqa: SLF001 - a guard's own kind
                former = active.attachment.recorder
                recorder = _recorder(former.log if former is not None else None, content.config)
                attachment = _install(
                    content, active.attachment.pipe, active.attachment.gate, recorder, active.attachment
                )
            except SaeuronGuardError as error:
                message = str(error).rstrip(".")
                raise type(error)(f"{message}. {_named(active.config)} is still active") from error
            attachment.succession.hand_over(attachment)
            self._content = replace(content, attachment=attachment)
        return self

    def detach(self) -> None:
        """Take the guard off; the pipeline is then as it was. Does nothing when it is not attached."""
        with self._changing:
            if self._content.attachment is not None:
                self._content.attachment.remove()
                self._content = replace(self._content, attachment=None)

    def status(self) -> GuardStatus:
        """Whether the guard is attached, in place and proven."""
        content = self._content
        attachment = content.attachment
        return GuardStatus(
            attached=attachment is not None,
            in_place=attachment is not None and _in_place(attachment),
            canary=attachment is not None,  # attach() fails when the canary does
            hookpoints=tuple(content.tables),
            calls=attachment.runtime.calls if attachment else 0,
            digest=content.config.digest,
            finishing=attachment.succession.finishing if attachment else 0,
            unlogged=attachment.recorder.unlogged if attachment and attachment.recorder else 0,
        )

    def report(self) -> GuardReport:
        """What fired since the guard was attached or replaced, in the calls that have ended; by image for the last."""
        content = self._content
        if content.attachment is None:
            return GuardReport(0, Tally().findings(_concepts(content.config)))
        return content.attachment.runtime.report(_concepts(content.config))


@torch.no_grad()
def _install(
    content: _Content, pipe: Any, gate: str, recorder: Recorder | None, predecessor: Attachment | None = None
) -> Attachment:
    """Put a guard's hooks on ``pipe``, proven by the canary; after an error they are gone.

    With a ``predecessor`` they do nothing yet, except for the canary.
    """
    site = find_site(pipe, content.tables)
    _check_model(pipe, content.config)
    attachment = Attachment(pipe, site, content.tables, content.config.branches, gate, recorder, predecessor)
    try:
        attachment.install()
        with attachment.succession.turn_of(attachment):
            canary.sing(attachment, content.config, content.coders)
    except BaseException:
        if predecessor is None:
            attachment.remove()
        else:
            attachment.retire()
        raise
    return attachment


def _recorder(log: DecisionLog | None, config: GuardConfig) -> Recorder | None:
    """What keeps the decisions of a guard in ``log``, checked; None without a log."""
    if log is None:
        return None
    recorder = Recorder(log, config)
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


def _concepts(config: GuardConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rule.concept for point in config.hookpoints for rule in point.rules))


def _named(config: GuardConfig) -> str:
    return f"Guard {config.digest} (policy {config.policy_name} {config.policy_version})"


@contextmanager
def guarded(pipe: Any, config: GuardConfig, root: str | Path | None = None) -> Iterator[Guard]:
    """Guard ``pipe`` for the length of a ``with`` block; the pipeline is restored at its end, also after an exception.

    ``root``: the folder that the SAEs' paths are below, as for ``Guard.from_config``.
    """
    guard = Guard.from_config(config, root)
    guard.attach(pipe)
    try:
        yield guard
    finally:
        guard.detach()


def _in_place(attachment: Attachment) -> bool:
    try:
        attachment.check_in_place(attachment.pipe)
    except GuardNotEffective:
        return False
    return True
