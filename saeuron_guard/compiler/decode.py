"""Turns JSON values into frozen dataclasses, taking nothing that their fields do not declare."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from saeuron_guard.wording import describe, quote

T = TypeVar("T")


class MalformedError(ValueError):
    """A JSON value is not what the declared type takes; the message says where."""


def decode(kind: type[T], value: Any, where: str) -> T:
    """``value`` as ``kind``: a dataclass of such types, ``tuple[X, ...]``, str, bool, int or float.

    Any of them may be ``X | None``.
    ``where`` is the place of ``value`` in the document, for messages.
    Raises MalformedError for missing and unknown keys, other types (true is not a number) and numbers that are not
    finite.
    """
    if get_origin(kind) is UnionType:
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
        if value is None:
            return cast(T, None)
    if is_dataclass(kind):
        return cast(T, _decode_object(kind, value, where))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _unexpected("a list", value, where)
        entry = get_args(kind)[0]
        return cast(T, tuple(decode(entry, part, f"{where}[{number}]") for number, part in enumerate(value)))
    return cast(T, _decode_scalar(kind, value, where))


def _decode_object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _unexpected("an object", value, where)
    hints = _hints(kind)
    for name in value:
        if name not in hints:
            raise MalformedError(f"unknown key {quote(name)} in {where or 'the top level'}")
    for name in hints:
        if name not in value:
            raise MalformedError(f"key {name!r} is missing in {where or 'the top level'}")
    return kind(**{name: decode(hint, value[name], _below(where, name)) for name, hint in hints.items()})


def _decode_scalar(kind: type[Any], value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _unexpected("a finite number", value, where)
        return float(value)
    if kind is str and isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _unexpected("text without halves of surrogate pairs", ascii(value)[1:-1], where)
    if type(value) is not kind:
        raise _unexpected(
            {str: "text", bool: "true or false", int: "a whole number", float: "a number"}[kind], value, where
        )
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unexpected(expected: str, value: Any, where: str) -> MalformedError:
    # Not str(value): that of a list may be as long as the file.
    got = describe(value) if isinstance(value, list | dict) else repr(str(value)[:40])
    return MalformedError(f"{where or 'the document'} is {got}, expected {expected}")
