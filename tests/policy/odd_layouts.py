"""Policy-like YAML in every layout that a person or a program may give it, with comments in every place."""

from __future__ import annotations

import json
import random
from typing import Any

WORDS = ("pistol", "Felt pen", "a: b", "x #y", "on", "1.0", "- z", "it's", "[q]", "é🔫", "", " led", "null", "a, b")

LINES = ("no weapons", "  indented", "", "# no comment", "for a: general audience", "- dash", "end ")


def policy_like(rng: random.Random) -> dict[str, Any]:
    """A mapping with the keys of a policy and some that no policy has, in any order, with any values."""
    value: dict[str, Any] = {
        "apiVersion": "saeuron-guard/v1",
        "kind": "Policy",
        "metadata": {"name": "kids", "version": "1.0.0", "owner": rng.choice(WORDS), "description": prose(rng)},
        "target": {"model": "emoji-canvas", "branches": rng.choice(WORDS)},
        "concepts": [rule(rng) for _ in range(rng.randint(0, 3))],
        "retain": {"domains": ["object", "style"][: rng.randint(0, 2)], "max_loss": 0.1, "concepts": None},
        "audit": {"prompts": prose(rng), "seeds": list(range(9000, 9000 + rng.choice((1, 3, 30)))), "minimum_n": 60},
        "x-" + rng.choice(WORDS): anything(rng, 3),
        "extra": anything(rng, 3),
    }
    return shuffled(value, rng)


def rule(rng: random.Random) -> Any:
    """An entry of ``concepts``."""
    every = {"concept": rng.choice(WORDS), "strength": 1.5, "mine": anything(rng, 1), "require": {"removal": 0.9}}
    return {key: every[key] for key in rng.sample(list(every), rng.randint(1, len(every)))}


def prose(rng: random.Random) -> str:
    """Text of one or several lines."""
    if rng.random() < 0.3:
        return " ".join(rng.choice(("word", "of", "it")) for _ in range(rng.choice((3, 60))))
    return "\n".join(rng.choice(LINES) for _ in range(rng.randint(1, 4))) + "\n" * rng.randint(0, 2)


def anything(rng: random.Random, depth: int) -> Any:
    """Any value that the strict reader can give."""
    kind = rng.randrange(9 if depth else 6)
    if kind < 6:
        return [rng.choice(WORDS), prose(rng), 3, -0.5, None, True][kind]
    if kind == 6:
        return {rng.choice(WORDS): anything(rng, depth - 1) for _ in range(rng.randint(0, 3))}
    return [anything(rng, depth - 1) for _ in range(rng.randint(0, 3))]


