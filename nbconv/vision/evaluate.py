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
    if not len(found) == len(boxes) == len(labels):
        raise ValueError(f"{len(found)} pictures' detections, {len(boxes)} boxes and {len(labels)} labels")
    truth = [np.asarray(v).reshape(-1) for v in labels]
    present = np.unique(np.concatenate([np.zeros(0, np.int64), *truth]))
    return {int(c): _of_class(found, boxes, truth, c, overlap) for c in present}


def mean_average_precision(
    found: Sequence[Detections], boxes: Sequence[Any], labels: Sequence[Any], *, overlap: float = 0.5
) -> float:
    """The mean of `average_precision` over the classes that are there: mAP@50; 0 where there are none."""
    return float(np.mean([*average_precision(found, boxes, labels, overlap=overlap).values()] or [0.0]))


def _of_class(found: Sequence[Detections], boxes: Sequence[Any], labels: Sequence[Any], label: int, overlap: float) -> float:
    scores, right, there = [], [], 0
    for mine, true, classes in zip(found, boxes, labels, strict=True):
        wanted = np.asarray(true, np.float32).reshape(-1, 4)[classes == label]
        chosen = np.flatnonzero(mine.classes == label)
        chosen = chosen[np.argsort(-mine.scores[chosen], kind="stable")]
        scores.append(mine.scores[chosen])
        right.append(_taken(iou(mine.boxes[chosen], wanted), overlap))
        there += len(wanted)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right)[order].cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / there, RECALLS)
    return float(np.append(best, 0)[at].mean())


def _taken(shared: np.ndarray, overlap: float) -> np.ndarray:
    """Which rows, the first one first, have a column of their own."""
    right, free = np.zeros(len(shared), bool), np.ones(shared.shape[1], bool)
    for i, row in enumerate(shared):
        kept = np.where(free, row, -1)
        if kept.size and kept.max() >= overlap:
            right[i], free[kept.argmax()] = True, False
    return right
