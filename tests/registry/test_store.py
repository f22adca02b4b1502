from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.database import engine_for, sqlite_url
from saeuron_guard.registry.manifest import load_manifest
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import MODEL, SHARED_FEATURE, Synthetic, run_name, sae_name, write_synthetic_registry


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a synthetic registry in which cat is not calibrated."""
    return write_synthetic_registry(tmp_path_factory.mktemp("registry"), Synthetic(uncalibrated=("cat",)))


@pytest.fixture(scope="module")
def registry(manifest: Path, new_url: Callable[[], str]) -> Iterator[FeatureRegistry]:
    """The registry that the manifest describes, on either database."""
    with FeatureRegistry.built(new_url(), manifest=manifest) as opened:
        yield opened


def test_the_database_gives_back_the_manifest(registry: FeatureRegistry, manifest: Path) -> None:
    """Every record comes out of the tables as it went in."""
    written = load_manifest(manifest)
    by_name = lambda record: record.name  # noqa: E731
    assert registry.models() == list(written.models)
    assert registry.saes(MODEL) == list(written.saes)
    assert sorted(registry.concepts(), key=by_name) == list(written.concepts)
    assert registry.prompt_sets() == list(written.prompt_sets)
    assert registry.runs() == list(written.scoring_runs)
    assert registry.judges() == list(written.judges)
    assert registry.calibrations(MODEL) == list(written.calibrations)
    assert registry.artefact_root == manifest.parent


def test_things_are_found_by_name(registry: FeatureRegistry) -> None:
    """One record for each name, and only that of a domain when one is given."""
    assert registry.model(MODEL).family == "sd1"
    assert registry.sae(sae_name("style")).hookpoint == "unet.up_blocks.1.attentions.2"
    assert registry.run(run_name("object")).sae == sae_name("object")
    assert registry.judge("tiny-clip").kind == "clip"
    assert [concept.name for concept in registry.concepts("style")] == ["Neon", "Noto"]
    calibration = registry.calibration(MODEL, "pistol")
    assert calibration is not None
    assert calibration.points[0].multiplier == -4.0
    assert registry.calibration(MODEL, "cat") is None


def test_scores_come_by_timestep_and_rank(registry: FeatureRegistry) -> None:
    """Latest timestep first, best rank first; ``max_rank`` cuts each timestep."""
    found = registry.scores(run_name("object"), "cat")
    assert [(score.timestep, score.rank) for score in found] == [(t, r) for t in (901, 501, 101) for r in range(8)]
    assert [score.index for score in found[:4]] == [10, 11, SHARED_FEATURE, 13]
    assert found[0].score > found[1].score
    assert found[0].mean == pytest.approx(2 * found[0].score)
    assert registry.scores(run_name("object"), "cat", max_rank=2) == [score for score in found if score.rank < 2]


def test_a_features_uses_are_found(registry: FeatureRegistry) -> None:
    """The reverse question: a shared feature has all its concepts, an own one has its owner, an unused one none."""
    sae, run = sae_name("object"), run_name("object")
    shared = registry.uses_of(f"{sae}:{SHARED_FEATURE}")
    assert {use.concept for use in shared} == set(Synthetic().concepts)
    assert {use.run for use in shared} == {run}
    assert {use.score.rank for use in shared} == {2}
    own = registry.uses_of(f"{sae}:10")
    assert [(use.concept, use.score.timestep) for use in own] == [("cat", 901), ("cat", 501), ("cat", 101)]
    assert own[0].score == registry.scores(run, "cat")[0]
    assert registry.uses_of(f"{sae}:63") == []


def test_features_that_concepts_share_come_in_one_answer(registry: FeatureRegistry) -> None:
    """For every concept the best score over the places asked about, as its own scores have it, cut at the rank."""
    run = run_name("object")
    timesteps = (501, 101)
    asked = [(index, timestep) for index in (10, SHARED_FEATURE, *range(1000, 1500)) for timestep in timesteps]
    expected: dict[tuple[str, int], float] = {}
    for concept in Synthetic().concepts:
        for score in registry.scores(run, concept, max_rank=3):
            if (score.index, score.timestep) in asked:
                place = (concept, score.index)
                expected[place] = max(score.score, expected.get(place, 0.0))
    found = registry.shared_features(run, asked, max_rank=3)
    assert {(shared.concept, shared.index): shared.score for shared in found} == expected
    assert len(found) == len(expected) == 1 + len(Synthetic().concepts)
    assert found[0].score < registry.scores(run, found[0].concept)[0].score, "timestep 901 was not asked about"
    assert [shared.index for shared in registry.shared_features(run, asked, max_rank=2)] == [10]
    assert registry.shared_features(run, [(10, 900)], max_rank=3) == []
    assert registry.shared_features(run, [], max_rank=3) == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda r: r.concept("pistl"),
            "unknown concept 'pistl'. Did you mean 'pistol'? List them with .*registry list",
        ),
        (lambda r: r.concept("noto"), "Did you mean 'Noto'?"),
        (lambda r: r.concepts("styles"), "unknown domain 'styles'. Did you mean 'style'?"),
        (lambda r: r.model("tinny"), "unknown model 'tinny'. Did you mean 'tiny'? .*registry list --models"),
        (lambda r: r.saes("tinny"), "unknown model"),
        (lambda r: r.sae("tiny.object"), "unknown SAE 'tiny.object'. Did you mean 'tiny.objects'?"),
        (lambda r: r.run("tiny.objects"), "unknown scoring run"),
        (lambda r: r.judge("clip"), "unknown judge 'clip'"),
        (lambda r: r.calibration("tiny", "pistl"), "unknown concept"),
        (lambda r: r.calibrations("tinny"), "unknown model"),
        (lambda r: r.scores("tiny.objects.paper", "pistl"), "unknown concept"),
        (lambda r: r.scores("tiny.objects", "pistol"), "unknown scoring run"),
        (lambda r: r.shared_features("tiny.objects", [(1, 901)], max_rank=1), "unknown scoring run"),
        (lambda r: r.uses_of("tiny.objects"), "'tiny.objects' is not a feature's name; write sae:index"),
        (lambda r: r.uses_of("tiny.objects:64"), "tiny.objects has features 0 to 63, got 64"),
        (lambda r: r.uses_of("tiny.object:1"), "unknown SAE"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(registry: FeatureRegistry, ask: object, message: str) -> None:
    """An error names what is unknown, the nearest known name, and the command that lists them."""
    with pytest.raises(RegistryError, match=message.replace("?", r"\?")):
        ask(registry)  # type: ignore[operator]


def test_a_database_can_be_opened_as_it_is(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By URL or through the environment, without looking at any manifest; an argument outweighs the environment."""
    url = sqlite_url(tmp_path / "team.sqlite")
    FeatureRegistry.built(url, manifest=manifest).close()
    with FeatureRegistry.open(url) as registry:
        assert registry.concept("pistol").domain == "object"
    monkeypatch.setenv("SAEURON_GUARD_DATABASE", url)
    with FeatureRegistry.open() as registry:
        assert registry.place == str(tmp_path / "team.sqlite")
    with FeatureRegistry.open(manifest=manifest) as registry:
        assert registry.place == str(manifest.parent / "registry.sqlite")


