"""Files that people write in YAML: read strictly, with the place of every value, and checked against a JSON Schema."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from saeuron_guard.errors import InvalidFile, Problem
from saeuron_guard.names import API_VERSION, OLDER_POLICY_VERSIONS
from saeuron_guard.strict_yaml import Pointer, Refused, place_of, read_yaml
from saeuron_guard.wording import describe, did_you_mean, one_of, pointer_text, quote

LARGEST_FILE: Final = 256 * 1024
"""Bytes of the largest file that is read unless the caller allows more."""

_Schema = Mapping[str, Any]
_Violation = Any
"""A jsonschema ValidationError; its types call every field possibly unset, which those it reports never are."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file's plain value (dict, list, str, int, float, bool, None), the place of each part, and what was refused.

    Places are (line, column) and count from 1.
    """

    value: Any
    file: str
    problems: tuple[Problem, ...] = ()
    places: dict[Pointer, tuple[int, int]] = field(default_factory=dict)
    key_places: dict[Pointer, tuple[int, int]] = field(default_factory=dict)

    def place(self, pointer: Pointer) -> tuple[int, int]:
        """Where the value at ``pointer`` begins; for one that is missing, where the nearest thing above it does."""
        while pointer and pointer not in self.places:
            pointer = pointer[:-1]
            if pointer in self.key_places:
                return self.key_places[pointer]
        return self.places.get(pointer, (1, 1))

    def key_place(self, pointer: Pointer) -> tuple[int, int]:
        """Where the key of the value at ``pointer`` begins; for a list's entry, where the entry does."""
        return self.key_places.get(pointer) or self.place(pointer)

    def problem(self, pointer: Pointer, message: str) -> Problem:
        """``message`` at the place of the value at ``pointer``."""
        return Problem(self.file, *self.place(pointer), message)

    def key_problem(self, pointer: Pointer, message: str) -> Problem:
        """``message`` at the place of the key at ``pointer``."""
        return Problem(self.file, *self.key_place(pointer), message)


def read_document(path: Path, *, max_bytes: int = LARGEST_FILE, error: type[InvalidFile] = InvalidFile) -> Document:
    """Read one YAML document strictly; raises ``error`` with everything that was refused."""
    document = draft_document(path, max_bytes=max_bytes, error=error)
    if document.problems:
        raise error(document.problems)
    return document


def draft_document(path: Path, *, max_bytes: int = LARGEST_FILE, error: type[InvalidFile] = InvalidFile) -> Document:
    """Read one YAML document as far as it goes, for callers that add problems of their own to its ``problems``.

    Refused values are ``Refused`` objects. Raises ``error`` when the file cannot be read, is too large or not UTF-8.
    """
    text = read_text(path, max_bytes=max_bytes, error=error).removeprefix("\ufeff")
    reading = read_yaml(text, str(path))
    problems = tuple(sorted(reading.problems))
    return Document(reading.value, reading.file, problems, reading.places, reading.key_places)


def document_problems(document: Document, schema: Mapping[str, Any], kind: str) -> list[Problem]:
    """What the reader refused and what ``schema`` refuses; of a file of another kind or version, only that."""
    header = _header_problems(document, kind)
    return [*document.problems, *(header or schema_problems(document, schema))]


def schema_problems(document: Document, schema: Mapping[str, Any]) -> list[Problem]:
    """Where and how ``document`` breaks ``schema`` (JSON Schema 2020-12), in words for people.

    The annotation ``x-expected`` of a schema says in words what it takes. Refused values are passed over: they have
    their problem already.
    """
    from jsonschema import Draft202012Validator

    problems: list[Problem] = []
    for error in Draft202012Validator(schema).iter_errors(document.value):
        if not isinstance(error.instance, Refused):
            explain = _EXPLANATIONS.get(str(error.validator), _explain_value)
            problems += explain(document, tuple(error.absolute_path), error, schema)
    return sorted(dict.fromkeys(problems))


