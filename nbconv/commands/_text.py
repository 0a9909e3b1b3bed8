"""What commands print: tables, numbers for people, colour where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from nbconv.base.text import aligned, count, dims, plural, size
from nbconv.base.text import clip as clipped

__all__ = ["clip", "coloured", "count", "dims", "dump", "line_width", "milliseconds", "plural", "size", "style", "table"]

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def coloured() -> bool:
    """Whether standard output is a terminal that wants colour (see no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, name: str) -> str:
    """The text in bold, dim, red, green or yellow, where there is colour."""
    return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if coloured() else text


def line_width() -> int:
    """Columns to fill: 100, or what a wider terminal has."""
    if not sys.stdout.isatty():
        return 100
    import shutil

    return max(100, shutil.get_terminal_size().columns)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), width: int | None = None) -> None:
    """Print rows under a head; columns listed in ``right`` are numbers. What does not fit ``width`` is cut in the widest
    of the other columns."""
    for i, line in enumerate(aligned(head, rows, right, width or line_width())):
        print(style(line, "bold") if i == 0 else line)


def clip(text: str, width: int | None = None) -> str:
    """The start of a text, on one line that fits, or of at most ``width`` characters."""
    return clipped(text, width or line_width())


def milliseconds(seconds: float) -> str:
    """0.00123 → "1.230 ms"."""
    ms = seconds * 1e3
    return f"{ms:.3f} ms" if ms < 10 else f"{ms:.2f} ms" if ms < 1000 else f"{ms / 1e3:.2f} s"


def dump(value: Any) -> None:
    """Print JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))
