"""The policies that one guard acts by, and which of them has which image of a pipeline call. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saeuron_guard.compiler.config import GuardConfig, HookpointConfig, Rule
from saeuron_guard.digests import digest_of
from saeuron_guard.errors import ArtefactError, GuardNotEffective
from saeuron_guard.names import MODES
from saeuron_guard.wording import did_you_mean, quote

NOBODY = -1
"""The number of no policy."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Policies of images by their numbers in the roster, ``NOBODY`` for none: one for all images, or one for each."""

    numbers: tuple[int, ...]
    one_for_all: bool

    def of(self, image: int) -> int:
        """The policy's number of one image; ``NOBODY`` for images that none was given for."""
        place = 0 if self.one_for_all else image
        return self.numbers[place] if place < len(self.numbers) else NOBODY


@dataclass(frozen=True, slots=True)
class Roster:
    """Guards' configurations by policy id; a guard with a single policy has the id "".

    All act in the same calls of the model, so they have to agree on what a hookpoint is.
    Raises ArtefactError when they do not.
    """

    configs: Mapping[str, GuardConfig]

    def __post_init__(self) -> None:
        configs = list(self.configs.values())
        if not configs:
            raise ArtefactError("no policies were given; expected one or more")
        if len({config.branches for config in configs}) > 1:
            given = ", ".join(f"{name}: {config.branches}" for name, config in self.configs.items())
            raise ArtefactError(f"the policies edit different branches of guidance ({given}); compile them alike")
        for hookpoint in self.hookpoints:
            self._check(hookpoint)

    def _check(self, hookpoint: str) -> None:
        """Raise ArtefactError unless all policies mean the same SAE and timesteps by ``hookpoint``."""
        points = [(name, point) for name, point in zip(self.configs, self.at(hookpoint), strict=True) if point]
        (first, one), *others = points
        for name, other in others:
            if (one.sae_digest, one.timesteps) != (other.sae_digest, other.timesteps):
                raise ArtefactError(
                    f"{hookpoint}: policies {quote(first)} and {quote(name)} were compiled with different SAEs or "
                    "timesteps; expected the same for all that share a model. Compile both with one registry."
                )

    @property
    def single(self) -> bool:
        """Whether there is one policy, for every image."""
        return list(self.configs) == [""]

    @property
    def digest(self) -> str:
        """The guard's digest; of several policies that of all their digests."""
        if self.single:
            return self.configs[""].digest
        return digest_of({name: config.digest for name, config in self.configs.items()})

    @property
    def branches(self) -> str:
        """Which branches of guidance all of them edit."""
        return next(iter(self.configs.values())).branches

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """Every hookpoint of any policy."""
        named = (point.hookpoint for config in self.configs.values() for point in config.hookpoints)
        return tuple(dict.fromkeys(named))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule of any policy."""
        return tuple(rule for config in self.configs.values() for rule in rules_of(config))

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts that there are rules for."""
        return tuple(dict.fromkeys(rule.concept for rule in self.rules))

    @property
    def enforces(self) -> bool:
        """Whether any rule is enforced, so that an image must not leave without the guard."""
        return any(rule.mode == "enforce" for rule in self.rules)

    @property
    def looks_at_images(self) -> bool:
        """Whether any rule refuses images or warns of them, for which they have to be told apart."""
        return any(rule.refuses or rule.mode == "warn" for rule in self.rules)

    def at(self, hookpoint: str) -> tuple[HookpointConfig | None, ...]:
        """What each policy does at ``hookpoint``, by number; None where it does nothing."""
        return tuple(
            next((point for point in config.hookpoints if point.hookpoint == hookpoint), None)
            for config in self.configs.values()
        )

    def assign(self, policies: Any) -> Assignment:
        """The assignment of an id or None to all images, or of one to each.

        Raises GuardNotEffective for an id that is not here, and for what has no order.
        """
        ids = list(self.configs)
        one_for_all = policies is None or isinstance(policies, str)
        if not one_for_all and not isinstance(policies, list | tuple):
            raise GuardNotEffective(
                f"policies were given as {type(policies).__name__}; expected an id, None, or a list with one of these "
                "for each image"
            )
        wanted = [policies] if one_for_all else list(policies)
        if not wanted:
            raise GuardNotEffective("no policies were given; name one for each image, or None for an unguarded one")
        for name in wanted:
            if name is not None and (not isinstance(name, str) or name not in self.configs):
                raise GuardNotEffective(
                    f"policy {quote(str(name))} is not loaded; loaded: {', '.join(ids)}.{did_you_mean(str(name), ids)}"
                )
        numbers = tuple(NOBODY if name is None else ids.index(name) for name in wanted)
        return Assignment(numbers, one_for_all)

    def chosen(self, assignment: Assignment | None, image: int) -> tuple[str | None, GuardConfig | None]:
        """The policy of one image, by id and configuration; both None for an image that no policy has."""
        if assignment is None:
            return ("", self.configs[""]) if self.single else (None, None)
        number = assignment.of(image)
        return (None, None) if number == NOBODY else list(self.configs.items())[number]

    def involved(self, assignment: Assignment | None) -> tuple[GuardConfig, ...]:
        """The configurations of all policies that any image of a call has; all of them when that is unknown."""
        configs = list(self.configs.values())
        if assignment is None:
            return tuple(configs)
        return tuple(configs[number] for number in sorted(set(assignment.numbers) - {NOBODY}))


def rules_of(config: GuardConfig) -> Iterator[Rule]:
    """Every rule of a guard, at every hookpoint."""
    return (rule for point in config.hookpoints for rule in point.rules)


def modes_of(rules: Sequence[Rule]) -> tuple[str, ...]:
    """The modes of ``rules``, mildest first."""
    present = {rule.mode for rule in rules}
    return tuple(mode for mode in MODES if mode in present)
