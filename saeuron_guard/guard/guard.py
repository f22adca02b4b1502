"""The guard as users hold it: load or compile it, attach it to a pipeline, ask what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.guard.attachable import Attachable, Content
from saeuron_guard.guard.bundle import read_bundle, write_bundle
from saeuron_guard.names import REFUSALS
from saeuron_guard.registry.manifest import configured_manifest
from saeuron_guard.resources import data_folder, inside
from saeuron_guard.sae.sparse_coder import SparseCoder


class Guard(Attachable):
    """A compiled policy with the SAEs that it needs.

    ``coders``: an SAE for each hookpoint of ``config``.
    Raises ArtefactError when they are not those that the configuration pins.
    """

    def __init__(self, config: GuardConfig, coders: Mapping[str, SparseCoder]) -> None:
        super().__init__(Content.build({"": config}, coders))

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
        write_bundle(Path(folder), content.roster.configs[""], content.coders)

    @property
    def config(self) -> GuardConfig:
        """What the guard was compiled to; another one after ``set_policy``."""
        return self._content.roster.configs[""]

    def set_policy(self, other: Guard | str | Path) -> Guard:
        """Do from now on what ``other`` does, a compiled guard's folder or a loaded guard; gives itself.

        Images whose pipeline call is under way are finished by the guard that they were begun with, whichever thread
        draws them; calls that begin afterwards are guarded by the new one.  The decision log stays.
        ``other`` itself is not attached.

        Everything that ``load`` and ``attach`` check is checked first.  When it fails, with the errors of these, the
        guard that was active still is; so it is after GuardNotEffective because nothing is attached.
        """
        with self._changing:
            with self._still_active():
                new = other if isinstance(other, Guard) else Guard.load(other)
            self._hand_over(new._content)  # noqa: SLF001 - a guard's own kind
        return self


@contextmanager
def guarded(
    pipe: Any, config: GuardConfig, root: str | Path | None = None, *, refuse: str = REFUSALS[0]
) -> Iterator[Guard]:
    """Guard ``pipe`` for the length of a ``with`` block; the pipeline is restored at its end, also after an exception.

    ``root``: the folder that the SAEs' paths are below, as for ``Guard.from_config``; ``refuse`` as for ``attach``.
    """
    guard = Guard.from_config(config, root)
    guard.attach(pipe, refuse=refuse)
    try:
        yield guard
    finally:
        guard.detach()
