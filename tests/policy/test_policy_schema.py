from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from saeuron_guard import names
from saeuron_guard.policy.schema import policy_schema
from saeuron_guard.policy.settings import RULE, WHOLE
from saeuron_guard.prompts.schema import prompt_set_schema

SCHEMAS = [policy_schema, prompt_set_schema]


def fields(schema: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a field, a list's entry or a definition, with its place."""
    yield at, schema
    for group in ("properties", "$defs"):
        for name, inner in schema.get(group, {}).items():
            yield from fields(inner, f"{at}/{name}")
    for single in ("items", "additionalProperties"):
        if isinstance(inner := schema.get(single), dict) and set(inner) != {"$ref"}:
            yield from fields(inner, f"{at}/{single}")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_schema_is_a_schema(schema: Callable[[], dict[str, Any]]) -> None:
    """It follows the draft that it declares."""
    assert schema()["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_field_is_described(schema: Callable[[], dict[str, Any]]) -> None:
    """Editors show a title and a description for each field, and unknown keys are refused everywhere."""
    seen = dict(fields(schema()))
    assert len(seen) > 20
    for at, field in seen.items():
        assert field.get("title"), at
        assert field.get("description"), at
        if "properties" in field:
            assert field["additionalProperties"] is False, at


def test_each_call_gives_a_new_schema() -> None:
    """A caller that changes what it got changes nobody else's."""
    policy_schema()["properties"].clear()
    assert policy_schema()["properties"]


def test_the_schema_and_the_names_agree() -> None:
    """Version, presets and the largest strength are the same for the schema and for the program."""
    properties = policy_schema()["properties"]
    assert properties["apiVersion"]["const"] == names.API_VERSION
    strength = policy_schema()["$defs"]["conceptRule"]["properties"]["strength"]
    presets, numbers = strength["anyOf"]
    assert presets["enum"] == list(names.STRENGTH_PRESETS)
    assert numbers["maximum"] == names.LARGEST_STRENGTH
    for name, value in names.STRENGTH_PRESETS.items():
        assert f"{name} is {value:g}" in strength["description"] or f"{name} {value:g}" in strength["description"]
    roles = prompt_set_schema()["properties"]["metadata"]["properties"]["role"]["enum"]
    assert tuple(roles) == names.PROMPT_ROLES


def test_the_declared_defaults_are_the_real_ones() -> None:
    """What editors show as a default is what the loader fills in."""
    rule = policy_schema()["$defs"]["conceptRule"]["properties"]
    properties = policy_schema()["properties"]
    for key, setting in [*((key, setting) for key, setting in WHOLE.items()), *RULE.items()]:
        schema: dict[str, Any] = {"properties": properties if key in WHOLE else rule}
        for part in key:
            schema = schema["properties"][part]
        if "default" in schema:
            stated = schema["default"]
            assert (names.STRENGTH_PRESETS[stated] if key == ("strength",) else stated) == setting.default, key
        else:
            assert setting.default in (None, "", ()), key
