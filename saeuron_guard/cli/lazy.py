"""A click group that imports a command's module when the command is called, not before."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is (``package.module:attribute``) and the line that the group's help shows for it.

    ``members`` are commands of other modules that join the command, which then is a group.
    """

    target: str
    summary: str
    members: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module that holds the command."""
        return self.target.partition(":")[0]

    def load(self) -> click.Command:
        """Import the command and its members; import errors of their modules come through."""
        command = import_command(self.target)
        if isinstance(command, click.Group):
            for member in self.members:
                command.add_command(import_command(member))
        return command


def import_command(target: str) -> click.Command:
    """The click command at ``package.module:attribute``."""
    module, _, attribute = target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{target} is a {type(command).__name__}, expected a click command")
    return command


class LazyGroup(click.Group):
    """A group of commands known by name only; those whose module is not installed are left out."""

    def __init__(self, *args: Any, lazy_commands: dict[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy_commands = {
            name: command for name, command in lazy_commands.items() if find_spec(command.module) is not None
        }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in the order in which they were declared: the order of the work, not the alphabet's."""
        return [*self.lazy_commands, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now, or None."""
        lazy = self.lazy_commands.get(cmd_name)
        return lazy.load() if lazy else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from their declared summaries, so that ``--help`` imports none of them."""
        rows = [(name, command.summary) for name, command in self.lazy_commands.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
