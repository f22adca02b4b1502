"""Content that comes and goes as files: what is exported is what was imported, and half of it is never written."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, ManifestError, RegistryError
from saeuron_guard.registry.content import read_manifest, replace_content
from saeuron_guard.registry.database import engine_for, migrating, reading, sqlite_url
from saeuron_guard.registry.events import all_events
from saeuron_guard.registry.manifest import Manifest, load_manifest, write_manifest
from saeuron_guard.registry.migrate import upgrade
from saeuron_guard.registry.recording import record_guard, record_review
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    JudgeRecord,
    ModelRecord,
    OperatingPoint,
    PromptSetRecord,
    SaeRecord,
    ScoringRun,
)
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.registry.transfer import export_manifest, export_registry, import_manifest
from tests.registry.synthetic import Synthetic, sae_name, write_synthetic_registry
from tests.registry.trail import ANN, BOB, FEATURE, digest, guard_record, policy_record

SHIPPED = Path(__file__).parents[2] / "registry" / "manifest.yaml"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The manifest of a synthetic registry, as the program writes it."""
    path = write_synthetic_registry(tmp_path / "source")
    write_manifest(load_manifest(path), path)
    return path


@pytest.fixture
def registry(url: str, manifest: Path) -> Iterator[FeatureRegistry]:
    """That registry."""
    with FeatureRegistry.open(url, manifest=manifest, stamp=ANN) as opened:
        yield opened


def kinds(registry: FeatureRegistry) -> list[str]:
    """The kinds of all events."""
    with reading(registry.engine) as connection:
        return [event.kind for event in all_events(connection)]


def test_the_synthetic_registry_comes_out_as_it_went_in(registry: FeatureRegistry, tmp_path: Path) -> None:
    """The same bytes, from the database alone; with a review there are more, and they come out again elsewhere."""
    assert export_manifest(registry, tmp_path / "out").manifest == str(tmp_path / "out" / "manifest.yaml")
    assert (tmp_path / "out" / "manifest.yaml").read_bytes() == registry.manifest_path.read_bytes()
    record_review(registry, FEATURE, "rejected", "fires on 'toys': all of them", ANN)
    done = export_manifest(registry, tmp_path / "out" / "reviewed.yaml")
    assert done.manifest_digest == digest_of_file(tmp_path / "out" / "reviewed.yaml") != registry.manifest_digest()
    shutil.copytree(registry.artefact_root, tmp_path / "elsewhere")
    shutil.copy(tmp_path / "out" / "reviewed.yaml", tmp_path / "elsewhere" / "manifest.yaml")
    with FeatureRegistry.open(manifest=tmp_path / "elsewhere" / "manifest.yaml", stamp=BOB) as elsewhere:
        assert elsewhere.reviews() == registry.reviews()
        assert export_manifest(elsewhere, tmp_path / "again.yaml").manifest_digest == done.manifest_digest


def test_the_shipped_registry_comes_out_as_it_went_in(url: str, tmp_path: Path) -> None:
    """Imported and exported, its manifest has the digest that it had."""
    done = import_manifest(SHIPPED, ANN, url=url)
    with FeatureRegistry.open(url) as shipped:
        assert export_manifest(shipped, tmp_path / "manifest.yaml").manifest_digest == digest_of_file(SHIPPED)
    assert done.manifest_digest == digest_of_file(SHIPPED)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,12}", fullmatch=True)
