"""What moves pixels: of pictures (c, h, w) float32, and of the masks and boxes that lie on them.

A move is a matrix (3, 3) from places (x, y, 1) in the result to places in the source, in pixels whose centres are at one
half. Pictures are done move by move; masks and boxes once, by all moves of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from nbconv.base.image import pillow


def warped(x: np.ndarray, matrix: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """(c, h, w) moved, bilinear, ``fill`` where nothing is."""
    image = pillow()
    size = (x.shape[2], x.shape[1])
    coefficients = tuple(float(v) for v in matrix[:2].reshape(-1))
    result = np.empty(x.shape, np.float32)
    for plane, out in zip(x, result):
        source = image.fromarray(np.ascontiguousarray(plane, np.float32))
        how, by = image.Transform.AFFINE, image.Resampling.BILINEAR
        out[...] = np.asarray(source.transform(size, how, coefficients, by, fillcolor=float(fill)))
    return result


def warped_mask(mask: np.ndarray, moves: Sequence[np.ndarray], fill: float = 0, out: np.ndarray | None = None) -> np.ndarray:
    """(h, w) or (k, h, w) moved, the nearest pixel's value; ``fill`` for what was outside the picture before any of the
    moves, as the picture lost it there. Integers below 2**31, or float32. ``out``: takes the result."""
    image, kind = pillow(), _kind(mask, fill)
    how, by, value = image.Transform.AFFINE, image.Resampling.NEAREST, kind(fill).item()
    result = np.empty(mask.shape, mask.dtype) if out is None else out
    steps = [tuple(float(v) for v in matrix[:2].reshape(-1)) for matrix in moves]
    for plane, moved in zip(mask.reshape(-1, *mask.shape[-2:]), result.reshape(-1, *mask.shape[-2:]), strict=True):
        found = image.fromarray(np.ascontiguousarray(plane, kind))
        for coefficients in steps:
            found = found.transform(found.size, how, coefficients, by, fillcolor=value)
        moved[...] = np.asarray(found)
    return result


def _kind(mask: np.ndarray, fill: float) -> type[np.generic]:
    """The smallest type that Pillow moves and that holds the values: pages of memory cost more than the moving."""
    if mask.dtype.kind == "f":
        return np.float32
    small = not mask.size or (mask.min() >= 0 and mask.max() <= 255)
    return np.uint8 if small and 0 <= fill <= 255 else np.int32


def warped_boxes(boxes: np.ndarray, moves: Sequence[np.ndarray], size: tuple[int, int], least: float = 0.25) -> np.ndarray:
    """Rows (x1, y1, x2, y2, class) moved: the upright box around what became of each, cut at the picture's edge. One of
    which less than ``least`` of the area, or less than a pixel, is left in the picture goes. The kept ones come first; rows
    of -1 fill up."""
    real = boxes[boxes[:, 4] >= 0]
    result = np.full_like(boxes, -1)
    if not len(real):
        return result
    back = np.linalg.inv(reduce(np.matmul, moves, np.eye(3)))
    x, y = real[:, [0, 2, 2, 0]].astype(np.float64), real[:, [1, 1, 3, 3]].astype(np.float64)
    to_x = back[0, 0] * x + back[0, 1] * y + back[0, 2]
    to_y = back[1, 0] * x + back[1, 1] * y + back[1, 2]
    whole = np.stack([to_x.min(1), to_y.min(1), to_x.max(1), to_y.max(1)], axis=1)
    cut = whole.copy()
    cut[:, ::2], cut[:, 1::2] = cut[:, ::2].clip(0, size[1]), cut[:, 1::2].clip(0, size[0])
    width, height = cut[:, 2] - cut[:, 0], cut[:, 3] - cut[:, 1]
    area = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    kept = (width >= 1) & (height >= 1) & (width * height >= least * area)
    found = np.concatenate([cut[kept], real[kept, 4:]], axis=1)
    result[: len(found)] = found
    return result


def turn(degrees: float, size: tuple[int, int]) -> np.ndarray:
    """About the middle, counter-clockwise."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return _about(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]), size)


def shear(x: float, y: float, size: tuple[int, int]) -> np.ndarray:
    """About the middle."""
    return _about(np.array([[1, x, 0], [y, 1, 0], [0, 0, 1.0]]), size)


def shift(down: float, right: float) -> np.ndarray:
    return np.array([[1, 0, -right], [0, 1, -down], [0, 0, 1.0]])


def mirror(size: tuple[int, int]) -> np.ndarray:
    """Left to right."""
    return np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1.0]])


def mirror_vertical(size: tuple[int, int]) -> np.ndarray:
    """Top to bottom."""
    return np.array([[1, 0, 0], [0, -1, size[0]], [0, 0, 1.0]])


def window(box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The part (left, top, right, bottom) becomes the whole."""
    left, top, right, bottom = box
    return np.array([[(right - left) / size[1], 0, left], [0, (bottom - top) / size[0], top], [0, 0, 1.0]])


def _about(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    to = np.array([size[1] / 2, size[0] / 2])
    matrix[:2, 2] = to - matrix[:2, :2] @ to
    return matrix


def rotated(x: np.ndarray, degrees: float, fill: float = 0.0) -> np.ndarray:
    """(c, h, w) turned about its middle, counter-clockwise, bilinear, ``fill`` coming in."""
    return warped(x, turn(degrees, (x.shape[1], x.shape[2])), fill)


def cut_out(x: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part (left, top, right, bottom) of (c, h, w), resized to the whole's size, bilinear."""
    image = pillow()
    size, result = (x.shape[2], x.shape[1]), np.empty(x.shape, np.float32)
    for plane, out in zip(x, result):
        source = image.fromarray(np.ascontiguousarray(plane, np.float32))
        out[...] = np.asarray(source.resize(size, image.Resampling.BILINEAR, box=box))
    return result


def moved(x: np.ndarray, down: int, right: int, fill: float = 0.0) -> np.ndarray:
    """(c, h, w) moved by whole pixels, ``fill`` coming in."""
    h, w = x.shape[1:]
    y = np.full_like(x, fill)
    to_rows, from_rows = _overlap(h, down)
    to_columns, from_columns = _overlap(w, right)
    y[:, to_rows, to_columns] = x[:, from_rows, from_columns]
    return y


def _overlap(size: int, by: int) -> tuple[slice, slice]:
    by = max(-size, min(size, by))
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n, c, h, w) resized, bilinear with half-pixel centres; pixels are not averaged, so make pictures smaller
    elsewhere."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        have = x.shape[axis]
        if have == wanted:
            continue
        at = ((np.arange(wanted) + 0.5) * have / wanted - 0.5).clip(0, have - 1)
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (3 - axis))
        high = np.minimum(low + 1, have - 1)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return np.ascontiguousarray(x, np.float32)
