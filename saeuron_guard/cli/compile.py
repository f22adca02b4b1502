"""``compile``: turn a policy into a guard folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saeuron_guard.cli.recording import note_guard, record_option, require_recordable
from saeuron_guard.errors import ArtefactError
from saeuron_guard.wording import count_of

if TYPE_CHECKING:
    from saeuron_guard.compiler.config import GuardConfig


@click.command("compile")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write."
)
@click.option("--force", is_flag=True, help="Replace a guard that is there already.")
@record_option
def compile_command(file: Path, folder: Path, force: bool, record: bool) -> None:
    """Turn a policy into a guard folder: guard.json to review, guard.safetensors to run.

    \b
    Example:
      saeuron-guard compile policies/no-weapons.yaml --out build/no-weapons
    """
    from saeuron_guard.compiler.compile import compile_policy
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.policy.waivers import waiver_lines
    from saeuron_guard.registry.store import FeatureRegistry

    refuse_to_lose_files(folder, force)
    policy = load_policy(file)
    with FeatureRegistry.open() as registry:
        config = compile_policy(policy, registry)
        if record:
            require_recordable(registry)
        write_guard(config, registry.artefact_root, folder)
        if record:
            note_guard(registry, policy, config)
    click.echo(f"{folder}: {summary(config)}")
    click.echo(f"guard {config.digest}")
    click.echo("\n".join(waiver_lines(policy.waivers)))


def refuse_to_lose_files(folder: Path, force: bool) -> None:
    """Raise ArtefactError when writing a guard to ``folder`` would replace what nobody asked to replace.

    ``force`` allows a guard to be replaced, never a folder that holds anything else.
    """
    from saeuron_guard.guard.folder import GUARD_FILES

    if folder.is_symlink():
        raise ArtefactError(f"{folder} is a symbolic link; name the folder that it should lead to")
    if folder.exists() and not folder.is_dir():
        raise ArtefactError(f"{folder} is a file; name a folder")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(there - GUARD_FILES)
    if foreign:
        raise ArtefactError(f"{folder} holds other files ({', '.join(foreign[:3])}); name a new folder")
    if there and not force:
        raise ArtefactError(f"{folder} holds a guard already; replace it with --force or name a new folder")


def write_guard(config: GuardConfig, root: Path, folder: Path) -> None:
    """Write the guard's files to ``folder`` all or none: beside it first, then moved into its place."""
    from saeuron_guard.guard.guard import Guard

    guard = Guard.from_config(config, root)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            written = Path(scratch) / "guard"
            guard.save(written)
            if folder.exists():
                folder.rename(Path(scratch) / "replaced")
            shutil.move(written, folder)
    except OSError as error:
        raise ArtefactError(f"{folder}: the guard cannot be written there ({error}); name another folder") from None


def summary(config: GuardConfig) -> str:
    """One line about a guard: concepts, features, hookpoints, and what a reviewer should look at."""
    concepts = {rule.concept for hookpoint in config.hookpoints for rule in hookpoint.rules}
    features = sum(
        len({edit.index for rule in hookpoint.rules for edit in rule.features}) for hookpoint in config.hookpoints
    )
    return (
        f"{count_of(len(concepts), 'concept')}, {count_of(features, 'feature')} at "
        f"{count_of(len(config.hookpoints), 'hookpoint')}; {count_of(len(config.merges), 'merge')}, "
        f"{count_of(len(config.collisions), 'collision')} with retained concepts"
    )
