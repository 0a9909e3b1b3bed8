"""What targets must hold for the losses that have names: labels that are classes, shares, signs; looked at before a step."""

from __future__ import annotations

from typing import NamedTuple

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


class Labels(NamedTuple):
    """Targets as labels (n, …), and where the output they fit has its classes: ``order``, its axes as (samples, classes,
    …)."""

    labels: np.ndarray
    order: tuple[int, ...]
    classes: int

    @property
    def axis(self) -> int:
        return self.order[1]

    def as_labels(self, best: np.ndarray) -> np.ndarray:
        """What is best along the output's classes, in the labels' shape."""
        return best.transpose([a - (a > self.axis) for a in self.order if a != self.axis])


def class_order(goal: Goal, dtype: np.dtype, shape: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, ...] | None:
    """`Labels.order` of an output for targets of this type and shape; None where these are no classes."""
    if goal.function in CLASSES and len(goal.outputs) == 1:
        reading = goal.reading(output, shape)
        exclusive = reading.labels or goal.function in (class_losses.cross_entropy, class_losses.soft_cross_entropy)
        return reading.order if exclusive else None
    if goal.function in LOSSES.values() or len(goal.outputs) > 1:
        return None
    if dtype.kind != "i" or output[1:2] < (2,) or shape != (output[0], *output[2:]):
        return None
    return tuple(range(len(output)))


def labels_of(goal: Goal, y: np.ndarray, output: tuple[int, ...]) -> Labels | None:
    """Targets as labels for an output of this shape; of shares of classes the greatest one's. None where they are no
    classes."""
    order = class_order(goal, y.dtype, y.shape, output)
    if order is None:
        return None
    classes = output[order[1]]
    if goal.function not in CLASSES:
        return Labels(y, order, classes)
    reading = goal.reading(output, y.shape)
    y = y.reshape(reading.shape)
    labels = y.astype(np.int64) if reading.labels else y.transpose(reading.inner).argmax(axis=1)
    return Labels(labels, order, classes)


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