SAE_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=20)
DIGESTS = st.sampled_from("0123456789abcdef").map(digest)
NUMBERS = st.floats(0, 1e6, allow_nan=False).map(lambda number: float(f"{number:.6g}"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab-:#", min_size=1), inner, max_size=2),
    max_leaves=4,
)
PROVENANCE = st.dictionaries(st.text("abc_", min_size=1), VALUES, max_size=3)


def unique(names: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[list[str]]:
    """Some names, at least one, each once."""
    return st.lists(names, min_size=1, max_size=most, unique=True)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any consistent manifest: models, SAEs, a taxonomy, prompt sets, runs, calibrations and judges.

    No SAE sits at a hookpoint whose width is known, since it would have to be of that width.
    """
    models = [
        ModelRecord(
            name, draw(NAMES), draw(SAE_NAMES), draw(DIGESTS), draw(st.integers(1, 2048)), draw(st.integers(1, 99)),
            draw(NUMBERS), draw(NAMES), {"a/b.json": draw(DIGESTS)} if draw(st.booleans()) else {}, draw(TEXTS),
            draw(PROVENANCE), draw(st.dictionaries(SAE_NAMES.map("@".__add__), st.integers(1, 999), max_size=2)),
        )
        for name in draw(unique(NAMES, 2))
    ]  # fmt: skip
    saes = [
        SaeRecord(
            name, draw(st.sampled_from(models)).name, draw(SAE_NAMES), draw(SAE_NAMES), draw(DIGESTS),
            draw(st.integers(1, 64)), 64, draw(st.integers(1, 64)), draw(NAMES), draw(NUMBERS), 0.25, draw(NUMBERS),
            draw(PROVENANCE),
        )
        for name in draw(unique(SAE_NAMES))
    ]  # fmt: skip
    *names, group = draw(st.lists(NAMES, min_size=4, max_size=7, unique_by=str.casefold))
    alias, *names = names
    concepts = [ConceptRecord(name, "object", draw(TEXTS), draw(TEXTS)) for name in names]
    concepts[0] = dataclasses.replace(concepts[0], aliases=(alias,), parent=group)
    concepts.append(ConceptRecord(group, "object", draw(TEXTS), draw(TEXTS)))
    runs = [
        ScoringRun(
            f"{sae.name}.run", sae.name, draw(NAMES), "s.safetensors", draw(DIGESTS), (9, 5, 0), draw(PROVENANCE)
        )
        for sae in saes
    ]
    calibrations = [
        Calibration(
            name,
            (OperatingPoint(sae.name, f"{sae.name}.run", draw(st.integers(1, 64)), -draw(NUMBERS)),),
            draw(st.dictionaries(st.text("abc", min_size=1), NUMBERS, max_size=3)),
            draw(PROVENANCE),
        )
        for name, sae in zip(names, saes, strict=False)
    ]
    sets = [PromptSetRecord(draw(NAMES), role, models[0].name, draw(DIGESTS)) for role in ("anchor", "audit")]
    judge = JudgeRecord(
        draw(NAMES), "clip", "audit", "j", {"x": draw(DIGESTS)}, {"object": tuple(names)}, draw(PROVENANCE)
    )
    return Manifest(
        tuple(models), tuple(saes), tuple(concepts), tuple(sets), tuple(runs), tuple(calibrations), (judge,)
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(manifests())
def test_any_manifest_comes_out_as_it_went_in(url: str, tmp_path: Path, manifest: Manifest) -> None:
    """Read back from the tables it is equal, and its file has the same bytes."""
    engine = engine_for(url)
    with migrating(engine) as connection:
        upgrade(connection, stamp=ANN)
        replace_content(connection, manifest, {})
    with reading(engine) as connection:
        held = read_manifest(connection)
    engine.dispose()
    assert held == manifest
    write_manifest(manifest, tmp_path / "in.yaml")
    write_manifest(held, tmp_path / "out.yaml")
    assert (tmp_path / "out.yaml").read_bytes() == (tmp_path / "in.yaml").read_bytes()


def test_an_import_says_what_changed_and_brings_each_review_once(
    registry: FeatureRegistry, url: str, manifest: Path
) -> None:
    """The second import of the same manifest changes nothing and adds no review."""
    record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
    export_manifest(registry, manifest, force=True)
    text = manifest.read_text(encoding="utf-8").replace("title: Cat", "title: Kitten")
    text = text.replace("why: fires on toys", "why: fires on toys and cats").replace("by: ann", "by: bob")
    manifest.write_text(text, encoding="utf-8")
    first = import_manifest(manifest, BOB, url=url)
    assert (first.changes.changed, first.changes.added, len(first.reviews)) == ({"concepts": ("cat",)}, {}, 1)
    again = import_manifest(manifest, BOB, url=url)
    assert (again.changes.nothing, again.reviews) == (True, ())
    assert kinds(registry) == ["migration", "content", "review", "content", "review", "content"]
    assert registry.reviews()[FEATURE].why == "fires on toys and cats"


def test_without_a_url_the_database_is_made_beside_the_manifest(manifest: Path) -> None:
    """Where the registry of one's own is opened afterwards."""
    done = import_manifest(manifest, ANN)
    assert done.database == str(manifest.parent / "registry.sqlite")
    with FeatureRegistry.open(manifest=manifest) as opened:
        assert opened.place == done.database


@pytest.mark.parametrize(
    "damage",
    ["models/tiny/model_index.json", "saes/tiny/unet.up_blocks.1.attentions.1/sae.safetensors", "statistics"],
)
def test_nothing_is_imported_unless_every_file_is_the_pinned_one(
    registry: FeatureRegistry, url: str, manifest: Path, damage: str
) -> None:
    """The error names the file with the expected and the actual digest; the database stays as it was."""
    before = kinds(registry)
    damaged = manifest.parent / damage
    path = damaged if damaged.is_file() else damaged / "tiny.styles.paper.safetensors"
    good = path.read_bytes()
    path.write_bytes(good + b" ")
    with pytest.raises(
        ArtefactError, match=rf"{path.name}.* expected sha256:[0-9a-f]{{64}}, got sha256:[0-9a-f]{{64}}"
    ):
        import_manifest(manifest, BOB, url=url)
    path.unlink()
    with pytest.raises(ArtefactError, match="got no such file"):
        import_manifest(manifest, BOB, url=url)
    assert kinds(registry) == before
    path.write_bytes(good)
    import_manifest(manifest, BOB, url=url)
    assert kinds(registry) == [*before, "content"]


def test_an_invalid_or_missing_manifest_is_refused(registry: FeatureRegistry, url: str, manifest: Path) -> None:
    """All its problems at once, and nothing is written."""
    before = kinds(registry)
    with pytest.raises(ManifestError, match="there is no such manifest"):
        import_manifest(manifest.parent / "none.yaml", BOB, url=url)
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("concept: cat", "concept: cta", 1), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"'cta' .* is not among concepts"):
        import_manifest(manifest, BOB, url=url)
    assert kinds(registry) == before


@pytest.mark.parametrize("retrained", [False, True])
def test_saes_that_guards_are_built_on_are_not_dropped_by_mistake(
    registry: FeatureRegistry, url: str, tmp_path: Path, retrained: bool
) -> None:
    """Neither left out nor replaced under the same name, unless forced; without such guards nothing is asked."""
    other = write_synthetic_registry(tmp_path / "other", Synthetic(seed=8 if retrained else 7))
    if not retrained:
        kept = load_manifest(other)
        one = Manifest(kept.models, tuple(sae for sae in kept.saes if sae.name != sae_name("object")), kept.concepts)
        write_manifest(one, other)
    record_guard(registry, policy_record(), guard_record(registry))
    before, lost = kinds(registry), f"{sae_name('object')} ({registry.sae(sae_name('object')).digest})"
    with pytest.raises(RegistryError, match=r"recorded guards are built on tiny.objects .* add --force"):
        import_manifest(other, BOB, url=url)
    assert kinds(registry) == before
    assert import_manifest(other, BOB, url=url, force=True).lost == (lost,)
    fresh = sqlite_url(tmp_path / "fresh.sqlite")
    assert import_manifest(other, BOB, url=fresh).lost == ()


def test_an_exported_registry_stands_by_itself(
    registry: FeatureRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifest and files in one folder, which the environment's variable opens; a copy there is refused."""
    done = export_registry(registry, tmp_path / "own")
    assert done.files == 6 + 2  # pinned files, and the settings of two SAEs
    monkeypatch.delenv("SAEURON_GUARD_DATABASE", raising=False)
    monkeypatch.setenv("SAEURON_GUARD_MANIFEST", str(tmp_path / "own" / "manifest.yaml"))
    with FeatureRegistry.open() as own:
        assert own.place == str(tmp_path / "own" / "registry.sqlite")
        assert own.artefact_root == tmp_path / "own"
        assert own.saes("tiny") == registry.saes("tiny")
        assert own.manifest_digest() == registry.manifest_digest()
    monkeypatch.setenv("SAEURON_GUARD_DATABASE", registry.engine.url.render_as_string(hide_password=False))
    with FeatureRegistry.open() as both:
        assert (both.place, both.artefact_root) == (registry.place, tmp_path / "own")
    with pytest.raises(ArtefactError, match="is there already"):
        export_registry(registry, tmp_path / "own")
    monkeypatch.setenv("SAEURON_GUARD_MANIFEST", str(tmp_path / "none.yaml"))
    with pytest.raises(ManifestError, match="no such manifest, but SAEURON_GUARD_MANIFEST names it"):
        FeatureRegistry.open()


def test_a_file_that_is_not_the_pinned_one_is_not_exported(registry: FeatureRegistry, tmp_path: Path) -> None:
    """Expected and actual digest are named, and no half of a registry is left behind."""
    (registry.artefact_root / "models/tiny/model_index.json").write_text("{}", encoding="utf-8")
    there = sorted(tmp_path.iterdir())
    with pytest.raises(
        ArtefactError, match=r"model_index\.json \(of tiny\): expected sha256:\w{64}, got sha256:\w{64}"
    ):
        export_registry(registry, tmp_path / "own")
    assert sorted(tmp_path.iterdir()) == there


def test_an_export_replaces_nothing_unasked(tmp_path: Path) -> None:
    """A file that is there stays, unless it is a manifest and --force is given; a link is never followed."""
    manifest = write_synthetic_registry(tmp_path / "source")
    policy, link, old = tmp_path / "policy.yaml", tmp_path / "link.yaml", tmp_path / "old.yaml"
    policy.write_text("mine", encoding="utf-8")
    link.symlink_to(policy)
    with FeatureRegistry.built(manifest=manifest) as registry:
        export_manifest(registry, old)
        for place, force, message in (
            (policy, False, "there already"),
            (policy, True, "is no manifest that could be replaced"),
            (link, True, "is a symbolic link"),
            (old, False, "there already"),
        ):
            with pytest.raises(ArtefactError, match=message):
                export_manifest(registry, place, force=force)
        export_manifest(registry, old, force=True)
    assert policy.read_text(encoding="utf-8") == "mine"


def test_a_review_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    """The same person, feature and moment with another verdict is no new review; a really new one is taken and told."""
    manifest = write_synthetic_registry(tmp_path / "source")
    with FeatureRegistry.built(manifest=manifest) as registry:
        record_review(registry, FEATURE, "rejected", "fires on toys", ANN)
        export_manifest(registry, manifest, force=True)
    url = sqlite_url(tmp_path / "elsewhere.sqlite")
    told = import_manifest(manifest, ANN, url=url).reviews
    assert len(told) == 1
    assert told[0].startswith(f"{FEATURE} rejected by ")
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("rejected", "approved"), encoding="utf-8")
    with pytest.raises(RegistryError, match="one of them was changed afterwards"):
        import_manifest(manifest, ANN, url=url)


def test_two_decisions_within_a_second_are_both_kept(tmp_path: Path) -> None:
    """The later one counts, here and wherever the registry is taken; whichever of the verdicts came last."""
    for verdicts in (("rejected", "approved"), ("approved", "rejected")):
        manifest = write_synthetic_registry(tmp_path / verdicts[1] / "source")
        with FeatureRegistry.built(manifest=manifest) as registry:
            for verdict in verdicts:
                record_review(registry, FEATURE, verdict, "seen again", ANN)  # type: ignore[arg-type]
            assert registry.reviews()[FEATURE].verdict == verdicts[1]
            export_manifest(registry, manifest, force=True)
        url = sqlite_url(tmp_path / verdicts[1] / "elsewhere.sqlite")
        assert len(import_manifest(manifest, ANN, url=url).reviews) == 2
        assert import_manifest(manifest, ANN, url=url).reviews == ()
        with FeatureRegistry.open(url=url, manifest=manifest) as opened:
            assert opened.reviews()[FEATURE].verdict == verdicts[1]
