"""``verify``: the release check of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from saeuron_guard.cli.files import make_folder, write_text
from saeuron_guard.cli.progress import StageProgress
from saeuron_guard.cli.recording import note_verification, record_option, require_recordable

if TYPE_CHECKING:
    from saeuron_guard.verify.result import VerifyResult


def _seeds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``"1,2"`` as ``(1, 2)``, each seed once."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise click.BadParameter(f"{value!r} is not a comma-separated list of whole numbers, such as 1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with the images here.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write result.json, report.html and all images here.",
)
@click.option("--prompts", metavar="NAME|PATH", help="Audit prompts to use instead of the policy's.")
@click.option("--seeds", callback=_seeds, metavar="1,2", help="Seeds to use instead of the policy's.")
@click.option(
    "--max-images-per-concept",
    type=click.IntRange(min=1),
    metavar="N",
    help="Draw at most N pairs for each removed and of each kept concept.",
)
@click.option(
    "--max-retain-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Draw at most N pairs of what is kept.  [default: 1.5 times the policy's minimum_n, at least 96]",
)
@click.option("--judge", metavar="NAME|PATH", help="Judge to use instead of the registry's audit judge.")
@click.option("--strict", is_flag=True, help="Exit with 4 when the policy passes with warnings.")
@record_option
@click.pass_context
def verify(
    ctx: click.Context,
    file: Path,
    layout: str,
    html: Path | None,
    out: Path | None,
    prompts: str | None,
    seeds: tuple[int, ...] | None,
    max_images_per_concept: int | None,
    max_retain_images: int | None,
    judge: str | None,
    strict: bool,
    record: bool,
) -> None:
    """Draw audit prompts without and with the guard, judge the images, and pass or fail the policy.

    Exits with 0 when every concept is gone and everything kept is unharmed, with 1 when not, and with 3 when that
    could not be evaluated.

    \b
    Example:
      saeuron-guard verify policies/no-weapons.yaml --html build/no-weapons.html
    """
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.registry.store import FeatureRegistry
    from saeuron_guard.report.json import render_json
    from saeuron_guard.report.text import render_text

    policy = load_policy(file)
    for folder in (out, html.parent if html else None):
        if folder is not None:
            make_folder(folder)
    # After the policy is known to be sound: what follows loads torch, which takes seconds.
    from saeuron_guard.verify.run import run_verify

    with FeatureRegistry.open() as registry:
        if record:
            require_recordable(registry)
        with StageProgress() as progress:
            result = run_verify(
                policy,
                registry,
                judge=judge,
                prompts=prompts,
                seeds=seeds,
                max_per_concept=max_images_per_concept,
                max_retain=max_retain_images,
                strict=strict,
                on_progress=progress,
            )
        _write(result, html, out)
        click.echo(render_json(result) if layout == "json" else render_text(result), nl=False)
        if record:
            note_verification(registry, policy, result)
    ctx.exit(result.exit_code)


def _write(result: VerifyResult, html: Path | None, out: Path | None) -> None:
    from saeuron_guard.report.html import render_html
    from saeuron_guard.report.images import write_pairs
    from saeuron_guard.report.json import render_json

    if html is not None:
        write_text(html, render_html(result))
    if out is not None:
        write_text(out / "result.json", render_json(result))
        write_text(out / "report.html", render_html(result))
        write_pairs(result, out / "images")
