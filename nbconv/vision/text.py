"""Text from the output of a recogniser trained by CTC (Graves et al., 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Text(NamedTuple):
    """What was read."""

    text: str
    score: float
    """mean probability of its characters; 0 where there are none"""


def ctc(
    output: np.ndarray, alphabet: Sequence[str], *, blank: int = 0, beam: int = 1, probabilities: bool | None = None
) -> Text:
    """The text of one line from a CTC head.

    ``output`` (time, classes), or with a batch axis of 1 before or after time: scores, log-probabilities or
    ``probabilities`` (by default told by their values: rows of non-negative numbers that sum to 1). Class ``blank`` is no
    character; the others are ``alphabet``'s in order. ``beam`` 1 takes the best class each time, repeated ones once; more
    searches so many prefixes, whose paths add up. ValueError where shapes do not fit.
    """
    if not hasattr(alphabet, "__len__") or not hasattr(alphabet, "__getitem__"):
        raise ValueError(f"alphabet is {alphabet!r}, wanted a sequence of characters")
    rows = np.asarray(output, np.float32)
    rows = rows.reshape(rows.shape[0] * rows.shape[1], -1) if rows.ndim == 3 and 1 in rows.shape[:2] else rows
    if rows.ndim != 2 or rows.shape[1] != len(alphabet) + 1 or not 0 <= blank < rows.shape[1]:
        raise ValueError(
            f"output has shape {list(np.shape(output))}, wanted (time, {len(alphabet) + 1}) for {len(alphabet)} characters"
        )
    if probabilities is None:
        probabilities = bool(rows.size and rows.min() >= 0 and np.allclose(rows.sum(1), 1, atol=1e-2))
    if not probabilities:
        e = np.exp(rows - rows.max(1, keepdims=True))
        rows = e / e.sum(1, keepdims=True)
    letters = [*alphabet[:blank], "", *alphabet[blank:]]
    if beam > 1:
        return _beam(rows, letters, blank, beam)
    best = rows.argmax(1)
    new = (best != blank) & (np.diff(best, prepend=-1) != 0)
    scores = rows[np.flatnonzero(new), best[new]]
    return Text("".join(letters[k] for k in best[new]), float(scores.mean()) if len(scores) else 0.0)


def edit_distance(a: Sequence, b: Sequence) -> int:
    """How many elements must be put in, left out or replaced to make ``a`` of ``b`` (Levenshtein 1966)."""
    line = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, line[0] = line[0], i
        for j, y in enumerate(b, 1):
            corner, line[j] = line[j], min(line[j] + 1, line[j - 1] + 1, corner + (x != y))
    return line[-1]


def accuracy(wrong: int, whole: int) -> float:
    """1 less the error rate, 0 where there are more errors than labels."""
    return max(0.0, 1 - wrong / whole) if whole else float(wrong == 0)


def character_accuracy(read: Sequence[Sequence], true: Sequence[Sequence]) -> float:
    """1 less the character error rate: all edit distances between what was read and the true texts, over all true
    characters; 0 where there are more errors than characters. ValueError for lists of different lengths."""
    if len(read) != len(true):
        raise ValueError(f"{len(read)} texts were read, {len(true)} are true")
    return accuracy(sum(map(edit_distance, read, true)), sum(map(len, true)))


def _beam(rows: np.ndarray, letters: list[str], blank: int, width: int) -> Text:
    """Prefix beam search: for each prefix, the probability of paths that end in blank and of those that do not."""
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for row in rows.astype(np.float64):
        likely = np.argsort(-row)[: max(width, 2)]
        found: dict[tuple[int, ...], list[float]] = {}
        for prefix, (ended, open_) in beams.items():
            kept = found.setdefault(prefix, [0.0, 0.0])
            kept[0] += (ended + open_) * row[blank]
            if prefix:
                kept[1] += open_ * row[prefix[-1]]
            for k in likely:
                if k != blank:
                    longer = found.setdefault((*prefix, int(k)), [0.0, 0.0])
                    longer[1] += (ended if prefix and k == prefix[-1] else ended + open_) * row[k]
        best = sorted(found.items(), key=lambda t: -sum(t[1]))[:width]
        total = sum(sum(v) for _, v in best) or 1.0
        beams = {prefix: (a / total, b / total) for prefix, (a, b) in best}
    prefix, (ended, open_) = max(beams.items(), key=lambda t: sum(t[1]))
    return Text("".join(letters[k] for k in prefix), float(ended + open_) if prefix else 0.0)
