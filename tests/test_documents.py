from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saeuron_guard import strict_yaml
from saeuron_guard.documents import Document, document_problems, read_document, schema_problems
from saeuron_guard.errors import InvalidFile, ManifestError
from saeuron_guard.strict_yaml import Refused, read_yaml


def read(text: str) -> strict_yaml.Reading:
    """The reading of ``text``."""
    return read_yaml(text, "f")


def values(most: int = 20) -> st.SearchStrategy[Any]:
    """Plain data, with finite numbers and text of characters that are seen."""
    text = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=8)
    text = text.filter(lambda value: not strict_yaml._UNSEEN.search(value))
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(10**17), 10**17)
        | st.floats(allow_nan=False, allow_infinity=False)
        | text
        | st.sampled_from(["no", "on", "1e3", "0x1", "12:30", "2026-01-31", "null", "<<", "=", "", " x "])
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=most
    )


class _PlainDumper(yaml.SafeDumper):
    """Writes equal lists twice rather than an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


@settings(max_examples=100, deadline=None)
@given(value=values().filter(lambda value: value is not None), flow=st.sampled_from([True, False, None]))
@example(value=["no", "1e3", "<<", "y"], flow=False)
def test_what_is_dumped_is_read(value: Any, flow: bool | None) -> None:
    """Plain data survives YAML in every style, words with two meanings in quotes."""
    text = yaml.dump(value, Dumper=_PlainDumper, default_flow_style=flow, allow_unicode=True)
    reading = read(text)
    doubtful = [problem for problem in reading.problems if "in quotes" not in problem.message]
    assert not doubtful
    if not reading.problems:
        assert reading.value == value
        assert type(reading.value) is type(value)


@settings(max_examples=100, deadline=None)
@given(value=values().filter(lambda value: value is not None))
def test_json_is_read_as_it_is(value: Any) -> None:
    """A JSON file is a YAML file with the same meaning, but for numbers with an exponent that has no sign or point."""
    reading = read(json.dumps(value, ensure_ascii=False))
    assert all("same number" in problem.message for problem in reading.problems)
    if not reading.problems:
        assert reading.value == value


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40) | st.text("ab:- \n[]{}&*!|>'\"#%?,<@`\t~01.eyn", max_size=30))
@example("? *a : b\n")
@example("a: &x\n- *x\n<<: 1")
@example("%TAG ! x\n")
def test_no_text_breaks_the_reader(text: str) -> None:
    """Any text gives a value or problems with places, never another exception."""
    reading = read(text)
    for problem in reading.problems:
        assert problem.line <= text.count("\n") + text.count("\r") + 2
        assert problem.column >= (1 if problem.line else 0)
    assert reading.problems or not isinstance(reading.value, Refused)


@pytest.mark.parametrize("word", ["y", "Y", "yes", "No", "on", "OFF", "True", "FALSE"])
def test_other_words_for_truth_are_refused(word: str) -> None:
    """Only true and false are booleans; other words are refused bare and text in quotes."""
    assert next(str(problem) for problem in read(f"a: {word}").problems).startswith(f"f:1:4: some programs read {word}")
    assert read(f"a: '{word}'").value == {"a": word}
    assert read("[true, false]").value == [True, False]


@pytest.mark.parametrize("text", ["0x1F", "0o17", "010", "1_000", "12:30", "1e3", "1.0e3", "9" * 20, "089", "Null"])
def test_numbers_that_programs_disagree_on_are_refused(text: str) -> None:
    """What YAML 1.1, YAML 1.2 and JSON read differently is no value."""
    assert len(read(f"- {text}\n- 7").problems) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("-0", 0), ("+12", 12), ("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("-1.5e+3", -1500.0), ("~", None), ("", None)],
)
def test_plain_numbers_and_nothing_are_read(text: str, value: object) -> None:
    """The controls of the refusals: ordinary notations have their ordinary values."""
    reading = read(f"- {text}\n- x")
    assert not reading.problems
    assert reading.value == [value, "x"]
    assert type(reading.value[0]) is type(value)


@pytest.mark.parametrize("text", ["2026-01-31", "2026-01-31T10:00:00Z", "1.2.0", "sha256:12", "=", "a<<b", "nope"])
def test_dates_and_versions_stay_text(text: str) -> None:
    """Nothing is turned into a date."""
    reading = read(f"a: {text}")
    assert (reading.value, reading.problems) == ({"a": text}, [])


def test_places_count_characters_from_one() -> None:
    """Columns are those of an editor, after wide characters, emoji and a byte order mark too."""
    reading = read('é\U0001f52b: [x, "y"]\nb:\n  - c: 1\n')
    assert reading.places[("é\U0001f52b", 1)] == (1, 9)
    assert reading.places[("b", 0, "c")] == (3, 8)
    assert reading.key_places[("b", 0, "c")] == (3, 5)


def test_both_parsers_of_pyyaml_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libyaml, values, places and messages stay the same."""
    texts = ["a: [1, no]\nb: {c: 'x'}\n", "a: [1\nb: 2\n", "a: b: c\n", "x: @y\n", "a: |\n  t\n \tz\n"]
    fast = [read(text) for text in texts]
    monkeypatch.setattr(strict_yaml, "_FAST_LOADER", yaml.SafeLoader)
    slow = [read(text) for text in texts]
    assert [one.problems for one in fast] == [other.problems for other in slow]
    assert fast[0].places == slow[0].places
    assert sum(bool(reading.problems) for reading in slow) == 5


def write(folder: Path, data: bytes) -> Path:
    """A file that holds ``data``."""
    path = folder / "file.yaml"
    path.write_bytes(data)
    return path


