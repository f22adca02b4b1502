"""From a pipeline and its autoencoders to concept statistics with their provenance, ready to be kept or scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from saeuron_guard.discovery.concept_statistics import ConceptStatistics
from saeuron_guard.discovery.runs import library_versions
from saeuron_guard.discovery.sparse import Collected
from saeuron_guard.discovery.statistics import collect_statistics
from saeuron_guard.discovery.stream import Sampling
from saeuron_guard.pipelines.fingerprint import fingerprint
from saeuron_guard.prompts.model import PromptSet
from saeuron_guard.sae.sparse_coder import SparseCoder


@dataclass(frozen=True, slots=True)
class Origin:
    """Who collects (``by``), when (UTC, ISO 8601), and with which revision of this program, if that is known."""

    by: str
    when: str
    git_revision: str | None


def collect(
    pipe: Any,
    coders: Mapping[str, SparseCoder],
    prompt_set: PromptSet,
    seeds: Sequence[int],
    sampling: Sampling,
    origin: Origin,
    log: Callable[[str], None] = print,
) -> list[Collected[ConceptStatistics]]:
    """Statistics of each hookpoint's coder over one pass of images, in the order of ``coders``."""
    encoders = {hookpoint: coder.encode for hookpoint, coder in coders.items()}
    statistics = collect_statistics(pipe, encoders, prompt_set.prompts, seeds, sampling, log)
    return [
        Collected(
            statistics[hookpoint],
            {
                **_provenance(pipe, hookpoint, prompt_set, seeds, sampling),
                "sae_digest": coder.digest,
                **asdict(origin),
            },
        )
        for hookpoint, coder in coders.items()
    ]


def _provenance(
    pipe: Any, hookpoint: str, prompt_set: PromptSet, seeds: Sequence[int], sampling: Sampling
) -> dict[str, Any]:
    """How the images were made whose activations were counted; JSON values only."""
    denoiser = getattr(pipe, hookpoint.partition(".")[0])
    return {
        "hookpoint": hookpoint,
        "model_fingerprint": fingerprint(pipe),
        "dtype": str(denoiser.dtype).removeprefix("torch."),
        "prompt_set": prompt_set.name,
        "prompt_set_digest": prompt_set.digest,
        "seeds": list(seeds),
        "scheduler": type(pipe.scheduler).__name__,
        **asdict(sampling),
        "rows": "conditional",
        "libraries": {**library_versions(), "numpy": version("numpy"), "safetensors": version("safetensors")},
    }
