"""``guard.json``: a guard's configuration as a file that people read, diff and pin."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, Final

from saeuron_guard.compiler.config import GuardConfig
from saeuron_guard.compiler.decode import decode
from saeuron_guard.compiler.soundness import unsound
from saeuron_guard.digests import canonical_json, digest_of
from saeuron_guard.errors import ArtefactError
from saeuron_guard.strict_json import read_json
from saeuron_guard.wording import one_line

_ONE_LINE: Final = frozenset({"features", "merges", "collisions", "waivers"})
"""Lists whose entries take one line each, so that a diff shows one changed feature as one changed line."""

_SHORT: Final = frozenset({"timesteps"})
"""Lists that take one line as a whole."""


def guard_digest(config: GuardConfig) -> str:
    """The digest of everything in ``config`` but its digest."""
    value = _plain(config)
    del value["digest"]
    return digest_of(value)


def guard_json(config: GuardConfig) -> str:
    """``config`` as JSON with sorted keys and one feature, merge or collision a line; equal configs give equal text."""
    return _render(_plain(config), 0, "") + "\n"


def parse_guard_json(text: str, file: str) -> GuardConfig:
    """The configuration in ``text``; ``file`` is named in errors.

    Raises ArtefactError when it is not JSON, has missing, unknown or ill-typed fields, contradicts itself in sizes, or
    does not have the digest that it states.
    """
    try:
        config = decode(GuardConfig, read_json(text), "")
    except ValueError as error:
        raise _broken(file, str(error)) from error
    for problem in unsound(config):
        raise _broken(file, problem)
    actual = guard_digest(config)
    if config.digest != actual:
        raise ArtefactError(
            f"{file}: the contents have digest {actual}, but the file states {one_line(config.digest)}: it was changed "
            "by hand or damaged. Compile the policy again."
        )
    return config


def _plain(value: Any) -> Any:
    """A dataclass as a mapping, all the way down.

    As ``dataclasses.asdict``, without its copies of every number, which took longer than anything else in compiling.
    """
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [_plain(entry) for entry in value]
    return value


def _broken(file: str, problem: str) -> ArtefactError:
    return ArtefactError(f"{file}: not a sound guard configuration: {one_line(problem)}. Compile the policy again.")


def _render(value: Any, depth: int, key: str) -> str:
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(name)}: {_render(value[name], depth + 1, name)}" for name in sorted(value)]
        return "{\n" + ",\n".join(rows) + f"\n{outer}}}"
    if isinstance(value, list | tuple) and value and key not in _SHORT:
        line = canonical_json if key in _ONE_LINE else lambda entry: _render(entry, depth + 1, "")
        return "[\n" + ",\n".join(inner + line(entry) for entry in value) + f"\n{outer}]"
    return canonical_json(value)
