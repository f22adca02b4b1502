from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron_guard.errors import PromptSetError
from saeuron_guard.prompts.expand import Expansion, template_mistakes
from saeuron_guard.prompts.load import find_prompt_set, load_prompt_set
from saeuron_guard.prompts.model import Prompt, PromptSet

HEAD = {
    "apiVersion": "saeuron-guard/v1",
    "kind": "PromptSet",
    "metadata": {"name": "few", "role": "audit", "model": "m"},
}
STYLED = {
    "templates": ["A {object} in {style}.", "{style} {object}"],
    "labels": {"object": ["cat", "Big dog"], "style": ["Noto", "Neon"]},
}
WRITTEN = [{"text": "A cat, Noto.", "labels": {"style": "Noto", "object": "cat"}}, {"text": "A view.", "labels": {}}]


def loaded(folder: Path, **parts: Any) -> PromptSet:
    """The prompt set made of ``prompts`` and ``expand``."""
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump({**HEAD, **parts}, sort_keys=False), encoding="utf-8")
    return load_prompt_set(path)


def problems(folder: Path, **parts: Any) -> list[str]:
    """What is wrong with it, without the file's name."""
    with pytest.raises(PromptSetError) as caught:
        loaded(folder, **parts)
    return [str(problem).rpartition("set.yaml:")[2] for problem in caught.value.problems]


def test_prompts_written_out_arrive(tmp_path: Path) -> None:
    """Text, sorted labels and an id from the labels in the order of the file."""
    found = loaded(tmp_path, prompts=[*WRITTEN, {"id": "mine", "text": "x", "labels": {"object": "cat"}}])
    assert (found.name, found.role, found.model) == ("few", "audit", "m")
    assert found.prompts == (
        Prompt("noto-cat-1", "A cat, Noto.", (("object", "cat"), ("style", "Noto"))),
        Prompt("prompt-1", "A view.", ()),
        Prompt("mine", "x", (("object", "cat"),)),
    )


def test_templates_meet_all_combinations(tmp_path: Path) -> None:
    """The last domain counts fastest and templates faster still; ids count the prompts with the same labels."""
    found = loaded(tmp_path, expand=[STYLED])
    assert [(prompt.id, prompt.text) for prompt in found.prompts[:4]] == [
        ("cat-noto-1", "A cat in Noto."),
        ("cat-noto-2", "Noto cat"),
        ("cat-neon-1", "A cat in Neon."),
        ("cat-neon-2", "Neon cat"),
    ]
    assert found.prompts[-1] == Prompt("big-dog-neon-2", "Neon Big dog", (("object", "Big dog"), ("style", "Neon")))
    assert len(found.prompts) == 8


def test_exceptions_are_left_out(tmp_path: Path) -> None:
    """An entry with one domain leaves out all its combinations, one with two a single combination."""
    found = loaded(tmp_path, expand=[STYLED | {"except": [{"object": "cat", "style": "Noto"}]}])
    assert [prompt.id for prompt in found.prompts if prompt.shows("cat")] == ["cat-neon-1", "cat-neon-2"]
    assert len(found.prompts) == 6
    assert len(loaded(tmp_path, expand=[STYLED | {"except": [{"style": "Neon"}]}]).prompts) == 4


@settings(max_examples=100, deadline=None)
@given(
    objects=st.integers(1, 7), styles=st.integers(1, 7), templates=st.integers(1, 5), left=st.sets(st.integers(0, 48))
)
def test_rotation_is_fair(objects: int, styles: int, templates: int, left: set[int]) -> None:
    """Each combination gets one template, each concept meets all in turn, and exceptions move none of the others."""
    labels = {
        "object": tuple(f"o{number}" for number in range(objects)),
        "style": tuple(f"s{number}" for number in range(styles)),
    }
    texts = tuple(f"{number}" + " {object} {style}" for number in range(templates))
    whole = {tuple(labels.values()): template for template, labels in Expansion(texts, labels, (), rotate=True)}
    assert len(whole) == objects * styles
    for at, names in enumerate(labels.values()):
        for name in names:
            met = Counter(template for combination, template in whole.items() if combination[at] == name)
            uses = [met[number] for number in range(templates)]
            assert max(uses) - min(uses) <= 1
    left_out = tuple({"object": f"o{n // 7}", "style": f"s{n % 7}"} for n in left)
    part = {tuple(labels.values()): template for template, labels in Expansion(texts, labels, left_out, rotate=True)}
    gone = {tuple(entry.values()) for entry in left_out}
    assert part == {combination: template for combination, template in whole.items() if combination not in gone}


