"""What commands print: tables, numbers for people, colour where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

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
    width = width or line_width()
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    flexible = [i for i in range(len(head)) if i not in right]
    while sum(widths) + 2 * (len(widths) - 1) > width and flexible:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= 12:
            break
        widths[widest] -= 1
    for i, row in enumerate((head, *rows)):
        cells = [
            (cut(cell, w).rjust(w) if k in right else cut(cell, w).ljust(w))
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        print(style(line, "bold") if i == 0 else line)


def clip(text: str, width: int | None = None) -> str:
    """The start of a text, on one line of at most ``width`` characters."""
    width = width or line_width()
    text = "".join(c if c.isprintable() else " " for c in text[: width + 1])
    return text if len(text) <= width else f"{text[: width - 1]}…"


def cut(text: str, width: int) -> str:
    """A name in at most ``width`` characters: its end is kept, and some of its start, since names differ at their ends."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    if len(text) <= width:
        return text
    head = (width - 1) // 4
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def count(n: float) -> str:
    """12 → "12", 4652008 → "4.65 M"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size * 0.9995:
            return f"{_three(n / size)} {unit}"
    return str(int(n))


def size(n: float) -> str:
    """Bytes: 1536 → "1.5 KiB"."""
    for unit, limit in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= limit:
            return f"{n / limit:.1f} {unit}"
    return f"{int(n)} B"


def _three(x: float) -> str:
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:.0f}"


def milliseconds(seconds: float) -> str:
    """0.00123 → "1.230 ms"."""
    ms = seconds * 1e3
    return f"{ms:.3f} ms" if ms < 10 else f"{ms:.2f} ms" if ms < 1000 else f"{ms / 1e3:.2f} s"


def dims(shape: Sequence[Any] | None) -> str:
    """(1, 3, "H", None) → "1×3×H×?"."""
    if shape is None:
        return "?"
    return "×".join("?" if d is None else str(d) for d in shape) or "scalar"


def plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def dump(value: Any) -> None:
    """Print JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))
