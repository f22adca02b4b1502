"""Pictures that were seen before: a judge that knows from a picture's bytes under which setting it was drawn.

So a test decides what every setting does to every image, and the pipeline, the guard and the SAEs are still real.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from saeuron_guard.discovery.search import Candidate
from saeuron_guard.judges.interface import Images
from saeuron_guard.pipelines.generation import generate
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.registry.records import ConceptRecord, ModelRecord
from saeuron_guard.registry.store import FeatureRegistry
from saeuron_guard.resources import inside
from saeuron_guard.sae.sparse_coder import SparseCoder
from tests.verify.world import PROMPTS, random_pipeline, write_registry

NO_SETTING = ""
"""The setting of pictures that nothing edits."""

ELSE = "else"
"""What the judge calls whatever is no longer what the prompt asks for."""


@dataclass(frozen=True)
class World:
    """A random pipeline that draws in one step, its registry, and the SAEs, hookpoints and scoring runs by SAE."""

    pipe: Any
    registry: FeatureRegistry
    model: ModelRecord
    coders: Mapping[str, SparseCoder]
    hookpoints: Mapping[str, str]
    runs: Mapping[str, str]

    @property
    def pistol(self) -> ConceptRecord:
        """The concept that the tests remove."""
        return self.registry.concept("pistol")

    @property
    def hooks(self) -> int:
        """How many hooks the denoiser carries."""
        modules = self.pipe.unet.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def open_world(folder: Path) -> World:
    """Write the registry to ``folder`` and load everything; the registry is the caller's to close."""
    pipe = random_pipeline()
    # One step from the noisiest timestep: everything that the denoiser does shows in the picture.
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    registry = FeatureRegistry.open(manifest=write_registry(folder, pipe))
    saes = registry.saes("tiny")
    return World(
        pipe=pipe,
        registry=registry,
        model=replace(registry.model("tiny"), steps=1, guidance=3.0),
        coders={sae.name: SparseCoder.load(inside(registry.artefact_root, sae.path), sae.digest) for sae in saes},
        hookpoints={sae.name: sae.hookpoint for sae in saes},
        runs={run.sae: run.name for run in registry.runs()},
    )


class Entry(NamedTuple):
    """What a known picture is."""

    setting: str
    prompt: Prompt
    seed: int


Atlas = Mapping[bytes, Entry]


def draw_atlas(world: World, seeds: Sequence[int], candidates: Iterable[Candidate]) -> Atlas:
    """Every image without an edit and under each candidate, one at a time; no two pictures are equal."""
    found: dict[bytes, Entry] = {}
    settings = [(NO_SETTING, nullcontext), *((each.name, each.intervention) for each in candidates)]
    for name, intervention in settings:
        with intervention(world.pipe):
            for prompt in PROMPTS.prompts:
                for seed in seeds:
                    picture = draw_one(world, prompt, seed).tobytes()
                    assert picture not in found, f"{name}: {prompt.id} looks as under {found[picture].setting}"
                    found[picture] = Entry(name, prompt, seed)
    return found


def draw_one(world: World, prompt: Prompt, seed: int) -> NDArray[np.uint8]:
    """One picture as a workbench with batches of one draws it."""
    settings = world.model
    picture: NDArray[np.uint8]
    (picture,) = generate(world.pipe, [prompt], seed, steps=settings.steps, guidance=settings.guidance, batch_size=1)
    return picture


Does = Mapping[str, tuple[bool, bool]]
"""What a setting does: whether it removes the pistol, and whether everything else is kept."""

Lapse = tuple[str, str, int, str]
"""Setting, prompt id, seed, domain."""


class AtlasJudge:
    """Calls pictures what ``does`` says of their setting; an unknown picture is a KeyError.

    A setting that ``does`` leaves out removes the pistol and ruins everything else. ``lapses`` are single answers that
    are the opposite of that.
    """

    digest = "sha256:" + "5" * 64

    def __init__(self, atlas: Atlas, does: Does, lapses: Collection[Lapse] = (), *, name: str = "atlas") -> None:
        self.name = name
        self._atlas = atlas
        self._does = {NO_SETTING: (False, True), **does}
        self._lapses = frozenset(lapses)

    def labels(self, domain: str) -> tuple[str, ...]:
        """The concepts of a domain."""
        return (*sorted({name for one in PROMPTS.prompts if (name := one.concept(domain))}), ELSE)

    def scores(self, images: Images, domain: str) -> NDArray[np.float32]:
        """1 for the label that ``classify`` gives."""
        labels = self.labels(domain)
        return np.array([[name == label for name in labels] for label in self.classify(images, domain)], np.float32)

    def classify(self, images: Images, domain: str) -> list[str]:
        """What the prompt asks for, or ELSE."""
        return [self._answer(self._atlas[image.tobytes()], domain) for image in images]

    def _answer(self, entry: Entry, domain: str) -> str:
        removed, kept = self._does.get(entry.setting, (True, False))
        asked = entry.prompt.concept(domain) or ELSE
        right = not removed if asked == "pistol" else kept
        lapse = (entry.setting, entry.prompt.id, entry.seed, domain) in self._lapses
        return asked if right != lapse else ELSE
