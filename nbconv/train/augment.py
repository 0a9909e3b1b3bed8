"""Augmentation of pictures, (n, c, h, w) float32 in any units, as the classics do it. Each sample has a generator of its
own, so that what happens to it does not hang on batches and threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Augment:
    """What is done to each sample, in this order; 0 leaves a thing out.

    ``rotation``: by up to so many degrees either way. ``crop``: moved by up to so many pixels (He 2016). ``fill``: the value
    of the pixels that these two bring in (255 for pictures on white).
    ``flip``: mirrored left to right with this probability. ``brightness``, ``contrast``, ``saturation``: times 1 ± up to
    this (Krizhevsky 2012; as torchvision's ColorJitter). ``cutout``: a square of so many pixels is set to 0 (DeVries and
    Taylor 2017). ``mixup`` alpha: samples are mixed with their neighbours in the batch, λ from Beta(alpha, alpha), labels
    become shares of classes (Zhang 2018).
    """

    def __init__(
        self,
        *,
        rotation: float = 0.0,
        crop: int = 0,
        flip: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        cutout: int = 0,
        mixup: float = 0.0,
        fill: float = 0.0,
    ) -> None:
        values = dict(locals())
        for name, value in values.items():
            if name not in ("self", "fill") and not value >= 0:
                raise ValueError(f"{name} is {value}, wanted 0 or more")
        self.rotation, self.crop, self.flip = rotation, int(crop), flip
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.cutout, self.mixup, self.fill = int(cutout), mixup, fill

    def __call__(
        self, x: np.ndarray, y: np.ndarray, generators: Sequence[np.random.Generator], classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The samples changed, and their targets: shares of ``classes`` where there is mixup, else as they were. Targets
        that are pictures do not fit what moves pixels: ValueError."""
        if y.ndim > 1 and (self.rotation or self.crop or self.flip or self.mixup):
            raise ValueError(f"targets have shape {list(y.shape)}: rotation, crop, flip and mixup want one label a sample")
        x = np.stack([self._one(sample, rng) for sample, rng in zip(x, generators, strict=True)])
        if not self.mixup:
            return x, y
        if classes < 2:
            raise ValueError("mixup wants to know how many classes there are")
        share = np.array([rng.beta(self.mixup, self.mixup) for rng in generators], np.float32)
        hot = np.eye(classes, dtype=np.float32)[y]
        wide = share.reshape(-1, *[1] * (x.ndim - 1))
        return wide * x + (1 - wide) * np.roll(x, 1, axis=0), share[:, None] * hot + (1 - share[:, None]) * np.roll(
            hot, 1, axis=0
        )

    def _one(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.rotation:
            x = rotated(x, rng.uniform(-self.rotation, self.rotation), self.fill)
        if self.crop:
            down, right = rng.integers(-self.crop, self.crop + 1, 2)
            x = moved(x, int(down), int(right), self.fill)
        if self.flip and rng.random() < self.flip:
            x = x[:, :, ::-1]
        if self.brightness:
            x = x * _factor(rng, self.brightness)
        if self.contrast:
            mean = grey(x).mean()
            x = (x - mean) * _factor(rng, self.contrast) + mean
        if self.saturation and len(x) == 3:
            flat = grey(x)
            x = (x - flat) * _factor(rng, self.saturation) + flat
        if self.cutout:
            h, w = x.shape[1:]
            row, column = rng.integers(0, h), rng.integers(0, w)
            half, x = self.cutout // 2, np.array(x)
            x[:, max(row - half, 0) : row - half + self.cutout, max(column - half, 0) : column - half + self.cutout] = 0
        return np.asarray(x, np.float32)


def _factor(rng: np.random.Generator, by: float) -> np.float32:
    return np.float32(rng.uniform(max(0.0, 1 - by), 1 + by))


def grey(x: np.ndarray) -> np.ndarray:
    """(1, h, w): luma as BT.601 has it of (3, h, w), else the mean over channels."""
    if len(x) == 3:
        return np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), x, 1)[None]
    return x.mean(axis=0, keepdims=True)


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


def rotated(x: np.ndarray, degrees: float, fill: float = 0.0) -> np.ndarray:
    """(c, h, w) turned about its middle, counter-clockwise, bilinear, ``fill`` coming in."""
    h, w = x.shape[1:]
    angle = np.deg2rad(degrees)
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float64)
    rows, columns = rows - (h - 1) / 2, columns - (w - 1) / 2
    from_rows = np.cos(angle) * rows + np.sin(angle) * columns + (h - 1) / 2
    from_columns = -np.sin(angle) * rows + np.cos(angle) * columns + (w - 1) / 2
    top, left = np.floor(from_rows).astype(int), np.floor(from_columns).astype(int)
    fr, fc = from_rows - top, from_columns - left
    result = np.zeros(x.shape, np.float64)
    for i, row_share in ((0, 1 - fr), (1, fr)):
        for j, column_share in ((0, 1 - fc), (1, fc)):
            r, c = top + i, left + j
            inside = (r >= 0) & (r < h) & (c >= 0) & (c < w)
            result += np.where(inside, row_share * column_share, 0) * (x[:, r.clip(0, h - 1), c.clip(0, w - 1)] - fill)
    return (result + fill).astype(np.float32)


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
