"""The guard as users hold it: load or compile it, attach it to a pipeline, ask what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.errors import ArtefactError, GuardNotEffective, ModelMismatch
from saeuron_guard.guard import canary
from saeuron_guard.guard.attach import Attachment, find_site
from saeuron_guard.guard.bundle import read_bundle, write_bundle
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
    """

    attached: bool
    in_place: bool
    canary: bool
    hookpoints: tuple[str, ...]
    calls: int
    digest: str

    @property
    def ready(self) -> bool:
        """What a readiness probe asks."""
        return self.attached and self.in_place and self.canary


class Guard:
    """A compiled policy with the SAEs that it needs.

    While attached, no image leaves the pipeline unless the guard ran in every denoising step of it.
    Attach and detach while no other thread is using the pipeline; several threads may generate with it afterwards.

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
        self.config = config
        self._coders = dict(coders)
        self._tables = {
            point.hookpoint: HookpointTables.build(point, coders[point.hookpoint]) for point in config.hookpoints
        }
        self._attachment: Attachment | None = None

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
        write_bundle(Path(folder), self.config, self._coders)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that the guard has rules for, in the order of the configuration."""
        return tuple(dict.fromkeys(rule.concept for point in self.config.hookpoints for rule in point.rules))

    @torch.no_grad()
    def attach(self, pipe: Any, *, gate: str = GATES[0]) -> Guard:
        """Install the guard on a diffusers pipeline; gives itself.  ``gate``: one of ``names.GATES``.

        Raises ModelMismatch when the pipeline is not the model that the guard was compiled for, and GuardNotEffective
        when there is a guard already or the canary finds that the installed hooks don't compute what the policy says.
        After an error the pipeline is as it was.
        """
        if self._attachment is not None:
            raise GuardNotEffective("this guard is already attached; detach it first, or load it once more")
        site = find_site(pipe, self._tables)
        self._check_model(pipe)
        if gate not in GATES:
            raise ValueError(f"gate is {gate!r}, expected {' or '.join(GATES)}")
        attachment = Attachment(pipe, site, self._tables, self.config.branches, gate)
        attachment.install()
        try:
            canary.sing(attachment, self.config, self._coders)
        except BaseException:
            attachment.remove()
            raise
        self._attachment = attachment
        return self

    def detach(self) -> None:
        """Take the guard off; the pipeline is then as it was. Does nothing when it is not attached."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def status(self) -> GuardStatus:
        """Whether the guard is attached, in place and proven."""
        attachment = self._attachment
        return GuardStatus(
            attached=attachment is not None,
            in_place=attachment is not None and _in_place(attachment),
            canary=attachment is not None,  # attach() fails when the canary does
            hookpoints=tuple(self._tables),
            calls=attachment.runtime.calls if attachment else 0,
            digest=self.config.digest,
        )

    def report(self) -> GuardReport:
        """What fired since the guard was attached, in the pipeline calls that have ended; by image for the last one."""
        if self._attachment is None:
            return GuardReport(0, Tally().findings(self.concepts))
        return self._attachment.runtime.report(self.concepts)

    def _check_model(self, pipe: Any) -> None:
        wanted = self.config.model_fingerprint
        if wanted and (actual := fingerprint(pipe)) != wanted:
            raise ModelMismatch(
                f"the guard was compiled for {self.config.model!r} ({wanted}), this pipeline holds another model "
                f"({actual}); features of one model mean nothing in another. Load {self.config.model!r}, or compile "
                "the policy for this one"
            )


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
