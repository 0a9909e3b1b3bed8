"""Boxes: overlaps, suppression, and the way back from a letterboxed picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nbconv.kernels.index_params import Boxes
from nbconv.kernels.target import host
from nbconv.runtime.direct import call


class Detections(NamedTuple):
    """What was found in one picture, best first."""

    boxes: np.ndarray
    """float32 (n, 4): left, top, right, bottom"""
    scores: np.ndarray
    """float32 (n,)"""
    classes: np.ndarray
    """int64 (n,)"""
    points: np.ndarray | None = None
    """float32 (n, k, 2): keypoints x, y, where the model gives some"""

    def rows(self) -> Iterator[tuple[np.ndarray, float, int]]:
        """(box, score, class) of each."""
        return zip(self.boxes, map(float, self.scores), map(int, self.classes), strict=True)


class Letterbox(NamedTuple):
    """How a picture lies in a larger one: scaled, then moved."""

    scale: float
    left: int
    top: int
    size: tuple[int, int]
    """(height, width) of the picture before"""

    def undo(self, found: Detections) -> Detections:
        """Detections in pixels of the picture before, cut off at its borders."""
        h, w = self.size
        origin = np.array([self.left, self.top], np.float32)
        corners = (found.boxes.reshape(-1, 2, 2) - origin) / np.float32(self.scale)
        corners = corners.clip(0, np.array([w, h], np.float32))
        points = None if found.points is None else (found.points - origin) / np.float32(self.scale)
        return found._replace(boxes=corners.reshape(-1, 4).astype(np.float32), points=points)


def letterbox(image: np.ndarray, size: tuple[int, int], fill: int = 114) -> tuple[np.ndarray, Letterbox]:
    """The whole picture, proportions kept, in the middle of one of ``size`` (height, width); the rest is ``fill``.

    ``image``: uint8 (h, w) or (h, w, channels). Resized by Pillow's bilinear filter, which averages when it shrinks.
    ValueError for another array, size or fill.
    """
    from PIL import Image

    image = np.asarray(image)
    channels = image.shape[2:] or (1,)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape or channels[0] not in (1, 3, 4):
        raise ValueError(f"image is {image.dtype}{list(image.shape)}, wanted uint8 (h, w) or (h, w, 1, 3 or 4)")
    if np.shape(size) != (2,) or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in size):
        raise ValueError(f"size is {size!r}, wanted a height and a width, integers of 1 or more")
    if not isinstance(fill, (int, np.integer)) or not 0 <= fill <= 255:
        raise ValueError(f"fill is {fill!r}, wanted an integer from 0 to 255")
    h, w = image.shape[:2]
    scale = min(size[0] / h, size[1] / w)
    fit = max(1, round(h * scale)), max(1, round(w * scale))
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    small = np.asarray(picture.resize((fit[1], fit[0]), Image.Resampling.BILINEAR)).reshape(*fit, *image.shape[2:])
    top, left = (size[0] - fit[0]) // 2, (size[1] - fit[1]) // 2
    out = np.full((*size, *image.shape[2:]), fill, np.uint8)
    out[top : top + fit[0], left : left + fit[1]] = small
    return out, Letterbox(scale, left, top, (h, w))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of a (n, 4) with each of b (m, 4): float32 (n, m); 0 for boxes without area.
    ValueError for other shapes."""
    a, b = _rows_of_4(a), _rows_of_4(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    union = np.maximum(a[:, 2:] - a[:, :2], 0).prod(1)[:, None] + np.maximum(b[:, 2:] - b[:, :2], 0).prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def nms(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray | None = None, *, threshold: float = 0.45, most: int = 300
) -> np.ndarray:
    """Indices, best score first (of equal ones the first), of boxes that overlap none kept before by more than
    ``threshold``; where ``classes`` are given, only boxes of one class suppress each other. NaN scores are dropped.
    ValueError where shapes do not fit."""
    boxes, scores = _rows_of_4(boxes), np.asarray(scores, np.float32).reshape(-1)
    if len(boxes) != len(scores) or (classes is not None and len(classes) != len(scores)):
        raise ValueError(f"{len(boxes)} boxes and {len(scores)} scores, wanted one score (and class) a box")
    there = np.flatnonzero(~np.isnan(scores))
    groups = [there] if classes is None else [there[of] for of in _each(np.asarray(classes)[there])]
    found = np.sort(np.concatenate([_suppressed(boxes, scores, group, threshold, most) for group in groups] or [there]))
    return found[np.argsort(-scores[found], kind="stable")][:most]


def _each(classes: np.ndarray) -> list[np.ndarray]:
    """Where each class stands."""
    return [np.flatnonzero(classes == c) for c in np.unique(classes)]


def _suppressed(boxes: np.ndarray, scores: np.ndarray, group: np.ndarray, threshold: float, most: int) -> np.ndarray:
    """Those of these boxes that NonMaxSuppression's kernel keeps. One without area suppresses nothing."""
    n, lanes = len(group), host().lanes
    room = -(-min(n, max(most, 0)) // lanes) * lanes
    if room == 0:
        return group[:0]
    corners = np.concatenate([boxes[group, :2], np.maximum(boxes[group, :2], boxes[group, 2:])], 1)
    kept, counts = np.empty(room, np.int64), np.empty(1, np.int64)
    call(
        "select.suppress", 1, boxes=corners, scores=scores[group], iou=np.array([threshold], np.float32),
        least=np.zeros(1, np.float32), most=np.array([most], np.int64), kept=kept, counts=counts,
        scratch=np.empty(n + 5 * room, np.int64),
        shape=Boxes(1, n, room, 0, 0),
    )  # fmt: skip
    return group[kept[: counts[0]]]


def _rows_of_4(boxes: np.ndarray) -> np.ndarray:
    """Boxes as float32 (n, 4)."""
    boxes = np.asarray(boxes, np.float32)
    if boxes.size and boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes have shape {list(boxes.shape)}, wanted (n, 4)")
    return boxes.reshape(-1, 4)
