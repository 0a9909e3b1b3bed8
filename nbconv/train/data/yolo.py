"""YOLO's folders: pictures, a text file of boxes for each, and the names of the classes in data.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from nbconv.train.data.boxes import Boxed
from nbconv.train.data.masks import mask_parts
from nbconv.train.data.pictures import is_picture, shown
from nbconv.train.data.splits import only

MOST_BYTES = 1 << 20
"""A larger text file is refused."""
MOST_CLASSES = 10_000
NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")


def yolo_folder(
    folder: str | os.PathLike, *, split: str | None = None, classes: Sequence[str] | None = None, **options: Any
) -> Boxed:
    """A folder with ``images/`` and ``labels/``, or these in ``train/``, ``val/`` and ``test/``, or the other way round. A
    picture's boxes are lines of class, middle x, middle y, width, height in a .txt of its name, as shares of the picture's
    sides; of a polygon (class, then x and y by turns) the box around it. A picture without a file has none.

    ``classes``: names in the order of numbers; by default those of ``data.yaml`` (``names``) or ``classes.txt``, else the
    numbers. ``split``: which part, where there are some (`nbconv.image_splits` reads all). Other options are those of
    `Boxed`. ValueError names the file and the line that cannot be right.
    """
    root = Path(folder)
    parts = yolo_parts(root)
    if not parts:
        raise ValueError(f"{root} has no images/ and labels/ with text files")
    if set(parts) != {""} or split is not None:
        parts = {"": only(root, {n: p for n, p in parts.items() if n}, split, "yolo_folder")}
    images, labels = parts[""]
    by_stem = {p.relative_to(images).with_suffix("").as_posix(): p for p in sorted(images.rglob("*")) if is_picture(p)}
    files = {
        p.relative_to(labels).with_suffix("").as_posix(): p for p in sorted(labels.rglob("*.txt")) if p.name not in NAMES
    }
    alone = [p.name for stem, p in files.items() if stem not in by_stem]
    if alone:
        raise ValueError(f"{images} has no picture for {shown(alone)} ({len(alone)} of {len(files)})")
    if not by_stem:
        raise ValueError(f"{images} has no pictures")
    rows = [_rows(files[stem]) if stem in files else np.zeros((0, 5), np.float32) for stem in by_stem]
    most = int(max((r[:, 4].max(initial=-1) for r in rows), default=-1))
    names = tuple(map(str, classes)) if classes is not None else class_names(root) or tuple(map(str, range(most + 1)))
    for stem, found in zip(by_stem, rows):
        if len(found) and found[:, 4].max() >= len(names):
            raise ValueError(f"{files[stem]} has class {found[:, 4].max():g}, there are {len(names)}: {shown(names)}")
    return Boxed(list(by_stem.values()), rows, names, shares=True, **options)


def yolo_parts(root: Path) -> dict[str, tuple[Path, Path]]:
    """(pictures, labels) by split, or of "" where there are none; empty for another folder."""
    try:
        parts = mask_parts(root, "images", "labels")
    except ValueError:
        if (root / "data.yaml").is_file():
            raise
        return {}
    texts = any(True for _, labels in parts.values() for _ in labels.rglob("*.txt"))
    return parts if texts or (root / "data.yaml").is_file() else {}


def _rows(file: Path) -> np.ndarray:
    """(left, top, right, bottom, class) of each line, in shares of the picture."""
    rows = []
    for i, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            numbers = [float(v) for v in line.split()]
        except ValueError:
            raise ValueError(f"{file}, line {i}: {line[:60]!r} is not all numbers") from None
        kind, rest = numbers[0], np.array(numbers[1:])
        if len(rest) != 4 and (len(rest) < 6 or len(rest) % 2):
            raise ValueError(f"{file}, line {i}: {len(numbers)} numbers, wanted class x y width height, or a polygon")
        if not (0 <= kind < MOST_CLASSES and kind == int(kind)):
            raise ValueError(f"{file}, line {i}: the class is {kind:g}, wanted a whole number from 0 below {MOST_CLASSES}")
        if not (np.isfinite(rest).all() and rest.min() >= -0.01 and rest.max() <= 1.01):
            raise ValueError(f"{file}, line {i}: {line[:60]!r}: wanted shares of the picture, from 0 to 1")
        if len(rest) == 4:
            x, y, w, h = rest
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        else:
            box = [rest[::2].min(), rest[1::2].min(), rest[::2].max(), rest[1::2].max()]
        if box[0] < box[2] and box[1] < box[3]:
            rows.append([*np.clip(box, 0, 1), kind])
    return np.array(rows, np.float32).reshape(-1, 5)


def class_names(root: Path) -> tuple[str, ...]:
    """The names that a folder's ``data.yaml`` (of YAML that: a list or numbers and names, in brackets or a line each) or
    ``classes.txt`` has; none where there is neither. ValueError for names that cannot be read."""
    file = next((p for n in NAMES for p in (root / n, root / "labels" / n) if p.is_file()), None)
    if file is None:
        return ()
    lines = [re.sub(r"(^|\s)#[^'\"]*$", "", line).rstrip() for line in _text(file).splitlines()]
    if file.suffix not in (".yaml", ".yml"):
        return tuple(line.strip() for line in lines if line.strip())
    at = next((i for i, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if at is None:
        raise ValueError(f"{file} has no names: of the classes")
    inline = lines[at].split(":", 1)[1].strip()
    if inline:
        more = takewhile(lambda line: not re.match(r"[\w-]+\s*:", line), lines[at + 1 :])
        inline = " ".join([inline, *map(str.strip, more)]).strip()
        if inline[0] + inline[-1] not in ("[]", "{}"):
            raise ValueError(f"{file}: names is {inline[:60]!r}, wanted a list in brackets, or a name a line")
        items = [v.strip() for v in re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]+)""", inline[1:-1]) if v.strip()]
    else:
        items = []
        for line in lines[at + 1 :]:
            if not line.strip():
                continue
            if not line.startswith((" ", "\t", "-")):
                break
            items.append(line.strip())
    found: list[tuple[int, str]] = []
    for i, item in enumerate(items):
        numbered = re.fullmatch(r"(\d+)\s*:\s*(.+)", item)
        name = numbered[2] if numbered else item.removeprefix("-").strip()
        found.append((int(numbered[1]) if numbered else i, name.strip("\"'")))
    found.sort()
    if [k for k, _ in found] != list(range(len(found))) or not found:
        raise ValueError(f"{file}: names has the numbers {[k for k, _ in found][:20]}, wanted 0, 1, 2 …")
    return tuple(name for _, name in found)


def _text(file: Path) -> str:
    if os.path.getsize(file) > MOST_BYTES:
        raise ValueError(f"{file} has more than {MOST_BYTES} bytes")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text in UTF-8") from None
