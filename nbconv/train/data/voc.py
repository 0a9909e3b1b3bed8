"""Pascal VOC's folders, and others with an XML file a picture: boxes and masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np

from nbconv.train.data.boxes import Boxed
from nbconv.train.data.masks import MaskFiles
from nbconv.train.data.pictures import PICTURES, is_picture, shown
from nbconv.train.data.splits import named

MOST_BYTES = 16 << 20
"""A larger XML file is refused."""
DEEPEST = 64
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of the masks in SegmentationClass."""


def voc(
    folder: str | os.PathLike,
    *,
    task: str = "boxes",
    split: str | None = None,
    classes: Sequence[str] | None = None,
    difficult: bool = False,
    **options: Any,
) -> Boxed | MaskFiles:
    """A folder as Pascal VOC's: ``Annotations/``, ``JPEGImages/``, ``SegmentationClass/``, ``ImageSets/``; or one with XML
    files beside their pictures, as labelImg writes them.

    ``task`` "boxes": targets float32 (n, most, 5), see `Boxed`; "masks": int64 (n, h, w), of 21 classes, 255 at the borders
    (``loss_options={"ignore_index": 255}``). ``split``: the pictures that ``ImageSets/Main/<split>.txt`` names
    (``Segmentation`` for masks), all by default. ``classes``: only these, in this order; by default all that occur, in the
    order of their names. ``difficult``: whether things marked so count. Other options are those of `Pictures`. ValueError
    names what is missing, and XML that is damaged, that has a DOCTYPE (entities could grow without limit) or more than
    16 MiB.
    """
    root = Path(folder)
    pictures = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    stems = None if split is None else _listed(root, "Main" if task == "boxes" else "Segmentation", split)
    if task == "masks":
        masks = sorted(p for p in (root / "SegmentationClass").glob("*") if is_picture(p))
        by_stem = {p.stem: p for p in masks if stems is None or p.stem in stems}
        if not by_stem or (stems and set(stems) - set(by_stem)):
            raise ValueError(f"{root / 'SegmentationClass'} lacks masks{_of(set(stems or ()) - set(by_stem))}")
        names = tuple(classes or CLASSES)
        numbers = {**{k: k for k in range(len(names))}, 255: 255}
        return MaskFiles([_picture(pictures, s) for s in by_stem], list(by_stem.values()), names, numbers, **options)
    if task != "boxes":
        raise ValueError(f"task is {task!r}, wanted one of boxes, masks")
    where = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = sorted(where.glob("*.xml"))
    files = [p for p in files if stems is None or p.stem in stems]
    if not files or (stems and set(stems) - {p.stem for p in files}):
        raise ValueError(f"{where} lacks XML files{_of(set(stems or ()) - {p.stem for p in files})}")
    things = [_things(p, difficult) for p in files]
    names = tuple(map(str, classes)) if classes else tuple(sorted({name for found in things for name, _ in found}))
    if not names:
        raise ValueError(f"{where}: no XML file has a thing")
    rows = [[[*box, names.index(name)] for name, box in found if name in names] for found in things]
    return Boxed([_picture(pictures, p.stem) for p in files], rows, names, **options)


def voc_parts(root: Path) -> dict[str, tuple[Path, str | None]]:
    """(folder, split of its lists) by split: of folders train/, val/ and test/ that are such, or of the lists
    ``ImageSets/Main/train.txt``, ``val.txt``, ``test.txt``; of "" where there are neither; empty for another folder."""
    folders = named(((p.name, (p, None)) for p in sorted(root.iterdir()) if p.is_dir() and is_voc(p)), root)
    lists = named(((p.stem, (root, p.stem)) for p in sorted((root / "ImageSets" / "Main").glob("*.txt"))), root)
    found = next((parts for parts in (folders, lists) if "train" in parts), {})
    return found or ({"": (root, None)} if is_voc(root) else {})


def is_voc(folder: Path) -> bool:
    inner = folder / "Annotations"
    if inner.is_dir() and next(inner.glob("*.json"), None) is None:  # a disk may take it for COCO's annotations/
        return True
    return next(folder.glob("*.xml"), None) is not None


def _of(missing: set[str]) -> str:
    return f" for {shown(sorted(missing))}" if missing else ""


def _listed(root: Path, kind: str, split: str) -> list[str]:
    file = root / "ImageSets" / kind / f"{split}.txt"
    if not file.is_file():
        have = ", ".join(sorted(p.stem for p in file.parent.glob("*.txt"))) or "none"
        raise ValueError(f"split is {split!r}, but there is no {file} (there are {have})")
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _picture(folder: Path, stem: str) -> Path:
    found = next((p for end in (*PICTURES, *map(str.upper, PICTURES)) if (p := folder / f"{stem}{end}").is_file()), None)
    if found is None:
        raise ValueError(f"{folder} has no picture {stem}")
    return found


def _things(file: Path, difficult: bool) -> list[tuple[str, list[float]]]:
    """(class, box) of each thing. VOC counts pixels from 1, and the last one in."""
    found = []
    for thing in parsed(file).iter("object"):
        name, box = thing.findtext("name"), thing.find("bndbox")
        if not name or box is None:
            raise ValueError(f"{file}: an object has no name or no bndbox")
        if thing.findtext("difficult", "0").strip() == "1" and not difficult:
            continue
        try:
            left, top, right, bottom = (float(box.findtext(n, "")) for n in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise ValueError(f"{file}: the bndbox of {name} lacks numbers xmin, ymin, xmax, ymax") from None
        if right < left or bottom < top or not np.isfinite([left, top, right, bottom]).all():
            raise ValueError(f"{file}: the bndbox of {name} is {left:g}, {top:g}, {right:g}, {bottom:g}")
        found.append((name.strip(), [max(left - 1, 0), max(top - 1, 0), right, bottom]))
    return found


def parsed(file: Path) -> Element:
    """An XML file's root. ValueError for what is damaged, too large or deep, or has a DOCTYPE, which entities need."""
    from xml.parsers import expat

    if os.path.getsize(file) > MOST_BYTES:
        raise ValueError(f"{file} has more than {MOST_BYTES} bytes")
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def refuse(*_: Any) -> None:
        raise ValueError(f"{file} has a DOCTYPE: such XML is not read")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"{file} is nested more than {DEEPEST} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    try:
        with open(file, "rb") as f:
            parser.ParseFile(f)
    except expat.ExpatError as error:
        raise ValueError(f"{file} is no whole XML: {error}") from None
    return builder.close()
