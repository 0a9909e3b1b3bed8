"""Anchors of a detector that finds boxes on several grids of features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log
from typing import Any, NamedTuple

import numpy as np

from nbconv.vision.assign import VARIANCES, ssd_targets
from nbconv.vision.boxes import Detections
from nbconv.vision.detect import ssd

CELLS = 3.0
"""The side of the boxes that a grid is best for, in its cells."""


class Anchors(NamedTuple):
    """Where an SSD head looks for boxes: ``shapes`` has the (width, height) in pixels of those that each cell of each of
    ``grids`` (rows, columns) stands for, over a picture of ``size`` (height, width). They lie as `ssd_anchors` has them:
    grids, rows, columns, shapes. As a function it gives the targets of a picture: see `ssd_targets`."""

    size: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[tuple[float, float], ...], ...]
    variances: tuple[float, float] = VARIANCES[1:3]
    """of the middle and of the sides, see `ssd`"""

    def boxes(self) -> np.ndarray:
        """float32 (n, 4): centre and size of each, in pixels. Read-only."""
        return _boxes(self)

    def __call__(self, boxes: Any, labels: Any) -> np.ndarray:
        """The targets of a picture with ``boxes`` (k, 4) and ``labels`` (k,) from 1: float32 (n, 5)."""
        return ssd_targets(boxes, labels, self.boxes(), variances=self._each)

    def detections(self, moves: np.ndarray, scores: np.ndarray, **options: Any) -> Detections:
        """What a head found in a picture: see `ssd`, whose ``boxes``, ``scores`` and options these are."""
        return ssd(moves, scores, self.boxes(), variances=self._each, **options)

    @property
    def _each(self) -> list[float]:
        return [self.variances[k] for k in (0, 0, 1, 1)]


@lru_cache(16)
def _boxes(anchors: Anchors) -> np.ndarray:
    h, w = anchors.size
    found = [np.zeros((0, 4), np.float32)]
    for (rows, columns), shapes in zip(anchors.grids, anchors.shapes, strict=True):
        y, x = (np.arange(rows) + 0.5) * (h / rows), (np.arange(columns) + 0.5) * (w / columns)
        cells = np.stack(np.meshgrid(x, y), -1).reshape(-1, 1, 2)
        each = np.asarray(shapes, np.float64).reshape(1, -1, 2)
        wide = np.broadcast_arrays(cells, each)
        found.append(np.concatenate(wide, 2).reshape(-1, 4).astype(np.float32))
    result = np.concatenate(found)
    result.flags.writeable = False
    return result


def dealt(
    size: tuple[int, int], grids: Sequence[tuple[int, int]], shapes: Sequence[Any]
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Shapes of anchors (width, height; a number is both), each with the grid it fits: where it is about three cells wide.
    Of grids that fit none, the shapes are empty. ValueError for sizes that are none."""
    found: list[list[tuple[float, float]]] = [[] for _ in grids]
    strides = [(size[0] / rows * size[1] / columns) ** 0.5 for rows, columns in grids]
    for shape in shapes:
        sides = np.broadcast_to(np.asarray(shape, np.float64), (2,)).tolist()
        if not all(0 < side < np.inf for side in sides):
            raise ValueError(f"an anchor is {shape}, wanted a width and a height in pixels")
        wanted = log((sides[0] * sides[1]) ** 0.5 / CELLS)
        best = min(range(len(grids)), key=lambda k: abs(log(strides[k]) - wanted))
        found[best].append((sides[0], sides[1]))
    return tuple(map(tuple, found))


def anchor_shapes(boxes: Any, count: int, turns: int = 20) -> list[tuple[float, float]]:
    """``count`` shapes (width, height) at most, that boxes (n, 4) have about: k-means of the logarithms of both (Redmon and
    Farhadi 2017, YOLO9000, take the overlap for the distance), from the smallest area. ValueError where there are no
    boxes."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not len(boxes):
        raise ValueError("there are no boxes to learn from")
    sides = np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1))
    order = np.argsort(sides.sum(axis=1), kind="stable")
    at = np.unique(np.linspace(0, len(boxes) - 1, 2 * count + 1).round().astype(int)[1::2])
    middle = sides[order[at]]
    for _ in range(turns):
        whose = ((sides[:, None] - middle[None]) ** 2).sum(axis=2).argmin(axis=1)
        middle = np.stack([sides[whose == k].mean(axis=0) for k in np.unique(whose)])
    middle = np.unique(np.exp(middle).round(2), axis=0)
    return [(float(w), float(h)) for w, h in middle[np.argsort(middle.prod(axis=1), kind="stable")]]
