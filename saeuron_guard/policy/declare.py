"""What one policy file says by itself: its settings as written, each with its place, and its contradictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from saeuron_guard.documents import Document
from saeuron_guard.errors import Problem
from saeuron_guard.names import PRESENT_SHARE, STRENGTH_PRESETS
from saeuron_guard.policy.model import Place, PolicyTest, Window
from saeuron_guard.policy.settings import LISTS, RULE, WHOLE, Key, Value, key_text
from saeuron_guard.strict_yaml import Pointer
from saeuron_guard.wording import pointer_text, quote


@dataclass(frozen=True, slots=True)
class Declared:
    """Settings that the file states, without defaults, and where; lists keep the file's order."""

    settings: dict[Key, Value] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)


def contradictions(document: Document) -> Iterator[Problem]:
    """What no schema can say; reads what is well-formed of a faulty document."""
    yield from _removed_and_retained(document)
    for position, entry in _mappings(document.value, "concepts"):
        if (
            _inner(entry, "selection", "features") is not None
            and _inner(entry, "selection", "max_features") is not None
        ):
            pointer = ("concepts", position, "selection", "max_features")
            yield document.key_problem(pointer, "features names exactly what is edited; drop max_features, or features")
        window = entry.get("timesteps")
        first, last = _pair(window, "from", "to")
        if first < last:
            pointer = ("concepts", position, "timesteps", "from")
            message = f"timesteps count down: from ({first:g}) must not be below to ({last:g})"
            yield document.problem(pointer, f"{message}; exchange the two")
    fewest, most = _pair(_inner(document.value, "target", "steps"), "min", "max")
    if fewest > most:
        message = f"min ({fewest:g}) is above max ({most:g}); exchange the two"
        yield document.problem(("target", "steps", "min"), message)
    yield from _test_mistakes(document)


def _removed_and_retained(document: Document) -> Iterator[Problem]:
    removed: dict[str, Pointer] = {}
    for pointer, name in _named(document.value, "concepts"):
        if name in removed:
            line, column = document.place(removed[name])
            message = f"concept {quote(name)} is removed twice (first at {line}:{column}); keep one entry"
            yield document.problem(pointer, message)
        removed.setdefault(name, pointer)
    for pointer, name in _named(document.value, "retain", "concepts"):
        if name in removed:
            line, column = document.place(removed[name])
            message = f"concept {quote(name)} is retained here but removed at {line}:{column}; drop one of the two"
            yield document.problem(pointer, message)


def _test_mistakes(document: Document) -> Iterator[Problem]:
    first: dict[tuple[Any, ...], int] = {}
    triggered: dict[tuple[Any, ...], int] = {}
    for position, test in _mappings(document.value, "tests"):
        if test.get("expect") == "trigger" and "concept" not in test:
            message = f"a test that expects trigger needs a concept ({pointer_text(('tests', position))})"
            yield document.key_problem(("tests", position), message)
        same = (test.get("prompt"), test.get("concept"), test.get("seed", 0))
        if test.get("expect") == "trigger":
            triggered[test.get("prompt"), test.get("seed", 0)] = position
        earlier = first.setdefault(same, position)
        if earlier != position:
            line, column = document.place(("tests", earlier))
            message = f"this prompt, concept and seed are tested already at {line}:{column}; keep one test"
            yield document.key_problem(("tests", position), message)
    yield from _clear_of_everything(document, triggered)


def _clear_of_everything(document: Document, triggered: dict[tuple[Any, ...], int]) -> Iterator[Problem]:
    """Tests that expect no concept at all of a prompt of which another one expects a concept."""
    for position, test in _mappings(document.value, "tests"):
        same = (test.get("prompt"), test.get("seed", 0))
        if test.get("expect") == "clear" and "concept" not in test and same in triggered:
            line, column = document.place(("tests", triggered[same]))
            message = f"this test expects that nothing acts, the one at {line}:{column} that a concept does; drop one"
            yield document.key_problem(("tests", position), message)


def declare(document: Document) -> Declared:
    """The settings of a document that fits the schema."""
    found = Declared()
    value = document.value
    for key in WHOLE:
        stated = _inner(value, *key)
        if stated is not None:
            _note(found, document, key, key, _plain(key, stated))
    for position, entry in enumerate(value.get("concepts", ())):
        above: Key = ("concepts", entry["concept"])
        _note(found, document, above, ("concepts", position, "concept"), True)
        for key in RULE:
            stated = _inner(entry, *key)
            if stated is not None:
                _note(found, document, (*above, *key), ("concepts", position, *key), _plain(key, stated))
    for path in LISTS:
        for position, name in enumerate(_inner(value, *path) or ()):
            _note(found, document, (*path, name), (*path, position), True)
    return found


def declared_tests(document: Document) -> tuple[PolicyTest, ...]:
    """The tests of a document that fits the schema."""
    return tuple(
        PolicyTest(
            prompt=test["prompt"],
            expect=test["expect"],
            concept=test.get("concept"),
            seed=int(test.get("seed", 0)),
            share=number(test.get("share", PRESENT_SHARE)),
            todo=test.get("todo"),
            place=place_at(document, ("tests", position)),
        )
        for position, test in enumerate(document.value.get("tests", ()))
    )


def place_at(document: Document, pointer: Pointer) -> Place:
    """Where the value at ``pointer`` was written."""
    return Place(document.file, *document.place(pointer))


def number(value: float) -> float:
    """One float for all ways to write a number: 1 and 1.0, 0 and -0.0."""
    return float(value) + 0.0


_TYPES: Final[Mapping[str, Callable[[Any], Value]]] = {
    "strength": lambda value: STRENGTH_PRESETS[value] if isinstance(value, str) else number(value),
    "timesteps": lambda value: Window(int(value["from"]), int(value["to"])),
    "steps": lambda value: (int(value["min"]), int(value["max"])),
    "seeds": lambda value: tuple(int(seed) for seed in value),
    "schedulers": tuple,
    "features": tuple,
    "minimum_n": int,
    "waiver_days": int,
    "max_features": int,
}
"""How settings of these names become values of their own type; numbers of all others become floats."""


def _plain(key: Key, value: Any) -> Value:
    if key[-1] in _TYPES:
        return _TYPES[key[-1]](value)
    return number(value) if isinstance(value, int | float) else value


def _note(found: Declared, document: Document, key: Key, pointer: Pointer, value: Value) -> None:
    found.settings[key] = value
    found.places[key_text(key)] = place_at(document, pointer)


def _inner(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _mappings(value: Any, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    entries = _inner(value, key)
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield position, entry


def _pair(value: Any, *keys: str) -> tuple[float, ...]:
    """The two numbers of a mapping; zeros where they are missing or no numbers, which the schema reports."""
    numbers = tuple(_inner(value, key) for key in keys)
    return numbers if all(isinstance(one, int | float) for one in numbers) else (0.0, 0.0)


def _named(value: Any, *keys: str) -> Iterator[tuple[Pointer, str]]:
    """Names in the list below ``keys``, given as ``- name`` or as ``- concept: name``, with their pointers."""
    entries = _inner(value, *keys)
    for position, entry in enumerate(entries if isinstance(entries, list) else []):
        name = entry.get("concept") if isinstance(entry, dict) else entry
        if isinstance(name, str):
            yield (*keys, position, *(("concept",) if isinstance(entry, dict) else ())), name
