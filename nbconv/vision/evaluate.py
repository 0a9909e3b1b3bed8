"""How good detections are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.vision.boxes import Detections, iou

RECALLS = np.linspace(0, 1, 101)


def average_precision(
    found: Sequence[Detections], boxes: Sequence[Any], labels: Sequence[Any], *, overlap: float = 0.5
) -> dict[int, float]:
    """The average precision of each class that is there: the mean over the recalls 0, 0.01 … 1 of the greatest precision
    that is reached with that recall or more, as COCO interpolates it.

    ``found`` a picture, with the true ``boxes`` (k, 4) and ``labels`` (k,) of the same picture. By falling score, each
    detection takes the true box of its class that it overlaps most of those not taken yet, if by ``overlap`` (IoU) or more;
    else it is wrong. ValueError for lists of different lengths.
    """
    return {label: each[0] for label, each in average_precisions(found, boxes, labels, [overlap]).items()}


def average_precisions(
    found: Sequence[Detections], boxes: Sequence[Any], labels: Sequence[Any], overlaps: Sequence[float]
) -> dict[int, list[float]]:
    """`average_precision` of each class at each of ``overlaps``."""
    if not len(found) == len(boxes) == len(labels):
        raise ValueError(f"{len(found)} pictures' detections, {len(boxes)} boxes and {len(labels)} labels")
    truth = [np.asarray(v).reshape(-1) for v in labels]
    present = np.unique(np.concatenate([np.zeros(0, np.int64), *truth]))
    return {int(c): _of_class(found, boxes, truth, c, overlaps) for c in present}


def mean_average_precision(
    found: Sequence[Detections], boxes: Sequence[Any], labels: Sequence[Any], *, overlap: float = 0.5
) -> float:
    """The mean of `average_precision` over the classes that are there: mAP@50; 0 where there are none."""
    return float(np.mean([*average_precision(found, boxes, labels, overlap=overlap).values()] or [0.0]))


def _of_class(
    found: Sequence[Detections], boxes: Sequence[Any], labels: Sequence[Any], label: int, overlaps: Sequence[float]
) -> list[float]:
    scores, shared, there = [], [], 0
    for mine, true, classes in zip(found, boxes, labels, strict=True):
        wanted = np.asarray(true, np.float32).reshape(-1, 4)[classes == label]
        chosen = np.flatnonzero(mine.classes == label)
        chosen = chosen[np.argsort(-mine.scores[chosen], kind="stable")]
        scores.append(mine.scores[chosen])
        shared.append(iou(mine.boxes[chosen], wanted))
        there += len(wanted)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    each = []
    for overlap in overlaps:
        hits = np.concatenate([_taken(s, overlap) for s in shared])[order].cumsum()
        precision = hits / np.arange(1, len(hits) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits / there, RECALLS)
        each.append(float(np.append(best, 0)[at].mean()))
    return each


def _taken(shared: np.ndarray, overlap: float) -> np.ndarray:
    """Which rows, the first one first, have a column of their own."""
    right, free = np.zeros(len(shared), bool), np.ones(shared.shape[1], bool)
    for i in np.flatnonzero((shared >= overlap).any(axis=1)):
        kept = np.where(free, shared[i], -1)
        if kept.max() >= overlap:
            right[i], free[kept.argmax()] = True, False
    return right
