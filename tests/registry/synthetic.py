"""Writes a small but complete registry: a model, two SAEs with weights, statistics, calibrations, and the manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from safetensors.numpy import save_file

MODEL = "tiny"
HOOKPOINTS = {"object": "unet.up_blocks.1.attentions.1", "style": "unet.up_blocks.1.attentions.2"}
SHARED_FEATURE = 60
"""Feature that every concept of an SAE has among its scores, at rank 2: material for merges and collisions."""


@dataclass(frozen=True)
class Synthetic:
    """What the synthetic registry looks like; ``concepts`` maps concept -> domain (a key of HOOKPOINTS).

    Concept c (counted within the file) owns features 10c, 10c+1, ... of both SAEs, best first, with the shared feature
    in third place.  Every timestep has the same features; scores differ by timestep.
    """

    concepts: dict[str, str] = field(
        default_factory=lambda: {"pistol": "object", "cat": "object", "Noto": "style", "Neon": "style"}
    )
    timesteps: tuple[int, ...] = (901, 501, 101)
    features: int = 8
    d_in: int = 16
    num_latents: int = 64
    k: int = 4
    chosen: int = 3
    multiplier: float = -4.0
    uncalibrated: tuple[str, ...] = ()
    fingerprint: str = "sha256:" + "ab" * 32
    seed: int = 7


def file_digest(path: Path) -> str:
    """The digest of a file, computed without the package under test."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def write_synthetic_registry(folder: Path, synthetic: Synthetic | None = None) -> Path:
    """Write ``manifest.yaml`` and all that it names below ``folder`` (made if missing); returns the manifest's path."""
    synthetic = synthetic or Synthetic()
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "apiVersion": "saeuron-guard/v1",
        "kind": "Registry",
        "models": [_model(folder, synthetic)],
        "saes": [_sae(folder, domain, synthetic) for domain in HOOKPOINTS],
        "concepts": [
            {"name": name, "domain": domain, "title": name.capitalize(), "description": f"The {domain} {name}."}
            for name, domain in synthetic.concepts.items()
        ],
        "prompt_sets": [
            {"name": f"{MODEL}-{role}", "role": role, "model": MODEL, "digest": f"sha256:{digit * 64}"}
            for role, digit in (("anchor", "1"), ("calibration", "2"), ("audit", "3"))
        ],
        "scoring_runs": [_run(folder, domain, synthetic) for domain in HOOKPOINTS],
        "calibrations": [
            _calibration(name, domain, synthetic)
            for name, domain in synthetic.concepts.items()
            if name not in synthetic.uncalibrated
        ],
        "judges": [_judge(folder, synthetic)],
    }
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return manifest


def sae_name(domain: str) -> str:
    """The SAE that finds the concepts of ``domain``."""
    return f"{MODEL}.{domain}s"


def run_name(domain: str) -> str:
    """The scoring run over that SAE."""
    return f"{sae_name(domain)}.paper"


def own_features(position: int, synthetic: Synthetic) -> list[int]:
    """Features of the concept at ``position``, best first."""
    first = max(10, synthetic.features) * position
    own = [index + (index >= SHARED_FEATURE) for index in range(first, first + synthetic.features)]
    own[2] = SHARED_FEATURE
    return own


def scores(synthetic: Synthetic) -> dict[str, npt.NDArray[np.generic]]:
    """The tensors of a statistics artefact: [concepts, timesteps, features] and ``timesteps``."""
    count = len(synthetic.concepts)
    shape = (count, len(synthetic.timesteps), synthetic.features)
    index = np.array([own_features(position, synthetic) for position in range(count)], dtype=np.int32)
    falling = np.linspace(0.9, 0.2, synthetic.features, dtype=np.float32)
    by_timestep = np.linspace(1.0, 0.5, len(synthetic.timesteps), dtype=np.float32)
    score = np.broadcast_to(falling[None, None, :] * by_timestep[None, :, None], shape)
    return {
        "index": np.ascontiguousarray(np.broadcast_to(index[:, None, :], shape)),
        "score": np.ascontiguousarray(score),
        "mean": np.ascontiguousarray(score * 2),
        "mean_others": np.full(shape, 0.05, dtype=np.float32),
        "threshold": np.full(shape, 0.1, dtype=np.float32),
        "firing_rate": np.full(shape, 0.25, dtype=np.float32),
        "timesteps": np.array(synthetic.timesteps, dtype=np.int64),
    }


