"""What targets must hold for the losses that have names: labels that are classes, shares, signs; looked at before a step."""

from __future__ import annotations

import numpy as np

from nbconv.train import box_losses, class_losses, losses, sequences
from nbconv.train.goals import CLASSES, HEADS, LOSSES, Goal

CLOSE = 1e-3
"""How far sums of shares may be from 1."""
EDGE = 1e-5
"""How far shares may be beyond 0 and 1, by rounding."""


def check(goal: Goal, y: np.ndarray, output: tuple[int, ...]) -> str:
    """What to warn of in targets, int64 labels or float32, for an output of this shape: shares that do not sum to 1, signs
    that are none; "" where they are as the loss wants them. ValueError where it cannot take them. Functions of the user's
    own are not looked at."""
    if goal.function is losses.ctc:
        sequences.check(goal.options, y, output)
        return ""
    if goal.function in HEADS:
        _head(goal, y, output)
    if not y.size or len(goal.outputs) > 1:
        return ""
    if goal.function in CLASSES:
        return _classes(goal, y, output)
    if goal.function in (losses.binary_cross_entropy, losses.binary_focal):
        _masks(goal, y)
    elif goal.function is losses.hinge and not ((y == 1) | (y == -1)).all():
        more = ": 2 * y - 1 has them" if ((y == 0) | (y == 1)).all() else ""
        return f"hinge: targets are from {y.min():g} to {y.max():g}, wanted -1 and 1{more}"
    return ""


def labels_of(goal: Goal, y: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | None:
    """(labels, what an output's scores tell, both (n, …) integers; how many classes); None where targets are no labels."""
    if goal.function in CLASSES:
        reading = goal.reading(output.shape, y.shape)
        if not reading.labels:
            return None
        told = output.transpose(reading.order).argmax(axis=1)
        return y.reshape(reading.shape).astype(np.int64), told, output.shape[reading.axis]
    if goal.function in LOSSES.values() or len(goal.outputs) > 1:
        return None
    if y.dtype.kind != "i" or output.shape[1:2] < (2,) or y.shape != (output.shape[0], *output.shape[2:]):
        return None
    return y, output.argmax(axis=1), output.shape[1]


def _head(goal: Goal, y: np.ndarray, output: tuple[int, ...]) -> None:
    """``y`` as `nbconv.vision.ssd_targets` makes it, of each picture; ``output``: the scores' shape."""
    if y.ndim != 3 or y.shape[2] != 5 or (len(output) == 3 and y.shape != (*output[:2], 5)):
        raise ValueError(f"{goal.name}: targets are {list(y.shape)}, scores {list(output)}: wanted [n, anchors, 5]")
    most = output[2] - (goal.function is box_losses.ssd)
    labels = y[..., 4]
    if y.size and not (np.isfinite(y).all() and (labels == np.rint(labels)).all()):
        raise ValueError(f"{goal.name}: targets hold numbers that are not finite, or labels that are not whole")
    if y.size and not (labels.min() >= -1 and labels.max() <= most):
        raise ValueError(f"{goal.name}: labels from {labels.min():.0f} to {labels.max():.0f}, wanted -1 to {most}")


def _classes(goal: Goal, y: np.ndarray, output: tuple[int, ...]) -> str:
    reading = goal.reading(output, y.shape)
    classes = output[reading.axis]
    if not reading.labels:
        if goal.function is class_losses.dice:
            _masks(goal, y)
            return ""
        return _shares(goal, y.reshape(reading.shape).transpose(reading.inner), reading.axis)
    if y.dtype.kind == "f" and not (y == np.rint(y)).all():
        wrong = y[y != np.rint(y)].ravel()[0]
        raise ValueError(f"{goal.name}: labels hold {wrong:g}, wanted whole numbers from 0 to {classes - 1}")
    ignored = goal.options.get("ignore_index")
    kept = y if ignored is None else y[y != ignored]
    if kept.size and not (kept.min() >= 0 and kept.max() < classes):
        raise ValueError(f"labels from {kept.min():.0f} to {kept.max():.0f}, there are {classes} classes")
    return ""


def _masks(goal: Goal, y: np.ndarray) -> None:
    low, high = y.min(), y.max()
    if not (low >= -EDGE and high <= 1 + EDGE):
        told = ": divide masks by 255" if high == 255 else ""
        raise ValueError(f"{goal.name}: targets are from {low:g} to {high:g}, wanted 0 to 1{told}")


def _shares(goal: Goal, y: np.ndarray, axis: int) -> str:
    """As `check`, of shares ``y`` (n, classes, …)."""
    if not y.min() >= -EDGE:
        raise ValueError(f"{goal.name}: shares of classes are from {y.min():g} on, wanted 0 or more")
    sums = y.sum(axis=1)
    if (np.abs(sums - 1) <= CLOSE).all():
        return ""
    others = [a for a in range(2, y.ndim) if (np.abs(y.sum(axis=a) - 1) <= CLOSE).all()]
    if others:
        raise ValueError(f"{goal.name}: shares of classes sum to 1 along another axis than {axis}: class_axis says which")
    return (
        f"{goal.name}: shares of classes sum to {sums.min():g} to {sums.max():g}, not to 1; binary_cross_entropy is the "
        "loss of classes that do not exclude each other"
    )
