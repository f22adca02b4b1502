"""The prompt sets that ship for EmojiCanvas."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from saeuron_guard.names import PROMPT_ROLES
from saeuron_guard.pipelines.emoji_canvas.world import HELD_OUT, OBJECT_NAMES, STYLE_NAMES, combinations
from saeuron_guard.prompts.load import find_prompt_set, load_prompt_set
from saeuron_guard.prompts.model import PromptSet
from saeuron_guard.resources import data_folder

FOLDER = data_folder("policies") / "prompts"
FILES = sorted(FOLDER.glob("*/*.yaml"))


def pairs(prompts: PromptSet) -> Counter[tuple[str | None, str | None]]:
    """How often each object and style are asked for together; None for a style that is not named."""
    return Counter((prompt.concept("object"), prompt.concept("style")) for prompt in prompts.prompts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_set_is_where_it_belongs(path: Path) -> None:
    """Its folder is its role, its file its name, and its first line the schema for editors."""
    found = load_prompt_set(path)
    assert (found.role, found.name, found.model) == (path.parent.name, path.stem, "emoji-canvas")
    schema = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / schema).resolve().match("saeuron_guard/prompts/schema.json")


def test_no_prompt_serves_two_sets() -> None:
    """Prompts that find features, choose settings and judge are disjoint in text, whatever their case."""
    texts = {path: {prompt.text.casefold() for prompt in load_prompt_set(path).prompts} for path in FILES}
    assert {path.parent.name for path in texts} == set(PROMPT_ROLES)
    for one, other in itertools.combinations(texts, 2):
        assert texts[one].isdisjoint(texts[other]), (one, other)


@pytest.mark.parametrize("role", PROMPT_ROLES)
def test_each_role_covers_what_was_trained(role: str) -> None:
    """Every trained combination equally often, every object once without a style, and nothing that was held out."""
    found = pairs(find_prompt_set("emoji-canvas", role=role))
    trained = {(thing.name, style.name) for thing, style in combinations(held_out=False)}
    styled = {pair: count for pair, count in found.items() if pair[1] is not None}
    assert set(styled) == trained
    assert len(set(styled.values())) == 1
    assert {pair: count for pair, count in found.items() if pair[1] is None} == {(o, None): 1 for o in OBJECT_NAMES}
    assert HELD_OUT.isdisjoint(found)


def test_held_out_combinations_have_a_set_of_their_own() -> None:
    """It asks for all combinations that training never saw, and for no other."""
    found = find_prompt_set("audit/emoji-canvas-held-out")
    assert set(pairs(found)) == HELD_OUT
    assert set(pairs(found).values()) == {3}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_labels_are_what_the_text_asks_for(path: Path) -> None:
    """A prompt's words name its object and its style, and no other of either."""
    for prompt in load_prompt_set(path).prompts:
        words = set(prompt.text.replace(",", " ").replace(".", " ").split())
        asked = {concept for _, concept in prompt.labels}
        assert words & {*OBJECT_NAMES, *STYLE_NAMES} == asked, prompt


def test_audit_sentences_are_spread_over_every_concept() -> None:
    """No style is judged by one sentence only, so that a sentence's weakness is not taken for a style's."""
    found = find_prompt_set("audit/emoji-canvas")
    for style in STYLE_NAMES:
        texts = [prompt.text for prompt in found.prompts if prompt.concept("style") == style]
        openings = Counter(text.split()[1] if text.startswith("A ") else text for text in texts)
        assert len(openings) == 3
        assert min(openings.values()) >= 6
