"""``policy upgrade``: policies of an older apiVersion rewritten for this release."""

from __future__ import annotations

from pathlib import Path

import click

from saeuron_guard.cli.files import rewrite_text
from saeuron_guard.cli.rewriting import WOULD_CHANGE, each_file
from saeuron_guard.documents import read_text
from saeuron_guard.errors import PolicyError
from saeuron_guard.names import API_VERSION


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--check", is_flag=True, help="Write nothing; exit with 2 when a file is of an older version.")
@click.pass_context
def upgrade(ctx: click.Context, files: tuple[str, ...], check: bool) -> None:
    """Rewrite policies of an older apiVersion for this release, keeping their comments.

    Prints every change with its old place. The result has the layout of "policy fmt"; a file that is of this release's
    version is left as it is, one of an unknown version is refused.

    \b
    Example:
      saeuron-guard policy upgrade policies/*.yaml
    """
    ctx.exit(each_file(files, lambda file: _upgrade(file, check=check)))


def _upgrade(file: str, *, check: bool) -> int:
    """Upgrade one file, or say what would change; the exit code."""
    from saeuron_guard.policy.upgrade import upgrade_policy

    found = upgrade_policy(read_text(Path(file), error=PolicyError), file)
    if not found.changes:
        click.echo(f"{file}: is of {API_VERSION} already")
        return 0
    if not check:
        rewrite_text(Path(file), found.text)
    for change in found.changes:
        click.echo(change)
    done = "would be upgraded" if check else "upgraded"
    click.echo(f"{file}: {done} from {found.version} to {API_VERSION}")
    return WOULD_CHANGE if check else 0
