"""``generate``: one picture without and with the guard, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saeuron_guard.cli.files import make_folder, write_text
from saeuron_guard.cli.progress import StageProgress
from saeuron_guard.cli.tables import aligned
from saeuron_guard.policy.waivers import waiver_lines, waivers_json

if TYPE_CHECKING:
    from saeuron_guard.compiler.config import GuardConfig
    from saeuron_guard.policy.model import Policy
    from saeuron_guard.registry.store import FeatureRegistry
    from saeuron_guard.verify.drawing import GuardedDrawing


@click.command()
@click.option("--policy", "file", type=click.Path(path_type=Path), required=True, help="Policy to guard with.")
@click.option("--prompt", required=True, help="What to draw.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="The same seed, the same picture."
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for without.png, with.png, side_by_side.png, report.json, and heat.png if something fired.",
)
@click.option("--format", "layout", type=click.Choice(["text", "json"]), default="text", show_default=True)
def generate(file: Path, prompt: str, seed: int, folder: Path, layout: str) -> None:
    """Draw a prompt without and with the guard from the same noise, and tell what the guard did.

    \b
    Example:
      saeuron-guard generate --policy policies/no-weapons.yaml --prompt "a Neon pistol" --seed 1 --out build/pistol
    """
    from saeuron_guard.compiler.compile import compile_policy
    from saeuron_guard.policy.load import load_policy
    from saeuron_guard.registry.store import FeatureRegistry

    policy = load_policy(file)
    make_folder(folder)
    with FeatureRegistry.open() as registry:
        config = compile_policy(policy, registry)
        drawing = _draw(config, registry, prompt, seed)
    report = _report(policy, config, prompt, seed, drawing.report)
    _write(folder, policy, prompt, seed, drawing, report)
    explained = drawing.last[0].explain().splitlines() if drawing.last else []
    lines = [*_lines(drawing.report), "", *explained, "", *waiver_lines(policy.waivers), ""]
    text = "\n".join([*lines, f"{folder / 'side_by_side.png'}"])
    click.echo(json.dumps(report, indent=2, ensure_ascii=False) if layout == "json" else text)


def _draw(config: GuardConfig, registry: FeatureRegistry, text: str, seed: int) -> GuardedDrawing:
    from saeuron_guard.pipelines.load import load_pipeline
    from saeuron_guard.prompts.model import Prompt
    from saeuron_guard.verify.drawing import draw_pairs
    from saeuron_guard.verify.plan import Shot

    shot = Shot(Prompt(id=text, text=text, labels=()), seed, ())
    pipe = load_pipeline(config.model, registry=registry)
    with StageProgress() as progress:
        return draw_pairs(pipe, registry, config, (shot,), progress)


def _report(policy: Policy, config: GuardConfig, prompt: str, seed: int, guard: dict[str, Any]) -> dict[str, Any]:
    return {
        "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest},
        "waivers": waivers_json(policy.waivers),
        "guard": {"digest": config.digest, "report": guard},
        "model": config.model,
        "model_fingerprint": config.model_fingerprint,
        "prompt": prompt,
        "seed": seed,
    }


def _write(
    folder: Path, policy: Policy, prompt: str, seed: int, drawing: GuardedDrawing, report: dict[str, Any]
) -> None:
    from saeuron_guard.guard.heat import heated
    from saeuron_guard.report.images import side_by_side, write_image

    base, guarded = drawing.images.base[0], drawing.images.guarded[0]
    verb = "refused by" if drawing.last[0].refused else "with"
    caption = f"{verb} {policy.name} {policy.version}"
    sheet = side_by_side(
        base,
        guarded,
        title=f"{prompt} (seed {seed})",
        base_caption="without the guard",
        guarded_caption=caption,
    )
    write_image(base, folder / "without.png")
    write_image(guarded, folder / "with.png")
    write_image(sheet, folder / "side_by_side.png")
    fired = sorted((found for found in drawing.last[0].concepts if found.fired), key=lambda found: -found.positions)
    if fired and fired[0].heat is not None:
        heat = side_by_side(
            heated(base, fired[0].heat),
            guarded,
            title=f"{fired[0].concept}: where its features fired",
            base_caption="without the guard; coloured where they fired",
            guarded_caption=caption,
        )
        write_image(heat, folder / "heat.png")
    write_text(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _lines(report: dict[str, Any]) -> list[str]:
    rows = [
        (
            found["concept"],
            "yes" if found["fired"] else "no",
            f"{found['steps']} of {report['calls']}",
            f"{found['positions']:.2%}",
            f"{found['peak']:.2f}",
        )
        for found in report["concepts"]
    ]
    headers = ("concept", "fired", "steps", "positions", "peak / threshold")
    return aligned(headers, rows, right=headers[2:])
