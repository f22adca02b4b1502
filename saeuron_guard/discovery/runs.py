"""The output folder of a training run: what identifies the run, what is finished, what is half-way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saeuron_guard.digests import digest_of
from saeuron_guard.discovery.evaluation import HeldOutFigures
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.recipe import SaeRecipe
from saeuron_guard.errors import ArtefactError
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.sae.sparse_coder import CONFIG_FILE, SparseCoder

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class TrainedSae:
    """A finished autoencoder in ``folder``: ``digest`` of its weights, ``figures`` on held-out images."""

    hookpoint: str
    folder: Path
    digest: str
    figures: HeldOutFigures


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Pins ids, texts and labels, in this order."""
    return digest_of([[prompt.id, prompt.text, [list(label) for label in prompt.labels]] for prompt in prompts])


def library_versions() -> dict[str, str]:
    """Versions of what computes activations and weights."""
    return {name: version(name) for name in ("diffusers", "torch", "transformers")}


class TrainingFolder:
    """``out/<hookpoint>/{cfg.json,sae.safetensors}`` of one run, and its checkpoint while it is under way."""

    def __init__(
        self, out: Path, pipe: Any, prompts: Sequence[Prompt], hookpoints: Sequence[str], recipe: SaeRecipe
    ) -> None:
        self.out = out
        self.checkpoint = out / CHECKPOINT_FILE
        self._hookpoints = tuple(hookpoints)
        self._recipe = recipe
        self._table = ConceptTable.of(prompts)
        self._provenance = {
            "model_fingerprint": fingerprint(pipe),
            "prompts_digest": prompts_digest(prompts),
            "scheduler": type(pipe.scheduler).__name__,
        }
        # What fills the buffer decides what all hookpoints' coders learn from, so the run is all of them together.
        self.run = digest_of([recipe.digest, self._provenance, list(hookpoints)])

    def finished(self) -> tuple[TrainedSae, ...] | None:
        """The run's autoencoders when all are there; raises ArtefactError when some are another run's."""
        found = []
        for hookpoint in self._hookpoints:
            folder = self.out / hookpoint
            if not (folder / CONFIG_FILE).exists():
                continue
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            if config.get("run") != self.run:
                raise ArtefactError(
                    f"{folder}: holds an autoencoder trained with another recipe, model or prompt set; "
                    "remove it, or choose another output folder"
                )
            digest = SparseCoder.load(folder, config["weights_digest"]).digest
            found.append(TrainedSae(hookpoint, folder, digest, HeldOutFigures(**config["held_out"])))
        return tuple(found) if len(found) == len(self._hookpoints) else None

    def save(self, hookpoint: str, coder: SparseCoder, figures: HeldOutFigures) -> TrainedSae:
        """Write one finished autoencoder; ``cfg.json`` gets, beside sparsify's fields, where it comes from."""
        folder = self.out / hookpoint
        digest = coder.save(folder)
        recipe = self._recipe
        config = json.loads(coder.config.text()) | {
            "hookpoint": hookpoint,
            "variant": recipe.variant,
            "trained_with": {
                **asdict(recipe),
                "training_top_k": "batch" if recipe.batch_topk else "position",
                "inference_top_k": "position",
            },
            "tied_latents": self._tied(),
            "held_out": asdict(figures),
            "provenance": {**self._provenance, "seed": recipe.seed, "libraries": library_versions()},
            "weights_digest": digest,
            "run": self.run,
        }
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        return TrainedSae(hookpoint, folder, digest, figures)

    def _tied(self) -> dict[str, int]:
        if self._recipe.variant != "supervised":
            return {}
        return {name: number for number, name in enumerate(self._table.names)}
