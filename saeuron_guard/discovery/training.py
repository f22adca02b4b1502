"""Train the autoencoders of several hookpoints in lockstep from one stream of activations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saeuron_guard.discovery.buffer import ActivationBuffer
from saeuron_guard.discovery.checkpoints import read_checkpoint, write_checkpoint
from saeuron_guard.discovery.evaluation import HeldOutFigures, evaluate
from saeuron_guard.discovery.labels import ConceptTable
from saeuron_guard.discovery.recipe import SaeRecipe
from saeuron_guard.discovery.runs import TrainedSae, TrainingFolder
from saeuron_guard.discovery.stream import ActivationStream
from saeuron_guard.discovery.trainer import SaeTrainer, StepFigures
from saeuron_guard.prompts.model import Prompt
from saeuron_guard.sae.sparse_coder import SparseCoder

Log = Callable[[str], None]

SAMPLE_MAPS = 4096
"""Maps that scale, bias and tied latents start from."""

LOG_EVERY = 20


def train_saes(
    pipe: Any, prompts: Sequence[Prompt], hookpoints: Sequence[str], recipe: SaeRecipe, out: Path, log: Log = print
) -> tuple[TrainedSae, ...]:
    """Train one autoencoder for each hookpoint and save it in ``out/<hookpoint>``; ``log`` gets lines of progress.

    ``cfg.json`` also records the recipe, the figures on images of held-out seeds, the tied latents and provenance.
    A run that was stopped goes on from its last checkpoint in ``out`` and ends with the same weights, for images are
    made again but never learnt from twice; a finished run is returned as it is.
    Raises ArtefactError when ``out`` holds a run of another recipe, model or prompt set.
    """
    folder = TrainingFolder(out, pipe, prompts, hookpoints, recipe)
    if (done := folder.finished()) is not None:
        log(f"sae: the autoencoders in {out} are finished")
        return done
    table = ConceptTable.of(prompts)
    stream = ActivationStream(
        pipe, prompts, hookpoints, seeds=recipe.seeds, sampling=recipe.sampling, shuffle_seed=recipe.seed
    )
    trainers = _Lockstep(recipe, table, stream, folder, log).trained()
    coders = {hookpoint: trainer.coder() for hookpoint, trainer in trainers.items()}
    figures = _held_out(pipe, prompts, coders, recipe, log)
    trained = tuple(folder.save(hookpoint, coders[hookpoint], figures[hookpoint]) for hookpoint in hookpoints)
    folder.checkpoint.unlink(missing_ok=True)
    return trained


def _held_out(
    pipe: Any, prompts: Sequence[Prompt], coders: Mapping[str, SparseCoder], recipe: SaeRecipe, log: Log
) -> dict[str, HeldOutFigures]:
    stream = ActivationStream(
        pipe, prompts, list(coders), seeds=recipe.held_out_seeds, sampling=recipe.sampling, shuffle_seed=recipe.seed
    )
    log(f"sae: looking at up to {recipe.held_out_positions} held-out positions of {stream.images} images")
    return evaluate(stream.passes(), coders, recipe.held_out_positions)


class _Lockstep:
    """All trainers of a run, fed from one buffer."""

    def __init__(
        self, recipe: SaeRecipe, table: ConceptTable, stream: ActivationStream, folder: TrainingFolder, log: Log
    ) -> None:
        self._recipe = recipe
        self._table = table
        self._stream = stream
        self._folder = folder
        self._log = log

    def trained(self) -> dict[str, SaeTrainer]:
        """Every hookpoint's trainer after its last step."""
        buffer, maps = self._buffer()
        sample = buffer.sample(SAMPLE_MAPS)
        trainers = {
            hookpoint: SaeTrainer(self._recipe, self._table, sample.activations[hookpoint], sample.codes)
            for hookpoint in self._stream.hookpoints
        }
        self._restore(trainers, buffer, maps)
        self._run(trainers, buffer, maps)
        return trainers

    def _buffer(self) -> tuple[ActivationBuffer, int]:
        """The buffer, and how many maps make a step's positions at the hookpoint with the largest maps."""
        recipe = self._recipe
        positions = max(self._stream.positions().values())
        maps = max(1, recipe.batch_positions // positions)
        draws = recipe.steps * maps / (self._stream.images * recipe.sampling.steps)
        reuse = recipe.reuse or math.ceil(draws)
        passes = math.ceil(draws / reuse)
        self._log(f"sae: {maps} maps of {positions} positions a step, each map used about {reuse} times")
        buffer = ActivationBuffer(
            self._stream.passes(passes), self._table, limit_mb=recipe.buffer_mb, reuse=reuse, seed=recipe.seed
        )
        return buffer, maps

    def _restore(self, trainers: Mapping[str, SaeTrainer], buffer: ActivationBuffer, maps: int) -> None:
        """Go to where the checkpoint was written, if there is one.

        The buffer's contents are never on disk, so its images are made again; the draws that were learnt from pass by.
        """
        states = read_checkpoint(self._folder.checkpoint, self._folder.run)
        if states is None:
            return
        for hookpoint, trainer in trainers.items():
            trainer.restore(states[hookpoint])
        done = self._steps_done(trainers)
        self._log(f"sae: resuming after step {done}; making the images up to there again")
        for _ in range(done):
            buffer.skip(maps)

    def _run(self, trainers: Mapping[str, SaeTrainer], buffer: ActivationBuffer, maps: int) -> None:
        recipe = self._recipe
        start, begun = self._steps_done(trainers), time.monotonic()
        for step in range(start + 1, recipe.steps + 1):
            batch = buffer.draw(maps)
            figures = {
                hookpoint: trainer.step(batch.activations[hookpoint], batch.codes)
                for hookpoint, trainer in trainers.items()
            }
            if step % LOG_EVERY == 0 or step == recipe.steps:
                left = (time.monotonic() - begun) / (step - start) * (recipe.steps - step)
                self._log(f"sae: step {step}/{recipe.steps}, {left:.0f} s left; {_told(figures)}")
            if step % recipe.checkpoint_every == 0 or step == recipe.steps:
                states = {hookpoint: trainer.state() for hookpoint, trainer in trainers.items()}
                write_checkpoint(self._folder.checkpoint, states, self._folder.run)

    @staticmethod
    def _steps_done(trainers: Mapping[str, SaeTrainer]) -> int:
        return next(iter(trainers.values())).steps_done


def _told(figures: Mapping[str, StepFigures]) -> str:
    return "; ".join(
        f"{hookpoint}: fvu {each.fvu:.3f}, l0 {each.l0:.1f}, dead {each.dead}, assignment {each.assignment:.3f}"
        for hookpoint, each in figures.items()
    )