def _header_problems(document: Document, kind: str) -> list[Problem]:
    """Whether the file is of this kind and version; a missing header is the schema's to report."""
    if not isinstance(document.value, dict):
        if isinstance(document.value, Refused):
            return []
        return [
            document.problem((), f"expected a mapping with apiVersion, kind and so on, got {describe(document.value)}")
        ]
    version, found = document.value.get("apiVersion", API_VERSION), document.value.get("kind", kind)
    if isinstance(version, str) and version != API_VERSION:
        return [document.problem(("apiVersion",), _other_version(version, document.file, kind))]
    if isinstance(found, str) and found != kind:
        return [document.problem(("kind",), f"expected kind {quote(kind)}, got {quote(found)}")]
    return []


def _declared(schema: Mapping[str, Any], pointer: Pointer) -> Mapping[str, Any]:
    """The part of ``schema`` that describes the value at ``pointer``; conditions (if, then, else) describe nothing."""
    found: Mapping[str, Any] = schema
    for part in pointer:
        found = found.get("items", {}) if isinstance(part, int) else found.get("properties", {}).get(part, {})
        if "$ref" in found:
            found = {**schema.get("$defs", {}).get(found["$ref"].rpartition("/")[2], {}), **found}
    return found


def _other_version(version: str, file: str, kind: str) -> str:
    """What is to be done about a file that is not of this release's version."""
    older = OLDER_POLICY_VERSIONS if kind == "Policy" else ()
    if version in older:
        return (
            f'apiVersion {quote(version)} is an older version; run "saeuron-guard policy upgrade {shlex.quote(file)}"'
        )
    hint = did_you_mean(version, (API_VERSION, *older))
    return (
        f"unknown apiVersion {quote(version)}. This release reads {quote(API_VERSION)}; "
        "write that, or install the release that reads yours" + (f".{hint}" if hint else "")
    )


def _explain_unknown_keys(document: Document, pointer: Pointer, error: _Violation, _: _Schema) -> Iterator[Problem]:
    known: dict[str, Any] = error.schema.get("properties", {})
    for key in error.instance:
        if key not in known:
            where = pointer_text((*pointer, key))
            hint = did_you_mean(key, known) or f" Known here: {', '.join(known)}."
            yield document.key_problem((*pointer, key), f"unknown key {quote(key)} ({where}).{hint}")


def _explain_missing_keys(
    document: Document, pointer: Pointer, error: _Violation, schema: _Schema
) -> Iterator[Problem]:
    for key in error.validator_value:
        if key not in error.instance:
            hint = _expected(_declared(schema, (*pointer, key)))
            where = f" in {pointer_text(pointer)}" if pointer else ""
            yield document.key_problem(pointer, f"missing key {quote(key)}{where}" + (f" ({hint})" if hint else ""))


def _explain_alternatives(
    document: Document, pointer: Pointer, error: _Violation, schema: _Schema
) -> Iterator[Problem]:
    keys = [key for inner in error.context if inner.validator == "required" for key in inner.validator_value]
    if isinstance(error.instance, dict) and (meant := _meant(error)):
        for inner in meant:
            explain = _EXPLANATIONS.get(str(inner.validator), _explain_value)
            yield from explain(document, tuple(inner.absolute_path), inner, schema)
    elif keys:
        where = f" in {pointer_text(pointer)}" if pointer else ""
        yield document.key_problem(pointer, f"missing key {one_of([quote(key) for key in keys])}{where}")
    else:
        yield from _explain_value(document, pointer, error, schema)


def _meant(error: _Violation) -> list[_Violation]:
    """What breaks the one alternative that is meant by a mapping where other alternatives are no mappings."""
    by_alternative: dict[Any, list[_Violation]] = {}
    for inner in error.context:
        by_alternative.setdefault(inner.schema_path[0], []).append(inner)
    mappings = [
        found for found in by_alternative.values() if not any(one.validator == "type" and not one.path for one in found)
    ]
    return mappings[0] if len(mappings) == 1 < len(by_alternative) else []


