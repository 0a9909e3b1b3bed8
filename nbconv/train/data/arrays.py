"""Samples in memory: arrays, and .npz files of them."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.train.data.base import Data, kind_named, layout_named, scale, targets
from nbconv.train.targets import Weighted


class Arrays(Data):
    """Samples in arrays. ``x``: (n, c, h, w), (n, features) or whatever the model takes, float32; or pictures as uint8,
    (n, h, w), (n, h, w, 1) or (n, h, w, 3). ``y``: targets, (n, …), or names of classes. ``size`` (h, w): pictures are
    resized to it (bilinear) as they are read. ``mean`` and ``std``: numbers, or one a channel: the model gets
    (x - mean) / std. ``channels``: 3 repeats grey. ``layout``: "NHWC" for a model whose channels are last, as arrays of
    float32 have them then, too; "auto" is the model's. ``kind``: what a target is, see `Data`.
    ``weights``: of each sample's loss in training, (n,)."""

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        size: tuple[int, int] | None = None,
        mean: Any = 0.0,
        std: Any = 1.0,
        channels: int | None = None,
        classes: Sequence[str] = (),
        layout: str = "auto",
        kind: str = "auto",
        weights: Any = None,
    ) -> None:
        self.x = np.asarray(x)
        self.labels, self.classes = targets(y, classes)
        for name, given, a in (("samples", x, self.x), ("targets", y, self.labels)):
            if isinstance(a, np.ndarray) and not a.ndim:
                raise ValueError(f"{name} are {type(given).__name__}, wanted an array with one a sample")
        if len(self.x) != len(self.labels):
            raise ValueError(f"{len(self.x)} samples and {len(self.labels)} targets")
        if not len(self.x):
            raise ValueError("there are no samples")
        self.pictures = self.x.dtype == np.uint8 and (self.x.ndim == 3 or (self.x.ndim == 4 and self.x.shape[3] in (1, 3)))
        self.size, self.channels, self.layout, self.kind = size, channels, layout_named(layout), kind_named(kind)
        self.mean, self.std = scale(mean, std)
        self.weights = None if weights is None else Weighted(self.labels, weights).weights

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        x = self.x[numbers]
        if self.pictures:
            x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        elif self.layout == "NHWC" and x.ndim > 2:
            x = np.moveaxis(x, -1, 1)
        x = np.asarray(x, np.float32)
        if self.channels and x.ndim == 4 and x.shape[1] == 1 and self.channels > 1:
            x = np.repeat(x, self.channels, axis=1)
        if self.size and x.ndim == 4 and x.shape[2:] != tuple(self.size):
            from nbconv.train.augment import resized

            x = resized(x, self.size)
        return x


def load_npz(path: str | os.PathLike, **options: Any) -> Arrays:
    """An .npz file with arrays ``x`` and ``y`` and, if it likes, names of ``classes``; options are those of `Arrays`."""
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {name: found[name] for name in ("x", "y", "classes") if name in found.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        why = "an array is of objects" if "Object arrays" in str(error) else "it is damaged, or another kind of file"
        raise ValueError(f"{path} is no .npz file of numbers: {why}") from None
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {' and '.join(missing)}, it has {', '.join(found.files)}")
    scale(options.get("mean", 0.0), options.get("std", 1.0))  # the caller's error, not the file's
    try:
        return Arrays(arrays["x"], arrays["y"], **{"classes": [str(v) for v in arrays.get("classes", ())], **options})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
