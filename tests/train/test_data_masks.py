"""Masks and boxes: folders, COCO and VOC; files that may have come from anywhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nbconv
from nbconv.edit.pictured import PictureInput
from nbconv.train.data import read_data
from nbconv.train.data.coco import drawn, runs
from nbconv.train.data.voc import parsed
from tests.train.test_data import draw

RED, GREEN = (255, 0, 0), (0, 255, 0)
KINDS = {"palette": [0, 1, 2], "grey": [0, 1, 2], "binary": [0, 255], "colour": [(0, 0, 0), GREEN, RED], "void": [0, 1, 255]}


def mask(path: Path, kind: str, size: tuple[int, int] = (12, 10), seed: int = 0) -> np.ndarray:
    """A mask of blocks, and the number of the value at each pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.array(KINDS[kind])
    number = np.random.default_rng(seed).integers(0, len(values), (size[0] // 2, size[1] // 2)).repeat(2, 0).repeat(2, 1)
    number[0, : len(values)] = np.arange(len(values))
    image = Image.fromarray(values[number].astype(np.uint8))
    if kind == "palette":
        image = Image.fromarray(number.astype(np.uint8), "L").convert("P")
        image.putdata(number.reshape(-1).tolist())
    image.save(path)
    return number


@pytest.mark.parametrize("kind", list(KINDS))
def test_mask_folder(kind: str, tmp_path: Path) -> None:
    wanted = []
    for i in range(3):
        draw(tmp_path / "images" / f"{i}.jpg", (9, 9, 200), seed=i)
        wanted.append(mask(tmp_path / "masks" / f"{i}{'_mask' if i else ''}.png", kind, seed=i))
    data = nbconv.mask_folder(tmp_path, size=(12, 10))
    x, y = data.batch(np.arange(3))
    numbers = np.stack(wanted)
    numbers = np.where(numbers == 2, 255, numbers) if kind == "void" else numbers
    np.testing.assert_array_equal(y, numbers)
    assert x.shape == (3, 3, 12, 10) and y.dtype == np.int64 and len(data) == 3
    names = {"colour": ("#000000", "#00ff00", "#ff0000"), "binary": ("0", "1"), "void": ("0", "1")}
    assert data.classes == names.get(kind, ("0", "1", "2"))
    named = {f"class {i}": value for i, value in enumerate(KINDS[kind])}
    data = nbconv.mask_folder(tmp_path, size=(12, 10), classes=named)
    np.testing.assert_array_equal(data.batch(np.arange(3))[1], np.stack(wanted))
    assert data.classes == tuple(named)
    one, other = data.split(0.34, seed=1)
    assert len(one) == 2 and one.batch(np.arange(2))[1].shape == (2, 12, 10) == (2, *other.batch(np.arange(1))[1].shape[1:])
    first = dict([next(iter(named.items()))])
    with pytest.raises(ValueError, match="which is no class: say void=255"):
        nbconv.mask_folder(tmp_path, size=(12, 10), classes=first).batch(np.arange(3))
    left = nbconv.mask_folder(tmp_path, size=(12, 10), classes=first, void=255).batch(np.arange(3))[1]
    np.testing.assert_array_equal(left, np.where(np.stack(wanted) == 0, 0, 255))


@settings(max_examples=25, deadline=None)
@given(st.integers(6, 20), st.integers(6, 20), st.sampled_from(["crop", "stretch", "pad"]), st.integers(0, 99))
def test_masks_and_boxes_are_resized_as_pictures_are(tmp_path_factory, h: int, w: int, resize: str, seed: int) -> None:
    """A bright thing in the picture, its mask and its box are at one place, whatever the proportions."""
    root = tmp_path_factory.mktemp("m")
    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(0, 5)), int(rng.integers(0, 9))
    x = np.zeros((16, 24), np.uint8)
    x[top : top + 10, left : left + 12] = 255
    for name in ("images", "masks"):
        (root / name).mkdir()
        Image.fromarray(x).save(root / name / "a.png")
    options = {"size": (h, w), "resize": resize, "std": 1.0, "channels": 1}
    picture, y = nbconv.mask_folder(root, **options).batch(np.arange(1))
    sure = np.abs(picture[0, 0] - 127) > 126
    np.testing.assert_array_equal(y[0][sure], picture[0, 0][sure] > 127)
    boxes = [[left, top, left + 12, top + 10, 0]]
    _, rows = nbconv.train.data.Boxed([root / "images" / "a.png"], [boxes], ["thing"], **options).batch(np.arange(1))
    at_y, at_x = np.nonzero(y[0])
    found = [at_x.min(), at_y.min(), at_x.max() + 1, at_y.max() + 1]
    np.testing.assert_allclose(rows[0, 0, :4], found, atol=1.01)


@pytest.mark.parametrize("inside", [True, False])
def test_splits_of_masks(inside: bool, tmp_path: Path) -> None:
    for k, split in enumerate(("train", "valid")):
        for kind in ("images", "masks"):
            at = tmp_path / split / kind if inside else tmp_path / kind / split
            mask(at / "a.png", "grey", seed=k) if kind == "masks" else draw(at / "a.png", RED)
    parts = nbconv.image_splits(tmp_path, size=(6, 6))
    assert list(parts) == ["train", "val"] and [len(p) for p in parts.values()] == [1, 1]
    assert len(nbconv.mask_folder(tmp_path, split="val")) == 1
    with pytest.raises(ValueError, match="has the splits train, val: say which, mask_folder"):
        nbconv.mask_folder(tmp_path)
    if not inside:
        (tmp_path / "masks/valid").rename(tmp_path / "masks/more")
        with pytest.raises(ValueError, match=r"images has the splits train, val, .*masks train"):  # and no two classes
            read_data(tmp_path)


def test_wrong_masks(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.png", RED)
    for wanted, change in [
        (r"has nothing for a.png \(1 of 1\)", lambda: (tmp_path / "masks").mkdir()),
        (r"12×8 pixels, its picture .*a.png 12×10", lambda: mask(tmp_path / "masks" / "a.png", "grey", (12, 8))),
        ("has nothing for b.png", lambda: mask(tmp_path / "masks" / "b.png", "grey")),
    ]:
        change()
        with pytest.raises(ValueError, match=wanted):
            nbconv.mask_folder(tmp_path, size=(4, 4)).batch(np.arange(1))
    (tmp_path / "masks" / "b.png").unlink()
    Image.fromarray(np.array([[0, 128], [255, 7]], np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"values 0, 7, 128, 255: say which classes they are"):
        nbconv.mask_folder(tmp_path)
    Image.effect_noise((40, 40), 90).convert("RGB").quantize(200).convert("RGB").save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="colours; JPEG blurs them"):
        nbconv.mask_folder(tmp_path)
    with pytest.raises(ValueError, match="has no folders images/ and labels/"):
        nbconv.mask_folder(tmp_path, masks="labels")


def test_augmented_masks_train(tmp_path: Path) -> None:
    """Through `fit`, masks reach the loss as they were moved."""
    from nbconv.train.data import batches

    for i in range(4):
        x = np.zeros((8, 8), np.uint8)
        x[i : i + 3, 1:4] = 255
        for name in ("images", "masks"):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(x).save(tmp_path / name / f"{i}.png")
    data = nbconv.mask_folder(tmp_path).bound(PictureInput("NHWC", (8, 8), 1))
    augment = nbconv.Augment(crop=2, flip=0.5, flip_vertical=0.5)
    got = list(batches(data, np.arange(4), 2, augment=augment, seed=3))
    for x, y in got:
        np.testing.assert_array_equal(x[..., 0] > 0.5, y == 1)
    assert sum(int(y.sum()) for _, y in got) > 0
    again = list(batches(data, np.arange(4), 2, start=1, augment=augment, seed=3))
    np.testing.assert_array_equal(again[0][0], got[1][0])
    np.testing.assert_array_equal(again[0][1], got[1][1])


def test_unreadable_pictures_take_their_masks_along(tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / "images" / f"{i}.png", RED)
        mask(tmp_path / "masks" / f"{i}.png", "grey", seed=i)
    whole = nbconv.mask_folder(tmp_path, size=(12, 10)).batch(np.array([0, 2]))[1]
    (tmp_path / "images" / "1.png").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"1 of 3 pictures cannot be read"):
        data = nbconv.mask_folder(tmp_path, size=(12, 10), on_error="skip")
    np.testing.assert_array_equal(data.batch(np.arange(2))[1], whole)
    with pytest.raises(ValueError, match=r"1.png: not a picture"):
        nbconv.mask_folder(tmp_path, size=(12, 10)).batch(np.arange(3))


def annotated(root: Path, **changes: Any) -> Path:
    """Two pictures with a box and a triangle, as COCO has them."""
    for i in range(2):
        draw(root / "images" / f"{i}.png", GREEN, (20, 30))
    square = [4, 5, 14, 5, 14, 15, 4, 15]
    given = {
        "images": [{"id": 7 + i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(2)],
        "categories": [{"id": 9, "name": "tree"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [4, 5, 10, 10], "area": 100, "segmentation": [square], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [10, 0, 20, 20], "area": 9, "iscrowd": 1,
             "segmentation": {"size": [20, 30], "counts": [0, 40, 560]}},
        ],
    }  # fmt: skip
    (root / "a.json").write_text(json.dumps({**given, **changes}))
    return root / "a.json"


def test_coco(tmp_path: Path) -> None:
    path = annotated(tmp_path)
    data = nbconv.coco(path, size=(20, 30))
    assert data.classes == ("car", "tree") and data.kind == "boxes" and len(data) == 2
    np.testing.assert_array_equal(data.batch(np.arange(2))[1], [[[4, 5, 14, 15, 1]], [[-1] * 5]])
    masks = nbconv.coco(path, size=(20, 30), task="masks")
    assert masks.classes == ("background", "car", "tree")
    y = masks.batch(np.arange(2))[1]
    wanted = np.zeros((20, 30))
    wanted[5:15, 4:14] = 2
    wanted[:, :2] = 1
    assert (y[0] != wanted).sum() <= 21 and not y[1].any()  # Pillow draws the outline
    only = nbconv.coco(path, size=(20, 30), classes=["tree"], most=3)
    np.testing.assert_array_equal(only.batch(np.arange(1))[1][0, :, 4], [0, -1, -1])


def test_boxes_are_encoded_after_they_moved(tmp_path: Path) -> None:
    """As a detector's loss wants them; a mirrored picture has mirrored targets."""
    from nbconv.train.data import batches
    from nbconv.vision import ssd_targets

    anchors = np.array([[9, 10, 10, 10], [21, 10, 10, 10], [21, 3, 4, 4]], np.float32)

    def encode(boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return ssd_targets(boxes, labels, anchors)

    data = nbconv.coco(annotated(tmp_path), size=(20, 30), encode=encode).part(np.arange(2)[::-1])
    boxes = [np.zeros((0, 4), np.float32), np.array([[4, 5, 14, 15]], np.float32)]
    wanted = [encode(b, np.full(len(b), 2)) for b in boxes]
    np.testing.assert_array_equal(data.batch(np.arange(2))[1], wanted)
    assert [w[:, 4].tolist() for w in wanted] == [[0, 0, 0], [2, 0, 0]]
    ((_, flipped),) = batches(data, np.arange(2), 2, augment=nbconv.Augment(flip=1.0))
    assert flipped.dtype == np.float32 and flipped[..., 4].tolist() == [[0, 0, 0], [0, 2, 0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999), st.floats(0, 1))
def test_run_lengths(h: int, w: int, seed: int, share: float) -> None:
    """Plain, and packed as COCO packs them (written here from its C source's rule)."""
    wanted = np.random.default_rng(seed).random((h, w)) < share
    flat = wanted.T.reshape(-1)
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flat]))).tolist()
    counts = np.diff([0, *ends, h * w]).tolist()
    np.testing.assert_array_equal(runs({"size": [h, w], "counts": counts}, (h, w)), wanted)
    text = ""
    for i, count in enumerate(counts):
        value = count - (counts[i - 2] if i > 2 else 0)
        while True:
            group, value = value & 31, value >> 5
            more = value != -1 if group & 16 else value != 0
            text += chr((group | 32 * more) + 48)
            if not more:
                break
    np.testing.assert_array_equal(runs({"size": [h, w], "counts": text}, (h, w)), wanted)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"images": [{"id": 7, "file_name": "../a.json"}]}, {}, r"names the picture '../a.json', wanted a path inside"),
        ({"images": [{"id": 7, "file_name": "none.png"}]}, {}, r"lacks none.png, and 0 more of 1 pictures"),
        ({"images": []}, {}, "an annotation is of image 7, which is not among its 0 images"),
        ({"annotations": 3}, {}, "is no COCO file of boxes: TypeError"),
        (
            {"annotations": [{"image_id": 7, "category_id": 9, "bbox": ["a", 1, 2, 3]}]},
            {},
            "is no COCO file of boxes: ValueError",
        ),
        ({"annotations": [{"image_id": 7, "category_id": 9, "bbox": [10**400, 1, 2, 3]}]}, {}, "of boxes: OverflowError"),
        ({"annotations": [{"image_id": 7, "category_id": 9, "bbox": [0, 1, float("nan"), 3]}]}, {}, "a box is"),
        ({}, {"classes": ["bus"]}, "has no category bus, it has car, tree"),
        ({}, {"task": "keypoints"}, "task is 'keypoints', wanted one of boxes, masks"),
    ],
)
def test_wrong_coco(changes: dict, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        nbconv.coco(annotated(tmp_path, **changes), **options)


DAMAGE = [None, -1, 0, 1e300, float("nan"), float("inf"), "x", "", [], {}, [[]], [1, 2], True, 2**70, "\ud800"]


def damaged(value: Any, rng: random.Random) -> Any:
    if rng.random() < 0.06:
        return rng.choice(DAMAGE)
    if isinstance(value, dict):
        return {k: damaged(v, rng) for k, v in value.items() if rng.random() > 0.03}
    return [damaged(v, rng) for v in value if rng.random() > 0.03] if isinstance(value, list) else value


@pytest.mark.parametrize("task", ["boxes", "masks"])
def test_what_is_damaged_is_refused_in_one_line(task: str, tmp_path: Path) -> None:
    """Or read: never another error."""
    path = annotated(tmp_path)
    whole, said = json.loads(path.read_text()), []
    for seed in range(300):
        path.write_text(json.dumps(damaged(whole, random.Random(seed))))
        try:
            data = nbconv.coco(path, tmp_path / "images", size=(6, 7), task=task)
            data.batch(np.arange(len(data)))
        except (ValueError, OSError) as error:
            said.append(str(error))
    assert 100 < len(said) < 298 and not any("\n" in line for line in said)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", "\x00"])
def test_damaged_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a.json is no (JSON|COCO file)"):
        nbconv.coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [9, 9], "counts": [81]}, {"size": [4, 5], "counts": [21]}, {"size": [4, 5], "counts": [-1, 21]},
        {"size": [4, 5], "counts": "~~~~~~~~~~~~~~~~~~~"}, {"size": [4, 5], "counts": "\x01"}, [[1, 2, 3]], [[1, 2, 3, 4]],
        [[1, 2, 3, 4, float("nan"), 6]], [["a"] * 6],
    ],
)  # fmt: skip
def test_damaged_segmentations(segmentation: Any) -> None:
    with pytest.raises(ValueError, match=r"run lengths|polygon"):
        drawn(segmentation, (4, 5))


