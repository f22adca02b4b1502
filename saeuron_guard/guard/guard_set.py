"""Several policies on one pipeline: each image of a batch is guarded by its own, or by none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeuron_guard.errors import ArtefactError, GuardNotEffective
from saeuron_guard.guard.attachable import Attachable, Content
from saeuron_guard.guard.guard import Guard
from saeuron_guard.guard.serving import Asked, asking
from saeuron_guard.names import SLUG
from saeuron_guard.sae.sparse_coder import SparseCoder


class GuardSet(Attachable):
    """Compiled policies by id, for one model; ``serving`` says which images have which.

    ``policies``: loaded guards or their folders, by ids of your own.  A pipeline call that nobody gave a policy is
    refused.  Which policy an image has is a row in tensors: choosing others compiles nothing anew.

    Raises ArtefactError for folders that are not sound, and for policies that were compiled with different SAEs or
    timesteps at one hookpoint, or for different branches of guidance.
    """

    def __init__(self, policies: Mapping[str, Guard | str | Path]) -> None:
        _check_mapping(policies)
        self._parts = {name: _loaded(policy) for name, policy in policies.items()}
        super().__init__(_together(self._parts))

    @property
    def policies(self) -> tuple[str, ...]:
        """The ids."""
        return tuple(self._content.roster.configs)

    @contextmanager
    def serving(self, policies: Asked) -> Iterator[GuardSet]:
        """Guard the images of the pipeline calls inside, of this thread or task, by ``policies``.

        ``policies``: the id of one for all images, or a list with an id for each; None leaves an image unguarded.
        The images of one prompt come in a row, so with two images a prompt two entries belong to each.

        Raises GuardNotEffective for an id that is not loaded; a pipeline call raises it when it makes another number
        of images, or a pipeline lays out its rows in a way that nobody knows.
        """
        attachment = self._content.attachment
        if attachment is None:
            raise GuardNotEffective("these guards are not attached to a pipeline; call attach first")
        asked = _listed(policies)
        self._content.roster.assign(asked)
        with asking(attachment.succession, asked):
            yield self

    def set_policy(self, policy: str, other: Guard | str | Path) -> GuardSet:
        """Let ``policy`` be ``other`` from now on, or add it; gives itself.

        As ``Guard.set_policy``: pipeline calls under way are finished as they were begun, everything is checked first,
        and when it fails all stays as it was.
        """
        with self._changing:
            with self._still_active():
                _check_id(policy)
                parts = {**self._parts, policy: _loaded(other)}
                content = _together(parts)
            self._hand_over(content)
            self._parts = parts
        return self

    def remove_policy(self, policy: str) -> GuardSet:
        """Forget ``policy``; pipeline calls that begin afterwards and ask for it are refused. Gives itself.

        Raises GuardNotEffective when it is not there, or is the last one.
        """
        with self._changing:
            with self._still_active():
                if not isinstance(policy, str):
                    raise GuardNotEffective(
                        f"{policy!r} is not a policy's id, expected one of {', '.join(self._parts)}"
                    )
                self._content.roster.assign(policy)
                if len(self._parts) == 1:
                    raise GuardNotEffective(f"policy {policy!r} is the last one; detach the guard instead")
                parts = {name: part for name, part in self._parts.items() if name != policy}
                content = _together(parts)
            self._hand_over(content)
            self._parts = parts
        return self


def _check_mapping(policies: Any) -> None:
    if not isinstance(policies, Mapping):
        raise ArtefactError(f"policies were given as {type(policies).__name__}; expected a mapping from ids to guards")
    for name in policies:
        _check_id(name)


def _check_id(name: Any) -> None:
    if not (isinstance(name, str) and SLUG.fullmatch(name)):
        raise ArtefactError(
            f"{name!r} cannot be a policy's id, expected letters, digits, spaces, dots, hyphens and underscores"
        )


def _listed(policies: Any) -> Any:
    """What was given as it is now: whoever changes their list later changes nothing here."""
    return tuple(policies) if isinstance(policies, list) else policies


def _loaded(policy: Any) -> Content:
    if not isinstance(policy, Guard | str | Path):
        raise ArtefactError(f"a policy was given as {type(policy).__name__}; expected a Guard or the folder of one")
    guard = policy if isinstance(policy, Guard) else Guard.load(policy)
    return guard._content  # noqa: SLF001 - a guard's own kind


def _together(parts: Mapping[str, Content]) -> Content:
    """Guards with one policy each, put together."""
    coders: dict[str, SparseCoder] = {}
    for part in parts.values():
        coders |= {name: coder for name, coder in part.coders.items() if name not in coders}
    return Content.stack({name: part.roster.configs[""] for name, part in parts.items()}, coders)
