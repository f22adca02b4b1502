"""A policy file in its canonical layout: the same values and comments, written as everybody writes them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from saeuron_guard.errors import PolicyError, Problem, SaeuronGuardError
from saeuron_guard.policy.compose import compose
from saeuron_guard.policy.layout import Layout, Scalar, Sequence, comments_of, plain_value
from saeuron_guard.policy.render import kept_blank_lines, render
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.strict_yaml import read_yaml
from saeuron_guard.wording import quote

_KIND = "Policy"


def format_policy(text: str, file: str) -> str:
    """``text`` in canonical layout, its keys in the schema's order; ``file`` is only named in problems.

    Raises PolicyError when the strict reader refuses the text or it cannot be laid out anew, SaeuronGuardError when
    the result would not say the same.
    """
    layout = compose_policy(text, file)
    return written(layout, file)


def compose_policy(text: str, file: str) -> Layout:
    """The layout of a policy; raises PolicyError when it is none, or the file is of another kind."""
    layout = compose(text, file)
    kind = layout.root.entry("kind")
    if kind and isinstance(kind.value, Scalar) and isinstance(kind.value.value, str) and kind.value.value != _KIND:
        message = f"expected kind {quote(_KIND)}, got {quote(kind.value.value)}"
        raise PolicyError([Problem(file, *kind.place, message)])
    return layout


def written(layout: Layout, file: str) -> str:
    """The text of ``layout`` in canonical form, read again to prove that no value and no comment is lost.

    Raises PolicyError when there is no such text, SaeuronGuardError when the proof fails.
    """
    ordered = replace(layout, root=_ordered(layout.root, policy_schema(), policy_schema()))
    last = kept_blank_lines(ordered.root)
    if last:
        message = "this text keeps the blank lines after it (+), which a formatted file cannot end with; write | or >"
        raise PolicyError([Problem(file, *last.place, message)])
    text = render(ordered)
    problems = read_yaml(text, file).problems
    if not problems:
        again = compose(text, file)
        same_values = _exact(plain_value(again.root)) == _exact(plain_value(layout.root))
        if same_values and Counter(comments_of(again)) == Counter(comments_of(layout)):
            return text
    raise SaeuronGuardError(
        f"{file}: laid out anew, the file would not say the same, so it is left as it is. "
        "This is a fault of the program; simplify the layout by hand and report the file"
    )


def _exact(value: Any) -> str:
    """A text that tells 1, 1.0 and true apart and does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True)


def _ordered(node: Any, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """``node`` with the keys of its mappings in the order of the schema's properties, unknown ones after those."""
    if isinstance(node, Scalar):
        return node
    schemas = list(_alternatives(schema, root))
    if isinstance(node, Sequence):
        items: dict[str, Any] = next((each["items"] for each in schemas if "items" in each), {})
        return replace(
            node, entries=tuple(replace(each, value=_ordered(each.value, items, root)) for each in node.entries)
        )
    known: dict[str, Any] = {}
    for each in schemas:
        known = {**known, **{key: value for key, value in each.get("properties", {}).items() if key not in known}}
    position = {key: index for index, key in enumerate(known)}
    entries = sorted(node.entries, key=lambda entry: position.get(entry.key, len(position)))
    return replace(
        node,
        entries=tuple(replace(each, value=_ordered(each.value, known.get(each.key, {}), root)) for each in entries),
    )


def _alternatives(schema: dict[str, Any], root: dict[str, Any]) -> list[dict[str, Any]]:
    """``schema``, what it refers to, and the schemas of which it takes one or all."""
    found = [schema]
    reference = schema.get("$ref")
    if reference:
        found += _alternatives(root["$defs"][reference.rpartition("/")[2]], root)
    for word in ("allOf", "anyOf", "oneOf"):
        for each in schema.get(word, ()):
            found += _alternatives(each, root)
    return found
