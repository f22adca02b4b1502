"""Captions are drawn in the promised shares, and the parts form a stock pipeline with SD 1.x's hookpoints."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas import denoiser, text_tower
from saeuron_guard.pipelines.emoji_canvas.captions import (
    EMPTY_SHARE,
    MAX_TOKENS,
    UNSTYLED_SHARE,
    captions_for,
    write_tokenizer,
)
from saeuron_guard.pipelines.emoji_canvas.denoiser import (
    CaptionTable,
    TextAndDenoiser,
    assemble,
    load_tokenizer,
    new_text_encoder,
    new_unet,
    train_denoiser,
)
from saeuron_guard.pipelines.emoji_canvas.renders import Renders
from saeuron_guard.pipelines.emoji_canvas.training import Loss
from saeuron_guard.pipelines.emoji_canvas.vae import new_vae
from saeuron_guard.pipelines.emoji_canvas.workspace import HOOKPOINTS
from saeuron_guard.pipelines.emoji_canvas.world import STYLE_NAMES

ROWS = ((0, 0, -1), (9, 4, -1), (9, 2, 3))
"""Object, style and background of three pictures; the last one stands on a named background."""
DRAWS = 30_000

RENDERS = Renders(
    np.zeros((3, 64, 64, 3), dtype=np.uint8), *(np.array(column, dtype=np.int64) for column in zip(*ROWS, strict=True))
)


@pytest.fixture(scope="module")
def table(tokenizer: CLIPTokenizer) -> CaptionTable:
    """The captions of the three pictures."""
    return CaptionTable.build(RENDERS, tokenizer)


def encoded(tokenizer: CLIPTokenizer, captions: list[str]) -> list[tuple[int, ...]]:
    """Token ids, filled up to the length that the text encoder reads."""
    return [tuple(ids) for ids in tokenizer(captions, padding="max_length", max_length=MAX_TOKENS).input_ids]


def test_the_table_holds_the_captions_of_each_picture(table: CaptionTable, tokenizer: CLIPTokenizer) -> None:
    """Row i has the tokens of picture i's captions, nothing cut off; the empty caption is start and padding alone."""
    assert table.styled.shape == (3, 10, MAX_TOKENS)
    assert table.unstyled.shape == (3, 4, MAX_TOKENS)
    for number, row in enumerate(ROWS):
        styled, unstyled = captions_for(*row)
        assert [tuple(ids) for ids in table.styled[number].tolist()] == encoded(tokenizer, styled)
        assert [tuple(ids) for ids in table.unstyled[number].tolist()] == encoded(tokenizer, unstyled)
    assert table.empty.tolist() == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * (MAX_TOKENS - 1)


@pytest.mark.parametrize("number", range(3))
def test_captions_are_drawn_in_the_promised_shares(table: CaptionTable, tokenizer: CLIPTokenizer, number: int) -> None:
    """10 % empty, 12 % without a style, each template as often as the others, and all of the picture itself."""
    drawn = table.draw(torch.full((DRAWS,), number), torch.Generator().manual_seed(5))
    assert drawn.shape == (DRAWS, MAX_TOKENS)
    found, counts = torch.unique(drawn, dim=0, return_counts=True)
    shares = {tuple(ids): count / DRAWS for ids, count in zip(found.tolist(), counts.tolist(), strict=True)}
    styled, unstyled = (encoded(tokenizer, group) for group in captions_for(*ROWS[number]))
    (empty,) = encoded(tokenizer, [""])
    assert set(shares) == {*styled, *unstyled, empty}
    assert shares[empty] == pytest.approx(EMPTY_SHARE, abs=0.01)
    assert sum(shares[ids] for ids in unstyled) == pytest.approx(UNSTYLED_SHARE, abs=0.01)
    for group, share in ((unstyled, UNSTYLED_SHARE), (styled, 1 - EMPTY_SHARE - UNSTYLED_SHARE)):
        assert [shares[ids] for ids in group] == pytest.approx([share / len(group)] * len(group), abs=0.01)


