"""From a policy file's layout to its text, in the one canonical form.

Two spaces of indentation, entries of lists indented below their key.  Brackets stay around lists of scalars that fit a
line, and around a mapping of one pair below a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from saeuron_guard.policy.layout import BLANK, Collection, Entry, Layout, Mapping, Node, Scalar, Sequence
from saeuron_guard.policy.scalars import block_lines, folded_lines, key_text, scalar_text

WIDTH: Final = 120
"""Columns of a line that holds a collection in brackets or the words of a folded text."""

_INDENT: Final = "  "


def render(layout: Layout) -> str:
    """The file's text; its entries stand in the order of the layout."""
    lines = list(layout.prolog)
    if layout.marked:
        lines += _beside("---", layout.beside)
    root = _collection_lines(layout.root, 0)
    return "\n".join([*lines, *root]) + "\n"


def kept_blank_lines(collection: Mapping | Sequence) -> Entry | None:
    """The entry whose block scalar ends in blank lines that belong to its text and would be the last of the file."""
    last = collection.entries[-1] if collection.entries and not collection.tail else None
    if last is None or isinstance(last.value, Scalar):
        block = last.value.block if last and isinstance(last.value, Scalar) else None
        return last if block and block.lines[-1:] == (BLANK,) else None
    return kept_blank_lines(last.value)


def _collection_lines(collection: Mapping | Sequence, column: int) -> list[str]:
    """The lines of a collection in block style whose entries begin at ``column``; the lines begin at 0."""
    if not collection.entries:
        return [*_spaced([], (*collection.head, *collection.tail), False), _empty(collection)]
    lines: list[str] = _spaced([], collection.head, False)
    open_end = False
    for entry in collection.entries:
        above, body = _entry_lines(entry, column)
        lines += _spaced(lines, above, open_end)
        lines += body
        open_end = _is_open_ended(entry.value)
    return lines + _spaced(lines, collection.tail, open_end)


def _spaced(before: list[str], comments: Iterable[str], open_end: bool) -> list[str]:
    """``comments`` to put after the lines ``before``: no blank line at the top of a block, and never two in a row.

    ``open_end``: a blank line would become a part of the text before.
    """
    lines: list[str] = []
    for comment in comments:
        last = lines[-1] if lines else before[-1] if before and not open_end else BLANK
        if comment != BLANK or last != BLANK:
            lines.append(comment)
    return lines


def _is_open_ended(node: Node) -> bool:
    """Whether blank lines after ``node`` would belong to its last scalar, or could not be told from its last line."""
    if isinstance(node, Scalar):
        return node.block is not None and (node.block.chomping == "+" or not "".join(node.block.lines[-1:]).strip())
    return not node.tail and bool(node.entries) and _is_open_ended(node.entries[-1].value)


def _entry_lines(entry: Entry, column: int) -> tuple[list[str], list[str]]:
    """The comments above an entry that begins at ``column``, and its own lines."""
    lead = "-" if entry.key is None else key_text(entry.key) + ":"
    value, above = entry.value, list(entry.above)
    if isinstance(value, Scalar):
        return _scalar_entry(entry, value, lead, column)
    if not value.entries:
        return [*above, *value.head, *value.tail], _beside(f"{lead} {_empty(value)}", entry.beside)
    flow = _flow_text(value)
    if entry.key is None and isinstance(value, Mapping):
        flow = None
    if flow is not None and column + len(lead) + 1 + len(flow) <= WIDTH:
        return above, _beside(f"{lead} {flow}", entry.beside)
    lines = _collection_lines(value, column + len(_INDENT))
    if entry.key is not None:
        return above, [*_beside(lead, entry.beside), *_indented(lines)]
    # The first entry shares the line of the dash, so what stands above it moves above the dash.
    above += entry.beside
    while lines[0] == BLANK or lines[0].startswith("#"):
        above.append(lines.pop(0))
    return above, [f"- {lines[0]}", *_indented(lines[1:])]


def _scalar_entry(entry: Entry, value: Scalar, lead: str, column: int) -> tuple[list[str], list[str]]:
    above, beside = list(entry.above), entry.beside
    lines = block_lines(value.block) if value.block else []
    text = f" {scalar_text(value, flow=False)}".rstrip() if not lines else ""
    if value.spread and column + len(lead) + len(text) > WIDTH:
        lines = folded_lines(value, WIDTH - column - len(_INDENT))
    if not lines:
        below = _spaced([], entry.below, False)
        return above, [*_beside(lead + text, beside), *_indented(below)]
    if len(beside) > 1:
        # Below the first line of a block, a comment would be text.
        above, beside = [*above, *beside], ()
    return above, [*_beside(f"{lead} {lines[0]}", beside), *_indented(lines[1:])]


def _beside(line: str, comments: tuple[str, ...]) -> list[str]:
    """``line`` with a comment at its end, and aligned below that the lines that go on with it."""
    if not comments:
        return [line]
    return [f"{line}  {comments[0]}", *(" " * (len(line) + 2) + comment for comment in comments[1:])]


def _indented(lines: Iterable[str]) -> list[str]:
    return [_INDENT + line if line else line for line in lines]


def _flow_text(collection: Mapping | Sequence) -> str | None:
    """``collection`` in brackets; None when it was not, or holds more than they are kept for."""
    if not collection.flow or (isinstance(collection, Mapping) and len(collection.entries) > 1):
        return None
    if _said((*collection.head, *collection.tail)):
        return None
    parts: list[str] = []
    for entry in collection.entries:
        value = entry.value
        if not _is_short(value) or _said((*entry.above, *entry.beside, *entry.below)):
            return None
        text = scalar_text(value, flow=True) if isinstance(value, Scalar) else _empty(value)
        parts.append(text if entry.key is None else f"{key_text(entry.key, flow=True)}: {text}")
    inner = ", ".join(parts)
    return f"{{{inner}}}" if isinstance(collection, Mapping) else f"[{inner}]"


def _said(comments: Iterable[str]) -> bool:
    """Whether there is more in ``comments`` than blank lines."""
    return any(comment != BLANK for comment in comments)


def _is_short(node: Node) -> bool:
    if isinstance(node, Collection):
        return not node.entries and not _said((*node.head, *node.tail))
    return node.block is None


def _empty(collection: Mapping | Sequence) -> str:
    return "{}" if isinstance(collection, Mapping) else "[]"
