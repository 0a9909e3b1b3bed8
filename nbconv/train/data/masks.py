"""Pictures with a class for each of their pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbconv.base.image import RESIZES, load_image, open_image, pillow, placed
from nbconv.train.data.base import Batch
from nbconv.train.data.pictures import Pictures, each, is_picture, shown
from nbconv.train.data.splits import named, only, split_of

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "segmentations", "labels", "label", "annotations")
VOID = 255
MOST_COLOURS = 64
"""A set of masks with more is taken for one of photographs."""

Classes = Sequence[str] | Mapping[str, Any]


class Masked(Pictures):
    """Pictures and their masks: targets are int64 (n, h, w), the number of each pixel's class. A mask is cut and resized as
    its picture is, each pixel taking the nearest one's class; where "pad" brings pixels in they are of class 0."""

    def __init__(self, paths: Sequence[Any], masks: Sequence[Any], classes: Sequence[str], **options: Any) -> None:
        super().__init__(paths, np.arange(len(masks)), classes=classes, kind="mask", **options)
        self.masks = [masks[i] for i in self.labels]
        self.count = len(self.masks)
        del self.labels

    def __len__(self) -> int:
        return self.count

    def read(self, numbers: np.ndarray) -> Batch:
        found = each(self._pair, numbers)
        return np.concatenate([x for x, _ in found]), np.stack([y for _, y in found])

    def raw(self, numbers: np.ndarray) -> np.ndarray:
        return self.read(numbers)[0]

    def mask(self, i: int, size: tuple[int, int]) -> np.ndarray:
        """The classes of the pixels of picture i, which has this height and width; integers (h, w)."""
        raise NotImplementedError

    def _pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        picture = open_image(self.paths[i])
        have = picture.height, picture.width
        mask = self.mask(i, have)
        if mask.shape != have:
            raise ValueError(
                f"the mask {self.masks[i]} has {_by(mask.shape)} pixels, its picture {self.paths[i]} {_by(have)}"
            )
        return load_image(picture, self.needed(), **self.reading()), fitted(mask, self.needed(), self.resize)


