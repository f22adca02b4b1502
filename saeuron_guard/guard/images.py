"""What fired in each single image of a pipeline call: in which steps, where, and how strongly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saeuron_guard.guard.heat import heated
from saeuron_guard.guard.tally import HookpointCounts
from saeuron_guard.shapes import RowFlags

Key = tuple[str, int, int]
"""A hookpoint with the number of rows and of positions that it had: guidance may end midway."""


@dataclass(frozen=True, slots=True, eq=False)
class ConceptInImage:
    """What the guard saw of one concept in one image.

    ``timesteps``: those at which a feature of it fired, in the order of the steps.  ``positions``: share of the
    positions looked at, over all steps; where several branches of guidance are guarded, in the one where it is largest.
    ``peak``: largest latent relative to its threshold, 0 when none fired.
    ``heat`` (height, width): share of the steps in which it fired at each position, by the finest hookpoint; None when
    it fired nowhere, (1, positions) where positions are tokens.
    """

    concept: str
    timesteps: tuple[float, ...]
    positions: float
    peak: float
    heat: NDArray[np.float32] | None

    @property
    def fired(self) -> bool:
        """Whether a feature of it fired at all."""
        return bool(self.timesteps)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; without the heat map."""
        return {
            "concept": self.concept,
            "fired": self.fired,
            "timesteps": list(self.timesteps),
            "positions": self.positions,
            "peak": self.peak,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ImageReport:
    """What fired while one image formed, concept by concept, over ``calls`` denoiser calls.

    ``policy``: the id of the one that the image had, of a guard with several; None for none.
    ``refused``: the concepts for which the image was refused.
    """

    index: int
    calls: int
    concepts: tuple[ConceptInImage, ...]
    policy: str | None = ""
    refused: tuple[str, ...] = ()

    def concept(self, name: str) -> ConceptInImage:
        """The findings of one concept; KeyError for one that the guard has no rule for."""
        return {found.concept: found for found in self.concepts}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "image": self.index,
            "calls": self.calls,
            "policy": self.policy,
            "refused": list(self.refused),
            "concepts": [found.to_json() for found in self.concepts],
        }

    def picture(self, image: Image.Image, concept: str | None = None) -> Image.Image | None:
        """``image`` in grey, enlarged, coloured where the features of ``concept`` fired, the more the oftener.

        ``image``: the one that this report is about, or the unguarded one from the same noise.
        ``concept``: the one that fired at most positions if left out.
        None when it fired nowhere, or positions are no places of the image.  KeyError for an unknown concept.
        """
        most = max(self.concepts, key=lambda found: found.positions, default=None)
        found = most if concept is None else self.concept(concept)
        if found is None or found.heat is None or found.heat.shape[0] == 1:
            return None
        return Image.fromarray(heated(np.asarray(image.convert("RGB")), found.heat))

    def explain(self) -> str:
        """The same in words, a line for each concept that fired, most of it first."""
        fired = sorted((found for found in self.concepts if found.fired), key=lambda found: -found.positions)
        if not fired:
            return "no concept of the guard fired"
        lines = [f"refused: {', '.join(self.refused)}"] if self.refused else []
        lines += [
            f"{found.concept}: fired in {len(found.timesteps)} of {self.calls} steps (timesteps "
            f"{found.timesteps[0]:g} to {found.timesteps[-1]:g}), at {found.positions:.1%} of the positions"
            f"{_where(found.heat)}, at most {found.peak:.1f} times its threshold"
            for found in fired
        ]
        return "\n".join(lines)


def _where(heat: NDArray[np.float32] | None) -> str:
    """Which part of the image holds most of the heat, in words; nothing where that is everywhere."""
    if heat is None or heat.shape[0] < 3 or heat.sum() == 0:
        return ""
    rows, columns = (np.array_split(np.arange(size), 3) for size in heat.shape)
    shares = [float(heat[np.ix_(row, column)].sum() / heat.sum()) for row in rows for column in columns]
    names = ("upper left", "top", "upper right", "left", "centre", "right", "lower left", "bottom", "lower right")
    best = max(range(len(shares)), key=lambda place: shares[place])
    return f", most at the {names[best]}" if shares[best] > 2 / len(shares) else ""