def test_the_digest_is_that_of_the_prompts(tmp_path: Path) -> None:
    """Writing the same prompts out changes nothing; another text, label, role or id does."""
    one = {"templates": ["A {object}."], "labels": {"object": ["cat", "dog"]}}
    written: list[dict[str, Any]] = [
        {"text": "A dog.", "labels": {"object": "dog"}},
        {"text": "A cat.", "labels": {"object": "cat"}},
    ]
    digest = loaded(tmp_path, expand=[one]).digest
    assert loaded(tmp_path, prompts=written).digest == digest
    for change in ({"text": "The cat."}, {"labels": {"object": "dog"}}, {"id": "c"}):
        assert loaded(tmp_path, prompts=[written[0], written[1] | change]).digest != digest
    other = loaded(tmp_path, prompts=written, metadata={"name": "few", "role": "anchor", "model": "m"})
    assert other.digest != digest


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ({}, "1:1: missing key 'prompts' or 'expand'"),
        ({"prompts": [{"text": "x"}]}, ("8:3: missing key 'labels' in prompts[0] "
         "(a mapping of domains to concepts, such as {object: pistol, style: Noto})")),
        ({"prompts": [{"text": " x", "labels": {}}]}, ("8:9: expected one line of text of at most 1000 characters, "
         "got text ' x' (prompts[0].text)")),
        ({"prompts": [*WRITTEN, {"text": "a  CAT, noto.", "labels": {}}]},
         "14:9: the text 'a  CAT, noto.' is there twice (first from 8:9); keep one"),
        ({"prompts": WRITTEN, "expand": [{"templates": ["A {object}, Noto."], "labels": {"object": ["cat", "dog"]}}]},
         "16:5: the text 'A cat, Noto.' is there twice (first from 8:9); keep one"),
        ({"prompts": [*WRITTEN, {"id": "noto-cat-1", "text": "x", "labels": {}}]},
         "14:7: the id 'noto-cat-1' is also that of the prompt from 8:3; choose another"),
        ({"prompts": [{"id": "cat-1", "text": "x", "labels": {}}],
          "expand": [{"templates": ["A {object}."], "labels": {"object": ["cat"]}}]},
         "8:7: the id 'cat-1' is also that of the prompt from 13:5; choose another"),
        ({"expand": [STYLED | {"templates": ["A {object} in {styl}, {style}."]}]},
         "9:5: {styl} in 'A {object} in {styl}, {style}.' is not a labelled domain. Did you mean 'style'?"),
        ({"expand": [STYLED | {"templates": ["A {object}."]}]},
         "9:5: 'A {object}.' does not name {style}, which its labels speak of"),
        ({"expand": [STYLED | {"templates": ["A {object} in {style}}."]}]},
         "9:5: a brace without its partner in 'A {object} in {style}}.'"),
        ({"expand": [STYLED | {"except": [{"object": "cta"}]}]},
         "19:13: 'cta' (expand[0].except[0].object) is none of the labels of object. Did you mean 'cat'?"),
        ({"expand": [STYLED | {"except": [{"colour": "red"}]}]},
         "19:5: 'colour' (expand[0].except[0].colour) is not a labelled domain. Labelled here: object or style."),
        ({"expand": [STYLED | {"except": [{"style": "Noto"}, {"style": "Neon"}]}]},
         "7:1: no prompt is left after 'except'"),
        ({"expand": [STYLED | {"pick": "rotation"}]},
         "18:9: expected all or rotate, got text 'rotation' (expand[0].pick). Did you mean 'rotate'?"),
        ({"expand": [{"templates": ["{a} {b}"], "labels": {d: [f"x{n}" for n in range(150)] for d in "ab"}}]},
         "7:1: makes up to 22500 prompts; a set may have 20000"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_place(tmp_path: Path, parts: dict[str, Any], answer: str) -> None:
    """A faulty set has one error with a place, what was expected and, where words are near, a suggestion."""
    assert problems(tmp_path, **parts) == [answer]


def test_a_right_template_has_no_mistakes() -> None:
    """The control: a template may name a domain twice and in any order."""
    assert list(template_mistakes("{style}, {object}, {style}", ("object", "style"))) == []


def test_names_of_shipped_sets_are_found() -> None:
    """A name with its role, or with the role given, or one that only one set has; else the sets are listed."""
    full = find_prompt_set("audit/emoji-canvas")
    assert full.role == "audit"
    assert find_prompt_set("emoji-canvas", role="audit") == full
    assert find_prompt_set("emoji-canvas-held-out").name == "emoji-canvas-held-out"
    with pytest.raises(PromptSetError, match=r"say which: anchor/emoji-canvas, audit/emoji-canvas or calibration/"):
        find_prompt_set("emoji-canvas")
    with pytest.raises(PromptSetError, match=r"Did you mean 'audit/emoji-canvas'\?"):
        find_prompt_set("audit/emoji-canva")


def test_a_set_of_another_role_is_refused() -> None:
    """Prompts that found features may not judge."""
    with pytest.raises(PromptSetError, match="role is anchor; expected one whose role is audit"):
        find_prompt_set("anchor/emoji-canvas", role="audit")


def test_paths_are_sought_near_the_policy_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path counts from the policy's folder, then from the current one; a missing file names both."""
    near, here = tmp_path / "near", tmp_path / "here"
    for folder, text in ((near, "near"), (here, "here")):
        folder.mkdir()
        loaded(folder, prompts=[{"text": text, "labels": {}}])
    monkeypatch.chdir(here)
    assert find_prompt_set("set.yaml", near=near).prompts[0].text == "near"
    assert find_prompt_set("set.yaml").prompts[0].text == "here"
    (near / "set.yaml").unlink()
    assert find_prompt_set("set.yaml", near=near).prompts[0].text == "here"
    with pytest.raises(PromptSetError, match=r"no such prompt set \(looked at .*near/other.yaml or other.yaml\)"):
        find_prompt_set("other.yaml", near=near)
