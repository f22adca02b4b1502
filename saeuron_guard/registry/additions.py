"""A model or an SAE more in a manifest: what may stand beside, or in place of, what is there already."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from saeuron_guard.errors import RegistryError
from saeuron_guard.registry.manifest import Manifest, load_manifest
from saeuron_guard.registry.records import ModelRecord, SaeRecord
from saeuron_guard.wording import did_you_mean, quote


def manifest_or_new(path: Path) -> Manifest:
    """The manifest in ``path``, or an empty one where there is no such file yet; raises ManifestError as loading."""
    return load_manifest(path) if path.exists() else Manifest()


def model_in(manifest: Manifest, name: str, path: Path) -> ModelRecord:
    """The model of this name; raises RegistryError, naming ``path``, with the nearest name."""
    known = {model.name: model for model in manifest.models}
    if name not in known:
        raise RegistryError(
            f"{path}: there is no model {quote(name)}.{did_you_mean(name, known)} "
            f'Add it with "saeuron-guard registry add-model SOURCE --name {name} --manifest {path}".'
        )
    return known[name]


def with_model(manifest: Manifest, model: ModelRecord, *, replace: bool) -> Manifest:
    """``manifest`` with ``model``; the manifest itself when it says the same already, whoever wrote it and when.

    Raises RegistryError when another model has the name and ``replace`` does not say to put this one in its place, and
    when SAEs belong to a model with other weights: they would be taken for this one's.
    """
    before = {known.name: known for known in manifest.models}.get(model.name)
    if before is None:
        return dataclasses.replace(manifest, models=(*manifest.models, model))
    differences = _differences(before, model)
    if not differences:
        return manifest
    if not replace:
        raise RegistryError(
            f"model {quote(model.name)} is registered already, and differs: {'; '.join(differences)}. "
            "Choose another --name, or put this one in its place with --replace."
        )
    dependent = [sae.name for sae in manifest.saes if sae.model == model.name]
    if dependent and before.fingerprint != model.fingerprint:
        raise RegistryError(
            f"model {quote(model.name)} has other weights (registered {before.fingerprint}, got {model.fingerprint}), "
            f"and SAE {quote(dependent[0])} belongs to it; choose another --name, or remove its SAEs first."
        )
    others = (known for known in manifest.models if known.name != model.name)
    return dataclasses.replace(manifest, models=(*others, model))


def check_sae_fits(manifest: Manifest, name: str, path: str, *, replace: bool) -> None:
    """Raise RegistryError unless an SAE may get this ``name`` and this folder ``path`` below the registry's."""
    if owners := [sae.name for sae in manifest.saes if sae.path == path and sae.name != name]:
        raise RegistryError(
            f"{path} holds SAE {quote(owners[0])}; to put another one there, give --name {owners[0]} and --replace."
        )
    if not replace and any(sae.name == name for sae in manifest.saes):
        raise RegistryError(
            f"SAE {quote(name)} is registered already; choose another --name, or put this one in its place "
            "with --replace."
        )


def with_sae(manifest: Manifest, sae: SaeRecord, *, replace: bool) -> Manifest:
    """``manifest`` with ``sae``, after ``check_sae_fits``.

    Raises RegistryError, too, when scoring runs rest on an SAE of this name with other weights, at another hookpoint or
    with another k: their scores would be taken for this one's.
    """
    check_sae_fits(manifest, sae.name, sae.path, replace=replace)
    before = {known.name: known for known in manifest.saes}.get(sae.name)
    runs = [run.name for run in manifest.scoring_runs if run.sae == sae.name]
    if before is not None and runs and _computes(before) != _computes(sae):
        raise RegistryError(
            f"SAE {quote(sae.name)} is another one now, and scoring run {quote(runs[0])} rests on what it was; "
            "choose another --name, or remove its scoring runs and calibrations first."
        )
    others = (known for known in manifest.saes if known.name != sae.name)
    return dataclasses.replace(manifest, saes=(*others, sae))


def _computes(sae: SaeRecord) -> tuple[str, str, str, int]:
    """What decides an SAE's latents."""
    return (sae.model, sae.hookpoint, sae.digest, sae.k)


def _differences(before: ModelRecord, now: ModelRecord) -> list[str]:
    """The fields in which two models differ, with both values; provenance aside, which tells of the adding only."""
    names = [field.name for field in dataclasses.fields(ModelRecord) if field.name != "provenance"]
    found = []
    for name in names:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            short = isinstance(old, str | int | float)
            found.append(f"{name} is {old}, got {new}" if short else name)
    return found
