"""Writes a synthetic registry with all that commands need to work on it, and notes how long and large everything is."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

from saeuron_guard.benchmark.synthetic import Size, synthetic_statistics
from saeuron_guard.digests import digest_of, digest_of_file
from saeuron_guard.discovery.artefact import write_statistics
from saeuron_guard.discovery.sparse_files import read_sparse, write_sparse
from saeuron_guard.registry.database import BUILT_FILE
from saeuron_guard.registry.manifest import Manifest, write_manifest
from saeuron_guard.registry.records import (
    Calibration,
    ConceptRecord,
    ModelRecord,
    OperatingPoint,
    SaeRecord,
    ScoringRun,
)
from saeuron_guard.registry.store import MANIFEST, FeatureRegistry
from saeuron_guard.resources import data_folder

MODEL: Final = "synthetic"
HOOKPOINTS: Final = ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")
METHOD: Final = "paper"
CHOSEN: Final = 20
"""Features of a calibration: the 99.9th percentile of 20,480, as in the paper."""
MULTIPLIERS: Final = {"object": -10.0, "style": -1.0}
REMOVED: Final = 20
"""Concepts of the policy."""

Log = Callable[[str], None]


@dataclass(slots=True)
class Notes:
    """Seconds and bytes of what was made, and counts of what is inside, by name; ``clock`` gives seconds."""

    clock: Callable[[], float]
    log: Log
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's duration to that of ``name``."""
        self.log(name)
        start = self.clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - start

    def sized(self, name: str, path: Path) -> None:
        """Add a file's size to that of ``name``."""
        self.sizes[name] = self.sizes.get(name, 0) + path.stat().st_size


