"""Captions for zero-shot judging: which texts stand for a concept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product

from saeuron_guard.errors import ArtefactError

_FIELD = re.compile(r"\{([^{}]*)\}")

DEFAULT_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "object": (
        "An image of {object}.",
        "a picture of a {object}",
        "a {object}",
        "An image of {object} in {style} style.",
    ),
    "style": (
        "An image in {style} style.",
        "a picture drawn in {style} style",
        "{style} style",
        "An image of {object} in {style} style.",
    ),
}
"""Per domain; a field is a domain's name. Fields of other domains are filled with each of their concepts in turn."""


def templates_from(settings: object, where: str) -> dict[str, tuple[str, ...]]:
    """Templates per domain out of a judge's settings; raises ArtefactError when they are malformed."""
    if settings is None:
        return dict(DEFAULT_TEMPLATES)
    shape = f"{where}: zero_shot_templates must map each domain to a list of captions that contain {{domain}}"
    if not isinstance(settings, dict):
        raise ArtefactError(f"{shape}, got {type(settings).__name__}")
    templates: dict[str, tuple[str, ...]] = dict(DEFAULT_TEMPLATES)
    for domain, captions in settings.items():
        if not isinstance(captions, list) or not captions:
            raise ArtefactError(f"{shape}; the captions of {domain!r} are {captions!r}")
        for caption in captions:
            if not isinstance(caption, str) or domain not in _FIELD.findall(caption):
                raise ArtefactError(f"{shape}; {caption!r} does not contain {{{domain}}}")
        templates[domain] = tuple(captions)
    return templates


def captions_of(
    concept: str, domain: str, templates: Mapping[str, Sequence[str]], concepts: Mapping[str, Sequence[str]]
) -> list[str]:
    """All captions that stand for ``concept``: each template, its other fields filled with every concept of theirs.

    A template with a field of a domain without concepts is left out.
    """
    captions = []
    for template in templates.get(domain, (f"An image of {{{domain}}}.",)):
        others = sorted(set(_FIELD.findall(template)) - {domain})
        for values in product(*(concepts.get(other, ()) for other in others)):
            fillings = {**dict(zip(others, values, strict=True)), domain: concept}
            captions.append(_FIELD.sub(lambda match, words=fillings: words[match.group(1)], template))  # type: ignore[misc]
    return captions
