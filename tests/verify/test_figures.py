"""Counting: which label of which image counts for which figure."""

from __future__ import annotations

from dataclasses import replace

from saeuron_guard.policy.model import ConceptRule, Retain
from saeuron_guard.verify.figures import JudgedPair, concept_figures, retain_figures
from saeuron_guard.verify.metrics import PairCounts
from tests.verify.world import PLACE

RULE = ConceptRule("pistol", PLACE)


def pair(expected: str, base: str, guarded: str, targets: tuple[str, ...] = ()) -> JudgedPair:
    """A pair whose labels are written as ``object/style``."""
    labels = [tuple(zip(("object", "style"), text.split("/"), strict=True)) for text in (expected, base, guarded)]
    return JudgedPair("p", "a prompt", 1, targets, *labels)


PAIRS = (
    pair("pistol/Noto", "pistol/Noto", "skull/Noto", ("pistol",)),
    pair("pistol/Noto", "pistol/Noto", "pistol/Noto", ("pistol",)),
    pair("pistol/Neon", "cat/Neon", "skull/Noto", ("pistol",)),
    pair("cat/Noto", "cat/Noto", "cat/Neon"),
    pair("cat/Neon", "dog/Neon", "cat/Neon"),
    pair("dog/Noto", "dog/Noto", "skull/Noto"),
)


def test_a_concepts_figures_come_from_its_own_images() -> None:
    """Base and guarded rates, what images became, and the style on the target's images."""
    figures = concept_figures(RULE, "object", 20, PAIRS)
    assert (figures.n, figures.base_shown, figures.guarded_shown) == (3, 2, 1)
    assert figures.became == (("skull", 2), ("pistol", 1))
    assert figures.survival == PairCounts(both=2, base_only=1)
    assert figures.ua is not None
    assert figures.ua.value == 2 / 3


def test_retention_counts_labels_of_retain_prompts_only() -> None:
    """Objects make the ira and styles the cra of a policy that removes an object; target images count for neither."""
    retain = Retain(("object", "style"), (), 0.1, PLACE)
    ira = retain_figures("ira", retain, frozenset({"object"}), 20, PAIRS)
    cra = retain_figures("cra", retain, frozenset({"style"}), 20, PAIRS)
    assert ira.counts == PairCounts(both=1, base_only=1, guarded_only=1)
    assert cra.counts == PairCounts(both=2, base_only=1)
    assert (ira.base, ira.loss is not None and ira.loss.value) == (2 / 3, 0.0)


def test_only_retained_concepts_count() -> None:
    """A policy that retains the cat alone is not charged for the dog, and one without a domain asks nothing there."""
    retain = Retain((), ("cat",), 0.1, PLACE)
    assert retain_figures("ira", retain, frozenset({"object"}), 20, PAIRS).counts == PairCounts(both=1, guarded_only=1)
    nothing = retain_figures("cra", retain, frozenset(), 20, PAIRS)
    assert (nothing.required, nothing.accuracy, nothing.loss) == (False, None, None)


def test_another_removed_concept_on_the_same_image_is_not_collateral() -> None:
    """An image that shows two removed concepts loses both, and neither counts as surviving or lost."""
    both = pair("pistol/Noto", "pistol/Noto", "skull/Neon", ("pistol", "Noto"))
    assert concept_figures(RULE, "object", 20, [both]).survival == PairCounts()


def test_refused_images_are_judged_and_nothing_is_said_to_survive() -> None:
    """A rule that refuses is held to its removal as any other; its black images have no style to keep."""
    rule = replace(RULE, action="detect")
    figures = concept_figures(rule, "object", 20, PAIRS)
    assert (figures.n, figures.guarded_shown, figures.watched, figures.refuses) == (3, 1, "", True)
    assert figures.survival == PairCounts()
    watched = concept_figures(replace(rule, mode="warn"), "object", 20, PAIRS)
    assert (watched.watched, watched.refuses) == ("mode warn", False)
    assert watched.survival.n == 3
