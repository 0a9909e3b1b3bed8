"""Sequences of labels as CTC has them: what fits an output, and how much of them is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nbconv.train.readings import Misfit
from nbconv.vision.text import accuracy as accuracy
from nbconv.vision.text import edit_distance


def parts(options: Mapping[str, Any], y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(labels (n, most), how many steps of each sequence count, where that is told)."""
    return (y[:, 1:], y[:, 0]) if options.get("lengths_first") else (y, None)


def check_shapes(dtype: np.dtype, labels: Sequence[int], output: Sequence[int], lengths_first: bool) -> None:
    """ValueError for labels that are no integers, and for other numbers of axes than ctc wants."""
    if dtype.kind != "i" or len(labels) != 2 or len(output) != 3 or (lengths_first and labels[1] == 0):
        wanted = "[n, 1 + most] (lengths, then labels)" if lengths_first else "[n, most]"
        raise ValueError(
            f"ctc: labels are {dtype}{list(labels)}, outputs {list(output)}: wanted integers {wanted} "
            "and [n, steps, classes]"
        )


def check(options: Mapping[str, Any], y: np.ndarray, output: tuple[int, ...]) -> None:
    """Whether labels are such as `nbconv.train.losses.ctc` with these options takes for an output of this shape. ValueError
    where they are not, or want more steps than there are."""
    check_shapes(y.dtype, y.shape, output, bool(options.get("lengths_first")))
    if output[options.get("batch_axis", 0)] != len(y):
        raise Misfit(f"ctc: {len(y)} sequences of labels for outputs {list(output)}")
    labels, lengths = parts(options, y)
    steps, classes = output[1 - options.get("batch_axis", 0)], output[2]
    blank, pad = options.get("blank", 0), options.get("ignore_index", -1)
    there = labels != pad
    counts = there.sum(axis=1)
    behind = np.flatnonzero((there != (np.arange(labels.shape[1]) < counts[:, None])).any(axis=1))
    if len(behind):
        raise ValueError(
            f"ctc: labels of sequence {behind[0]} are {labels[behind[0]].tolist()}: {pad} stands behind them only"
        )
    found = labels[there]
    if found.size and not (found.min() >= 0 and found.max() < classes and (found != blank).all()):
        told = f"from {found.min()} to {found.max()}"
        raise ValueError(f"ctc: labels {told}, wanted 0 to {classes - 1} without the blank, {blank}, and {pad} behind them")
    if lengths is None:
        lengths = np.full(len(y), steps)
    elif lengths.size and not (lengths.min() >= 0 and lengths.max() <= steps):
        raise ValueError(f"ctc: lengths from {lengths.min()} to {lengths.max()}, the output has {steps} steps")
    wanted = counts + ((labels[:, 1:] == labels[:, :-1]) & there[:, 1:]).sum(axis=1)
    short = np.flatnonzero(wanted > lengths)
    if len(short) and not options.get("zero_infinity"):
        i = short[0]
        raise ValueError(
            f"ctc: sequence {i} has {counts[i]} labels, which want {wanted[i]} steps with a blank between equal ones; "
            f"there are {lengths[i]}: the output is too short, or zero_infinity leaves such out"
        )


def errors(options: Mapping[str, Any], y: np.ndarray, scores: np.ndarray) -> tuple[int, int]:
    """(edit distances between what the best path of scores reads and the labels, how many labels there are)."""
    labels, lengths = parts(options, y)
    pad, wrong, whole = options.get("ignore_index", -1), 0, 0
    for read, true in zip(best_paths(options, scores, lengths), labels, strict=True):
        kept = true[true != pad].tolist()
        wrong, whole = wrong + edit_distance(read, kept), whole + len(kept)
    return wrong, whole


def best_paths(options: Mapping[str, Any], scores: np.ndarray, lengths: np.ndarray | None = None) -> Iterator[list[int]]:
    """The labels of each sequence by the best class of each step, equal ones once."""
    best, blank = scores.argmax(axis=2), options.get("blank", 0)
    for i, path in enumerate(best.T if options.get("batch_axis", 0) else best):
        path = path if lengths is None else path[: lengths[i]]
        yield path[(path != blank) & (np.diff(path, prepend=-1) != 0)].tolist()
