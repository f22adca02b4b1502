"""Object and style classifiers of EmojiCanvas: the judges that calibration may use.

They never meet the release check, which has a judge of its own kind (``clip.py``).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from saeuron_guard.errors import ArtefactError
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.training import Log, Recipe, fit
from saeuron_guard.pipelines.emoji_canvas.vae import to_pixels

BATCH = 96


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(8, outside), nn.GroupNorm(8, outside)])
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) to (n, outside, h / stride, w / stride)."""
        hidden = F.silu(self.norms[0](self.first(x)))
        return F.silu(self.norms[1](self.second(hidden)) + self.skip(x))


class ResidualClassifier(nn.Module):
    """A small residual network from 64 x 64 pictures to the labels of one domain."""

    def __init__(self, domain: str, labels: tuple[str, ...], width: int = 24) -> None:
        super().__init__()
        self.domain, self.labels, self.width = domain, labels, width
        widths = (width, 2 * width, 3 * width, 4 * width)
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.blocks = nn.Sequential(
            *(_Residual(a, b, 2 if a != b else 1) for a, b in zip((width, *widths[:-1]), widths, strict=True))
        )
        self.head = nn.Linear(widths[-1], len(labels))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, 64, 64) in [-1, 1] to logits (n, labels)."""
        features: Tensor = self.blocks(F.silu(self.stem(pixels)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits

    @torch.no_grad()
    def probabilities(self, pictures: np.ndarray, batch: int = 128) -> np.ndarray:
        """Bytes (n, 64, 64, 3) to probabilities (n, labels), float32."""
        parts = [
            self(to_pixels(np.ascontiguousarray(pictures[start : start + batch]))).softmax(dim=-1)
            for start in range(0, len(pictures), batch)
        ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, len(self.labels)), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (float16) to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"domain": self.domain, "labels": list(self.labels), "width": self.width}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(
            {name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors"
        )

    @classmethod
    def load(cls, folder: Path) -> ResidualClassifier:
        """Read what ``save`` wrote, computing in float32. Raises ArtefactError when it cannot."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            network = cls(config["domain"], tuple(config["labels"]), int(config["width"]))
            weights = load_file(folder / "model.safetensors")
            network.load_state_dict({name: value.float() for name, value in weights.items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, SafetensorError) as error:
            raise ArtefactError(
                f"{folder}: not a classifier of EmojiCanvas ({error}); reinstall or rebuild it"
            ) from error
        return network.eval()


def train_classifier(
    domain: str, labels: tuple[str, ...], renders: Renders, targets: np.ndarray, seed: int, folder: Path, log: Log
) -> ResidualClassifier:
    """Train one classifier on ``renders`` (and blurred, noisy, mirrored copies) with row labels ``targets``."""
    torch.manual_seed(seed)
    network = ResidualClassifier(domain, labels)
    wanted = torch.from_numpy(targets)
    recipe = Recipe(steps=900, peak=2e-3, seed=seed, weight_decay=0.02, average=0.99, betas=(0.9, 0.99))

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(wanted), (BATCH,), generator=generator)
        pixels = augment(to_pixels(renders.pictures[rows.numpy()]), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(pixels)
        return F.cross_entropy(logits.float(), wanted[rows], label_smoothing=0.05)

    fit(network, loss, recipe, folder / f"{domain}-classifier.safetensors", log)
    return network.eval()


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures, soften a third, add noise, change brightness, and cut a square out of some."""
    count = len(pixels)
    draw = torch.rand(count, 5, generator=generator)
    mirrored = torch.where(draw[:, 0, None, None, None] < 0.5, pixels.flip(-1), pixels)
    soft = F.avg_pool2d(F.pad(mirrored, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mixed = torch.where(draw[:, 1, None, None, None] < 0.33, 0.5 * (soft + mirrored), mirrored)
    noise = torch.randn(pixels.shape, generator=generator) * 0.08 * draw[:, 2, None, None, None]
    bright = mixed * (0.9 + 0.2 * draw[:, 3, None, None, None]) + noise
    corner = torch.randint(0, 48, (count, 2), generator=generator)
    axis = torch.arange(pixels.shape[-1])
    hole = ((axis[None] >= corner[:, :1]) & (axis[None] < corner[:, :1] + 16))[:, None, :, None] & (
        (axis[None] >= corner[:, 1:]) & (axis[None] < corner[:, 1:] + 16)
    )[:, None, None, :]
    return torch.where(hole & (draw[:, 4, None, None, None] < 0.2), torch.zeros(()), bright).clamp(-1, 1)


def accuracy(network: ResidualClassifier, renders: Renders, targets: np.ndarray) -> float:
    """Share of ``renders`` that the classifier labels as ``targets`` says."""
    return float((network.probabilities(renders.pictures).argmax(axis=1) == targets).mean())
