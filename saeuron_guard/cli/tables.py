"""Tables for terminals, and the same in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Lines of a table whose columns line up; columns named in ``right`` are set flush right, as numbers want it.

    Rows may be shorter than the headers: the missing cells are blank.
    """
    full = [headers, *([*row, *[""] * (len(headers) - len(row))] for row in rows)]
    columns = []
    for header, *cells in zip(*full, strict=True):
        width = max(map(len, (header, *cells)))
        columns.append([cell.rjust(width) if header in right else cell.ljust(width) for cell in (header, *cells)])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
