"""The stages of building EmojiCanvas, each resumable and each leaving files for the next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from saeuron_guard.pipelines.emoji_canvas.classifier import ResidualClassifier, accuracy, train_classifier
from saeuron_guard.pipelines.emoji_canvas.clip import save_clip, train_clip, zero_shot_accuracy
from saeuron_guard.pipelines.emoji_canvas.denoiser import assemble, train_denoiser
from saeuron_guard.pipelines.emoji_canvas.entries import sae_name, write_entries
from saeuron_guard.pipelines.emoji_canvas.evaluation import GUIDANCE, STEPS, draw_all, figures
from saeuron_guard.pipelines.emoji_canvas.renders import (
    JUDGE_JITTER,
    PIPELINE_JITTER,
    Renders,
    contact_sheet,
    render_variants,
)
from saeuron_guard.pipelines.emoji_canvas.vae import encode_all, psnr, to_pixels, train_vae
from saeuron_guard.pipelines.emoji_canvas.workspace import HOOKPOINTS, MODEL, Workspace
from saeuron_guard.pipelines.emoji_canvas.world import OBJECT_NAMES, STYLE_NAMES
from saeuron_guard.pipelines.load import load_pipeline

EVALUATION_SEEDS = (501, 502)
"""Seeds of the published figures; no training or calibration uses them."""

_RENDERS: dict[str, dict[str, Any]] = {
    "pipeline": {"variants": 64, "seed": 1, "jitter": PIPELINE_JITTER, "held_out": False},
    "pipeline-test": {"variants": 2, "seed": 2, "jitter": PIPELINE_JITTER, "held_out": False},
    "classifiers": {"variants": 48, "seed": 3, "jitter": JUDGE_JITTER, "held_out": None},
    "clip": {"variants": 48, "seed": 4, "jitter": JUDGE_JITTER, "held_out": None},
    "judges-test": {"variants": 8, "seed": 5, "jitter": JUDGE_JITTER, "held_out": None},
}


def data(space: Workspace) -> None:
    """Fetch the artwork and render every set of pictures; each set has a seed of its own."""
    for name, arguments in _RENDERS.items():
        if not space.renders(name).exists():
            render_variants(space.artwork, **arguments).save(space.renders(name))
        space.log(f"data: {name} is rendered")


def vae(space: Workspace) -> None:
    """Train the autoencoder."""
    trained = train_vae(Renders.load(space.renders("pipeline")), space.checkpoints, _prefixed(space, "vae"))
    trained.save_pretrained(space.work / "vae")
    fresh = Renders.load(space.renders("pipeline-test"))
    space.record("vae", {"psnr_db": round(psnr(trained, fresh.pictures), 2), "n": len(fresh.pictures)})


def pipeline(space: Workspace) -> None:
    """Train text encoder and denoiser; write the pipeline's folder."""
    autoencoder = AutoencoderKL.from_pretrained(space.work / "vae")
    renders = Renders.load(space.renders("pipeline"))
    latents = encode_all(autoencoder, renders.pictures)
    tokenizer, networks = train_denoiser(renders, latents, space.checkpoints, _prefixed(space, "pipeline"))
    _save_pipeline(assemble(autoencoder, tokenizer, networks), space)


def judges(space: Workspace) -> None:
    """Train both judges on renders of their own and on the autoencoder's reconstructions of them."""
    autoencoder = AutoencoderKL.from_pretrained(space.work / "vae")
    test = Renders.load(space.renders("judges-test"))
    truth = {"object": test.objects, "style": test.styles}
    renders = _with_reconstructions(autoencoder, Renders.load(space.renders("classifiers")))
    held_out: dict[str, float] = {}
    for number, (domain, labels) in enumerate((("object", OBJECT_NAMES), ("style", STYLE_NAMES))):
        rows = renders.objects if domain == "object" else renders.styles
        network = train_classifier(
            domain, labels, renders, rows, 31 + number, space.checkpoints, _prefixed(space, f"{domain} classifier")
        )
        network.save(space.classifiers / domain)
        held_out[f"classifier {domain}"] = accuracy(network, test, truth[domain])
    renders = _with_reconstructions(autoencoder, Renders.load(space.renders("clip")))
    clip = train_clip(renders, space.checkpoints, _prefixed(space, "clip"))
    save_clip(clip, space.clip)
    held_out |= {f"clip {domain}": zero_shot_accuracy(clip, test, domain) for domain in truth}
    space.record("judges", {name: round(share, 4) for name, share in held_out.items()} | {"n": len(test.pictures)})


