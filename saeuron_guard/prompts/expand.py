"""Sentence templates times combinations of labels."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from saeuron_guard.wording import did_you_mean, one_of, quote

LARGEST_SET: Final = 20_000
"""Prompts of one set: each costs images, so more than this is a slip of the pen."""

_BRACES: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Expansion:
    """One entry of ``expand``: ``templates`` times the combinations of ``labels``, less those of ``left_out``.

    ``rotate``: each combination gets one template instead of all.
    """

    templates: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    left_out: tuple[dict[str, str], ...]
    rotate: bool

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Expansion:
        """The expansion that a document's valid ``value`` describes."""
        return cls(
            templates=tuple(value["templates"]),
            labels={domain: tuple(names) for domain, names in value["labels"].items()},
            left_out=tuple(value.get("except", ())),
            rotate=value.get("pick") == "rotate",
        )

    def most_prompts(self) -> int:
        """The number of prompts if nothing were left out, without making them."""
        combinations = math.prod(len(names) for names in self.labels.values())
        return combinations if self.rotate else combinations * len(self.templates)

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Pairs of a template's position and the labels that fill it, the last domain counting fastest.

        With ``rotate`` the template is the sum of the labels' positions modulo the number of templates. A running
        count would tie templates to styles whenever one number divides the other; so each concept meets every
        template in turn, and leaving combinations out moves none of the others.
        """
        for positions in itertools.product(*(range(len(names)) for names in self.labels.values())):
            labels = {domain: names[at] for (domain, names), at in zip(self.labels.items(), positions, strict=True)}
            if any(left_out.items() <= labels.items() for left_out in self.left_out):
                continue
            if self.rotate:
                yield sum(positions) % len(self.templates), labels
            else:
                yield from ((template, labels) for template in range(len(self.templates)))

    def fill(self, template: int, labels: Mapping[str, str]) -> str:
        """The text of one prompt."""
        return _BRACES.sub(lambda match: labels[match[1]], self.templates[template])


def template_mistakes(template: str, domains: Sequence[str]) -> Iterator[str]:
    """What is wrong with ``template`` if each of ``domains`` is to stand in it in braces; nothing when it is right.

    A domain that is missing would label images with a concept that nobody asked for.
    """
    named = _BRACES.findall(template)
    if any(brace in _BRACES.sub("", template) for brace in "{}"):
        yield f"a brace without its partner in {quote(template)}"
    for name in dict.fromkeys(named):
        if name not in domains:
            hint = did_you_mean(name, domains) or f" Labelled here: {one_of(domains)}."
            yield f"{{{name}}} in {quote(template)} is not a labelled domain.{hint}"
    for domain in domains:
        if domain not in named:
            yield f"{quote(template)} does not name {{{domain}}}, which its labels speak of"
