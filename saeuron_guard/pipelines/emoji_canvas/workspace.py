"""Where a build keeps its files, and what each stage leaves for the next."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeuron_guard.errors import ArtefactError

MODEL = "emoji-canvas"
HOOKPOINTS = {
    "up1-attn1": "unet.up_blocks.1.attentions.1",
    "up1-attn2": "unet.up_blocks.1.attentions.2",
}
"""Short name -> hookpoint; an SAE is called ``emoji-canvas-<short name>``."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """``work``: renders, checkpoints and results of a build (large, not kept); ``registry``: what ships."""

    work: Path
    registry: Path
    log: Callable[[str], None]

    @property
    def artwork(self) -> Path:
        """The downloaded icon packages."""
        return self.work / "artwork"

    @property
    def checkpoints(self) -> Path:
        """Half-finished trainings."""
        return self.work / "checkpoints"

    @property
    def model(self) -> Path:
        """The pipeline's folder."""
        return self.registry / "models" / MODEL

    @property
    def classifiers(self) -> Path:
        """The folder of the calibration's judges, one sub-folder a domain."""
        return self.registry / "models" / f"{MODEL}-judges"

    @property
    def clip(self) -> Path:
        """The folder of the release check's judge."""
        return self.registry / "models" / f"{MODEL}-clip"

    @property
    def saes(self) -> Path:
        """The folder with one sub-folder a hookpoint."""
        return self.registry / "saes" / MODEL

    @property
    def statistics(self) -> Path:
        """The folder of the scoring runs' files."""
        return self.registry / "statistics" / MODEL

    def renders(self, name: str) -> Path:
        """One set of rendered pictures."""
        return self.work / "renders" / f"{name}.npz"

    def record(self, stage: str, figures: dict[str, Any]) -> None:
        """Keep the figures of a stage in ``figures.json`` beside the shipped model."""
        path = self.model / "figures.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        known[stage] = figures
        path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self.log(f"{stage}: {json.dumps(figures)}")

    def command(self, *arguments: str) -> None:
        """Run one of the package's own commands, as a user with a model of their own would."""
        self.log("saeuron-guard " + " ".join(arguments))
        run = subprocess.run([sys.executable, "-m", "saeuron_guard", *arguments], check=False)  # our own program
        if run.returncode != 0:
            raise ArtefactError(f"saeuron-guard {arguments[0]} {arguments[1]} ended with exit code {run.returncode}")
