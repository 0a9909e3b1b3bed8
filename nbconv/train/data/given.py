"""What callers give as data, as `Data` or batches."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.edit.pictured import PictureInput, picture_input
from nbconv.train.data.arrays import Arrays, load_npz
from nbconv.train.data.base import Data, Part, parts, whole
from nbconv.train.data.boxes import box_splits
from nbconv.train.data.coco import coco, coco_parts
from nbconv.train.data.foreign import frame, from_dataset, is_dataset
from nbconv.train.data.masks import is_masks, mask_folder, mask_parts
from nbconv.train.data.pictures import folder_splits, image_folder
from nbconv.train.data.splits import Splits, named, split_folders
from nbconv.train.data.table import has_splits, image_list, list_splits
from nbconv.train.data.voc import voc, voc_parts
from nbconv.train.data.yolo import yolo_folder, yolo_parts

if TYPE_CHECKING:
    from nbconv.model import Model


WHOLE = {"resize": "pad"}
"""How pictures with boxes are resized, so that no box is cut off."""


def as_data(given: Any, model: Model | None = None, name: str = "data") -> Data | None:
    """Data from (x, y), (x, y, weights of samples) or `Data`; None for another iterable, which yields batches itself
    (`as_batches` reads them). ``model`` decides what the data leave open, such as the layout. ValueError, with ``name``, for
    all else."""
    found = _data(given, name)
    return found if found is None or model is None else found.bound(wanted(model))


def wanted(model: Model) -> PictureInput:
    """The pictures that a model takes."""
    return picture_input(model.graph, model.inputs[0].name) if model.inputs else PictureInput()


def _data(given: Any, name: str, options: Mapping[str, Any] | None = None) -> Data | None:
    """See `as_data`; ``options`` go to what reads it, and `Data` must have them."""
    options = options or {}
    if isinstance(given, Data):
        return _agreeing(given, options)
    if isinstance(given, Mapping) and "train" in given:
        raise ValueError(f"{name} is splits, {', '.join(given)}: give one, as fit(splits['train'], splits['val'])")
    if isinstance(given, tuple) and len(given) in (2, 3):
        return Arrays(*given[:2], weights=given[2] if len(given) == 3 else None, **options)
    if isinstance(given, (str, bytes, os.PathLike)):
        raise ValueError(f"{name} is a path: give what reads it, as nbconv.image_folder(path)")
    table = frame(given, **options)
    if table is not None:
        return table
    if hasattr(given, "__array__"):
        shape = list(np.asarray(given).shape)
        raise ValueError(f"{name} is one array {shape}, wanted samples and targets in a tuple: fit((x, y), (x_val, y_val))")
    if is_dataset(given):
        return from_dataset(given, **options)
    if isinstance(given, Iterable) or callable(given):
        return None
    raise ValueError(f"{name} is {type(given).__name__}, wanted (x, y), Data or an iterable of batches")


def read_data(
    data: Any, size: tuple[int, int] | None = None, mean: Any = None, std: Any = None, **more: Any
) -> Data | Splits:
    """Data from a path or from what `as_data` takes. ``size``, ``mean`` and ``std`` are None where it was not said: then
    those of `Data` hold, else 0, and 255 for pictures and files, 1 for arrays. ValueError where Data has others. ``more``:
    ``channels``, ``layout``, ``kind``, the same."""
    options = {"size": size, "mean": mean, "std": std, **more}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(data, Mapping):
        parts = named(data.items(), "the data")
        if "train" not in parts:
            raise ValueError(f"data is a dict of {', '.join(map(str, data))}, wanted splits: train, and val or test")
        return Splits({name: _one(part, given) for name, part in parts.items()})
    if isinstance(data, (str, os.PathLike)):
        return _file(Path(data), {"std": 255.0, **given})
    return _one(data, given)


def _one(data: Any, given: Mapping[str, Any]) -> Data:
    found = _data(data, "data", given)
    if found is None:
        raise ValueError("an iterable of batches has no share to hold out: give (x, y) or Data")
    if isinstance(data, tuple) and isinstance(found, Arrays) and found.pictures and "std" not in given:
        found.std = 255.0
    return found


def _file(path: Path, options: dict[str, Any]) -> Data | Splits:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if path.is_dir():
        found = _folder(path, options, WHOLE)
        return (folder_splits if split_folders(path) else image_folder)(path, **options) if found is None else found
    kind = path.suffix.lower()
    if kind == ".csv":
        return (list_splits if has_splits(path) else image_list)(path, **options)
    if kind == ".npz":
        return load_npz(path, **options)
    if kind == ".json":
        return coco(path, **{**WHOLE, **options})
    raise ValueError(f"{path} is no folder, .csv, .npz or COCO's .json")


def _folder(root: Path, options: Mapping[str, Any], boxes: Mapping[str, Any]) -> Data | Splits | None:
    """The data of a folder, or of all its splits, where it is none of classes: of boxes as VOC, COCO or YOLO have them, with
    the options ``boxes``, too; of masks."""
    whole = {**boxes, **options}
    if found := voc_parts(root):
        return _boxes(root, {n: partial(voc, part, split=split) for n, (part, split) in found.items()}, whole)
    if is_masks(root):
        splits = [name for name in mask_parts(root) if name]
        every = {name: mask_folder(root, split=name, **options) for name in splits}
        return Splits(every) if splits else mask_folder(root, **options)
    if files := coco_parts(root):
        return _boxes(root, {n: partial(coco, file) for n, file in files.items()}, whole)
    if pairs := yolo_parts(root):
        return _boxes(root, {n: partial(yolo_folder, root, split=n or None) for n in pairs}, whole)
    return None


def _boxes(root: Path, reads: Mapping[str, Any], options: Mapping[str, Any]) -> Data | Splits:
    parts = {name: read(**options) for name, read in reads.items()}
    return parts[""] if "" in parts else box_splits(parts, root)


def image_splits(source: str | os.PathLike, **options: Any) -> Splits:
    """All splits by name ("train", "val", "test"): of a folder of classes (see `image_folder`), of masks (see
    `mask_folder`) or of boxes (see `coco`, `voc` and `yolo_folder`), or of a CSV file or table with a column named split
    (see `image_list`), whose options these are. ValueError where there are none, or the classes of one are not those of
    another, naming them."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        found = _folder(Path(source), options, {})
        return found if isinstance(found, Splits) else folder_splits(source, **options)
    return list_splits(source, **options)


