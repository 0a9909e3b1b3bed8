"""Numbers and tables for people, as listings of graphs and plans and the command line print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def aligned(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    width: int = 100,
    cuts: Sequence[int] | None = None,
) -> list[str]:
    """Lines of a table, its head first; columns listed in ``right`` are numbers. What does not fit ``width`` is cut in the
    widest of the columns ``cuts`` (default: all but numbers), but none to less than 12 characters."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    flexible = [i for i in range(len(head)) if i not in right and (cuts is None or i in cuts)]
    while sum(widths) + 2 * (len(widths) - 1) > width and flexible:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= 12:
            break
        widths[widest] -= 1
    lines = []
    for row in (head, *rows):
        cells = [cut(cell, w) for cell, w in zip(row, widths)]
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        lines.append("  ".join(cells).rstrip())
    return lines


def filled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]], list[int]]:
    """A table without its empty columns, and the places of those that are left."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows], kept


def cut(text: str, width: int) -> str:
    """A name in at most ``width`` characters: its end is kept, and some of its start, since names differ at their ends."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    if len(text) <= width:
        return text
    head = (width - 1) // 4
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def clip(text: str, width: int) -> str:
    """The start of a text, on one line of at most ``width`` characters."""
    text = "".join(c if c.isprintable() else " " for c in text[: width + 1])
    return text if len(text) <= width else f"{text[: width - 1]}…"


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


def dims(shape: Sequence[Any] | None) -> str:
    """(1, 3, "H", None) → "1×3×H×?"."""
    if shape is None:
        return "?"
    return "×".join("?" if d is None else str(d) for d in shape) or "scalar"


def plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _three(x: float) -> str:
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:.0f}"