def test_each_row_gets_a_caption_of_its_own_picture(table: CaptionTable, tokenizer: CLIPTokenizer) -> None:
    """In a mixed batch, no row has another picture's caption; a seed repeats the batch, another one does not."""
    rows = torch.tensor([2, 0, 1, 1, 0, 2] * 20)
    drawn = table.draw(rows, torch.Generator().manual_seed(1))
    (empty,) = encoded(tokenizer, [""])
    allowed = [{empty, *(ids for group in captions_for(*row) for ids in encoded(tokenizer, group))} for row in ROWS]
    assert all(tuple(ids) in allowed[row] for row, ids in zip(rows.tolist(), drawn.tolist(), strict=True))
    assert torch.equal(drawn, table.draw(rows, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, table.draw(rows, torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def pipe(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline of untrained parts."""
    torch.manual_seed(0)
    made = assemble(new_vae(), tokenizer, TextAndDenoiser(new_text_encoder(tokenizer), new_unet()))
    made.set_progress_bar_config(disable=True)
    return made


def test_the_pipeline_has_the_hookpoints_of_sd1(pipe: StableDiffusionPipeline) -> None:
    """``up_blocks.1.attentions.{1,2}`` exist and speak at 8 x 8 in every step of a picture of 64 x 64 pixels."""
    assert list(HOOKPOINTS.values()) == ["unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2"]
    assert len(pipe.unet.up_blocks[1].attentions) == 3
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def note(hookpoint: str) -> Any:
        return lambda module, inputs, output: shapes.setdefault(hookpoint, []).append(tuple(output[0].shape))

    handles = []
    for hookpoint in HOOKPOINTS.values():
        module = pipe.unet.get_submodule(hookpoint.removeprefix("unet."))
        handles.append(module.register_forward_hook(note(hookpoint)))
    try:
        image = pipe("a cat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    finally:
        for handle in handles:
            handle.remove()
    assert image.size == (64, 64)
    assert shapes == dict.fromkeys(HOOKPOINTS.values(), [(2, 128, 8, 8)] * 2)


def test_the_denoiser_reads_the_text(pipe: StableDiffusionPipeline) -> None:
    """Even untrained, another caption gives another prediction, and the same one the same."""
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def predicted(text: str) -> Tensor:
        ids = pipe.tokenizer([text], padding="max_length", return_tensors="pt").input_ids
        assert ids.shape == (1, MAX_TOKENS)
        prediction: Tensor = pipe.unet(noise, 500, pipe.text_encoder(ids).last_hidden_state).sample
        return prediction

    assert torch.equal(predicted("a cat"), predicted("a cat"))
    assert not torch.equal(predicted("a cat"), predicted("a dog"))


def test_the_schedule_is_that_of_sd1(pipe: StableDiffusionPipeline) -> None:
    """1000 timesteps of scaled-linear betas from 0.00085 to 0.012; the denoiser predicts v, and 25 steps end at 1."""
    scheduler = pipe.scheduler
    assert scheduler.betas[[0, -1]].tolist() == pytest.approx([0.00085, 0.012])
    assert len(scheduler.betas) == 1000
    assert scheduler.betas[500].sqrt() == pytest.approx((0.00085**0.5 * 499 + 0.012**0.5 * 500) / 999, rel=1e-5)
    assert scheduler.config.prediction_type == "v_prediction"
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[[0, 1, -1]].tolist() == [961, 921, 1]


def test_a_training_that_goes_on_keeps_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, the stage reads the tokenizer that its checkpoints belong to instead of learning one anew."""
    for module in (denoiser, text_tower):
        monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=1))
        monkeypatch.setattr(module, "BATCH", 2)
    learnt: list[Path] = []

    def write_and_note(folder: Path) -> None:
        learnt.append(folder)
        write_tokenizer(folder)

    monkeypatch.setattr(denoiser, "write_tokenizer", write_and_note)
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    tokenizers, networks = zip(
        *(train_denoiser(RENDERS, latents, tmp_path, lambda line: None) for _ in range(2)), strict=True
    )
    assert learnt == [tmp_path / "tokenizer"]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab() == load_tokenizer(tmp_path / "tokenizer").get_vocab()
    weights = [network.state_dict() for network in networks]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert not any(module.training for module in networks[0].modules())


class _Drawn(Exception):
    """Raised as soon as the rows of a batch are known."""


def test_streamline_pictures_are_drawn_twice_as_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three pictures, of which the last one is of that style, it makes half of the batches, the others a quarter."""
    assert [STYLE_NAMES[style] for style in RENDERS.styles] == ["Noto", "Neon", "Streamline"]
    rows: list[int] = []

    def note(table: CaptionTable, batch: Tensor, generator: torch.Generator) -> Tensor:
        rows.extend(batch.tolist())
        raise _Drawn

    def only_draw(module: Any, loss: Loss, *rest: Any) -> None:
        for seed in range(1000):
            with suppress(_Drawn):
                loss(torch.Generator().manual_seed(seed))

    monkeypatch.setattr(CaptionTable, "draw", note)
    monkeypatch.setattr(denoiser, "fit", only_draw)
    monkeypatch.setattr(denoiser, "train_text_encoder", lambda *arguments: None)
    train_denoiser(RENDERS, torch.zeros(3, 4, 16, 16), tmp_path, lambda line: None)
    assert len(rows) == 1000 * denoiser.BATCH
    assert np.bincount(rows) / len(rows) == pytest.approx([0.25, 0.25, 0.5], abs=0.02)


def test_training_moves_both_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text encoder and denoiser are trained together: a step changes weights of both."""
    monkeypatch.setattr(denoiser, "BATCH", 2)
    monkeypatch.setattr(denoiser, "train_text_encoder", lambda *arguments: None)
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    states = []
    for steps in (0, 1):
        monkeypatch.setattr(denoiser, "RECIPE", replace(denoiser.RECIPE, steps=steps))
        (tmp_path / "denoiser.safetensors").unlink(missing_ok=True)
        _, networks = train_denoiser(RENDERS, latents, tmp_path, lambda line: None)
        states.append(networks.state_dict())
    for part in ("text_encoder.", "unet."):
        names = [name for name in states[0] if name.startswith(part) and name.endswith("weight")]
        assert sum(not torch.equal(states[0][name], states[1][name]) for name in names) > 0.9 * len(names)
