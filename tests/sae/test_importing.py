"""What an import does to a registry: all of it or nothing, and never to something that does not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, RegistryError, SaeuronGuardError
from saeuron_guard.registry.manifest import load_manifest, write_manifest
from saeuron_guard.registry.records import ScoringRun
from saeuron_guard.sae import importing
from saeuron_guard.sae.importing import import_sae
from tests.sae import checkpoints as made


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A registry with one model."""
    return made.write_registry(tmp_path / "registry")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of sparsify."""
    made.write_sparsify(tmp_path / "source")
    return tmp_path / "source"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their bytes, folders with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(manifest: Path, expected: type[SaeuronGuardError], match: str, **fields: Any) -> None:
    """The import is refused with this message, and nothing below the registry's folder has changed."""
    before = contents(manifest.parent)
    with pytest.raises(expected, match=match):
        import_sae(made.request(manifest=manifest, **fields))
    assert contents(manifest.parent) == before


def test_the_record_says_where_it_comes_from(manifest: Path, source: Path) -> None:
    """The manifest gets sizes, digest and provenance; figures that nobody measured are absent, not 0."""
    record = import_sae(made.request(source, manifest, by="a person"))
    assert load_manifest(manifest).saes == (
        dataclasses.replace(record, provenance=load_manifest(manifest).saes[0].provenance),
    )
    assert (record.name, record.path) == (f"tiny-{made.HOOKPOINT}", f"saes/tiny/{made.HOOKPOINT}")
    assert (record.d_in, record.num_latents, record.k, record.variant) == (made.D_IN, made.LATENTS, made.K, "imported")
    assert (record.fvu, record.dead_share, record.l0) == (None, None, None)
    assert "fvu" not in manifest.read_text(encoding="utf-8")
    folder = manifest.parent / record.path
    assert record.digest == digest_of_file(folder / "sae.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae.safetensors"]
    assert json.loads((folder / "cfg.json").read_text())["hookpoint"] == made.HOOKPOINT
    provenance = load_manifest(manifest).saes[0].provenance
    assert provenance["source"] == str(source)
    assert provenance["files"] == {name: digest_of_file(source / name) for name in ("cfg.json", "sae.safetensors")}
    assert (provenance["format"], provenance["imported_at"], provenance["imported_by"]) == (
        "sparsify", made.WHEN, "a person",
    )  # fmt: skip
    assert provenance["model_fingerprint"] == load_manifest(manifest).models[0].fingerprint


def test_the_same_import_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two registries that import the same checkpoint at the same time are equal, file by file."""
    made.write_saelens(tmp_path / "source", apply_b_dec_to_input=False)
    manifests = [made.write_registry(tmp_path / name) for name in ("one", "two")]
    for manifest in manifests:
        import_sae(made.request(tmp_path / "source", manifest))
    assert contents(manifests[0].parent) == contents(manifests[1].parent)


def test_model_and_hookpoint_must_be_known(tmp_path: Path, manifest: Path, source: Path) -> None:
    """The nearest names are suggested, and the width of the hookpoint must be the SAE's."""
    refused(manifest, RegistryError, "no model 'tinny'. Did you mean 'tiny'", source=source, model="tinny")
    refused(
        manifest, RegistryError, rf"no hookpoint .* Did you mean '{made.OTHER}'", source=source,
        hookpoint="unet.up_block.1.attentions.2",
    )  # fmt: skip
    refused(
        manifest, ArtefactError, "d_in is 32, expected 64, the width of unet.mid_block.attentions.0 of tiny",
        source=source, hookpoint="unet.mid_block.attentions.0",
    )  # fmt: skip
    unmeasured = made.write_registry(tmp_path / "unmeasured", {})
    refused(unmeasured, RegistryError, "registered without the widths of its hookpoints", source=source)
    climbing = made.write_registry(tmp_path / "climbing", {"../../outside": made.D_IN})
    refused(climbing, RegistryError, "has no hookpoint '../../outside'", source=source, hookpoint="../../outside")


