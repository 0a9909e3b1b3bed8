"""Samples that can be asked for by their numbers: what all kinds of data have."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nbconv.edit.pictured import PictureInput
from nbconv.train.targets import Targets, Weighted

Batch = tuple[np.ndarray, Any]
"""Samples, and targets: an array, or `Targets`, or `Weighted`."""
KINDS = ("auto", "label", "values", "mask", "boxes")


class Data:
    """Samples that can be asked for by their numbers.

    ``labels``: all targets, (n, …); ``classes``: their names, if known. ``weights``: of each sample's loss in training, (n,)
    float32, if they are not all 1. ``kind``: what a target is: "label" (a class, or
    0 and 1 a class), "values" (numbers), "mask" (a class a pixel), "boxes" (rows x1, y1, x2, y2, class in pixels; rows of
    -1 fill up), or "auto": what the shapes say.
    `raw` gives samples as float32 (n, c, …), `ready` what the model takes of them: (x - mean) / std, with the channels last
    where ``layout`` is "NHWC". ``layout`` "auto" is the model's, from `bound` on, which `Trainer` calls; until then "NCHW".
    A subclass gives ``labels`` and `raw`; or `__len__` and `read`, where targets are made as they are asked for.
    """

    labels: np.ndarray
    classes: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    kind: str = "auto"
    mean: np.ndarray | float = 0.0
    std: np.ndarray | float = 1.0
    layout: str = "auto"

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        return self.read(numbers)[0]

    def read(self, numbers: np.ndarray) -> Batch:
        """Samples as `raw` gives them, and their targets."""
        if type(self).raw is Data.raw:
            raise NotImplementedError(f"{type(self).__name__} has neither raw nor read")
        return self.raw(numbers), self.labels[numbers]

    def bound(self, to: PictureInput) -> Data:
        """The same data for a model that takes such pictures: what was left open is decided."""
        found = {name: value for name, value in to._asdict().items() if self._open(name) and value is not None}
        if not found:
            return self
        other = copy.copy(self)
        for name, value in found.items():
            setattr(other, name, value)
        return other

    def _open(self, name: str) -> bool:
        return name == "layout" and self.layout == "auto"

    def ready(self, x: np.ndarray) -> np.ndarray:
        """The model's input, of what `raw` gave."""
        if np.ndim(self.mean) == 0 and np.ndim(self.std) == 0 and self.mean == 0 and self.std == 1:
            return np.ascontiguousarray(self._laid(x), np.float32)
        for name, value in (("mean", self.mean), ("std", self.std)):
            if np.size(value) != 1 and (np.ndim(x) < 2 or np.size(value) != np.shape(x)[1]):
                have = f"{np.shape(x)[1]} channels" if np.ndim(x) > 1 else "no channels"
                raise ValueError(f"{name} has {np.size(value)} numbers, the samples have {have}")
        x = (x - _planes(self.mean, np.ndim(x))) / _planes(self.std, np.ndim(x))
        return np.ascontiguousarray(self._laid(x), np.float32)

    def _laid(self, x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x, 1, -1) if self.layout == "NHWC" and np.ndim(x) > 2 else x

    def batch(self, numbers: np.ndarray) -> Batch:
        """Samples as the model takes them, and their targets."""
        return self.known(numbers)[:2]

    def known(self, numbers: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        """`batch`, and the targets as `read` gave them."""
        x, y = self.read(numbers)
        return self.ready(x), self.weighed(self.encoded(y), numbers), y

    def encoded(self, y: Any) -> Any:
        """Targets as the loss wants them, of what `read` gave and augmentation made of it."""
        return y

    def weighed(self, y: Any, numbers: np.ndarray) -> Any:
        """Targets of these samples with their weights, where there are."""
        return y if self.weights is None else Weighted(y, self.weights[numbers])

    def part(self, numbers: Sequence[int] | np.ndarray) -> Part:
        """Only these samples."""
        return Part(self, np.asarray(numbers, np.int64))

    def split(self, share: float, seed: int = 0) -> tuple[Part, Part]:
        """(training, held out): ``share`` of each class's samples, at least one where it has two, is held out."""
        if not 0 < share < 1:
            raise ValueError(f"the share to hold out is {share}, wanted one between 0 and 1")
        rng, held = np.random.default_rng([seed, 0x5711]), np.zeros(len(self), bool)
        for group in self.groups() or [np.arange(len(self))]:
            count = min(max(round(share * len(group)), 1), len(group) - 1)
            held[rng.permutation(group)[:count]] = True
        return self.part(np.flatnonzero(~held)), self.part(np.flatnonzero(held))

    def groups(self) -> list[np.ndarray]:
        """The numbers of each class's samples; empty where there isn't one label a sample, known before it is read."""
        labels = getattr(self, "labels", None)
        if labels is None or labels.ndim != 1 or labels.dtype.kind == "f":
            return []
        return [np.flatnonzero(labels == c) for c in np.unique(labels)]


class Part(Data):
    """Some samples of other data."""

    def __init__(self, whole: Data, numbers: np.ndarray) -> None:
        self.whole, self.numbers = whole, numbers
        labels = getattr(whole, "labels", None)
        if labels is not None:
            self.labels = labels[numbers]
        self.classes, self.kind = whole.classes, whole.kind
        self.weights = None if whole.weights is None else whole.weights[numbers]
        self.mean, self.std, self.layout = whole.mean, whole.std, whole.layout

    def __len__(self) -> int:
        return len(self.numbers)

    def bound(self, to: PictureInput) -> Data:
        whole = self.whole.bound(to)
        if whole is self.whole:
            return self
        other = Part(whole, self.numbers)
        other.weights = self.weights
        return other

    def read(self, numbers: np.ndarray) -> Batch:
        return self.whole.read(self.numbers[numbers])

    def ready(self, x: np.ndarray) -> np.ndarray:
        return self.whole.ready(x)

    def encoded(self, y: Any) -> Any:
        return self.whole.encoded(y)


def parts(data: Data) -> Iterator[Part]:
    """The parts that data are, one of another."""
    while isinstance(data, Part):
        yield data
        data = data.whole


def whole(data: Data) -> Any:
    """What data are parts of."""
    for part in parts(data):
        data = part.whole
    return data


def scale(mean: Any, std: Any) -> tuple[Any, Any]:
    """Both, if samples can be normalised by them."""
    if not np.isfinite(np.asarray(mean, np.float64)).all():
        raise ValueError(f"mean is {mean}, wanted finite numbers")
    if not np.isfinite(np.asarray(std, np.float64)).all() or not np.all(std):
        raise ValueError(f"std is {std}, wanted finite numbers that are not 0")
    return mean, std


def _planes(v: np.ndarray | float, rank: int) -> np.ndarray:
    """One number a channel, to broadcast against (n, c, …)."""
    v = np.asarray(v, np.float32)
    return v.reshape(()) if v.size == 1 else v.reshape(1, -1, *[1] * (rank - 2))


def layout_named(layout: str) -> str:
    if layout not in ("auto", "NCHW", "NHWC"):
        raise ValueError(f"layout is {layout!r}, wanted 'auto' (the model's), 'NCHW' or 'NHWC'")
    return layout


def kind_named(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, wanted one of {', '.join(KINDS)}")
    return kind


def targets(y: Any, classes: Sequence[str] = ()) -> tuple[Any, tuple[str, ...]]:
    """(targets, names of classes): integers and booleans as int64, floats as float32, text as the numbers of ``classes``
    (by default: those that occur, in the order of their names); a dict of them by output as `Targets`."""
    if isinstance(y, (Mapping, Targets)):
        arrays = y.arrays if isinstance(y, Targets) else y
        return Targets({name: targets(a)[0] for name, a in arrays.items()}), tuple(map(str, classes))
    y = np.asarray(y)
    names = tuple(map(str, classes))
    if y.dtype.kind in "iub":
        return y.astype(np.int64), names
    if y.dtype.kind == "f":
        return y.astype(np.float32), names
    if y.dtype.kind == "O" and y.ndim == 1 and len(y) and all(isinstance(v, str) for v in y):
        y = y.astype(str)
    if y.dtype.kind != "U" or y.ndim != 1:
        raise ValueError(f"targets are {y.dtype}, wanted integers (labels), floats, or one text a sample (names of classes)")
    names = names or tuple(sorted({str(v) for v in y}))
    where = {name: i for i, name in enumerate(names)}
    unknown = sorted({str(v) for v in y} - set(where))
    if unknown:
        raise ValueError(f"targets name {', '.join(unknown[:5])}, which classes does not have ({', '.join(names)})")
    return np.array([where[str(v)] for v in y], np.int64), names
