"""Whether a registry is what its manifest says: the database's content and every file that it pins."""

from __future__ import annotations

from dataclasses import dataclass

from saeuron_guard.digests import digest_of_file
from saeuron_guard.registry.artefact import ArtefactCheck, verify_artefacts
from saeuron_guard.registry.manifest import load_manifest
from saeuron_guard.registry.store import MANIFEST, FeatureRegistry


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


def check_registry(registry: FeatureRegistry) -> RegistryCheck:
    """Compare an open registry with the manifest in its artefact root, and the files there with their digests.

    Raises ManifestError when the manifest itself is not valid.
    """
    path = registry.artefact_root / MANIFEST
    manifest = load_manifest(path)
    digest, held = digest_of_file(path), registry.manifest_digest()
    problems = [*registry.damage()]
    if held != digest:
        problems.append(f"the database holds manifest {held}, the file is {digest}; run registry migrate")
    return RegistryCheck(
        database=registry.place,
        manifest=str(path),
        manifest_digest=digest,
        problems=tuple(problems),
        artefacts=verify_artefacts(manifest, registry.artefact_root),
    )