def write_statistics(path: Path, tensors: dict[str, npt.NDArray[np.generic]], concepts: list[str]) -> str:
    """Write a statistics artefact; returns its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": "saeuron-guard/statistics-v1",
        "concepts": json.dumps(concepts),
        "provenance": json.dumps({"seed": 7}),
    }
    save_file(tensors, path, metadata=metadata)
    return file_digest(path)


def _model(folder: Path, synthetic: Synthetic) -> dict[str, object]:
    path = folder / "models" / MODEL
    path.mkdir(parents=True, exist_ok=True)
    (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}\n', encoding="utf-8")
    return {
        "name": MODEL,
        "family": "sd1",
        "path": f"models/{MODEL}",
        "fingerprint": synthetic.fingerprint,
        "resolution": 64,
        "steps": 25,
        "guidance": 5.0,
        "scheduler": "DDIMScheduler",
        "licence": "Apache-2.0",
        "files": {"model_index.json": file_digest(path / "model_index.json")},
        "provenance": {"made_by": "a test"},
    }


def _sae(folder: Path, domain: str, synthetic: Synthetic) -> dict[str, object]:
    relative = f"saes/{MODEL}/{HOOKPOINTS[domain]}"
    path = folder / relative
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([synthetic.seed, len(domain)])
    decoder = random.standard_normal((synthetic.num_latents, synthetic.d_in), dtype=np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    weights = {
        "encoder.weight": decoder.copy(),
        "encoder.bias": np.zeros(synthetic.num_latents, dtype=np.float32),
        "W_dec": decoder,
        "b_dec": np.zeros(synthetic.d_in, dtype=np.float32),
    }
    save_file(weights, path / "sae.safetensors")
    settings = {"activation": "topk", "d_in": synthetic.d_in, "num_latents": synthetic.num_latents, "k": synthetic.k}
    (path / "cfg.json").write_text(json.dumps(settings), encoding="utf-8")
    return {
        "name": sae_name(domain),
        "model": MODEL,
        "hookpoint": HOOKPOINTS[domain],
        "path": relative,
        "digest": file_digest(path / "sae.safetensors"),
        "d_in": synthetic.d_in,
        "num_latents": synthetic.num_latents,
        "k": synthetic.k,
        "variant": "topk",
        "fvu": 0.125,
        "dead_share": 0.0,
        "l0": 4.0,
        "provenance": {"seed": synthetic.seed},
    }


def _run(folder: Path, domain: str, synthetic: Synthetic) -> dict[str, object]:
    relative = f"statistics/{run_name(domain)}.safetensors"
    digest = write_statistics(folder / relative, scores(synthetic), list(synthetic.concepts))
    return {
        "name": run_name(domain),
        "sae": sae_name(domain),
        "method": "paper",
        "statistics_path": relative,
        "statistics_digest": digest,
        "timesteps": list(synthetic.timesteps),
        "provenance": {"prompt_set": f"{MODEL}-anchor", "seed": synthetic.seed},
    }


def _calibration(concept: str, domain: str, synthetic: Synthetic) -> dict[str, object]:
    point = {
        "sae": sae_name(domain),
        "run": run_name(domain),
        "features": synthetic.chosen,
        "multiplier": synthetic.multiplier,
    }
    return {
        "concept": concept,
        "model": MODEL,
        "points": [point],
        "figures": {"ua": 0.95, "ira": 0.98, "cra": 0.99},
        "provenance": {"prompt_set": f"{MODEL}-calibration", "seeds": [1, 2, 3]},
    }


def _judge(folder: Path, synthetic: Synthetic) -> dict[str, object]:
    path = folder / "models" / "tiny-clip"
    path.mkdir(parents=True, exist_ok=True)
    (path / "open_clip_config.json").write_text("{}\n", encoding="utf-8")
    labels: dict[str, list[str]] = {}
    for name, domain in synthetic.concepts.items():
        labels.setdefault(domain, []).append(name)
    return {
        "name": "tiny-clip",
        "kind": "clip",
        "role": "audit",
        "path": "models/tiny-clip",
        "files": {"open_clip_config.json": file_digest(path / "open_clip_config.json")},
        "labels": labels,
    }
