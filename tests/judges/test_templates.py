"""Captions that stand for concepts."""

from __future__ import annotations

from saeuron_guard.judges.templates import captions_of, templates_from

CONCEPTS = {"object": ("cat", "dog"), "style": ("Noto", "Neon")}


def test_fields_of_other_domains_are_filled_with_each_of_their_concepts() -> None:
    """A caption with a style stands for the object in every style."""
    templates = {"object": ("a {object}", "{object} in {style}")}
    assert captions_of("cat", "object", templates, CONCEPTS) == ["a cat", "cat in Noto", "cat in Neon"]


def test_templates_of_domains_without_concepts_are_left_out() -> None:
    """A registry without styles still has captions for its objects, and an unknown domain gets a plain one."""
    templates = {"object": ("a {object}", "{object} in {style}")}
    assert captions_of("cat", "object", templates, {"object": ("cat",)}) == ["a cat"]
    assert captions_of("calm", "mood", templates, CONCEPTS) == ["An image of calm."]


def test_concept_names_are_not_templates() -> None:
    """Braces in a concept's name stay as they are."""
    assert captions_of("{style}", "object", {"object": ("a {object}",)}, CONCEPTS) == ["a {style}"]


def test_own_templates_replace_those_of_their_domain_only() -> None:
    """Settings override one domain and leave the defaults of the others."""
    default = templates_from(None, "here")
    changed = templates_from({"object": ["{object}!"]}, "here")
    assert changed["object"] == ("{object}!",)
    assert changed["style"] == default["style"]
