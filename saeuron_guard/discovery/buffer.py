"""A bounded pool of activation maps that mixes images and denoising steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.stream import StepActivations
from saeuron_guard.errors import CannotEvaluate

MEBIBYTE = 1 << 20

Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MapBatch:
    """Some maps (one image at one step each): per hookpoint (maps, pos, d_in) float32; ``codes`` (maps, domains)."""

    activations: dict[str, Tensor]
    codes: Tensor


class ActivationBuffer:
    """Holds whole (image, step) maps of all hookpoints, draws them at random, and replaces those used ``reuse`` times.

    Maps, not single vectors, are the entries: the concept-assignment loss needs the positions of an image together.
    When the source ends, what was not yet replaced is drawn from for as long as wanted.
    Which maps a draw gives depends on the source's order, ``reuse``, the capacity and ``seed`` alone.
    """

    def __init__(
        self, source: Iterator[StepActivations], table: ConceptTable, *, limit_mb: float, reuse: int, seed: int
    ) -> None:
        if reuse < 1:
            raise ValueError(f"reuse is {reuse}; each map is used at least once")
        self._source = source
        self._table = table
        self._limit = int(limit_mb * MEBIBYTE)
        self._reuse = reuse
        self._random = np.random.default_rng(seed)
        self._storage: dict[str, Tensor] = {}
        self._codes = torch.empty(0, len(table.domains), dtype=torch.int64)
        self._uses = np.empty(0, dtype=np.int64)
        self._filled = np.empty(0, dtype=bool)
        self._drawable = np.empty(0, dtype=bool)
        self._waiting: tuple[StepActivations, int] | None = None
        self.received = 0
        self.exhausted = False

    @property
    def capacity(self) -> int:
        """How many maps fit in; 0 before the first one has told its size."""
        return len(self._uses)

    @property
    def held(self) -> int:
        """How many maps can be drawn now."""
        return int(self._drawable.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the activations' storage."""
        return sum(tensor.nbytes for tensor in self._storage.values())

    def fill(self) -> None:
        """Take maps from the source until the buffer is full or the source ends."""
        while not self.exhausted and (not self._storage or not self._drawable.all()):
            step, start = self._waiting or (next(self._source, None), 0)
            if step is None:
                self.exhausted = True
                self._drawable |= self._filled
                return
            if not self._storage:
                self._allocate(step)
            taken = self._take(step, start)
            rest = start + taken < len(step.prompts)
            self._waiting = (step, start + taken) if rest else None

    def draw(self, maps: int) -> MapBatch:
        """``maps`` different maps, uniformly from those held."""
        slots = torch.from_numpy(self._choose(maps))
        batch = MapBatch({name: held[slots] for name, held in self._storage.items()}, self._codes[slots])
        self._count_use(slots.numpy())
        return batch

    def skip(self, maps: int) -> None:
        """Do all that ``draw`` does except handing out the maps: how a resumed training finds its place."""
        self._count_use(self._choose(maps))

    def sample(self, maps: int) -> MapBatch:
        """Up to ``maps`` of the maps held, evenly spread, without counting as a use: what initial values come from."""
        self.fill()
        held = self._held_slots()
        slots = torch.from_numpy(held[np.linspace(0, len(held) - 1, min(maps, len(held))).astype(np.int64)])
        return MapBatch({name: values[slots] for name, values in self._storage.items()}, self._codes[slots])

    def _held_slots(self) -> Slots:
        """Slots that hold a map, ascending; raises CannotEvaluate when the source gave nothing."""
        slots = np.flatnonzero(self._drawable)
        if not len(slots):
            raise CannotEvaluate("no activations came from the pipeline; give at least one prompt and one seed")
        return slots

    def _choose(self, maps: int) -> Slots:
        # Filling in big bites, not map by map, keeps the generation of images in whole batches.
        if self.held < maps or self.capacity - self.held > self.capacity // 8:
            self.fill()
        held = self._held_slots()
        if len(held) < maps:
            raise CannotEvaluate(
                f"a batch wants {maps} activation maps and the buffer holds {len(held)} (room for {self.capacity}); "
                "give more prompts or seeds, a larger buffer, or smaller batches"
            )
        return self._random.choice(held, size=maps, replace=False)

    def _count_use(self, slots: Slots) -> None:
        self._uses[slots] += 1
        if not self.exhausted:
            self._drawable[slots] = self._uses[slots] < self._reuse

    def _allocate(self, step: StepActivations) -> None:
        shapes = {name: (values.shape[1], values.shape[2]) for name, values in step.activations.items()}
        each = sum(4 * positions * width for positions, width in shapes.values())
        capacity = self._limit // each
        if capacity < 1:
            raise CannotEvaluate(
                f"one activation map takes {each} bytes and the buffer may hold {self._limit}; enlarge it"
            )
        self._storage = {name: torch.empty(capacity, *shape) for name, shape in shapes.items()}
        self._codes = torch.empty(capacity, len(self._table.domains), dtype=torch.int64)
        self._uses = np.zeros(capacity, dtype=np.int64)
        self._filled = np.zeros(capacity, dtype=bool)
        self._drawable = np.zeros(capacity, dtype=bool)

    def _take(self, step: StepActivations, start: int) -> int:
        """Copy rows ``start``... of ``step`` into free slots; how many fitted."""
        places = np.flatnonzero(~self._drawable)[: len(step.prompts) - start]
        slots, count = torch.from_numpy(places), len(places)
        for name, values in step.activations.items():
            self._storage[name][slots] = values[start : start + count]
        codes = [self._table.codes(prompt) for prompt in step.prompts[start : start + count]]
        self._codes[slots] = torch.tensor(codes, dtype=torch.int64).reshape(count, len(self._table.domains))
        self._uses[places] = 0
        self._filled[places] = self._drawable[places] = True
        self.received += count
        return count