def test_bytes_that_are_not_utf8_are_refused_at_their_place(tmp_path: Path) -> None:
    """A Latin-1 file is not guessed at; the same text in UTF-8 is read."""
    with pytest.raises(InvalidFile, match=r":2:5: byte 0xe9 is not UTF-8"):
        read_document(write(tmp_path, "a: 1\nb: é\n".encode("latin-1").replace(b"b: ", b"bc: ")))
    assert read_document(write(tmp_path, "a: é".encode())).value == {"a": "é"}
    assert read_document(write(tmp_path, b"\xef\xbb\xbfa: 1")).value == {"a": 1}


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    """The limit is in bytes and is the caller's to set; one byte less is read."""
    path = write(tmp_path, b"a: " + b"x" * 97)
    with pytest.raises(ManifestError, match="larger than 99 bytes"):
        read_document(path, max_bytes=99, error=ManifestError)
    assert read_document(path, max_bytes=100).value == {"a": "x" * 97}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A special file is refused rather than read forever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidFile, match="not a regular file"):
        read_document(tmp_path / "pipe")


def test_a_document_gives_places_of_what_is_there_and_of_what_is_not(tmp_path: Path) -> None:
    """A missing value is placed at the nearest key above it."""
    document = read_document(write(tmp_path, b"a:\n  b: [x]\n"))
    assert document.place(("a", "b", 0)) == (2, 7)
    assert document.key_place(("a", "b")) == (2, 3)
    assert document.key_place(("a", "b", 0)) == (2, 7)
    assert document.place(("a", "missing", 3)) == (1, 1)
    assert document.place(("a", "b", 7)) == (2, 3)
    assert str(document.problem(("a", "b"), "m")) == f"{tmp_path}/file.yaml:2:6: m"


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind"],
    "properties": {
        "kind": {"const": "Thing"},
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 1, "x-expected": "a whole number from 1"},
        "names": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "labels": {"type": "object", "propertyNames": {"pattern": "^[a-z]+$", "x-expected": "small letters"}},
        "size": {"anyOf": [{"enum": ["small", "large"]}, {"type": "number"}], "x-expected": "small, large or a number"},
    },
}


def schema_answers(folder: Path, text: str) -> list[str]:
    """What the schema has to say about ``text``, without the file's name."""
    document = read_document(write(folder, text.encode()))
    return [str(problem).partition("file.yaml:")[2] for problem in schema_problems(document, SCHEMA)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("kind: Thing", None),
        ("colour: red", "1:1: missing key 'kind' (text 'Thing')"),
        ("kind: Thign", "1:7: expected text 'Thing', got text 'Thign' (kind). Did you mean 'Thing'?"),
        ("kind: Thing\ncolour: Gren", "2:9: expected red or green, got text 'Gren' (colour). Did you mean 'green'?"),
        ("kind: Thing\ncolour: 3", "2:9: expected red or green, got number 3 (colour)"),
        ("kind: Thing\nCount: 3", "2:1: unknown key 'Count' (Count). Did you mean 'count'?"),
        ("kind: Thing\ncount: 0", "2:8: expected a whole number from 1, got number 0 (count)"),
        ("kind: Thing\ncount: true", "2:8: expected a whole number from 1, got true (count)"),
        ("kind: Thing\nnames: {}", "2:8: expected a list, got an empty mapping (names)"),
        ("kind: Thing\nnames: [a, 1]", "2:12: expected text, got number 1 (names[1])"),
        ("kind: Thing\nnames: [a, b, a]", "2:15: text 'a' (names[2]) repeats names[0]; remove it"),
        ("kind: Thing\nlabels: {ok: 1, NOT: 1}", "2:17: expected small letters, got text 'NOT' (labels)"),
        ("kind: Thing\nsize: smal", ("2:7: expected small, large or a number, got text 'smal' (size). "
         "Did you mean 'small'?")),
        ("[]", "1:1: expected a mapping, got an empty list"),
    ],
)  # fmt: skip
def test_a_schema_is_answered_in_words(tmp_path: Path, text: str, answer: str | None) -> None:
    """Each keyword has its sentence, its place, and where words are near, a suggestion."""
    assert schema_answers(tmp_path, text) == ([] if answer is None else [answer])


def test_refused_values_are_reported_once() -> None:
    """A value that the reader refused is not reported by the schema again."""
    reading = read("kind: Thing\nnames: [no, no]\ncount: yes\nsize: on")
    document = Document(reading.value, "f", tuple(reading.problems), reading.places, reading.key_places)
    assert len(document.problems) == 4
    assert schema_problems(document, SCHEMA) == []


@pytest.mark.parametrize(
    ("kind", "version", "answer"),
    [
        ("Policy", "saeuron-guard/v1", None),
        (
            "Policy",
            "saeuron-guard/v1alpha1",
            "is an older version; run \"saeuron-guard policy upgrade 'my file.yaml'\"",
        ),
        (
            "Policy",
            "saeuron-guard/v1alpha2",
            "install the release that reads yours. Did you mean 'saeuron-guard/v1alpha1'?",
        ),
        (
            "PromptSet",
            "saeuron-guard/v1alpha1",
            "install the release that reads yours. Did you mean 'saeuron-guard/v1'?",
        ),
        (
            "Policy",
            "9",
            "unknown apiVersion '9'. This release reads 'saeuron-guard/v1'; write that, or install the release",
        ),
    ],
)
def test_another_version_is_answered_with_what_to_do(kind: str, version: str, answer: str | None) -> None:
    """An older policy names the command that upgrades it; what no release ever read, the nearest that one reads."""
    document = Document({"apiVersion": version, "kind": kind}, "my file.yaml")
    problems = [problem.message for problem in document_problems(document, {}, kind)]
    assert len(problems) == (answer is not None)
    assert all(answer and answer in problem for problem in problems)
