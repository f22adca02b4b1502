"""Reviews: the newest counts, none outlives its SAE, all outlive the content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import reading, sqlite_url
from saeuron_guard.registry.history import reviews_of
from saeuron_guard.registry.pages import concept_page, feature_page, feature_page_from, find_concept, group_page
from saeuron_guard.registry.recording import record_review
from saeuron_guard.registry.reviews import all_reviews
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import Synthetic, sae_name, write_synthetic_registry
from tests.registry.trail import ANN, BOB, FEATURE


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The manifest of a synthetic registry."""
    return write_synthetic_registry(tmp_path / "source")


@pytest.fixture
def registry(url: str, manifest: Path) -> Iterator[FeatureRegistry]:
    """That registry, without reviews."""
    with FeatureRegistry.open(url, manifest=manifest, stamp=ANN) as opened:
        yield opened


def test_the_newest_review_of_a_feature_counts(registry: FeatureRegistry) -> None:
    """By the time it was made, not the order in which it was recorded."""
    assert registry.reviews() == {}
    second = record_review(registry, FEATURE, "approved", "the toys were knives", BOB)
    first = record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    other = record_review(registry, f"{sae_name('style')}:3", "quarantined", "complaint 17", ANN)
    assert registry.reviews() == {FEATURE: second, other.feature: other}
    assert registry.reviews(sae_name("style")) == {other.feature: other}
    with reading(registry.engine) as connection:
        assert all_reviews(connection, sae_name("object"), 0) == [first, second]


def test_of_two_reviews_at_the_same_time_the_later_recorded_counts(registry: FeatureRegistry) -> None:
    """Times are kept to the second; two decisions in one second still have an order."""
    record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    record_review(registry, FEATURE, "approved", "no, it does not", Stamp("bob", ANN.when))
    assert registry.reviews()[FEATURE].verdict == "approved"


def test_a_review_keeps_the_page_it_was_made_of(registry: FeatureRegistry) -> None:
    """The page comes back as it was, with numbers as the manifest rounds them."""
    review = record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    page, now = feature_page_from(review.page), feature_page(registry, FEATURE)
    assert page.uses[0].summary.chosen_at == now.uses[0].summary.chosen_at == (901, 501, 101)
    assert page.uses[0].summary.score == pytest.approx(now.uses[0].summary.score, rel=1e-5)
    assert [use.concept for use in page.uses] == [use.concept for use in now.uses]
    with pytest.raises(ValueError, match="no page of a feature"):
        feature_page_from({"feature": FEATURE})


def test_reviews_survive_a_rebuild_and_notice_a_changed_page(
    registry: FeatureRegistry, url: str, manifest: Path
) -> None:
    """A changed manifest replaces the content; the review stays, and says that its page has changed."""
    review = record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    (state,) = reviews_of(registry, FEATURE, feature_page(registry, FEATURE))
    assert (state.review, state.counts, state.unchanged) == (review, True, True)
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("features: 3", "features: 1"), encoding="utf-8")
    with FeatureRegistry.open(url, manifest=manifest, stamp=BOB) as rebuilt:
        assert rebuilt.reviews() == {FEATURE: review}
        (state,) = reviews_of(rebuilt, f"{sae_name('object')}:0", feature_page(rebuilt, FEATURE))
        assert (state.counts, state.unchanged) == (True, True)
        shared = record_review(rebuilt, f"{sae_name('object')}:60", "rejected", "everybody has it", BOB)
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("features: 1", "features: 3"), encoding="utf-8")
    with FeatureRegistry.open(url, manifest=manifest, stamp=BOB) as rebuilt:
        (state,) = reviews_of(rebuilt, shared.feature, feature_page(rebuilt, shared.feature))
        assert (state.counts, state.unchanged) == (True, False)


def test_a_review_of_another_sae_counts_no_longer(registry: FeatureRegistry, url: str, tmp_path: Path) -> None:
    """New weights under the old name: the review stays to be seen, and decides nothing."""
    review = record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    other = write_synthetic_registry(tmp_path / "retrained", Synthetic(seed=8))
    with FeatureRegistry.open(url, manifest=other, stamp=BOB) as retrained:
        assert retrained.sae(review.sae).digest != review.sae_digest
        assert retrained.reviews() == {}
        (state,) = reviews_of(retrained, FEATURE, feature_page(retrained, FEATURE))
        assert (state.review, state.counts) == (review, False)


@pytest.mark.parametrize(
    ("feature", "why", "by", "message"),
    [
        (FEATURE, " \n ", "ann", "the reason is empty"),
        (FEATURE, "fires on toys", " ", "the name of who decides is empty"),
        (FEATURE, "fires\x1b[2J", "ann", "has characters that cannot be shown"),
        (FEATURE, "fires \udcff", "ann", "has characters that cannot be shown"),
        (f"{sae_name('object')}:64", "fires on toys", "ann", "has features 0 to 63, got 64"),
        ("pistol", "fires on toys", "ann", "is not a feature's name"),
    ],
)
def test_a_review_that_tells_nothing_is_refused(
    registry: FeatureRegistry, feature: str, why: str, by: str, message: str
) -> None:
    """No reason, no name, text that a terminal would act on, or no such feature: nothing is recorded."""
    with pytest.raises(RegistryError, match=message):
        record_review(registry, feature, "rejected", why, Stamp(by, ANN.when))
    assert registry.reviews() == {}


def test_a_concepts_page_has_the_reviews_of_its_features(registry: FeatureRegistry) -> None:
    """Those of the features it shows, and no others; only of the model that is asked for."""
    review = record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    record_review(registry, f"{sae_name('object')}:55", "approved", "nobody uses it", ANN)
    assert concept_page(registry, "pistol").reviews == {FEATURE: review}
    assert concept_page(registry, "cat").reviews == {}
    assert concept_page(registry, "pistol", model="tiny") == concept_page(registry, "pistol")
    with pytest.raises(RegistryError, match="unknown model 'tinny'"):
        concept_page(registry, "pistol", model="tinny")


def test_other_words_and_groups_lead_to_pages(manifest: Path, tmp_path: Path) -> None:
    """An alias means its concept, a group has its members' pages, a concept is no group."""
    text = manifest.read_text(encoding="utf-8")
    text = text.replace("- name: pistol\n", "- name: pistol\n  aliases: [gun]\n  parent: weapon\n", 1)
    group = "- name: weapon\n  domain: object\n  title: Weapon\n  description: A group.\n"
    manifest.write_text(text.replace("concepts:\n", f"concepts:\n{group}", 1), encoding="utf-8")
    with FeatureRegistry.open(sqlite_url(tmp_path / "groups.sqlite"), manifest=manifest, stamp=ANN) as registry:
        assert find_concept(registry, "gun") == find_concept(registry, "pistol") == registry.concept("pistol")
        page = group_page(registry, find_concept(registry, "weapon"))
        assert page is not None
        assert [(member.concept.name, len(member.calibrations)) for member in page.members] == [("pistol", 1)]
        assert group_page(registry, registry.concept("pistol")) is None
        with pytest.raises(RegistryError, match="Did you mean 'pistol'"):
            find_concept(registry, "pistl")