def test_a_missing_or_empty_database_is_not_made_by_opening_it(tmp_path: Path) -> None:
    """Opening by URL only reads: the message has the command that makes the database."""
    url = sqlite_url(tmp_path / "none.sqlite")
    with pytest.raises(
        RegistryError, match=f"there is no such database; make it with .*registry migrate --database {url}"
    ):
        FeatureRegistry.open(url)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "none.sqlite").touch()
    with pytest.raises(RegistryError, match="holds no registry; to make one there, run"):
        FeatureRegistry.open(url)


def test_a_read_only_folder_can_be_read(manifest: Path, tmp_path: Path) -> None:
    """A registry built into an image is opened without writing anything beside it."""
    folder = tmp_path / "image"
    url = sqlite_url(folder / "registry.sqlite")
    folder.mkdir()
    FeatureRegistry.built(url, manifest=manifest).close()
    names = sorted(path.name for path in folder.iterdir())
    with FeatureRegistry.open(url) as registry:
        assert registry.scores(run_name("object"), "pistol")
        assert sorted(path.name for path in folder.iterdir()) == names == ["registry.sqlite"]


@pytest.mark.parametrize("url", ["nonsense", "nosuchdatabase://x/y"])
def test_a_url_that_makes_no_sense_is_refused(url: str) -> None:
    """The message shows what a URL looks like."""
    with pytest.raises(RegistryError, match=r"not a database URL: .*sqlite:////path"):
        engine_for(url)


def test_opening_the_registry_loads_nothing_that_it_does_not_need(manifest: Path) -> None:
    """Later openings answer at once: nothing heavy is imported, not even numpy."""
    FeatureRegistry.open(manifest=manifest).close()
    program = (
        "import sys; from pathlib import Path; from saeuron_guard.registry.store import FeatureRegistry; "
        "registry = FeatureRegistry.open(manifest=Path(sys.argv[1])); assert registry.concepts(); "
        "print(*sorted({'torch', 'numpy', 'alembic', 'jsonschema', 'sqlalchemy', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(manifest)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["sqlalchemy"]


@pytest.mark.parametrize(
    "url", ["postgres://u:secretpw@host/x", "http://u:secretpw@host/x", "postgresql://u:secretpw@host:notaport/x"]
)
def test_a_url_that_makes_no_sense_is_told_without_its_password(url: str) -> None:
    """Another scheme, or a port that is no number: the message names the URL and what to write, not the password."""
    with pytest.raises(RegistryError, match=r"not a database URL: '\w+://u:\*\*\*@host.*write sqlite:") as caught:
        FeatureRegistry.open(url)
    assert "secretpw" not in str(caught.value)


def test_nobody_is_told_to_delete_a_database_of_their_own(tmp_path: Path) -> None:
    """A file that was named by URL may be anything: it is to be replaced by another name, not deleted."""
    path = tmp_path / "garbage.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(RegistryError, match="name another database in SAEURON_GUARD_DATABASE") as caught:
        FeatureRegistry.open(f"sqlite:///{path}")
    assert "move it away" not in str(caught.value)