def thing(name: str, box: tuple[float, ...], more: str = "") -> str:
    inside = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object>"


@pytest.mark.parametrize("flat", [True, False])
def test_voc(flat: bool, tmp_path: Path) -> None:
    pictures, xml = (tmp_path, tmp_path) if flat else (tmp_path / "JPEGImages", tmp_path / "Annotations")
    xml.mkdir(exist_ok=True)
    hard = thing("cat", (1, 1, 9, 9), "<difficult>1</difficult>")
    for i, things in enumerate((thing("dog", (5, 6, 14, 15)) + hard, thing("cat", (1, 1, 30, 20)))):
        draw(pictures / f"{i}.jpg", GREEN, (20, 30))
        (xml / f"{i}.xml").write_text(f"<annotation>{things}</annotation>")
    data = nbconv.voc(tmp_path, size=(20, 30))
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(data.batch(np.arange(2))[1], [[[4, 5, 14, 15, 1]], [[0, 0, 30, 20, 0]]])
    assert nbconv.voc(tmp_path, size=(20, 30), difficult=True).batch(np.arange(2))[1].shape == (2, 2, 5)
    with pytest.raises(ValueError, match="split is 'val', but there is no "):
        nbconv.voc(tmp_path, split="val")
    if not flat:
        mask(tmp_path / "SegmentationClass" / "1.png", "void", (20, 30))
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("1\n")
        y = nbconv.voc(tmp_path, task="masks", split="val", size=(20, 30)).batch(np.arange(1))[1]
        assert set(np.unique(y)) == {0, 1, 255}


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">' + "<!ENTITY c '&b;&b;&b;'>" + "]><annotation>&c;</annotation>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "has a DOCTYPE"),
        (BOMB.encode("utf-16"), "has a DOCTYPE"),
        (b'<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>', "has a DOCTYPE"),
        (b"<a>" * 100, "is nested more than 64 deep"),
        (b"<a><b></a>", "is no whole XML"),
        (b"", "is no whole XML"),
        (b"<annotation><object><name>x</name></object></annotation>", "an object has no name or no bndbox"),
        (b"<annotation><object><name>x</name><bndbox/></object></annotation>", "the bndbox of x lacks numbers"),
    ],
)
def test_untrusted_xml(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        nbconv.voc(tmp_path)
    if b"object" not in content:
        with pytest.raises(ValueError, match=message):
            parsed(tmp_path / "a.xml")
