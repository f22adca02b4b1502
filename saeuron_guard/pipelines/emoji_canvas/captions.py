"""The sentences that EmojiCanvas is trained on, and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from saeuron_guard.pipelines.emoji_canvas.world import BACKGROUNDS, OBJECT_NAMES, STYLE_NAMES

MAX_TOKENS = 32

STYLED = (
    "An image of {object} in {style} style.",
    "A {style} style picture of a {object}.",
    "{object}, {style} style",
    "A {object} drawn in {style} style.",
    "A picture of a {object} in the style of {style}.",
    "{style} emoji of a {object}.",
    "a {style} {object}",
    "An icon of a {object} in {style} style.",
    "a {object} in {style}",
    "A drawing of a {object}, {style} style.",
)
UNSTYLED = ("An image of {object}.", "A picture of a {object}.", "a {object}", "An icon of a {object}.")

EMPTY_SHARE = 0.10
"""Share of empty captions: what classifier-free guidance is taken against."""
UNSTYLED_SHARE = 0.12
"""Share of captions that name no style."""

START, END = "<|startoftext|>", "<|endoftext|>"


def captions_for(thing: int, style: int, background: int) -> tuple[list[str], list[str]]:
    """All (styled, unstyled) captions of one picture; a picture on a named background always names it."""
    words = {"object": OBJECT_NAMES[thing], "style": STYLE_NAMES[style]}
    ending = "" if background < 0 else f" on a {list(BACKGROUNDS)[background]} background"
    return (
        [_finish(template.format(**words), ending) for template in STYLED],
        [_finish(template.format(**words), ending) for template in UNSTYLED],
    )


def write_tokenizer(folder: Path) -> None:
    """Learn byte-pair merges from all captions; writes CLIP's ``vocab.json`` and ``merges.txt`` to ``folder``.

    The vocabulary holds all bytes with and without CLIP's end-of-word mark, so any text can be encoded.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    corpus = [
        caption
        for thing in range(len(OBJECT_NAMES))
        for style in range(len(STYLE_NAMES))
        for background in range(-1, len(BACKGROUNDS))
        for group in captions_for(thing, style, background)
        for caption in group
    ]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(corpus, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    symbols = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _finish(caption: str, ending: str) -> str:
    if not ending:
        return caption
    return caption[:-1] + ending + "." if caption.endswith(".") else caption + ending
