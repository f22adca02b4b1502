"""Aligned tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Lines of a table whose columns line up; columns named in ``right`` are set flush right, as numbers want it.

    Short rows are filled with blanks; a row has at most as many cells as there are headers.
    """
    widths = [max(map(len, column)) for column in zip_longest(headers, *rows, fillvalue="")]
    return [_line(cells, headers, widths, right) for cells in (headers, *rows)]


def _line(cells: Sequence[str], headers: Sequence[str], widths: Sequence[int], right: Sequence[str]) -> str:
    padded = [
        cell.rjust(width) if header in right else cell.ljust(width)
        for cell, header, width in zip_longest(cells, headers, widths, fillvalue="")
    ]
    return "  ".join(padded).rstrip()
