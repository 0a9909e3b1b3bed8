"""Folders of boxes in parts: COCO's, Roboflow's, VOC's, YOLO's; the same boxes whatever they are written as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbconv
from nbconv.train.data import Boxed, Splits, read_data

BOXES = {
    "train": [[("car", (2, 3, 14, 20))], [("tree", (0, 0, 8, 10)), ("car", (10, 4, 30, 24))]],
    "val": [[("tree", (5, 6, 25, 20))]],
    "test": [[], [("car", (1, 1, 11, 11))]],
}
SIZE = (24, 40)


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(file)


def coco(file: Path, boxes: list, beside: Path, names: Callable[[int], str], ghost: bool = False) -> None:
    categories = [{"id": 0, "name": "things", "supercategory": "none"}] if ghost else []
    above = "things" if ghost else "none"
    categories += [{"id": i, "name": n, "supercategory": above} for i, n in ((3, "car"), (8, "tree"))]
    images, annotations = [], []
    for i, found in enumerate(boxes):
        picture(beside / names(i))
        images.append({"id": i, "file_name": names(i)})
        for name, (left, top, right, bottom) in found:
            box = [left, top, right - left, bottom - top]
            annotations.append({"image_id": i, "category_id": {"car": 3, "tree": 8}[name], "bbox": box})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def as_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        place = root / folder
        coco(place / "_annotations.coco.json", BOXES[split], place, lambda i: f"{i}.rf.jpg", ghost=True)


def as_coco(root: Path) -> None:
    for split, boxes in BOXES.items():
        file = root / "annotations" / f"instances_{split}2017.json"
        coco(file, boxes, root / f"{split}2017", lambda i: f"{i:012d}.jpg")
        (root / "annotations" / f"captions_{split}2017.json").write_text('{"images": [], "annotations": []}')


def as_voc(root: Path) -> None:
    for split, boxes in BOXES.items():
        for i, found in enumerate(boxes):
            picture(root / "JPEGImages" / f"{split}{i}.jpg")
            things = "".join(
                f"<object><name>{name}</name><bndbox><xmin>{l + 1}</xmin><ymin>{t + 1}</ymin><xmax>{r}</xmax>"
                f"<ymax>{b}</ymax></bndbox></object>"
                for name, (l, t, r, b) in found
            )
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{split}{i}.xml").write_text(f"<annotation>{things}</annotation>")
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(len(boxes))))
        (lists / f"car_{split}.txt").write_text("train0 1\n")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("train0\n")


def as_yolo(root: Path, outer: bool = True, names: str = "names: ['car', \"tree\"]  # two\n") -> None:
    for split, boxes in BOXES.items():
        split = "valid" if split == "val" else split
        for i, found in enumerate(boxes):
            inner = (
                (Path(split, "images"), Path(split, "labels")) if outer else (Path("images", split), Path("labels", split))
            )
            picture(root / inner[0] / f"{i}.png")
            lines = []
            for name, (left, top, right, bottom) in found:
                w, h = SIZE[1], SIZE[0]
                numbers = [(left + right) / 2 / w, (top + bottom) / 2 / h, (right - left) / w, (bottom - top) / h]
                if i == 1:  # a polygon
                    numbers = [left / w, top / h, right / w, top / h, right / w, bottom / h, left / w, bottom / h]
                lines.append(" ".join(map(str, [{"car": 0, "tree": 1}[name], *numbers])))
            (root / inner[1]).mkdir(parents=True, exist_ok=True)
            if lines or not outer:
                (root / inner[1] / f"{i}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("train: ../train/images\nnc: 2\n" + names)


KINDS: dict[str, Callable[[Path], None]] = {
    "roboflow": as_roboflow,
    "coco": as_coco,
    "voc": as_voc,
    "yolo": as_yolo,
    "yolo, splits inside": lambda root: as_yolo(root, False, "names:\n  0: car\n  1: 'tree'\nextra: 3\n"),
    "yolo, names in a list": lambda root: as_yolo(root, True, "names:\n# those\n- car  # one\n- tree\n"),
    "yolo, names in lines": lambda root: as_yolo(root, True, "nc: 2\nnames: [ 'car',  # one\n  tree,\n]\ntrain: a\n"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_splits(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    found = nbconv.image_splits(tmp_path, size=SIZE)
    assert list(found) == ["train", "val", "test"]
    for split, data in found.items():
        assert isinstance(data, Boxed) and data.classes == ("car", "tree")
        _, rows = data.read(np.arange(len(data)))
        assert len(rows) == len(BOXES[split])
        for mine, true in zip(rows, BOXES[split], strict=True):
            wanted = [[*box, data.classes.index(name)] for name, box in true]
            np.testing.assert_allclose(mine[: len(true)], np.reshape(wanted, (-1, 5)), atol=1e-3)
            assert (mine[len(true) :] == -1).all()
    given = read_data(tmp_path)
    assert isinstance(given, Splits) and all(getattr(part, "resize", "") == "pad" for part in given.values())


def test_a_folder_without_splits(tmp_path: Path) -> None:
    coco(tmp_path / "boxes.json", BOXES["train"], tmp_path / "images", lambda i: f"{i}.png")
    data = read_data(tmp_path, size=SIZE)
    assert isinstance(data, Boxed) and data.classes == ("car", "tree") and len(data) == 2
    other = tmp_path / "y"
    as_yolo(other)
    data = read_data(other / "train", size=SIZE)  # no names beside it
    assert isinstance(data, Boxed) and data.classes == ("0", "1")
    given = json.loads((tmp_path / "boxes.json").read_text())
    given["categories"].append({"id": 9, "name": "car", "supercategory": "none"})
    (tmp_path / "boxes.json").write_text(json.dumps(given))
    assert nbconv.coco(tmp_path / "boxes.json").classes == ("car", "tree")
    assert nbconv.yolo_folder(other, split="valid", size=SIZE).classes == ("car", "tree")
    with pytest.raises(ValueError, match=r"has the splits train, val, test: say which, yolo_folder\(…, split='train'\)"):
        nbconv.yolo_folder(other)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .2", "line 1: 4 numbers, wanted class x y width height, or a polygon"),
        ("0 .5 .5 .2 .2 .9", "line 1: 6 numbers"),
        ("car .5 .5 .2 .2", "line 1: 'car .5 .5 .2 .2' is not all numbers"),
        ("0.5 .5 .5 .2 .2", "the class is 0.5, wanted a whole number from 0"),
        ("nan .5 .5 .2 .2", "the class is nan"),
        ("1e9 .5 .5 .2 .2", "the class is 1e[+]09, wanted a whole number from 0 below 10000"),
        ("0 20 20 5 5", "wanted shares of the picture, from 0 to 1"),
        ("0 .5 .5 nan .2", "wanted shares of the picture"),
        ("7 .5 .5 .2 .2", "0.txt has class 7, there are 2: car, tree"),
    ],
)
def test_wrong_lines_of_yolo(line: str, message: str, tmp_path: Path) -> None:
    as_yolo(tmp_path)
    (tmp_path / "train/labels/0.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path, size=SIZE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "data.yaml has no names"),
        ("names: car\n", "names is 'car', wanted a list in brackets"),
        ("names:\n  1: car\n  2: tree\n", r"names has the numbers \[1, 2\], wanted 0, 1, 2"),
    ],
)
def test_wrong_names_of_yolo(names: str, message: str, tmp_path: Path) -> None:
    as_yolo(tmp_path, names=names)
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path)


def test_what_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    as_yolo(tmp_path / "y")
    (tmp_path / "y/train/images/0.png").unlink()
    with pytest.raises(ValueError, match=r"has no picture for 0.txt \(1 of 2\)"):
        read_data(tmp_path / "y")
    as_yolo(tmp_path / "s", outer=False)
    (tmp_path / "s/labels/test").rename(tmp_path / "s/labels/more")
    with pytest.raises(ValueError, match=r"images has the splits train, val, test, .*labels train, val"):
        read_data(tmp_path / "s")
    as_roboflow(tmp_path / "r")
    (tmp_path / "r/train/more.json").write_text((tmp_path / "r/train/_annotations.coco.json").read_text())
    with pytest.raises(ValueError, match=r"several COCO files of one split: train/_annotations\.coco\.json, train/more"):
        read_data(tmp_path / "r")
    as_voc(tmp_path / "v")
    things = tmp_path / "v/Annotations/val0.xml"
    things.write_text(things.read_text().replace("tree", "bush"))
    with pytest.raises(ValueError, match="val has boxes of bush, train of the classes car, tree"):
        read_data(tmp_path / "v")
    for name in ("a", "b"):
        coco(tmp_path / f"c/{name}.json", BOXES["train"], tmp_path / "c", lambda i: f"{i}.png")
    with pytest.raises(ValueError, match="several COCO files, and none for train"):
        read_data(tmp_path / "c")