def shuffled(value: Any, rng: random.Random) -> Any:
    """``value`` with the keys of all its mappings in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], rng) for key in rng.sample(list(value), len(value))}
    return [shuffled(each, rng) for each in value] if isinstance(value, list) else value


class OddWriter:
    """Writes a value as YAML, never twice in the same way; ``comments`` are those that it has put in."""

    def __init__(self, rng: random.Random, often: float) -> None:
        self.rng = rng
        self.often = often
        self.comments: list[str] = []
        self.after_block = False  # a comment that is indented more than the key would be a block scalar's text

    def document(self, value: dict[str, Any]) -> str:
        """The whole file."""
        if self.rng.random() < 0.1:
            text = self.flow(value, 0) + self.end_of_line()
        else:
            text = "\n".join(self.mapping(value, self.rng.choice((0, 0, 0, 2)))) + "\n"
        if self.rng.random() < 0.2:
            text = f"---{self.end_of_line()}{text}"
            if self.rng.random() < 0.5:
                text = "".join(f"{line}\n" for line in self.own(0)) + "%YAML 1.2\n" + text
        text += self.rng.choice(("", "...\n", "\n\n")) + "".join(f"{line}\n" for line in self.own(0))
        return text.replace("\n", "\r\n") if self.rng.random() < 0.1 else text

    def comment(self) -> str:
        """A new comment, which looks like anything but one."""
        shape = self.rng.choice(("# c{}.", "#c{}.", "# - c{}.: [x", '# "c{}.', "# c{}. # more", "#! c{}., {{'"))
        self.comments.append(shape.format(len(self.comments)))
        return self.comments[-1]

    def end_of_line(self) -> str:
        """The end of a line, perhaps with a comment and one that goes on below it."""
        if self.rng.random() > self.often:
            return self.rng.choice(("\n", " \n"))
        return self.rng.choice((" ", "   ")) + self.comment() + "\n"

    def own(self, column: int) -> list[str]:
        """Comment lines and blank lines, some deeper than ``column`` where they may be."""
        lines: list[str] = []
        column += 0 if self.after_block else self.rng.choice((0, 0, 6))
        while self.rng.random() < self.often:
            blank = self.rng.random() < 0.4
            lines.append(self.rng.choice(("", "  ")) if blank else " " * self.rng.randint(0, column) + self.comment())
        return lines

    def mapping(self, value: dict[str, Any], column: int) -> list[str]:
        """A mapping in block style."""
        lines: list[str] = []
        for key, inner in value.items():
            lines += self.own(column)
            lead = " " * column + self.quoted(key, False)
            if self.rng.random() < 0.1:
                lines.append((" " * column + "? " + self.quoted(key, False) + self.end_of_line())[:-1])
                lead = " " * column
            lines += self.value(lead + ":", inner, column, is_list=False)
        return lines

    def sequence(self, value: list[Any], column: int) -> list[str]:
        """A list in block style."""
        lines: list[str] = []
        for inner in value:
            lines += self.own(column)
            lines += self.value(" " * column + "-", inner, column, is_list=True)
        return lines

    def value(self, lead: str, value: Any, column: int, *, is_list: bool) -> list[str]:
        """The lines of an entry that begins with ``lead`` at ``column``."""
        rng, self.after_block = self.rng, False
        if isinstance(value, dict | list) and value and rng.random() < 0.75:
            zero = isinstance(value, list) and not is_list
            inner = column + rng.randint(0 if zero else 1, 4)
            lines = self.mapping(value, inner) if isinstance(value, dict) else self.sequence(value, inner)
            if rng.random() < 0.3:
                lines += self.own(inner)
            compact = is_list and inner >= column + 2 and lines[0][:inner].isspace() and rng.random() < 0.5
            if compact and not lines[0].lstrip().startswith("#"):
                return [lead + lines[0][len(lead) :], *lines[1:]]
            return [(lead + self.end_of_line())[:-1], *lines]
        if isinstance(value, dict | list):
            return (lead + self.gap(column) + self.flow(value, column + 1) + self.end_of_line())[:-1].split("\n")
        if isinstance(value, str) and value.strip() and "\n" in value and rng.random() < 0.7:
            return self.block(lead, value, column)
        return (lead + self.gap(column) + self.scalar(value, column + 1) + self.end_of_line())[:-1].split("\n")

    def gap(self, column: int) -> str:
        """What separates a key or dash from its value."""
        if self.rng.random() > 0.1:
            return self.rng.choice((" ", "   "))
        return self.end_of_line() + "".join(f"{line}\n" for line in self.own(column + 4)) + " " * (column + 2)

    def block(self, lead: str, value: str, column: int) -> list[str]:
        """``value``, or what a folded block makes of it, as a block scalar."""
        pad = self.rng.randint(1, 4)
        style, chomping = self.rng.choice("|>"), self.rng.choice(("", "-", "+"))
        indicator = str(pad) if value.lstrip("\n").startswith(" ") or self.rng.random() < 0.2 else ""
        text = [" " * (column + pad) + line if line else "" for line in value.split("\n")]
        while text and not text[-1].strip() and chomping != "+":
            text.pop()
        self.after_block = True
        return [(f"{lead} {style}{indicator}{chomping}" + self.end_of_line())[:-1], *text]

    def flow(self, value: Any, column: int) -> str:
        """A value in brackets, over as many lines as it likes."""
        if not isinstance(value, dict | list):
            return self.scalar(value, column, flow=True)
        begin, end = "{}" if isinstance(value, dict) else "[]"
        parts = [begin + self.space(column)]
        for number, inner in enumerate(value):
            key = f"{self.quoted(inner, True)}: {self.space(column)}" if isinstance(value, dict) else ""
            if isinstance(value, dict) and self.rng.random() < 0.1:
                key = f"? {self.space(column)}{key}"
            text = self.flow(value[inner] if isinstance(value, dict) else inner, column)
            comma = "," if number + 1 < len(value) or self.rng.random() < 0.2 else ""
            parts.append(key + text + self.space(column) + comma + self.space(column))
        return "".join(parts) + end

    def space(self, column: int) -> str:
        """What may stand beside brackets and commas."""
        if self.rng.random() > 0.3:
            return self.rng.choice(("", " "))
        return self.end_of_line() + "".join(f"{line}\n" for line in self.own(column + 3)) + " " * (column + 1)

    def scalar(self, value: Any, column: int, *, flow: bool = False) -> str:
        """A scalar on one line, or text over several."""
        if value is None:
            return self.rng.choice(("null", "~") if flow else ("null", "~", ""))
        if not isinstance(value, str):
            return json.dumps(value)
        written = self.quoted(value, flow)
        spread = " word" in written and self.rng.random() < 0.5
        return written.replace(" word", "\n" + " " * (column + 2) + "word") if spread else written

    def quoted(self, text: str, flow: bool) -> str:
        """``text`` in one of the styles that it can be written in."""
        if text and all(letter.isalnum() or letter in " /" for letter in text) and text == text.strip():
            plain = text not in {"on", "null"} and not text[0].isdigit()
            if plain and self.rng.random() < 0.6:
                return text
        if "\n" not in text and self.rng.random() < 0.5:
            return "'" + text.replace("'", "''") + "'"
        return json.dumps(text, ensure_ascii=self.rng.random() < 0.2 and text.isascii())
