"""Pictures with boxes around things."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nbconv.base.image import RESIZES, load_image, open_image, placed
from nbconv.train.augment.geometry import warped_boxes
from nbconv.train.data.base import Batch, Data, Part
from nbconv.train.data.pictures import Pictures, each
from nbconv.train.data.splits import Splits


def box_splits(parts: Mapping[str, Boxed], where: Any) -> Splits:
    """Boxes by split, with the classes of the training part in all. ValueError where another has boxes of more."""
    if "train" not in parts:
        raise ValueError(f"{where} has the splits {', '.join(parts)}, and no train")
    names, found = parts["train"].classes, Splits()
    for split, data in parts.items():
        there = {data.classes[int(k)] for rows in data.boxes for k in np.unique(rows[:, 4])}
        if more := sorted(there - set(names)):
            raise ValueError(f"{where}: {split} has boxes of {', '.join(more)}, train of the classes {', '.join(names)}")
        numbers = np.array([names.index(c) if c in names else -1 for c in data.classes] or [0], np.float32)
        other: Any = copy.copy(data)
        other.classes = names
        other.boxes = [np.concatenate([r[:, :4], numbers[r[:, 4:].astype(int)]], 1) for r in data.boxes]
        found[split] = other
    return found


def encoded(data: Data, encode: Callable[[np.ndarray, np.ndarray], Any]) -> Data:
    """The same pictures and boxes with targets that ``encode`` makes, see `Boxed`."""
    if isinstance(data, Part):
        return Part(encoded(data.whole, encode), data.numbers)
    other: Any = copy.copy(data)
    other.encode = encode
    return other


class Boxed(Pictures):
    """Pictures and boxes: ``boxes`` has for each picture rows (left, top, right, bottom, class) in its own pixels. Targets
    are float32 (n, most, 5): the same rows in pixels of the model's input, as many as the picture with most of them has
    (``most``, unless given: more are refused), filled up with rows of -1. A box is cut at the edge of what is left of the
    picture; one that loses more than three quarters goes. ``encode``: a function of a picture's boxes (k, 4) and their
    labels (k,), which count from 1, after augmentation; targets are then what it gives, stacked: such as
    `nbconv.vision.ssd_targets` and `fcos_targets` with their anchors or points, or `nbconv.vision.Anchors`. ``shares``:
    boxes are in shares of the picture's sides."""

    def __init__(
        self,
        paths: Sequence[Any],
        boxes: Sequence[Any],
        classes: Sequence[str],
        *,
        most: int | None = None,
        encode: Callable[[np.ndarray, np.ndarray], Any] | None = None,
        shares: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(paths, np.arange(len(boxes)), classes=classes, kind="boxes", **options)
        rows = [np.asarray(boxes[i], np.float32).reshape(-1, 5) for i in self.labels]
        del self.labels
        self.boxes, self.encode, self.shares = rows, encode, shares
        for path, found in zip(self.paths, rows):
            wrong = ~np.isfinite(found).all(axis=1) | (found[:, 2] <= found[:, 0]) | (found[:, 3] <= found[:, 1])
            if wrong.any():
                raise ValueError(f"{path}: a box is {found[wrong][0, :4].tolist()}, wanted left, top, right, bottom")
            if len(found) and not (found[:, 4].min() >= 0 and found[:, 4].max() < max(len(classes), 1)):
                raise ValueError(f"{path}: a box has class {found[:, 4].max():g}, there are {len(classes)} classes")
        have = max(map(len, rows))
        if most is not None and have > most:
            raise ValueError(f"{self.paths[[len(r) for r in rows].index(have)]} has {have} boxes, most is {most}")
        self.most = max(have, 1) if most is None else most

    def __len__(self) -> int:
        return len(self.boxes)

    def read(self, numbers: np.ndarray) -> Batch:
        found = each(self._pair, numbers)
        return np.concatenate([x for x, _ in found]), np.stack([y for _, y in found])

    def encoded(self, y: np.ndarray) -> np.ndarray:
        if self.encode is None:
            return y
        real = [rows[rows[:, 4] >= 0] for rows in y]
        return np.stack([np.asarray(self.encode(r[:, :4], r[:, 4].astype(np.int64) + 1), np.float32) for r in real])

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        return self.read(numbers)[0]

    def _inside(self, i: int, width: int, height: int) -> np.ndarray:
        """The boxes of picture i, cut at its edges. ValueError for one that lies outside of it."""
        boxes = self.boxes[i][:, :4]
        boxes = boxes * np.array([width, height] * 2, np.float32) if self.shares else boxes
        found = boxes.clip(0, [width, height] * 2)
        gone = (found[:, 2] <= found[:, 0]) | (found[:, 3] <= found[:, 1])
        if gone.any():
            box = boxes[gone][0].tolist()
            raise ValueError(f"{self.paths[i]}: the box {box} is outside the picture, which has {width}×{height} pixels")
        return found

    def _pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        picture, size = open_image(self.paths[i]), self.needed()
        if self.resize not in RESIZES:
            raise ValueError(f"resize is {self.resize!r}, wanted one of {', '.join(RESIZES)}")
        source, to = placed((picture.height, picture.width), size, self.resize)
        rows = np.full((self.most, 5), -1, np.float32)
        rows[: len(self.boxes[i])] = self.boxes[i]
        rows[: len(self.boxes[i]), :4] = self._inside(i, picture.width, picture.height)
        x, y = (to[2] - to[0]) / (source[2] - source[0]), (to[3] - to[1]) / (source[3] - source[1])
        move = np.linalg.inv(np.array([[x, 0, to[0] - x * source[0]], [0, y, to[1] - y * source[1]], [0, 0, 1.0]]))
        return load_image(picture, size, **self.reading()), warped_boxes(rows, [move], size)
