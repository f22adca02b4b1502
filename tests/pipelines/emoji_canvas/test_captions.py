"""Captions name what a picture shows, and the tokenizer keeps every word of them, and of any other text."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from saeuron_guard.pipelines.emoji_canvas.captions import (
    END,
    MAX_TOKENS,
    START,
    STYLED,
    UNSTYLED,
    captions_for,
    write_tokenizer,
)
from saeuron_guard.pipelines.emoji_canvas.denoiser import load_tokenizer
from saeuron_guard.pipelines.emoji_canvas.world import BACKGROUNDS, OBJECT_NAMES, STYLE_NAMES

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40).filter(
    lambda text: START not in text.lower() and END not in text.lower()
)
"""Any text; only the two marks stand for themselves, in CLIP's tokenizers as in this one."""
ROWS = list(itertools.product(range(len(OBJECT_NAMES)), range(len(STYLE_NAMES)), range(-1, len(BACKGROUNDS))))
CAPTIONS = sorted({caption for row in ROWS for group in captions_for(*row) for caption in group})


@pytest.fixture(scope="module", params=["learnt now", "shipped"])
def either_tokenizer(request: pytest.FixtureRequest, tokenizer: CLIPTokenizer, shipped_models: Path) -> CLIPTokenizer:
    """The tokenizer as the build learns it, and as the model ships it."""
    return tokenizer if request.param == "learnt now" else load_tokenizer(shipped_models / "emoji-canvas" / "tokenizer")


@pytest.fixture(scope="module")
def caption_ids(either_tokenizer: CLIPTokenizer) -> dict[str, list[int]]:
    """The tokens of every caption."""
    return {caption: inner_ids(either_tokenizer, caption) for caption in CAPTIONS}


def inner_ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    """The tokens of the text itself, which stand between exactly one start and one end token."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(text).ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return ids[1:-1]


def plain_words(text: str) -> str:
    """What CLIP's tokenizers keep of a text: no case and no white space, composed characters."""
    return "".join("".join(letter.lower() for letter in unicodedata.normalize("NFC", text)).split())


def test_captions_name_the_object_and_the_style() -> None:
    """Every styled caption names its object and its style and no other; an unstyled one its object and no style."""
    assert (len(STYLED), len(UNSTYLED)) == (10, 4)
    for thing, style, background in ROWS:
        styled, unstyled = captions_for(thing, style, background)
        for caption in styled + unstyled:
            words = re.findall(r"\w+", caption)
            assert [word for word in words if word in OBJECT_NAMES] == [OBJECT_NAMES[thing]]
            assert [word for word in words if word in STYLE_NAMES] == [STYLE_NAMES[style]] * (caption in styled)


def test_a_named_background_is_always_named() -> None:
    """On a named background every caption ends with its name; on an unnamed one no caption mentions any."""
    for thing, style, background in ROWS:
        for caption in itertools.chain(*captions_for(thing, style, background)):
            if background < 0:
                assert "background" not in caption
            else:
                name = list(BACKGROUNDS)[background]
                assert re.search(rf" on a {name} background\.?$", caption)
                assert sum(word in BACKGROUNDS for word in re.findall(r"\w+", caption)) == 1


def test_the_background_comes_before_the_full_stop() -> None:
    """A caption that ends with a full stop still does when a background is named, and no other one does."""
    for bare, named in zip(*(itertools.chain(*captions_for(0, 0, background)) for background in (-1, 0)), strict=True):
        assert named.endswith(".") == bare.endswith(".")
        assert named.count(".") == bare.count(".")
        assert named.removesuffix(".") == bare.removesuffix(".") + " on a pink background"


