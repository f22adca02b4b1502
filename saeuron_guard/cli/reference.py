"""Commands, exit codes, errors and policy fields described in Markdown, from the program itself, for README.md."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import click

from saeuron_guard import errors
from saeuron_guard.cli.main import EXIT_CODES, program
from saeuron_guard.cli.tables import markdown
from saeuron_guard.policy.schema import policy_schema

_WIDTH = 100


def command_reference() -> str:
    """The help of the program and of each of its commands, as Markdown, the same on every machine."""
    parts: list[str] = []
    for path, command in _commands(("saeuron-guard",), program):
        text = _help(path, command)
        parts.append(f"#### `{' '.join(path)}`\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def exit_code_table() -> str:
    """The exit codes as a Markdown table."""
    return markdown(["code", "meaning"], [[str(code), meaning] for code, meaning in EXIT_CODES])


def _commands(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if member is not None and not member.hidden:
                yield from _commands((*path, name), member)


def _help(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(
        command,
        info_name=" ".join(path),
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )
    return inspect.cleandoc(command.get_help(context))


def error_table() -> str:
    """The errors that users are meant to see, with their exit codes, as a Markdown table."""
    base = errors.SaeuronGuardError
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, base)]
    rows = [[f"`{kind.__name__}`", str(kind.exit_code), _first_line(kind)] for kind in kinds]
    return markdown(["error", "exit code", "meaning"], rows)


def policy_field_table() -> str:
    """Every field of a policy as a Markdown table, from the schema that checks it."""
    schema = policy_schema()
    alone = set(_required_alone(schema))
    rows = [
        [f"`{name}`", meaning, "required, unless the policy extends another" if name in alone else default]
        for name, meaning, default in _fields(schema, schema, "")
    ]
    return markdown(["field", "meaning", "default"], rows)


def _required_alone(schema: dict[str, Any]) -> Iterator[str]:
    """The fields that only a policy with bases may leave out, from the schema's condition."""
    condition = schema["else"]
    yield from condition["required"]
    for key, inner in condition["properties"].items():
        yield from (f"{key}.{name}" for name in inner.get("required", ()))


def _fields(schema: dict[str, Any], root: dict[str, Any], above: str) -> Iterator[tuple[str, str, str]]:
    """Name, meaning and default of each field below an object's schema; lists of objects are named ``list[].field``."""
    required = schema.get("required", ())
    for key, stated in schema["properties"].items():
        field = {**_resolved(stated, root), **stated}
        name = f"{above}{key}"
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required" if key in required else ""
        yield name, field["description"], default
        entry = _resolved(field.get("items", {}), root)
        if "properties" in field:
            yield from _fields(field, root, f"{name}.")
        elif "properties" in entry:
            yield from _fields(entry, root, f"{name}[].")


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The definition that a ``$ref`` points to, or the schema itself."""
    reference = schema.get("$ref")
    found: dict[str, Any] = root["$defs"][reference.rpartition("/")[2]] if reference else schema
    return found


def _first_line(kind: type[Exception]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n")[0].replace("``", "`")
