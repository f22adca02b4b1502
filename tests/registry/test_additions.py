"""A model or SAE more in a manifest, and figures that nobody measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sqlalchemy import select

from saeuron_guard.errors import ManifestError, RegistryError
from saeuron_guard.registry import tables
from saeuron_guard.registry.additions import manifest_or_new, model_in, with_model
from saeuron_guard.registry.build import bring_up_to_date
from saeuron_guard.registry.database import engine_for, reading, sqlite_url
from saeuron_guard.registry.manifest import Manifest, load_manifest, write_manifest
from saeuron_guard.registry.migrate import downgrade
from saeuron_guard.registry.store import FeatureRegistry
from tests.registry.synthetic import write_synthetic_registry


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A manifest with a model, two SAEs and what belongs to them."""
    return write_synthetic_registry(tmp_path / "registry")


def test_a_manifest_begins_empty(tmp_path: Path, path: Path) -> None:
    """Where there is no file there is an empty manifest; what is there is loaded."""
    assert manifest_or_new(tmp_path / "none.yaml") == Manifest()
    assert manifest_or_new(path) == load_manifest(path)


def test_models_are_added_once(path: Path) -> None:
    """A new name is added, the same model is no change, another one under the name needs --replace."""
    manifest = load_manifest(path)
    (model,) = manifest.models
    second = dataclasses.replace(model, name="second")
    assert [known.name for known in with_model(manifest, second, replace=False).models] == ["second", "tiny"]
    told_later = dataclasses.replace(model, provenance={"added_at": "later"})
    assert with_model(manifest, told_later, replace=False) is manifest
    faster = dataclasses.replace(model, steps=3, scheduler="Other")
    with pytest.raises(RegistryError, match=r"differs: steps is \d+, got 3; scheduler is .*, got Other\. .* --replace"):
        with_model(manifest, faster, replace=False)
    assert with_model(manifest, faster, replace=True).models == (faster,)


def test_saes_do_not_change_their_model(path: Path) -> None:
    """Another model's weights under the name are refused while SAEs belong to it, and taken when none does."""
    manifest = load_manifest(path)
    other = dataclasses.replace(manifest.models[0], fingerprint="sha256:" + "9" * 64)
    with pytest.raises(RegistryError, match=r"has other weights .* SAE 'tiny.objects' belongs to it"):
        with_model(manifest, other, replace=True)
    alone = dataclasses.replace(manifest, saes=(), scoring_runs=(), calibrations=())
    assert with_model(alone, other, replace=True).models == (other,)


def test_a_width_that_was_measured_is_kept(path: Path) -> None:
    """A manifest whose SAE is not as wide as its hookpoint is refused; hookpoints that nobody measured are passed."""
    manifest = load_manifest(path)
    hookpoint, width = manifest.saes[0].hookpoint, manifest.saes[0].d_in
    for measured in ({hookpoint: width}, {"unet.other": 7}):
        model = dataclasses.replace(manifest.models[0], hookpoints=measured)
        write_manifest(dataclasses.replace(manifest, models=(model,)), path)
    wrong = dataclasses.replace(manifest.models[0], hookpoints={hookpoint: width + 1})
    with pytest.raises(ManifestError, match=rf"expected {width + 1}, the width of {hookpoint} of tiny, got {width}"):
        write_manifest(dataclasses.replace(manifest, models=(wrong,)), path)


def test_an_unknown_model_is_told_with_the_nearest(path: Path) -> None:
    """And with the command that adds it."""
    manifest = load_manifest(path)
    assert model_in(manifest, "tiny", path).name == "tiny"
    with pytest.raises(RegistryError, match=r"no model 'tinny'. Did you mean 'tiny'\? .*registry add-model"):
        model_in(manifest, "tinny", path)


@pytest.mark.parametrize("name", ["fvu", "dead_share", "l0"])
def test_unknown_is_not_zero(path: Path, name: str) -> None:
    """A figure that is left out is None in manifest, database and record; 0 stays 0."""
    manifest = load_manifest(path)
    unknown, zero = (
        dataclasses.replace(manifest.saes[0], **{name: None}),
        dataclasses.replace(manifest.saes[1], **{name: 0.0}),
    )
    write_manifest(dataclasses.replace(manifest, saes=(unknown, zero)), path)
    assert load_manifest(path).saes == (unknown, zero)
    with FeatureRegistry.built(manifest=path) as registry:
        found = {sae.name: getattr(sae, name) for sae in registry.saes("tiny")}
    assert found == {unknown.name: None, zero.name: 0.0}
    assert found[zero.name] is not None


def test_unknown_figures_stop_a_downgrade(path: Path, tmp_path: Path) -> None:
    """An older release has no way to say unknown, so its schema refuses the row; known figures go down and up."""
    engine = engine_for(sqlite_url(tmp_path / "registry.sqlite"))
    bring_up_to_date(engine, path)
    downgrade(engine, "0002")
    bring_up_to_date(engine, path)
    manifest = load_manifest(path)
    unknown = dataclasses.replace(manifest.saes[0], fvu=None)
    write_manifest(dataclasses.replace(manifest, saes=(unknown, manifest.saes[1])), path)
    bring_up_to_date(engine, path)
    with pytest.raises(RegistryError, match="NOT NULL"):
        downgrade(engine, "0002")
    with reading(engine) as connection:
        assert set(connection.execute(select(tables.saes.c.fvu)).scalars()) == {None, 0.125}