def write_home(home: Path, size: Size, notes: Notes) -> Path:
    """Make ``home`` a folder for SAEURON_GUARD_HOME, its database built; gives the policy's path."""
    shutil.copytree(data_folder("migrations"), home / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    registry = home / "registry"
    registry.mkdir()
    saes, runs = [], []
    for number, hookpoint in enumerate(HOOKPOINTS[: size.hookpoints]):
        with notes.timed("write the weights of the SAEs"):
            saes.append(_sae(registry, size, number, hookpoint))
        runs.append(_run(registry, size, number, saes[-1], notes))
    with notes.timed("write the manifest"):
        write_manifest(_manifest(size, saes, runs), registry / MANIFEST)
    notes.sized("manifest", registry / MANIFEST)
    with notes.timed("build the database"):
        FeatureRegistry.built(manifest=registry / MANIFEST).close()
    notes.sized("database", registry / BUILT_FILE)
    with closing(sqlite3.connect(registry / BUILT_FILE)) as database:
        (notes.counts["score rows"],) = database.execute("SELECT count(*) FROM feature_scores").fetchone()
    return _policy(home / "policies", size)


def _sae(registry: Path, size: Size, number: int, hookpoint: str) -> SaeRecord:
    relative = f"saes/{MODEL}/{hookpoint}"
    folder = registry / relative
    folder.mkdir(parents=True)
    random = np.random.default_rng([size.seed, number])
    weights = random.standard_normal((size.latents, size.d_in), np.float32)
    tensors = {"encoder.weight": weights, "encoder.bias": np.zeros(size.latents, np.float32)}
    tensors |= {"W_dec": weights, "b_dec": np.zeros(size.d_in, np.float32)}
    save_file(tensors, folder / "sae.safetensors")
    config = {"activation": "topk", "d_in": size.d_in, "num_latents": size.latents, "k": size.k}
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return SaeRecord(
        name=f"{MODEL}-{number + 1}",
        model=MODEL,
        hookpoint=hookpoint,
        path=relative,
        digest=digest_of_file(folder / "sae.safetensors"),
        d_in=size.d_in,
        num_latents=size.latents,
        k=size.k,
        variant="unsupervised",
        fvu=0.1,
        dead_share=0.0,
        l0=float(size.k),
        provenance={"seed": size.seed},
    )


def _run(registry: Path, size: Size, number: int, sae: SaeRecord, notes: Notes) -> ScoringRun:
    """Statistics of one SAE, made up, kept in a sparse file, read again and scored."""
    sparse = registry.parent / f"{sae.hookpoint}.statistics.safetensors"
    with notes.timed("make up the statistics"):
        statistics = synthetic_statistics(size, number)
    notes.counts["cells"] = notes.counts.get("cells", 0) + len(statistics.index)
    provenance: dict[str, object] = {
        "hookpoint": sae.hookpoint,
        "sae_digest": sae.digest,
        "seeds": [size.seed],
        "by": "benchmark",
    }
    with notes.timed("write the sparse statistics"):
        digest = write_sparse(statistics, sparse, provenance)
    del statistics
    notes.sized("sparse statistics, all hookpoints", sparse)
    with notes.timed("read and check the sparse statistics"):
        collected = read_sparse(sparse, digest)
    relative = f"statistics/{sae.hookpoint}.{METHOD}.safetensors"
    with notes.timed("score the sparse statistics"):
        scored = write_statistics(collected.statistics, METHOD, registry / relative, provenance, top=size.top)
    notes.sized("scores", registry / relative)
    return ScoringRun(f"{sae.name}-{METHOD}", sae.name, METHOD, relative, scored, size.steps, provenance)


def _manifest(size: Size, saes: list[SaeRecord], runs: list[ScoringRun]) -> Manifest:
    """Objects are calibrated at the first hookpoint, styles at the last."""
    table = size.table
    home = {"object": (saes[0], runs[0]), "style": (saes[-1], runs[-1])}
    concepts = [ConceptRecord(name, table.domain_of(name), name, "Made up.") for name in table.names]
    chosen = min(CHOSEN, size.top, size.latents)
    model = ModelRecord(MODEL, "sd1", MODEL, digest_of(MODEL), 512, size.timesteps, 9.0, "DDIMScheduler")
    calibrations = []
    for concept in concepts:
        sae, run = home[concept.domain]
        point = OperatingPoint(sae.name, run.name, chosen, MULTIPLIERS[concept.domain])
        calibrations.append(Calibration(concept.name, (point,), {"ua": 1.0}, {"by": "benchmark"}))
    return Manifest((model,), tuple(saes), tuple(concepts), (), tuple(runs), tuple(calibrations))


def removed_concepts(size: Size) -> tuple[str, ...]:
    """What the policy removes: the first of each domain, two objects for every five styles, half of all at most."""
    count = min(REMOVED, max(1, size.concepts // 2))
    objects, styles = size.table.concepts
    few = count * 2 // 7
    return (*objects[:few], *styles[: count - few])


def _policy(folder: Path, size: Size) -> Path:
    """A policy that removes concepts and retains all others, with audit prompts beside it."""
    folder.mkdir()
    objects, styles = size.table.concepts
    prompts = {
        "apiVersion": "saeuron-guard/v1",
        "kind": "PromptSet",
        "metadata": {"name": "benchmark", "role": "audit", "model": MODEL},
        "expand": [
            {
                "templates": ["A {object} in {style} style."],
                "labels": {"object": list(objects), "style": list(styles)},
            }
        ],
    }
    policy = {
        "apiVersion": "saeuron-guard/v1",
        "kind": "Policy",
        "metadata": {"name": "benchmark", "version": "1.0.0", "owner": "benchmark"},
        "target": {"model": MODEL},
        "concepts": [{"concept": name} for name in removed_concepts(size)],
        "retain": {"domains": ["object", "style"]},
        "audit": {"prompts": "benchmark-prompts.yaml", "seeds": [1]},
    }
    # JSON is YAML, too, and needs no library to write.
    for name, document in (("benchmark-prompts", prompts), ("benchmark", policy)):
        (folder / f"{name}.yaml").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return folder / "benchmark.yaml"