def classified(data: Data) -> Data:
    """The data with the number of a class a sample as targets, int64 (n,): as they are, or of rows with one 1.
    ValueError for other targets."""
    labels = getattr(data, "labels", None)
    if labels is None:
        what = {"mask": "masks", "boxes": "boxes"}.get(data.kind, "known only as they are read")
        raise ValueError(f"targets are {what}, wanted integers: the numbers of classes")
    if labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
        return _labelled(data, labels.argmax(axis=1))
    if labels.dtype.kind != "i":
        raise ValueError(f"targets are {labels.dtype}, wanted integers: the numbers of classes")
    if labels.ndim != 1:
        raise ValueError(f"targets have shape {list(labels.shape)}, wanted one class a sample")
    if labels.min() < 0:
        raise ValueError(f"labels begin at {labels.min()}, wanted 0 or more")
    return data


def _labelled(data: Data, labels: np.ndarray) -> Data:
    """Other targets for the same samples."""
    origin = whole(data)
    other: Any = copy.copy(origin)
    if origin is data:
        other.labels = labels
        return other
    numbers = np.arange(len(origin))
    for part in reversed(list(parts(data))):
        numbers = numbers[part.numbers]
    other.labels = np.zeros(len(origin), np.int64)
    other.labels[numbers] = labels
    return Part(other, numbers)


def _agreeing(data: Data, given: Mapping[str, Any]) -> Data:
    """The data, if it has what was said beside it. ``size`` may be said here, where the data does not."""
    origin = whole(data)
    for name, value in given.items():
        have = getattr(origin, name, None)
        if name == "size" and have is None and hasattr(origin, "size"):
            data = _sized(data, value)
        elif have is None or not np.array_equal(np.atleast_1d(have), np.atleast_1d(value)):
            raise ValueError(f"{name} is {value}, but the data have their own, {have}: say it there")
    return data


def _sized(data: Data, size: tuple[int, int]) -> Data:
    if isinstance(data, Part):
        return Part(_sized(data.whole, size), data.numbers)
    other: Any = copy.copy(data)
    other.size = size
    return other
