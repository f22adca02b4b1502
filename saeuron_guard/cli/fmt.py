"""``policy fmt``: policy files in their canonical layout."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Final

import click

from saeuron_guard.cli.files import rewrite_text
from saeuron_guard.cli.rewriting import WOULD_CHANGE, each_file
from saeuron_guard.documents import LARGEST_FILE, decoded, read_text
from saeuron_guard.errors import PolicyError

_STDIN: Final = "-"
_STDIN_NAME: Final = "<stdin>"


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--check", is_flag=True, help="Write nothing; exit with 2 when a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; print what would change as a unified diff.")
@click.pass_context
def fmt(ctx: click.Context, files: tuple[str, ...], check: bool, diff: bool) -> None:
    """Lay out policies anew: keys in the schema's order, one indentation, quotes where they are needed.

    Values and comments stay; a file whose result would not say the same is left as it is. Prints one line for each
    file that changes. A file that is not valid YAML, or a symbolic link, is refused. "-" reads from standard input and
    writes to standard output.

    \b
    Example:
      saeuron-guard policy fmt policies/*.yaml
      saeuron-guard policy fmt --check --diff policies/no-weapons.yaml
    """
    if _STDIN in files and len(files) > 1:
        raise click.UsageError('"-" (standard input) cannot be combined with files')
    ctx.exit(each_file(files, lambda file: _format(file, check=check, diff=diff)))


def _format(file: str, *, check: bool, diff: bool) -> int:
    """Format one file as the options say; the exit code."""
    from saeuron_guard.policy.format import format_policy

    name = _STDIN_NAME if file == _STDIN else file
    before = _standard_input() if file == _STDIN else read_text(Path(file), error=PolicyError)
    after = format_policy(before, name)
    if diff:
        _print(_difference(before, after, name))
    if file == _STDIN and not check and not diff:
        _print(after)
    if before == after:
        return 0
    if check:
        click.echo(f"would format {name}", err=diff or file == _STDIN)
        return WOULD_CHANGE
    if not diff and file != _STDIN:
        rewrite_text(Path(file), after)
        click.echo(f"formatted {file}")
    return 0


def _standard_input() -> str:
    data = sys.stdin.buffer.read(LARGEST_FILE + 1)
    return decoded(data, _STDIN_NAME, error=PolicyError)


def _print(text: str) -> None:
    """Text of a file on stdout, in the encoding of files whatever the terminal's is."""
    click.echo(text.encode("utf-8"), nl=False)


def _difference(before: str, after: str, name: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, f"{name} (formatted)"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