def evaluate(space: Workspace) -> None:
    """Draw all pairs at fresh seeds, let both judges name them, and keep a sheet to look at."""
    drawn = draw_all(load_pipeline(space.model), EVALUATION_SEEDS)
    classifiers = {domain: ResidualClassifier.load(space.classifiers / domain) for domain in ("object", "style")}
    space.record("pictures", figures(drawn, classifiers, load_clip(space)))
    first = drawn.pictures[: len(drawn.pictures) // len(EVALUATION_SEEDS)]
    contact_sheet(first, columns=18).save(space.model / "samples.png")


def sae(space: Workspace) -> None:
    """Train the SAEs of both hookpoints on the anchor prompts."""
    hookpoints = [part for hookpoint in HOOKPOINTS.values() for part in ("--hookpoint", hookpoint)]
    space.command(
        "sae", "train", str(space.model), *hookpoints, "--prompts", f"anchor/{MODEL}", "--out", str(space.saes),
        *_sampling(), "--variant", "supervised", "--k", "48", "--steps", "1800", "--learning-rate", "8e-4",
        "--seeds", "11,12", "--held-out-seeds", "13", "--held-out-positions", "200000", "--buffer-mb", "1200",
    )  # fmt: skip


def statistics(space: Workspace) -> None:
    """Gather concept statistics, score the features, and describe everything in the manifest."""
    folders = [part for hookpoint in HOOKPOINTS.values() for part in ("--sae", str(space.saes / hookpoint))]
    space.command(
        "sae", "score", str(space.model), *folders, "--prompts", f"anchor/{MODEL}", "--out", str(space.statistics),
        *_sampling(), "--seeds", "21,22",
    )  # fmt: skip
    write_entries(space)


def calibration(space: Workspace) -> None:
    """Choose operating points: of objects at the first hookpoint, of styles at the second, or of either at both."""
    first, second = (sae_name(short) for short in HOOKPOINTS)
    for names, own in ((OBJECT_NAMES, first), (STYLE_NAMES, second)):
        space.command(
            "sae", "calibrate", MODEL, "--prompts", f"calibration/{MODEL}", "--judge", space.classifiers.name,
            "--arrangement", own, "--arrangement", f"{first}+{second}", "--out", str(space.work / "calibration"),
            "--manifest", str(space.registry / "manifest.yaml"),
            *(part for name in names for part in ("--concept", name)),
        )  # fmt: skip


STAGES: dict[str, Callable[[Workspace], None]] = {
    "data": data,
    "vae": vae,
    "pipeline": pipeline,
    "judges": judges,
    "evaluate": evaluate,
    "sae": sae,
    "statistics": statistics,
    "calibration": calibration,
}


def load_clip(space: Workspace) -> torch.nn.Module:
    """The release check's judge, as open_clip loads it from its folder."""
    import open_clip

    model: torch.nn.Module = open_clip.create_model(f"local-dir:{space.clip}", require_pretrained=True)
    return model.eval()


def _save_pipeline(made: StableDiffusionPipeline, space: Workspace) -> None:
    """Write the folder that ships: float16 weights, and CLIP's own tokenizer files beside the newer format.

    The text encoder stays float32: it is small, and transformers loads weights in the dtype they are stored in,
    which would not fit a denoiser that diffusers loads in float32.
    """
    made.unet.half()
    made.vae.half()
    made.save_pretrained(space.model, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(space.checkpoints / "tokenizer" / name, space.model / "tokenizer" / name)
    for path in (space.model / "model_index.json", *space.model.glob("*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        # where a part lay on the builder's disk is nobody's business, and would change the file's digest
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _sampling() -> tuple[str, ...]:
    return ("--denoising-steps", str(STEPS), "--guidance", str(GUIDANCE))


def _prefixed(space: Workspace, stage: str) -> Callable[[str], None]:
    return lambda line: space.log(f"{stage}: {line}")


@torch.no_grad()
def _with_reconstructions(autoencoder: AutoencoderKL, renders: Renders) -> Renders:
    """The renders, and after them every other one as the autoencoder restores it."""
    rows = np.arange(0, len(renders.pictures), 2)
    restored = []
    for start in range(0, len(rows), 64):
        pixels = to_pixels(renders.pictures[rows[start : start + 64]])
        decoded = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        restored.append(decoded.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return Renders(
        np.concatenate([renders.pictures, *restored]),
        np.concatenate([renders.objects, renders.objects[rows]]),
        np.concatenate([renders.styles, renders.styles[rows]]),
        np.concatenate([renders.backgrounds, renders.backgrounds[rows]]),
    )
