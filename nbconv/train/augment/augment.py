"""Augmentation of pictures, (n, c, h, w) float32 in any units, as the classics do it. Each sample has a generator of its
own, so that what happens to it does not hang on batches and threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbconv.train.augment import geometry
from nbconv.train.targets import Targets


class Augment:
    """What is done to each sample, in this order; 0 leaves a thing out.

    ``resized_crop`` (least, most): a part of that share of the area, of proportions between 3/4 and 4/3 of the picture's
    (``ratio``), becomes the whole (Szegedy 2015; as torchvision's RandomResizedCrop).
    ``rotation``: by up to so many degrees either way. ``crop``: moved by up to so many pixels (He 2016). ``fill``: the value
    of the pixels that these two bring in (255 for pictures on white), and ``mask_fill``: the class there in masks.
    ``flip``: mirrored left to right with this probability; ``flip_vertical``: top to bottom.
    ``brightness``, ``contrast``, ``saturation``: times 1 ± up to this (Krizhevsky 2012; as torchvision's ColorJitter).
    ``cutout``: a square of so many pixels is set to 0 (DeVries and Taylor 2017). ``mixup`` alpha: samples are mixed with
    their neighbours in the batch, λ from Beta(alpha, alpha), labels become shares of classes (Zhang 2018).

    Masks move with their pictures, each pixel taking the nearest one's class. Boxes become the upright box around what
    became of them, cut at the edge; one of which less than ``least_box`` of the area is left goes.
    """

    def __init__(
        self,
        *,
        resized_crop: tuple[float, float] | None = None,
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        rotation: float = 0.0,
        crop: int = 0,
        flip: float = 0.0,
        flip_vertical: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        cutout: int = 0,
        mixup: float = 0.0,
        fill: float = 0.0,
        mask_fill: int = 0,
        least_box: float = 0.25,
    ) -> None:
        values = dict(locals())
        for name, value in values.items():
            if name not in ("self", "fill", "mask_fill", "resized_crop", "ratio", "__class__") and not value >= 0:
                raise ValueError(f"{name} is {value}, wanted 0 or more")
        if resized_crop is not None and not 0 < resized_crop[0] <= resized_crop[1] <= 1:
            raise ValueError(f"resized_crop is {resized_crop}, wanted two shares of the area above 0, at most 1")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio is {ratio}, wanted the least and the most, above 0")
        self.resized_crop, self.ratio = resized_crop, ratio
        self.rotation, self.crop, self.flip, self.flip_vertical = rotation, int(crop), flip, flip_vertical
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.cutout, self.mixup, self.fill = int(cutout), mixup, fill
        self.mask_fill, self.least_box = mask_fill, least_box

    @property
    def moves(self) -> bool:
        """Whether pixels change places."""
        return bool(self.resized_crop or self.rotation or self.crop or self.flip or self.flip_vertical)

    def __call__(
        self,
        x: np.ndarray,
        y: Any,
        generators: Sequence[np.random.Generator],
        classes: int = 0,
        *,
        kind: str = "auto",
        layout: str = "NCHW",
    ) -> tuple[np.ndarray, Any]:
        """The samples changed, and their targets, changed as far as they go with pixels; shares of ``classes`` where there
        is mixup. ``kind``: what targets are, see `nbconv.train.data.Data`; "auto" sees masks by their shape. ``layout``:
        where the channels of ``x`` are. ValueError for samples that are no pictures where pixels move, and for targets of
        which is not known how they move."""
        if layout == "NHWC" and x.ndim > 2:
            x, y = self(np.moveaxis(x, -1, 1), y, generators, classes, kind=kind)
            return np.ascontiguousarray(np.moveaxis(x, 1, -1)), y
        if x.ndim != 4 and (self.moves or self.cutout):
            raise ValueError(f"the samples have shape {list(x.shape)}: moves and cuts want pictures (n, c, h, w)")
        several = y.arrays if isinstance(y, Targets) else y if isinstance(y, Mapping) else None
        parts: dict[Any, Any] = {"": y} if several is None else dict(several)
        if several is not None and self.mixup:
            raise ValueError("targets are by output: mixup wants one label a sample")
        kinds = {name: self._kind(x, part, kind) for name, part in parts.items()}
        changed, moves = np.empty(x.shape, np.float32), []
        for sample, rng, out in zip(x, generators, changed, strict=True):  # one at a time: its memory is the next one's
            found, mine = self.one(sample, rng)
            out[...] = found
            moves.append(mine)
        for name, part in parts.items():
            if kinds[name] in ("mask", "boxes") and any(moves):
                parts[name] = np.empty(part.shape, part.dtype)
                for target, mine, out in zip(part, moves, parts[name]):
                    self._followed(kinds[name], target, mine, x.shape[2:], out)
        y = parts[""] if several is None else Targets(parts) if isinstance(y, Targets) else parts
        return (changed, y) if not self.mixup else self._mixed(changed, y, generators, classes)

    def _kind(self, x: np.ndarray, y: np.ndarray, kind: str) -> str:
        """What targets are. ValueError for those of which is not known what becomes of them."""
        kind = kind_of(x, y) if kind == "auto" else kind
        if kind == "values" and y.ndim > 1 and (self.moves or self.mixup) and not _are_labels(y):
            raise ValueError(
                f"targets have shape {list(y.shape)}: what moves or mixes pictures wants labels, masks or boxes (kind=…)"
            )
        if kind in ("mask", "boxes") and self.mixup:
            raise ValueError(f"targets have shape {list(y.shape)}: mixup wants labels")
        return kind

    def one(self, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        """(c, h, w) changed, and the moves of its pixels: matrices, see `nbconv.train.augment.geometry`."""
        moves: list[np.ndarray] = []
        size = (x.shape[1], x.shape[2]) if x.ndim == 3 else (0, 0)
        if self.resized_crop:
            box = self._part(size, rng)
            x = geometry.cut_out(x, box)
            moves.append(geometry.window(box, size))
        if self.rotation:
            turn = geometry.turn(rng.uniform(-self.rotation, self.rotation), size)
            x = geometry.warped(x, turn, self.fill)
            moves.append(turn)
        if self.crop:
            down, right = (int(v) for v in rng.integers(-self.crop, self.crop + 1, 2))
            x = geometry.moved(x, down, right, self.fill)
            moves.append(geometry.shift(down, right))
        if self.flip and rng.random() < self.flip:
            x = x[:, :, ::-1]
            moves.append(geometry.mirror(size))
        if self.flip_vertical and rng.random() < self.flip_vertical:
            x = x[:, ::-1]
            moves.append(geometry.mirror_vertical(size))
        x = self.more(x, moves, rng)
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
        return np.asarray(x, np.float32), moves

    def more(self, x: np.ndarray, moves: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """What a subclass does between flips and colours; its own moves are added to ``moves``."""
        return x

    def _part(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of a part of the picture."""
        assert self.resized_crop is not None
        h, w = size
        for _ in range(10):
            share = rng.uniform(*self.resized_crop)
            ratio = np.exp(rng.uniform(np.log(self.ratio[0]), np.log(self.ratio[1])))
            width, height = round(w * float(np.sqrt(share * ratio))), round(h * float(np.sqrt(share / ratio)))
            if 0 < width <= w and 0 < height <= h:
                left, top = int(rng.integers(0, w - width + 1)), int(rng.integers(0, h - height + 1))
                return left, top, left + width, top + height
        return 0, 0, w, h

    def _followed(self, kind: str, y: np.ndarray, moves: list[np.ndarray], size: tuple[int, ...], out: np.ndarray) -> None:
        """Puts a mask or boxes, moved as the picture was, into ``out``."""
        if not moves:
            out[...] = y
        elif kind == "boxes":
            out[...] = geometry.warped_boxes(y, moves, (size[0], size[1]), self.least_box)
        elif y.shape[-2:] == tuple(size):
            geometry.warped_mask(y, moves, self.mask_fill, out)
        elif y.shape[:2] == tuple(size):
            out[...] = np.moveaxis(geometry.warped_mask(np.moveaxis(y, 2, 0), moves, self.mask_fill), 0, 2)
        else:
            raise ValueError(f"a mask has shape {list(y.shape)}, its picture {list(size)}: they cannot move together")

    def _mixed(
        self, x: np.ndarray, y: np.ndarray, generators: Sequence[np.random.Generator], classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        share = np.array([rng.beta(self.mixup, self.mixup) for rng in generators], np.float32)
        wide, of_y = share.reshape(-1, *[1] * (x.ndim - 1)), share[:, None]
        if y.ndim == 1 and y.dtype.kind in "iub":
            if classes < 2:
                raise ValueError("mixup wants to know how many classes there are")
            y = np.eye(classes, dtype=np.float32)[y]
        elif y.ndim == 1:
            of_y = share
        y = np.asarray(y, np.float32)
        return wide * x + (1 - wide) * np.roll(x, 1, axis=0), of_y * y + (1 - of_y) * np.roll(y, 1, axis=0)


def kind_of(x: np.ndarray, y: np.ndarray) -> str:
    """What targets are, by their shape, for samples (n, c, h, w)."""
    if y.ndim < 2:
        return "label"
    if x.ndim == 4 and y.ndim > 2 and x.shape[2:] in (y.shape[-2:], y.shape[1:3]):
        return "mask"
    return "values"


def _are_labels(y: np.ndarray) -> bool:
    """Whether rows are yes or no a class, or shares of classes."""
    if y.ndim != 2:
        return False
    return y.dtype == bool or bool(((y == 0) | (y == 1)).all() or ((y >= 0).all() and np.allclose(y.sum(axis=1), 1)))


def _factor(rng: np.random.Generator, by: float) -> np.float32:
    return np.float32(rng.uniform(max(0.0, 1 - by), 1 + by))


def grey(x: np.ndarray) -> np.ndarray:
    """(1, h, w): luma as BT.601 has it of (3, h, w), else the mean over channels."""
    if len(x) == 3:
        return np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), np.ascontiguousarray(x), 1)[None]
    return x.mean(axis=0, keepdims=True)
