"""Content that comes and goes as files: a manifest that is imported, and the manifest that the database makes."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from saeuron_guard.digests import digest_of_file
from saeuron_guard.errors import ArtefactError, ManifestError, Problem, RegistryError
from saeuron_guard.registry.artefact import pinned_files
from saeuron_guard.registry.build import migrate_if_needed, read_source, write_source
from saeuron_guard.registry.changes import Changes
from saeuron_guard.registry.content import read_manifest
from saeuron_guard.registry.database import BUILT_FILE, engine_for, migrating, reading, shown, sqlite_url
from saeuron_guard.registry.manifest import Manifest, load_manifest, write_manifest
from saeuron_guard.registry.stamp import Stamp
from saeuron_guard.registry.store import MANIFEST, FeatureRegistry
from saeuron_guard.registry.tables import guard_features
from saeuron_guard.resources import inside


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did; ``reviews``: the new ones in words; ``lost``: SAEs that recorded guards are built on."""

    database: str
    manifest: str
    manifest_digest: str
    changes: Changes
    reviews: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote; ``files``: how many beside the manifest."""

    manifest: str
    manifest_digest: str
    reviews: int
    files: int


def import_manifest(manifest_path: Path, stamp: Stamp, *, url: str | None = None, force: bool = False) -> Imported:
    """Make the database at ``url`` (None: the one beside the manifest) hold what the manifest says, migrating it first.

    Manifest, statistics and all pinned files are read and checked before anything is written; then all of it is
    written, or nothing.  Raises ManifestError, ArtefactError, or RegistryError, also when SAEs would go that recorded
    guards are built on, unless ``force``.
    """
    if not manifest_path.is_file():
        raise ManifestError([Problem(str(manifest_path), 0, 0, "there is no such manifest")])
    source = read_source(manifest_path, every_file=True)
    engine = engine_for(url or sqlite_url(manifest_path.absolute().parent / BUILT_FILE))
    try:
        with migrating(engine) as connection:
            migrate_if_needed(connection, stamp)
            lost = _lost_saes(connection, source.manifest)
            if lost and not force:
                raise RegistryError(
                    f"{manifest_path}: recorded guards are built on {', '.join(lost)}, which this manifest does not "
                    'have; see "saeuron-guard registry guards", and add --force to import it all the same'
                )
            changes, reviews = write_source(connection, source, stamp)
        return Imported(shown(engine.url), str(manifest_path), source.digest, changes, reviews, lost)
    finally:
        engine.dispose()


def export_manifest(registry: FeatureRegistry, out: Path, *, force: bool = False) -> Exported:
    """Write the manifest that the database holds, with all reviews, to ``out``: a YAML file, or else a folder.

    Nothing but the database is read.  Raises ArtefactError when something is there already, unless ``force``: then a
    manifest is replaced, and nothing else ever is.
    """
    path = out if out.suffix in (".yaml", ".yml") and not out.is_dir() else out / MANIFEST
    _refuse_to_replace(path, force=force)
    manifest = _held_manifest(registry)
    _write(manifest, path)
    return Exported(str(path), digest_of_file(path), len(manifest.reviews), 0)


def export_registry(registry: FeatureRegistry, out: Path) -> Exported:
    """Write a folder that is a registry of its own: the manifest as ``export_manifest`` does, and all pinned files.

    Each copy's digest is compared; all of it is there in the end, or nothing. Raises ArtefactError when a file is not
    the pinned one, or when ``out`` is there and not an empty folder.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ArtefactError(f"{out} is there already; name a new folder, or an empty one")
    manifest = _held_manifest(registry)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        _write(manifest, draft / MANIFEST)
        files = _copy_files(manifest, registry.artefact_root, draft)
        draft.replace(out)
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written ({error}); name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Exported(str(out / MANIFEST), digest_of_file(out / MANIFEST), len(manifest.reviews), files)


def _refuse_to_replace(path: Path, *, force: bool) -> None:
    if path.is_symlink():
        raise ArtefactError(f"{path} is a symbolic link; name the file that it should lead to")
    if not path.exists():
        return
    if not force:
        raise ArtefactError(f"{path} is there already; name another file, or replace the manifest with --force")
    try:
        load_manifest(path)
    except ManifestError:
        raise ArtefactError(f"{path} is no manifest that could be replaced; name another file") from None


def _held_manifest(registry: FeatureRegistry) -> Manifest:
    with reading(registry.engine) as connection:
        return read_manifest(connection)


def _write(manifest: Manifest, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest, path)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error}); name another place") from error


def _copy_files(manifest: Manifest, root: Path, folder: Path) -> int:
    pinned = list(pinned_files(manifest))
    for relative, owner, expected in pinned:
        source = inside(root, relative)
        if not source.is_file():
            raise ArtefactError(f"{source} (of {owner}): expected {expected}, got no such file")
        copy = inside(folder, relative)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        actual = digest_of_file(copy)
        if actual != expected:
            raise ArtefactError(f"{source} (of {owner}): expected {expected}, got {actual}; restore it, then export")
    return len(pinned) + sum(_copy_settings(f"{sae.path}/cfg.json", root, folder) for sae in manifest.saes)


def _copy_settings(relative: str, root: Path, folder: Path) -> bool:
    """An SAE's settings, which no digest pins: the weights cannot be read without them."""
    source = inside(root, relative)
    if not source.is_file():
        return False
    shutil.copyfile(source, inside(folder, relative))
    return True


def _lost_saes(connection: Connection, manifest: Manifest) -> tuple[str, ...]:
    """SAEs that recorded guards are built on and ``manifest`` lacks, or has with another digest."""
    kept = {(sae.name, sae.digest) for sae in manifest.saes}
    used = connection.execute(select(guard_features.c.sae, guard_features.c.sae_digest).distinct())
    return tuple(sorted(f"{sae} ({digest})" for sae, digest in used if (sae, digest) not in kept))