def test_names_are_given_once(manifest: Path, source: Path) -> None:
    """A taken name or place is refused; --replace puts the new SAE in the old one's place and leaves no trace of it."""
    first = import_sae(made.request(source, manifest, name="mine"))
    refused(manifest, RegistryError, "'mine' is registered already", source=source, name="mine", hookpoint=made.OTHER)
    refused(manifest, RegistryError, "holds SAE 'mine'", source=source, name="yours", replace=True)
    refused(manifest, RegistryError, "is not an SAE's name", source=source, name="a:b", hookpoint=made.OTHER)
    made.write_sparsify(source, made.random_weights(seed=5))
    second = import_sae(made.request(source, manifest, name="mine", replace=True))
    assert second.digest != first.digest
    assert [sae.digest for sae in load_manifest(manifest).saes] == [second.digest]
    assert digest_of_file(manifest.parent / second.path / "sae.safetensors") == second.digest
    assert [path.name for path in (manifest.parent / "saes" / "tiny").iterdir()] == [made.HOOKPOINT]


def test_scores_of_another_sae_are_not_taken_over(manifest: Path, source: Path) -> None:
    """An SAE that scoring runs rest on is only replaced by one with the same latents."""
    record = import_sae(made.request(source, manifest, name="mine"))
    digest = "sha256:" + "0" * 64
    run = ScoringRun("run", record.name, "paper", "statistics/run.safetensors", digest, (1,), {})
    write_manifest(dataclasses.replace(load_manifest(manifest), scoring_runs=(run,)), manifest)
    assert import_sae(made.request(source, manifest, name="mine", replace=True)).digest == record.digest
    made.write_sparsify(source, made.random_weights(seed=5))
    refused(manifest, RegistryError, "scoring run 'run' rests on what it was", source=source, name="mine", replace=True)


def test_a_folder_that_nobody_knows_is_left_alone(manifest: Path, source: Path) -> None:
    """Files in the SAE's place that the manifest does not name are overwritten with --replace only."""
    stray = manifest.parent / "saes" / "tiny" / made.HOOKPOINT / "notes.txt"
    stray.parent.mkdir(parents=True)
    stray.write_text("mine")
    refused(manifest, ArtefactError, "the manifest does not name it", source=source)
    import_sae(made.request(source, manifest, replace=True))
    assert not stray.exists()


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("failing", ["_write", "write_manifest"])
def test_a_failure_while_writing_leaves_everything_as_it_was(
    manifest: Path, source: Path, monkeypatch: pytest.MonkeyPatch, failing: str, replace: bool
) -> None:
    """Whether the weights or the manifest cannot be written: folders made for it go, a replaced SAE comes back."""
    if replace:
        import_sae(made.request(source, manifest))
        made.write_sparsify(source, made.random_weights(seed=5))
    real: Callable[..., Any] = getattr(importing, failing)

    def fails(*arguments: Any) -> None:
        real(*arguments)  # half-way done is the worst place to stop
        if failing == "write_manifest":
            manifest.write_bytes(before)
        raise OSError(28, "No space left on device")

    before = manifest.read_bytes()
    monkeypatch.setattr(importing, failing, fails)
    refused(manifest, ArtefactError, "cannot be written .No space left", source=source, replace=replace)
    monkeypatch.undo()
    import_sae(made.request(source, manifest, replace=replace))


def test_a_checkpoint_of_another_hookpoint_is_noticed(tmp_path: Path, manifest: Path) -> None:
    """By its folder's name, or by what its configuration says; widths alone would not tell."""
    made.write_sparsify(tmp_path / made.OTHER)
    refused(manifest, ArtefactError, f"is named for hookpoint '{made.OTHER}'", source=tmp_path / made.OTHER)
    made.write_saelens(tmp_path / "lens", metadata={"hook_name": made.OTHER})
    refused(manifest, ArtefactError, f"says that it is of hookpoint '{made.OTHER}'", source=tmp_path / "lens")
    assert import_sae(made.request(tmp_path / "lens", manifest, hookpoint=made.OTHER)).hookpoint == made.OTHER


def test_an_sae_of_a_registry_can_be_imported_into_another(tmp_path: Path, manifest: Path, source: Path) -> None:
    """What an import writes is a checkpoint itself, with the same digest after another import."""
    first = import_sae(made.request(source, manifest))
    other = made.write_registry(tmp_path / "other")
    second = import_sae(made.request(manifest.parent / first.path, other))
    assert (second.digest, second.k, second.path) == (first.digest, first.k, first.path)