def test_every_caption_is_encoded_whole(either_tokenizer: CLIPTokenizer, caption_ids: dict[str, list[int]]) -> None:
    """No caption has an unknown token, and the longest fits with its start and end tokens."""
    special = {either_tokenizer.unk_token_id, either_tokenizer.bos_token_id}
    assert [caption for caption, ids in caption_ids.items() if special & set(ids)] == []
    assert 10 < max(len(ids) + 2 for ids in caption_ids.values()) <= MAX_TOKENS
    assert either_tokenizer.model_max_length == MAX_TOKENS


def test_different_captions_are_different_tokens(caption_ids: dict[str, list[int]]) -> None:
    """No two captions share their tokens: an exchanged object, style or background always shows."""
    assert len(caption_ids) == 24 * 5 * (6 * 10 + 4)
    assert len({tuple(ids) for ids in caption_ids.values()}) == len(caption_ids)


def test_every_name_is_one_token(either_tokenizer: CLIPTokenizer) -> None:
    """Objects, styles and backgrounds are whole tokens, all different; a word of no caption takes more."""
    names = [*OBJECT_NAMES, *STYLE_NAMES, *BACKGROUNDS]
    tokens = [inner_ids(either_tokenizer, name) for name in names]
    assert {name: len(ids) for name, ids in zip(names, tokens, strict=True)} == dict.fromkeys(names, 1)
    assert len({ids[0] for ids in tokens}) == len(names)
    assert len(inner_ids(either_tokenizer, "zeppelin")) > 1


@given(text=TEXTS)
@example(text="")
@example(text="An image of CAT, in Neon style!?")
@example(text="한국어, naïve café 🙂🏽")
@example(text="e\N{COMBINING ACUTE ACCENT}\0\x1f\x7f\N{NO-BREAK SPACE}\N{ZERO WIDTH NO-BREAK SPACE}x")
@example(text="'s 'll <|startoftext <|endoftext </w> ##")
@example(text="".join(chr(code) for code in range(0x20, 0x180)))
def test_any_text_comes_back(either_tokenizer: CLIPTokenizer, text: str) -> None:
    """Decoding gives back the letters of any text, in lower case: each byte has a token, and none is unknown."""
    ids = inner_ids(either_tokenizer, text)
    assert either_tokenizer.unk_token_id not in ids
    assert plain_words(either_tokenizer.decode(ids)) == plain_words(text)


@given(texts=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=2, max_size=2))
@example(texts=["cat", "car"])
@example(texts=["cat", "CAT"])
def test_words_share_tokens_only_when_they_are_the_same(either_tokenizer: CLIPTokenizer, texts: list[str]) -> None:
    """Two words have the same tokens exactly when they differ in case alone."""
    first, second = texts
    tokens = [inner_ids(either_tokenizer, text) for text in texts]
    assert (tokens[0] == tokens[1]) == (plain_words(first) == plain_words(second))


def test_the_vocabulary_holds_all_bytes_and_all_merges(tokenizer_folder: Path) -> None:
    """Ids count up without gaps: 256 bytes inside and 256 at the end of a word, one for each merge, and two marks."""
    vocabulary = json.loads((tokenizer_folder / "vocab.json").read_text(encoding="utf-8"))
    header, *merges = (tokenizer_folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert header == "#version: 0.2"
    assert all(line.replace(" ", "") in vocabulary for line in merges)
    single = {symbol for symbol in vocabulary if len(symbol.removesuffix("</w>")) == 1}
    assert len(single) == 512
    made = {line.replace(" ", "") for line in merges}
    assert set(vocabulary) == single | made | {START, END}


def test_a_tokenizer_is_written_whatever_lies_there(tmp_path: Path) -> None:
    """The folder is made, and files of an earlier build are replaced."""
    write_tokenizer(tmp_path / "new" / "tokenizer")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
    write_tokenizer(tmp_path)
    for folder in (tmp_path / "new" / "tokenizer", tmp_path):
        again = load_tokenizer(folder)
        assert {name: len(inner_ids(again, name)) for name in OBJECT_NAMES} == dict.fromkeys(OBJECT_NAMES, 1)
