"""COCO's JSON: boxes, and masks of polygons or run lengths."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nbconv.base.image import MAX_PIXELS
from nbconv.train.data.boxes import Boxed
from nbconv.train.data.masks import Masked
from nbconv.train.data.pictures import shown
from nbconv.train.data.splits import named, split_of

MOST_BYTES = 1 << 30
"""A larger file is refused."""
TASKS = ("boxes", "masks")


class _Wrong(Exception):
    """What is wrong with a file that is COCO's."""


class CocoMasks(Masked):
    """Masks that annotations draw: class 0 is what none of them has, larger ones lie under smaller ones."""

    def mask(self, i: int, size: tuple[int, int]) -> np.ndarray:
        result = np.zeros(size, np.int32)
        for number, segmentation in self.masks[i]:
            try:
                result[drawn(segmentation, size)] = number
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                what = (
                    f"{error}"
                    if type(error) is ValueError
                    else f"a segmentation is damaged: {type(error).__name__} at {error}"
                )
                raise ValueError(f"{self.paths[i]}: {what}") from None
        return result


def coco(
    path: str | os.PathLike,
    images: str | os.PathLike | None = None,
    *,
    task: str = "boxes",
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Boxed | CocoMasks:
    """A COCO file of annotations and its pictures, in the folder ``images`` (by default looked for: beside the file, and in
    folders there and above it named images, or as the file).

    ``task`` "boxes": targets float32 (n, most, 5), see `Boxed`, whose options ``most`` and ``encode`` are. "masks": int64
    (n, h, w), 0 where there is no thing, else 1 and the number of its class. ``classes``: only these categories, in this
    order; by default all, in the order of their ids, but for one that has no annotation and only stands above others
    (Roboflow's first). Annotations of crowds have no boxes. Pictures without annotations count. Other options are those of
    `Pictures`. ValueError for what is no such file, or more than 1 GiB, and names pictures that are missing.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, wanted one of {', '.join(TASKS)}")
    file = Path(path)
    given = _loaded(file)
    try:
        categories = {c["id"]: str(c["name"]) for c in sorted(given["categories"], key=lambda c: c["id"])}
        found = [(i["id"], str(i["file_name"])) for i in given["images"]]
        by_image: dict[Any, list[Mapping[str, Any]]] = {number: [] for number, _ in found}
        for annotation in given["annotations"]:
            image, kind = annotation["image_id"], annotation["category_id"]
            if image not in by_image:
                raise _Wrong(f"an annotation is of image {image}, which is not among its {len(found)} images")
            if kind not in categories:
                told = ", ".join(map(str, categories))
                raise _Wrong(f"an annotation of image {image} has category {kind}, the categories are {told[:200]}")
            by_image[image].append(annotation)
        used = {annotation["category_id"] for annotation in given["annotations"]}
        above = {c.get("supercategory") for c in given["categories"] if c.get("supercategory") != c["name"]}
        usual = [name for k, name in categories.items() if k in used or name not in above]
        names = list(dict.fromkeys(usual)) if classes is None else list(map(str, classes))
        numbers = {k: names.index(name) for k, name in categories.items() if name in names}
        targets = [(_boxes if task == "boxes" else _segments)(by_image[k], numbers) for k, _ in found]
    except _Wrong as error:
        raise ValueError(f"{file}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file} is no COCO file of {task}: {type(error).__name__} at {error}") from None
    unknown = [name for name in names if name not in categories.values()]
    if unknown:
        raise ValueError(f"{file} has no category {', '.join(unknown)}, it has {', '.join(categories.values())}")
    if not found:
        raise ValueError(f"{file} has no images")
    paths = _pictures(file, images, [name for _, name in found])
    if task == "boxes":
        return Boxed(paths, targets, names, **options)
    return CocoMasks(paths, targets, ["background", *names], **options)


def coco_parts(root: Path) -> dict[str, Path]:
    """The files of annotations in a folder by split, or that of "" where there is one: in train/, valid/ and test/ (as
    Roboflow has them), else in the folder or its annotations/, whose names say the split (instances_train2017.json). Empty
    where there are none. ValueError where there are several of one split, or of none."""
    inner = {p.name: _annotations(p) for p in sorted(root.iterdir()) if p.is_dir() and split_of(p.name)}
    if any(inner.values()):
        many = [p for files in inner.values() if len(files) > 1 for p in files]
        if many:
            told = shown([str(p.relative_to(root)) for p in many])
            raise ValueError(f"{root} has several COCO files of one split: {told}")
        return named(((name, files[0]) for name, files in inner.items() if files), root)
    files = [*_annotations(root), *_annotations(root / "annotations")]
    files = [p for p in files if p.name.startswith("instances_")] or files
    words = {p: next(filter(split_of, re.split("[^a-z]+", p.stem.lower())), "") for p in files}
    parts = named(((word, p) for p, word in words.items()), root)
    if "train" in parts:
        return parts
    if len(files) > 1:
        raise ValueError(f"{root} has several COCO files, and none for train: give one, {shown([str(p) for p in files])}")
    return {"": files[0]} if files else {}


def _annotations(folder: Path) -> list[Path]:
    """The files of a folder that look like COCO's annotations of things."""
    return [p for p in sorted(folder.glob("*.json")) if p.is_file() and _looks_like(p)]


def _looks_like(file: Path) -> bool:
    if not os.path.getsize(file):
        return False
    with open(file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(key) >= 0 for key in (b'"images"', b'"categories"', b'"annotations"'))


def _loaded(file: Path) -> Mapping[str, Any]:
    size = os.path.getsize(file)
    if size > MOST_BYTES:
        raise ValueError(f"{file} has {size} bytes, at most {MOST_BYTES} are read")
    try:
        with open(file, encoding="utf-8-sig") as f:
            given = json.load(f)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON in UTF-8: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{file} is no COCO file: it is a {type(given).__name__}, wanted images, annotations, categories")
    return given


def _pictures(file: Path, images: Any, names: Sequence[str]) -> list[Path]:
    stem = file.stem.removeprefix("instances_")
    places = [file.parent, file.parent / "images", file.parent / stem, file.parent.parent]
    places += [file.parent.parent / n for n in ("images", stem, f"images/{stem}")]
    places = [Path(images)] if images is not None else places
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{file} names the picture {name!r}, wanted a path inside the folder of pictures")
    folder = next((p for p in places if (p / names[0]).is_file()), places[0])
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        raise ValueError(f"{folder} lacks {gone[0]}, and {len(gone) - 1} more of {len(names)} pictures: say images=…")
    return [folder / name for name in names]


def _boxes(annotations: Sequence[Mapping[str, Any]], numbers: Mapping[Any, int]) -> np.ndarray:
    rows = []
    for a in annotations:
        if a["category_id"] in numbers and not a.get("iscrowd", 0):
            left, top, width, height = (float(v) for v in a["bbox"])
            if not (width <= 0 or height <= 0):  # NaN is no box to leave out, but refused below
                rows.append([left, top, left + width, top + height, numbers[a["category_id"]]])
    with np.errstate(over="ignore"):  # infinite boxes are refused
        return np.array(rows, np.float32).reshape(-1, 5)


def _segments(annotations: Sequence[Mapping[str, Any]], numbers: Mapping[Any, int]) -> list[tuple[int, Any]]:
    chosen = [a for a in annotations if a["category_id"] in numbers and a.get("segmentation")]
    chosen.sort(key=lambda a: -float(a.get("area", 0)))
    return [(numbers[a["category_id"]] + 1, a["segmentation"]) for a in chosen]


def drawn(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Where a thing is, bool (h, w): of polygons [x1, y1, x2, y2 …], or of run lengths, plain or as COCO packs them."""
    if isinstance(segmentation, Mapping):
        return runs(segmentation, size)
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (ValueError, TypeError):
            raise ValueError("a polygon is no list of x and y by turns") from None
        if len(points) < 3 or not np.isfinite(points).all():
            raise ValueError(f"a polygon has {len(points)} points, wanted three or more, finite")
        points = points.clip(-size[1] - size[0], 2 * (size[0] + size[1]))  # far outside is outside
        draw.polygon([(x - 0.5, y - 0.5) for x, y in points.tolist()], fill=1)
    return np.asarray(canvas)


def runs(packed: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Run lengths of zeros and ones by turns, down the columns."""
    h, w = (int(v) for v in packed["size"])
    if (h, w) != tuple(size) or h * w > MAX_PIXELS:
        raise ValueError(f"run lengths are of {h}×{w} pixels, the picture has {size[0]}×{size[1]}")
    counts = packed["counts"]
    lengths = _unpacked(counts) if isinstance(counts, (str, bytes)) else [int(v) for v in counts]
    if sum(lengths) != h * w or min(lengths, default=0) < 0:
        raise ValueError(f"run lengths have {sum(lengths)} pixels, the picture {h * w}")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(w, h).T


def _unpacked(text: str | bytes) -> list[int]:
    """COCO's string: numbers in groups of five bits, from the least, with 48 added; from the fourth on, differences to the
    one before the last."""
    text = text.encode("latin-1", "replace") if isinstance(text, str) else text
    found: list[int] = []
    value = shift = 0
    for byte in text:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("run lengths are damaged")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("run lengths are damaged")
    return found
