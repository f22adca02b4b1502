"""Prompts with the concepts that they ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; ``labels`` are (domain, concept) pairs, sorted: what a faithful image shows."""

    id: str
    text: str
    labels: tuple[tuple[str, str], ...]

    def concept(self, domain: str) -> str | None:
        """The concept of ``domain`` that this prompt asks for, or None."""
        return dict(self.labels).get(domain)

    def shows(self, concept: str) -> bool:
        """Whether the prompt asks for ``concept`` in any domain."""
        return any(name == concept for _, name in self.labels)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one role (``names.PROMPT_ROLES``) for one model."""

    name: str
    role: str
    model: str
    prompts: tuple[Prompt, ...]
    digest: str
