"""Picture files and their labels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.train.data.base import Batch, Data, kind_named, layout_named, scale, targets
from nbconv.train.data.splits import Splits, only, split_folders

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SHOWN = 5
"""How many of many names a message gives."""


class Pictures(Data):
    """Picture files, decoded as they are read, and one target each.

    ``paths``: files, or PIL images, or a sequence that gives them. ``y``: labels, names of classes or numbers.
    ``size`` (h, w) and ``channels`` (3, or 1 for grey): those of the model, unless given. ``mean`` and ``std``: numbers, or
    one a channel, in units of pixels: the model gets (pixel - mean) / std. ``resize``: "crop", "stretch" or "pad", as
    `nbconv.image.load_image` has them. ``layout``: the model's. ``kind``: what a target is, see `Data`.
    ``on_error``: "raise" (the default) ends with a ValueError or OSError that names the file when a picture that cannot be
    read comes up. "skip" decodes all once at the beginning, leaves out those that cannot be read (``skipped``) and warns
    with their count.
    """

    size: tuple[int, int] | None
    channels: int | None

    def __init__(
        self,
        paths: Sequence[Any],
        y: Any,
        *,
        size: tuple[int, int] | None = None,
        mean: Any = 0.0,
        std: Any = 255.0,
        channels: int | None = None,
        resize: str = "crop",
        classes: Sequence[str] = (),
        layout: str = "auto",
        kind: str = "auto",
        on_error: str = "raise",
    ) -> None:
        self.paths = list(paths) if isinstance(paths, (list, tuple)) else paths
        self.labels, self.classes = targets(y, classes)
        if len(self.paths) != len(self.labels):
            raise ValueError(f"{len(self.paths)} pictures and {len(self.labels)} targets")
        if not len(self.paths):
            raise ValueError("there are no pictures")
        self.size, self.channels, self.resize, self.layout = size, channels, resize, layout_named(layout)
        self.mean, self.std = scale(mean, std)
        self.kind = kind_named(kind)
        self.skipped: tuple[str, ...] = ()
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}, wanted 'raise' or 'skip'")
        if on_error == "skip":
            self._skip()

    def _open(self, name: str) -> bool:
        return super()._open(name) or (name in ("size", "channels") and getattr(self, name) is None)

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate(each(self.one, numbers))

    def read(self, numbers: np.ndarray) -> Batch:
        return self.raw(numbers), self.labels[numbers]

    def one(self, i: int) -> np.ndarray:
        """Picture i, (1, c, h, w)."""
        from nbconv.base.image import load_image

        return load_image(self.paths[i], self.needed(), **self.reading())

    def needed(self) -> tuple[int, int]:
        """The size, which must be known by now."""
        if self.size is None:
            raise ValueError("pictures want size=(height, width), the model does not say its own")
        return self.size

    def reading(self) -> dict[str, Any]:
        """How `nbconv.image.load_image` reads them."""
        return {"mean": 0.0, "std": 1.0, "channels": self.channels or 3, "resize": self.resize}

    def _skip(self) -> None:
        """Leave out what cannot be read."""
        found = unreadable(self.paths)
        if not found:
            return
        kept = [i for i in range(len(self.paths)) if i not in found]
        self.skipped = tuple(str(self.paths[i]) for i in sorted(found))
        one = self.labels.ndim == 1 and self.labels.dtype.kind == "i" and self.kind not in ("mask", "boxes")
        before = set(self.labels.tolist()) if one else set()
        self.paths, self.labels = [self.paths[i] for i in kept], self.labels[kept]
        gone = sorted(before - set(self.labels.tolist())) if before else []
        if gone or not kept:
            names = ", ".join(self.classes[i] if i < len(self.classes) else str(i) for i in gone)
            raise ValueError(f"no picture can be read{f' of {names}' if names else ''}: {shown(self.skipped)}")
        warnings.warn(
            f"{len(found)} of {len(found) + len(kept)} pictures cannot be read and are left out: {shown(self.skipped)}",
            stacklevel=3,
        )


def each(function: Callable[[int], Any], numbers: Iterable[Any]) -> list[Any]:
    """What a function makes of each number, in order: on a few threads, as Pillow decodes and resizes beside others."""
    numbers = [int(i) for i in numbers]
    workers = min(available_threads(), 4, len(numbers))
    if workers < 2:
        return [function(i) for i in numbers]
    with ThreadPoolExecutor(workers, thread_name_prefix="nbconv-data") as pool:
        return list(pool.map(function, numbers))


def unreadable(paths: Sequence[Any]) -> set[int]:
    """The numbers of pictures that cannot be decoded."""
    from nbconv.base.image import load_image

    def fails(i: int) -> bool:
        try:
            load_image(paths[i], (1, 1), resize="stretch", filter="nearest")
        except (OSError, ValueError):
            return True
        return False

    return {i for i, bad in enumerate(each(fails, range(len(paths)))) if bad}


def shown(names: Sequence[str]) -> str:
    """Some of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def image_folder(
    folder: str | os.PathLike, *, split: str | None = None, classes: Sequence[str] | None = None, **options: Any
) -> Pictures:
    """A folder whose sub-folders are classes, in the order of their names; options are those of `Pictures`.

    A folder with ``train/`` in which there are sub-folders is split: ``train/``, ``val/`` (``valid``, ``validation``) and
    ``test/`` have the classes, the same in each. ``split`` says which to read; `image_splits` reads all.
    ``classes``: these sub-folders, in this order. ValueError for a folder without sub-folders, and one that names classes
    without pictures.
    """
    root = Path(folder)
    parts = split_folders(root)
    if parts or split is not None:
        root = only(root, parts, split, "image_folder")
    names = _class_names(root) if classes is None else list(map(str, classes))
    if len(names) < 2:
        raise ValueError(f"{root} has {len(names)} sub-folders, wanted one for each of two classes or more")
    found = [sorted(p for p in (root / n).rglob("*") if is_picture(p)) for n in names]
    empty = [n for n, files in zip(names, found) if not files]
    if empty:
        raise ValueError(f"{root}: no pictures in {', '.join(empty)} (wanted {', '.join(PICTURES)})")
    labels = np.repeat(np.arange(len(names)), [len(files) for files in found])
    return Pictures([p for files in found for p in files], labels, classes=names, **options)


def folder_splits(folder: str | os.PathLike, **options: Any) -> Splits:
    """The splits of a folder of classes: see `image_folder`. ValueError where their classes differ, naming those."""
    parts = split_folders(Path(folder))
    if not parts:
        raise ValueError(f"{folder} has no train/ with classes in it")
    names = {name: set(_class_names(path)) for name, path in parts.items()}
    for name, have in names.items():
        lacking, more = sorted(names["train"] - have), sorted(have - names["train"])
        if lacking or more:
            said = [f"lacks {', '.join(lacking)}"] if lacking else []
            said += [f"has {', '.join(more)} beside them"] if more else []
            raise ValueError(f"{parts[name]} {' and '.join(said)}: wanted the classes of {parts['train']}")
    return Splits({name: image_folder(path, **options) for name, path in parts.items()})


def _class_names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