class MaskFiles(Masked):
    """Masks in files. ``numbers``: the class of each value, or of each colour, that they have."""

    def __init__(
        self,
        paths: Sequence[Any],
        masks: Sequence[Any],
        classes: Sequence[str],
        numbers: Mapping[Any, int],
        void: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(paths, masks, classes, **options)
        self.numbers, self.void = dict(numbers), void

    def mask(self, i: int, size: tuple[int, int]) -> np.ndarray:
        values = read_mask(self.masks[i])
        wanted = np.array([_code(v) for v in self.numbers], np.int64)
        order = np.argsort(wanted)
        at = order[np.searchsorted(wanted[order], values).clip(0, len(order) - 1)]
        known = wanted[at] == values
        if self.void is None and not known.all():
            value = _told(int(values[~known][0]))
            raise ValueError(f"{self.masks[i]} has a pixel of {value}, which is no class: say void=255 to leave such out")
        return np.where(known, np.array(list(self.numbers.values()))[at], self.void or 0)


def fitted(mask: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    """A mask (h, w) cut and resized as a picture is, int64."""
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}, wanted one of {', '.join(RESIZES)}")
    (left, top, right, bottom), to = placed((mask.shape[0], mask.shape[1]), size, resize)
    image = pillow()
    part = image.fromarray(np.ascontiguousarray(mask[top:bottom, left:right], np.int32))
    part = np.asarray(part.resize((to[2] - to[0], to[3] - to[1]), image.Resampling.NEAREST))
    result = np.zeros(size, np.int64)
    result[to[1] : to[3], to[0] : to[2]] = part
    return result


def read_mask(source: Any) -> np.ndarray:
    """A mask's values, int64 (h, w): indices of a palette, grey values, or for colours 256 and what they are in 24 bits."""
    picture = open_image(source)
    if picture.mode in ("RGBA", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        x = np.asarray(picture.convert("RGB"), np.int64)
        return 256 + (x[..., 0] << 16) + (x[..., 1] << 8) + x[..., 2]
    if picture.mode in ("LA", "PA"):
        picture = picture.getchannel(0)
    x = np.asarray(picture)
    if x.dtype.kind == "f" and not np.array_equal(x, np.rint(x)):
        raise ValueError(f"{source}: a mask of fractions, wanted integers")
    return x.astype(np.int64)


def _code(value: Any) -> int:
    """A value, or a colour (r, g, b), as `read_mask` gives it."""
    found = np.asarray(value)
    if found.shape == (3,) and found.dtype.kind in "iu":
        return 256 + (int(found[0]) << 16) + (int(found[1]) << 8) + int(found[2])
    if found.shape == () and found.dtype.kind in "iu":
        return int(found)
    raise ValueError(f"a class of masks is {value!r}, wanted a number or a colour (r, g, b)")


def _told(code: int) -> str:
    return f"value {code}" if code < 256 else f"colour ({(code - 256) >> 16}, {(code - 256) >> 8 & 255}, {code - 256 & 255})"


def _by(size: Iterable[int]) -> str:
    return "×".join(map(str, size))


def class_numbers(masks: Sequence[Any], classes: Classes | None, where: Any) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(names, the number of each value): as ``classes`` says, a dict of values or colours by name; else as the masks,
    which are all looked at once, have them."""
    if isinstance(classes, Mapping):
        return tuple(map(str, classes)), {value: i for i, value in enumerate(classes.values())}
    found = sorted({int(v) for values in each(lambda i: np.unique(read_mask(masks[i])), range(len(masks))) for v in values})
    if found[-1] >= 256:
        if found[0] < 256:
            raise ValueError(f"{where}: some masks are of colours, others of grey values or a palette")
        if len(found) > MOST_COLOURS:
            raise ValueError(
                f"{where}: the masks have {len(found)} colours; JPEG blurs them: say classes={{'name': (r, g, b)}}"
            )
        names = tuple(classes or (f"#{v - 256:06x}" for v in found))
        if len(names) != len(found):
            raise ValueError(f"{where}: the masks have {len(found)} colours, classes are {len(names)}: say which is which")
        colours = [((v - 256) >> 16, (v - 256) >> 8 & 255, v - 256 & 255) for v in found]
        return names, {colour: i for i, colour in enumerate(colours)}
    if found in ([0, VOID], [VOID]) and (classes is None or len(classes) == 2):
        return tuple(map(str, classes or ("0", "1"))), {0: 0, VOID: 1}
    values = [v for v in found if v != VOID]
    count = len(classes) if classes is not None else len(values)
    if values and (values[-1] >= count or values[0] < 0):
        told = shown([str(v) for v in found])
        raise ValueError(f"{where}: the masks have the values {told}: say which classes they are, classes={{'name': value}}")
    kept = {VOID: VOID} if VOID in found else {}
    return tuple(map(str, classes or range(count))), {**{v: v for v in range(count)}, **kept}


def mask_folder(
    folder: str | os.PathLike,
    *,
    images: str | None = None,
    masks: str | None = None,
    classes: Classes | None = None,
    void: int | None = None,
    split: str | None = None,
    **options: Any,
) -> MaskFiles:
    """A folder with pictures in ``images/`` and masks in ``masks/`` (or as these arguments say), pairs by their stem; a
    mask's may end in "_mask". Targets are int64 (n, h, w); other options are those of `Pictures`.

    A mask's pixels are class numbers (palette or grey; 255 stays 255, to be left out with
    ``loss_options={"ignore_index": 255}``), black and white (0 and 1), or colours. ``classes``: names in the order of
    numbers, or a dict that gives each class's value or colour. Without the dict all masks are looked at once: they must have
    values 0, 1, 2 … without a gap, or colours, which are sorted. ``void``: what a pixel that is no class becomes; by
    default a ValueError names it. ``split``: of a folder with ``train/images``, or ``images/train``: see `image_splits`.
    """
    root = Path(folder)
    parts = mask_parts(root, images, masks)
    if set(parts) != {""} or split is not None:
        parts = {"": only(root, {n: p for n, p in parts.items() if n}, split, "mask_folder")}
    pictures, found = _paired(*parts[""])
    every = [m for part in mask_parts(root, images, masks).values() for m in _paired(*part)[1]]
    names, numbers = class_numbers(every, classes, root)
    return MaskFiles(pictures, found, names, numbers, void, **options)


def mask_parts(root: Path, images: str | None = None, masks: str | None = None) -> dict[str, tuple[Path, Path]]:
    """(pictures, masks) by split, or of "" where there are none. ValueError where there is no such folder."""
    found = _two(root, images, masks)
    if found is None:
        inner = {p.name: two for p in sorted(root.iterdir()) if p.is_dir() and (two := _two(p, images, masks))}
        parts = named(inner.items(), root)
        if not parts:
            raise ValueError(f"{root} has no folders {images or 'images'}/ and {masks or 'masks'}/")
        return parts
    sides = [named(((p.name, p) for p in sorted(side.iterdir()) if p.is_dir()), side) for side in found]
    if not sides[0]:
        return {"": found}
    if set(sides[0]) != set(sides[1]):
        raise ValueError(f"{found[0]} has the splits {', '.join(sides[0])}, {found[1]} {', '.join(sides[1]) or 'none'}")
    return {name: (path, sides[1][name]) for name, path in sides[0].items()}


def is_masks(root: Path) -> bool:
    """Whether a folder, or a split of it, has pictures in images/ and masks in masks/."""
    splits = (p for p in root.iterdir() if p.is_dir() and split_of(p.name))
    return any(_two(p, "images", "masks") for p in (root, *splits))


def _two(root: Path, images: str | None, masks: str | None) -> tuple[Path, Path] | None:
    have = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    first = next((have[n] for n in ([images.lower()] if images else IMAGES) if n in have), None)
    second = next((have[n] for n in ([masks.lower()] if masks else MASKS) if n in have), None)
    return None if first is None or second is None else (first, second)


def _paired(images: Path, masks: Path) -> tuple[list[Path], list[Path]]:
    sides: list[dict[str, Path]] = []
    for side in (images, masks):
        by_stem: dict[str, Path] = {}
        for path in sorted(p for p in side.rglob("*") if is_picture(p)):
            stem = path.relative_to(side).with_suffix("").as_posix()
            stem = stem.removesuffix("_mask") if side is masks else stem
            if stem in by_stem:
                raise ValueError(f"{side}: {by_stem[stem].name} and {path.name} have one stem")
            by_stem[stem] = path
        sides.append(by_stem)
    for mine, theirs, what in ((*sides, masks), (*reversed(sides), images)):
        alone = [path.name for stem, path in mine.items() if stem not in theirs]
        if alone:
            raise ValueError(f"{what} has nothing for {shown(alone)} ({len(alone)} of {len(mine)})")
    if not sides[0]:
        raise ValueError(f"{images} has no pictures")
    return list(sides[0].values()), [sides[1][stem] for stem in sides[0]]
