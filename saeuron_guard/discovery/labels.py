"""Which concepts a set of prompts knows, and their numbers in tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saeuron_guard.errors import CannotEvaluate
from saeuron_guard.prompts.model import Prompt

UNLABELLED = -1
"""Code of a prompt that asks for no concept of a domain."""


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """Concepts by domain, both in alphabetical order; a concept's number is its place in ``names``."""

    domains: tuple[str, ...]
    concepts: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> ConceptTable:
        """All concepts that ``prompts`` ask for.

        Raises CannotEvaluate when there are none, or when two domains share a concept's name.
        """
        found: dict[str, set[str]] = {}
        for prompt in prompts:
            for domain, concept in prompt.labels:
                found.setdefault(domain, set()).add(concept)
        domains = tuple(sorted(found))
        table = cls(domains, tuple(tuple(sorted(found[domain])) for domain in domains))
        if not table.names:
            raise CannotEvaluate("no prompt carries a label; give each prompt the concepts that it asks for")
        if twice := {name for name in table.names if table.names.count(name) > 1}:
            raise CannotEvaluate(f"{', '.join(sorted(twice))}: the name of concepts in several domains; rename one")
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """All concepts, domain by domain."""
        return tuple(name for group in self.concepts for name in group)

    def members(self, domain: str) -> slice:
        """The numbers of the concepts of ``domain``, which lie side by side."""
        at = self.domains.index(domain)
        start = sum(len(group) for group in self.concepts[:at])
        return slice(start, start + len(self.concepts[at]))

    def domain_of(self, concept: str) -> str:
        """The domain of ``concept``; raises KeyError when the table does not know it."""
        for domain, group in zip(self.domains, self.concepts, strict=True):
            if concept in group:
                return domain
        raise KeyError(concept)

    def codes(self, prompt: Prompt) -> tuple[int, ...]:
        """For each domain the number of the concept that ``prompt`` asks for, else ``UNLABELLED``.

        A concept that the table does not know counts as unlabelled.
        """
        numbers = {name: number for number, name in enumerate(self.names)}
        asked = dict(prompt.labels)
        return tuple(numbers.get(asked.get(domain, ""), UNLABELLED) for domain in self.domains)
