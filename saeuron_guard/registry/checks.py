"""Whether a registry is what its manifest says: the database's content and every file that it pins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saeuron_guard.digests import digest_of_file
from saeuron_guard.registry.artefact import ArtefactCheck, verify_artefacts
from saeuron_guard.registry.manifest import load_manifest
from saeuron_guard.registry.store import FeatureRegistry


@dataclass(frozen=True, slots=True)
class RegistryCheck:
    """What was compared and what was found; ``problems`` are those of the database, in words."""

    database: str
    manifest: str
    manifest_digest: str
    problems: tuple[str, ...]
    artefacts: tuple[ArtefactCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is as recorded."""
        return not self.problems and all(artefact.passed for artefact in self.artefacts)


def check_registry(registry: FeatureRegistry, prompt_digests: Mapping[tuple[str, str], str]) -> RegistryCheck:
    """Compare an open registry with the manifest in its artefact root, and the files there with their digests.

    ``prompt_digests``: (role, name) -> digest of the prompt sets that are at hand; those not at hand are not compared.
    Raises ManifestError when the manifest itself is not valid.
    """
    path = registry.manifest_path
    manifest = load_manifest(path)
    digest, held = digest_of_file(path), registry.manifest_digest()
    problems = [*registry.damage()]
    if held != digest:
        problems.append(
            f'the database holds manifest {held}, the file is {digest}; run "saeuron-guard registry migrate"'
        )
    for used in manifest.prompt_sets:
        found = prompt_digests.get((used.role, used.name), used.digest)
        if found != used.digest:
            problems.append(f"{used.role} prompt set {used.name!r}: expected {used.digest}, got {found}")
    return RegistryCheck(
        database=registry.place,
        manifest=str(path),
        manifest_digest=digest,
        problems=tuple(problems),
        artefacts=verify_artefacts(manifest, registry.artefact_root),
    )