def _explain_repetition(document: Document, pointer: Pointer, error: _Violation, _: _Schema) -> Iterator[Problem]:
    for (first, one), (second, other) in itertools.combinations(enumerate(error.instance), 2):
        if one == other:
            where, earlier = pointer_text((*pointer, second)), pointer_text((*pointer, first))
            yield document.problem((*pointer, second), f"{describe(other)} ({where}) repeats {earlier}; remove it")
            return


def _explain_value(document: Document, pointer: Pointer, error: _Violation, _: _Schema) -> Iterator[Problem]:
    expected = _expected(error.schema) or f"a value that fits {error.validator} {error.validator_value}"
    hint = did_you_mean(error.instance, _choices(error)) if isinstance(error.instance, str) else ""
    where = f" ({pointer_text(pointer)})" if pointer else ""
    message = f"expected {expected}, got {_got(error.instance)}{where}" + (f".{hint}" if hint else "")
    if "propertyNames" in error.absolute_schema_path:
        yield document.key_problem((*pointer, error.instance), message)
    else:
        yield document.problem(pointer, message)


_EXPLANATIONS: Final[dict[str, Callable[[Document, Pointer, _Violation, _Schema], Iterable[Problem]]]] = {
    "additionalProperties": _explain_unknown_keys,
    "anyOf": _explain_alternatives,
    "required": _explain_missing_keys,
    "uniqueItems": _explain_repetition,
}

_TYPES: Final = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}

_EMPTY: Final[dict[str, Any]] = {"list": [], "mapping": {}, "text": ""}


def _expected(schema: Any) -> str:
    """What a schema takes, in words: its ``x-expected``, its only values, or its type; empty when it says none."""
    if "x-expected" in schema:
        return str(schema["x-expected"])
    if "const" in schema:
        return describe(schema["const"])
    if "enum" in schema:
        return one_of([str(choice) for choice in schema["enum"]])
    return _TYPES.get(schema.get("type", ""), "")


def _choices(error: _Violation) -> list[str]:
    """The words that would have been taken, also by one of several alternatives."""
    schemas = [error.schema, *(inner.schema for inner in error.context or ())]
    choices = [choice for schema in schemas for choice in (*schema.get("enum", ()), schema.get("const"))]
    return [choice for choice in choices if isinstance(choice, str)]


def _got(value: Any) -> str:
    empty = next((name for name, nothing in _EMPTY.items() if value == nothing), None)
    return f"an empty {empty}" if empty else describe(value)


def read_text(path: Path, *, max_bytes: int = LARGEST_FILE, error: type[InvalidFile] = InvalidFile) -> str:
    """What a file that people write says, a byte order mark included.

    Raises ``error`` when the file cannot be read, is too large or not UTF-8.
    """
    file = str(path)
    try:
        if path.is_dir():
            raise error([Problem(file, 0, 0, "this is a folder; name a YAML file")])
        if path.exists() and not path.is_file():
            raise error([Problem(file, 0, 0, "this is not a regular file")])
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise error([Problem(file, 0, 0, "there is no such file")]) from None
    except (OSError, ValueError) as cause:
        raise error([Problem(file, 0, 0, f"the file cannot be read: {cause}")]) from None
    return decoded(data, file, max_bytes=max_bytes, error=error)


def decoded(data: bytes, file: str, *, max_bytes: int = LARGEST_FILE, error: type[InvalidFile] = InvalidFile) -> str:
    """``data`` as text; raises ``error`` when it is too large or not UTF-8, naming ``file``."""
    if len(data) > max_bytes:
        raise error([Problem(file, 0, 0, f"the file is larger than {max_bytes} bytes, the most that is read")])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as cause:
        before = data[: cause.start].decode("utf-8")
        message = f"byte 0x{data[cause.start]:02x} is not UTF-8; save the file as UTF-8"
        raise error([Problem(file, *place_of(before, len(before)), message)]) from None
