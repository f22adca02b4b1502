"""What the registry's manifest says about EmojiCanvas, gathered from the files that the build left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from saeuron_guard.digests import digest_of_file
from saeuron_guard.pipelines.emoji_canvas.evaluation import GUIDANCE, STEPS
from saeuron_guard.pipelines.emoji_canvas.styles import SIZE
from saeuron_guard.pipelines.emoji_canvas.workspace import HOOKPOINTS, MODEL, Workspace
from saeuron_guard.pipelines.emoji_canvas.world import (
    ALIASES,
    GROUPS,
    ICON_SETS,
    OBJECT_NAMES,
    STYLE_NAMES,
    STYLES,
)
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.pipelines.load import load_pipeline
from saeuron_guard.prompts.load import find_prompt_set
from saeuron_guard.registry.manifest import Manifest, load_manifest, write_manifest
from saeuron_guard.registry.records import (
    ConceptRecord,
    JudgeRecord,
    ModelRecord,
    PromptSetRecord,
    SaeRecord,
    ScoringRun,
)

_LICENCES = "Apache-2.0 (weights; artwork: " + ", ".join(sorted({s.licence for s in ICON_SETS.values()})) + ")"
_PROMPT_SETS = (
    ("anchor", "emoji-canvas"),
    ("calibration", "emoji-canvas"),
    ("audit", "emoji-canvas"),
    ("audit", "emoji-canvas-held-out"),
)


def sae_name(short: str) -> str:
    """The registered name of the SAE at a hookpoint's short name."""
    return f"{MODEL}-{short}"


def write_entries(space: Workspace) -> None:
    """Write ``manifest.yaml`` with everything but calibrations; keeps those whose scoring runs are unchanged."""
    path = space.registry / "manifest.yaml"
    manifest = Manifest(
        models=(_model(space),),
        saes=tuple(_sae(space, short, hookpoint) for short, hookpoint in HOOKPOINTS.items()),
        concepts=_concepts(),
        prompt_sets=tuple(
            PromptSetRecord(name, role, MODEL, find_prompt_set(f"{role}/{name}").digest) for role, name in _PROMPT_SETS
        ),
        scoring_runs=tuple(
            _run(space, short, path)
            for short, hookpoint in HOOKPOINTS.items()
            for path in _statistics(space, hookpoint)
        ),
        judges=_judges(space),
    )
    if path.exists():
        before = load_manifest(path)
        known = {(run.name, run.statistics_digest) for run in before.scoring_runs}
        now = {run.name: run.statistics_digest for run in manifest.scoring_runs}
        kept = tuple(
            calibration
            for calibration in before.calibrations
            if all((point.run, now.get(point.run)) in known for point in calibration.points)
        )
        manifest = replace(manifest, calibrations=kept, reviews=before.reviews)
    write_manifest(manifest, path)


def _statistics(space: Workspace, hookpoint: str) -> list[Path]:
    return sorted(space.statistics.glob(f"{hookpoint}.*.safetensors"))


def _model(space: Workspace) -> ModelRecord:
    packages = {s.package: {"version": s.version, "sha256": s.sha256, "licence": s.licence} for s in ICON_SETS.values()}
    return ModelRecord(
        name=MODEL,
        family="sd1",
        path=space.model.relative_to(space.registry).as_posix(),
        fingerprint=fingerprint(load_pipeline(space.model)),
        resolution=SIZE,
        steps=STEPS,
        guidance=GUIDANCE,
        scheduler="DDIMScheduler",
        files=_files(space.model, ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors"), leave_out=("figures.json",)),
        licence=_LICENCES,
        provenance={"artwork": packages, "build": "python -m saeuron_guard.pipelines.emoji_canvas"},
        hookpoints={hookpoint: _sae(space, short, hookpoint).d_in for short, hookpoint in HOOKPOINTS.items()},
    )


def _sae(space: Workspace, short: str, hookpoint: str) -> SaeRecord:
    folder = space.saes / hookpoint
    config: dict[str, Any] = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    return SaeRecord(
        name=sae_name(short),
        model=MODEL,
        hookpoint=hookpoint,
        path=folder.relative_to(space.registry).as_posix(),
        digest=digest_of_file(folder / "sae.safetensors"),
        d_in=config["d_in"],
        num_latents=config["num_latents"],
        k=config["k"],
        variant=config["variant"],
        fvu=config["held_out"]["fvu"],
        dead_share=config["held_out"]["dead_share"],
        l0=config["held_out"]["l0"],
        provenance={"run": config["run"], "trained_with": config["trained_with"], **config["provenance"]},
    )


def _run(space: Workspace, short: str, path: Path) -> ScoringRun:
    with safe_open(path, framework="numpy") as stored:
        provenance: dict[str, object] = json.loads(stored.metadata()["provenance"])
        timesteps = tuple(int(timestep) for timestep in stored.get_tensor("timesteps"))
    method = str(provenance["method"])
    return ScoringRun(
        name=f"{sae_name(short)}-{method}",
        sae=sae_name(short),
        method=method,
        statistics_path=path.relative_to(space.registry).as_posix(),
        statistics_digest=digest_of_file(path),
        timesteps=timesteps,
        provenance={name: value for name, value in provenance.items() if name != "domains"},
    )


def _concepts() -> tuple[ConceptRecord, ...]:
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    groups = tuple(
        ConceptRecord(name, "object", name.capitalize(), f"A group: {', '.join(sorted(members))}.")
        for name, members in GROUPS.items()
    )
    objects = tuple(
        ConceptRecord(
            name,
            "object",
            name.capitalize(),
            f"A {name} as EmojiCanvas draws it.",
            aliases=ALIASES.get(name, ()),
            parent=group_of.get(name, ""),
        )
        for name in OBJECT_NAMES
    )
    styles = tuple(
        ConceptRecord(
            style.name,
            "style",
            style.name,
            f"{ICON_SETS[style.icon_set].attribution.partition(' by ')[0]} artwork"
            + ("." if style.transform == "plain" else f", drawn as {style.transform}."),
        )
        for style in STYLES
    )
    return groups + objects + styles


def _judges(space: Workspace) -> tuple[JudgeRecord, ...]:
    labels = {"object": tuple(sorted(OBJECT_NAMES)), "style": tuple(sorted(STYLE_NAMES))}
    classifiers = JudgeRecord(
        name=space.classifiers.name,
        kind="classifier",
        role="calibration",
        path=space.classifiers.relative_to(space.registry).as_posix(),
        files=_files(space.classifiers, ("*/*.json", "*/*.safetensors")),
        labels=labels,
    )
    clip = JudgeRecord(
        name=space.clip.name,
        kind="clip",
        role="audit",
        path=space.clip.relative_to(space.registry).as_posix(),
        files=_files(space.clip, ("*.json", "*.safetensors")),
        labels=labels,
    )
    return (classifiers, clip)


def _files(folder: Path, patterns: tuple[str, ...], leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.name not in leave_out})
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in paths}