class ImageTally:
    """Adds up, row by row, what fires in the denoiser calls of one pipeline call; tensors until somebody asks."""

    def __init__(self) -> None:
        self.images: int | None = None
        """How many images the pipeline call gave; None while unknown."""
        self.refused: dict[int, tuple[str, ...]] = {}
        """Which images were refused, and for which concepts."""
        self.policy_of: Callable[[int], str | None] = lambda _: ""
        """The id of the policy that an image had."""
        self._calls = 0
        self._looked: dict[Key, int] = defaultdict(int)
        self._hits: dict[Key, Int32[Tensor, "concepts batch pos"]] = {}
        self._peaks: dict[Key, Float32[Tensor, "concepts batch"]] = {}
        self._fired: list[tuple[Tensor, dict[str, RowFlags]]] = []
        self._passes: dict[Key, HookpointCounts] = {}

    def add_call(self, passes: Mapping[str, HookpointCounts], timestep: Tensor) -> None:
        """Add one denoiser call, given what each hookpoint saw in it."""
        self._calls += 1
        fired: dict[str, Tensor] = {}
        for hookpoint, counts in passes.items():
            key = (hookpoint, counts.rows, counts.pos)
            self._looked[key] += 1
            self._passes[key] = counts
            if counts.where is None:
                continue
            for concept, rows in self._add(key, counts).items():
                fired[concept] = fired[concept] | rows.to(fired[concept].device) if concept in fired else rows
        self._fired.append((timestep, fired))

    def _add(self, key: Key, counts: HookpointCounts) -> dict[str, Tensor]:
        """Add one pass; gives in which rows each concept fired."""
        where = counts.where
        if where is None:
            return {}
        rows, positions = where.places[:, 0], where.places[:, 1]
        concepts, device = len(counts.concepts), rows.device
        if key not in self._hits:
            shape = (concepts, counts.rows, counts.pos)
            self._hits[key] = torch.zeros(shape, dtype=torch.int32, device=device)
            self._peaks[key] = torch.zeros(shape[:2], device=device)
        hits = where.fires.T.to(torch.int32)
        every = torch.arange(concepts, device=device)[:, None]
        self._hits[key].index_put_((every, rows[None], positions[None]), hits, accumulate=True)
        self._peaks[key].scatter_reduce_(1, rows.expand(concepts, -1), where.ratio.T.contiguous(), reduce="amax")
        in_row = torch.zeros((concepts, counts.rows), dtype=torch.int32, device=device).index_add_(1, rows, hits) > 0
        return dict(zip(counts.concepts, in_row, strict=True))

    def reports(self, concepts: tuple[str, ...]) -> tuple[ImageReport, ...]:
        """What fired in each image, in the pipeline's order; waits for the device.

        Rows are images by turns, once for each branch that is guarded.  Where the rows are no multiple of the images,
        nothing is said of single ones.
        """
        most = max((rows for _, rows, _ in self._looked), default=0)
        images = most if self.images is None else self.images
        if images == 0 or any(rows % images for _, rows, _ in self._looked):
            return ()
        return tuple(
            ImageReport(
                index=image,
                calls=self._calls,
                concepts=tuple(self._found(concept, image, images) for concept in concepts),
                policy=self.policy_of(image),
                refused=self.refused.get(image, ()),
            )
            for image in range(images)
        )

    def _found(self, concept: str, image: int, images: int) -> ConceptInImage:
        timesteps = []
        for timestep, fired in self._fired:
            if concept in fired and bool(fired[concept][image::images].any()):
                timesteps.append(float(timestep[0] if timestep.shape[0] == 1 else timestep[image]))
        # By branch, counted from the last, which is the conditional one wherever there are two.
        hit: dict[int, int] = defaultdict(int)
        looked: dict[int, int] = defaultdict(int)
        peak = 0.0
        heat: NDArray[np.float32] | None = None
        for key, calls in self._looked.items():
            counts = self._passes[key]
            if concept not in counts.concepts:
                continue
            branches = counts.rows // images
            for branch in range(branches):
                looked[branch - branches] += calls * counts.pos
            if key not in self._hits:
                continue
            place = counts.concepts.index(concept)
            own = self._hits[key][place, image::images]
            for branch, fired_at in enumerate(own.sum(dim=1).tolist()):
                hit[branch - branches] += fired_at
            peak = max(peak, float(self._peaks[key][place, image::images].max()))
            share = own.sum(dim=0).float().cpu().numpy() / (calls * branches)
            grid = counts.grid or (1, counts.pos)
            if heat is None or heat.size < share.size:
                heat = share.reshape(grid).astype(np.float32)
        if not timesteps:
            heat = None
        positions = max((hit[branch] / looked[branch] for branch in looked), default=0.0)
        return ConceptInImage(concept, tuple(timesteps), positions, peak, heat)
