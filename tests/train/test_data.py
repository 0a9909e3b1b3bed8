"""What training reads: arrays, folders and lists; what was said is honoured, what cannot be right is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nbconv
from nbconv.edit.pictured import PictureInput
from nbconv.graph import Spec
from nbconv.train.data import Arrays, as_data, read_data
from tests.train.models import F32, batch, convolutional, mlp, model

COLOURS = {"cat": (200, 40, 40), "dog": (40, 200, 40), "owl": (40, 40, 200)}


def draw(path: Path, colour: tuple[int, ...], size: tuple[int, int] = (12, 10), seed: int = 0) -> Path:
    """A picture (h, w) of about one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (*size, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def folder(root: Path, names=("cat", "dog"), count: int = 3) -> Path:
    for name in names:
        for i in range(count):
            draw(root / name / f"{i}.png", COLOURS.get(name, (9, 9, 9)), seed=i)
    return root


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5), max_size=4), st.integers(1, 4), st.booleans(), st.booleans(),
    st.sampled_from(["f4", "f8", "u1"]), st.integers(0, 99),
)  # fmt: skip
def test_mean_and_std_keep_shapes(inner, n, each, last, dtype, seed) -> None:
    """Of samples of any rank, numbers or one a channel, channels first or last."""
    rng = np.random.default_rng(seed)
    shape = (n, *inner)
    x = (rng.random(shape) * 100).astype(dtype)
    x = x.astype("f4") if dtype == "u1" and len(shape) in (3, 4) else x  # those are pictures
    axis = len(shape) - 1 if last and len(shape) > 2 else 1
    channels = shape[axis] if each and len(shape) > 1 else 1
    mean, std = rng.random(channels), rng.random(channels) + 0.5
    got, _ = Arrays(x, np.arange(n), mean=mean, std=std, layout="NHWC" if last else "NCHW").batch(np.arange(n))
    along = [1] * len(shape)
    if len(shape) > 1:
        along[axis] = channels
    wanted = (x - mean.reshape(along if len(shape) > 1 else ())) / std.reshape(along if len(shape) > 1 else ())
    assert got.shape == shape and got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 9), st.integers(3, 9), st.sampled_from([(), (1,), (3,)]), st.integers(0, 99))
def test_finetune_honours_what_is_said(h: int, w: int, channels: tuple[int, ...], seed: int) -> None:
    """size, mean and std of arrays of pictures and of floats are those of `Arrays`; Data may not have others."""
    rng = np.random.default_rng(seed)
    pictures, y = rng.integers(0, 256, (4, h, w, *channels), np.uint8), np.arange(4)
    numbers, said = np.arange(4), {"size": (5, 6), "mean": 100.0, "std": 50.0}
    bound = PictureInput("NCHW", (5, 6), None)
    read = read_data((pictures, y), **said).bound(bound)
    np.testing.assert_array_equal(read.batch(numbers)[0], Arrays(pictures, y, **said).batch(numbers)[0])
    assert read.batch(numbers)[0].shape == (4, (channels or (1,))[0], 5, 6)
    floats = rng.random((4, 2, h, w), np.float32)
    read = read_data((floats, y), **said)
    np.testing.assert_array_equal(read.batch(numbers)[0], Arrays(floats, y, **said).batch(numbers)[0])
    np.testing.assert_array_equal(read_data((floats, y)).batch(numbers)[0], floats)
    whole = read_data((pictures, y)).batch(numbers)[0]
    np.testing.assert_allclose(whole, Arrays(pictures, y, std=255).batch(numbers)[0])
    own = Arrays(pictures, y, mean=100.0, std=50.0)
    same = read_data(own.part(numbers), **said)
    np.testing.assert_array_equal(same.batch(numbers)[0], Arrays(pictures, y, **said).batch(numbers)[0])
    for name, value in (("mean", 1.0), ("std", [1.0, 2.0, 3.0]), ("size", (9, 2))):
        with pytest.raises(ValueError, match=rf"{name} is .*, but the data have their own, "):
            read_data(Arrays(pictures, y, **said), **{name: value})


def test_finetune_of_arrays_learns_what_is_scaled() -> None:
    x, y = batch(40)
    options = {"epochs": 20, "optimizer": nbconv.Adam(0.02)}
    plain = nbconv.finetune(model(mlp()), (x, y), **options)
    scaled = nbconv.finetune(model(mlp()), (x * 50 + 7, y), mean=7, std=50, **options)
    np.testing.assert_allclose(scaled.history["loss"], plain.history["loss"], rtol=1e-3)
    with pytest.raises(ValueError, match="std is 50, but the data have their own"):
        nbconv.finetune(model(mlp()), Arrays(x, y), std=50)


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Train", "valid", "test"), ("training", "validation"), ("train", "test")]
)
def test_splits_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        folder(tmp_path / name)
    parts = nbconv.image_splits(tmp_path, size=(8, 8))
    assert len(parts) == len(names) and all(p.classes == ("cat", "dog") and len(p) == 6 for p in parts.values())
    assert (parts.held, parts.last) == (parts.get("val", parts.get("test")), parts.get("test", parts.get("val")))
    with pytest.raises(ValueError, match=r"has the splits train, .*say which, image_folder\(…, split='train'\)"):
        nbconv.image_folder(tmp_path)
    assert len(nbconv.image_folder(tmp_path, split=names[-1])) == 6
    graph = convolutional(classes=2, norm=False)
    graph.constants["w1"] = np.ones((6, 3, 3, 3), np.float32)
    graph.inputs["x"] = Spec(("n", 3, 7, 9), F32)
    report = nbconv.finetune(model(graph), tmp_path, epochs=1)
    assert report.classes == ("cat", "dog") and report.confusion.sum() == 6


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "val", ("cat", "owl"))
    with pytest.raises(ValueError, match=r"val lacks dog and has owl beside them: wanted the classes of .*train"):
        nbconv.image_splits(tmp_path)


def test_what_is_a_split_and_what_a_class(tmp_path: Path) -> None:
    """A vehicle called train is a class; folders called train and val without classes may be either."""
    assert nbconv.image_folder(folder(tmp_path / "a", ("train", "car", "test"))).classes == ("car", "test", "train")
    with pytest.raises(ValueError, match="looks like splits, but train/ has no sub-folders"):
        nbconv.image_folder(folder(tmp_path / "b", ("train", "val")))
    lone = folder(tmp_path / "c" / "train").parent
    assert len(nbconv.image_folder(lone, split="train")) == 6 and list(nbconv.image_splits(lone)) == ["train"]
    with pytest.raises(ValueError, match=r"split is 'val', .* has train"):
        nbconv.image_folder(lone, split="val")


def test_size_and_channels_are_the_models(tmp_path: Path) -> None:
    data = nbconv.image_folder(folder(tmp_path))
    with pytest.raises(ValueError, match="pictures want size"):
        data.batch(np.arange(2))
    for layout, channels, shape in (("NCHW", 1, (2, 1, 6, 5)), ("NHWC", 3, (2, 6, 5, 3))):
        assert data.bound(PictureInput(layout, (6, 5), channels)).batch(np.arange(2))[0].shape == shape
    part = data.split(0.34)[0].bound(PictureInput("NHWC", (6, 5), 3))
    assert part.batch(np.arange(2))[0].shape == (2, 6, 5, 3) and data.layout == "auto"


def test_unreadable_pictures(tmp_path: Path) -> None:
    """By default the one that comes up is named; they may be left out, with a count; not all of a class."""
    folder(tmp_path)
    (tmp_path / "dog" / "1.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ValueError, match=r"dog/1.png: not a picture"):
        nbconv.image_folder(tmp_path, size=(4, 4)).batch(np.arange(6))
    with pytest.warns(UserWarning, match=r"1 of 6 pictures cannot be read and are left out: .*1.png"):
        data = nbconv.image_folder(tmp_path, size=(4, 4), on_error="skip")
    assert [Path(p).name for p in data.skipped] == ["1.png"] and data.batch(np.arange(5))[1].tolist() == [0, 0, 0, 1, 1]
    for i in (0, 2):
        (tmp_path / "dog" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no picture can be read of dog"):
        nbconv.image_folder(tmp_path, size=(4, 4), on_error="skip")
    with pytest.raises(ValueError, match="on_error is 'ignore', wanted 'raise' or 'skip'"):
        nbconv.image_folder(tmp_path, on_error="ignore")


def test_what_is_no_data() -> None:
    x, y = batch()
    trainer = nbconv.Trainer(model(mlp()))
    for wrong, message in [
        (
            lambda: trainer.fit(x, y),
            r"train is one array \[12, 1, 4, 4\], wanted samples and targets in a tuple: fit\(\(x, y\)",
        ),
        (lambda: trainer.fit((x, y), x), r"validation is one array"),
        (lambda: trainer.fit("flowers/"), r"train is a path: give what reads it"),
        (lambda: trainer.fit([x, y]), r"batch 0 of the data is ndarray, wanted a pair"),
        (lambda: trainer.fit(3), r"train is int, wanted \(x, y\)"),
        (lambda: trainer.fit((x[:5], y)), "5 samples and 12 targets"),
        (lambda: trainer.fit((x, 3)), "targets are int, wanted an array with one a sample"),
        (lambda: as_data((x, [["a"]] * 12)), "targets are <U1, wanted integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_names_of_classes() -> None:
    x, y = batch(6)
    names = np.array(["owl", "cat", "dog"])
    for text in (names[y], names[y].tolist(), names[y].astype(object)):
        data = Arrays(x, text)
        assert data.classes == ("cat", "dog", "owl") and [data.classes[i] for i in data.labels] == list(names[y])
    assert Arrays(x, names[y], classes=names).labels.tolist() == y.tolist()
    with pytest.raises(ValueError, match=r"targets name dog, which classes does not have \(owl, cat\)"):
        Arrays(x, names[y], classes=names[:2])


@pytest.mark.parametrize(
    ("text", "labels", "classes"),
    [
        ("path,label\na.png,cat\nb.png,dog\n", [0, 1], ("cat", "dog")),
        ("a.png,10\nb.png,9\n", [1, 0], ("9", "10")),
        ("age;image\n3;a.png\n4;b.png\n", [0, 1], ("3", "4")),
        ("id,x,class\na.png,7,cat\nb.png,8,owl\n", [0, 1], ("cat", "owl")),
        ("image\tMEL\tNV\na\t1.0\t0.0\nb\t0.0\t1.0\n", [0, 1], ("MEL", "NV")),
        ("image,red,round\na,1,1\nb.png,true,False\n", [[1, 1], [1, 0]], ("red", "round")),
        ("file,score\na.png,0.5\nb.png,2\n", [0.5, 2], ()),
    ],
)
def test_tables(text: str, labels: list, classes: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png", (1, 2, 3))
    (tmp_path / "d.csv").write_text(text)
    data = nbconv.image_list(tmp_path / "d.csv", size=(4, 4))
    np.testing.assert_array_equal(data.labels, np.array(labels, np.float32))
    assert data.classes == classes and data.kind == ("label" if classes else "values")
    assert data.batch(np.arange(2))[0].shape == (2, 3, 4, 4)
    assert data.labels.dtype == (np.int64 if classes and np.ndim(labels) == 1 else np.float32)


def test_columns_by_name(tmp_path: Path) -> None:
    columns = {"photo": ["a.png", "b.png"], "x": [0.5, 1.5], "y": [2, 3], "split": ["train", "valid"]}
    data = nbconv.image_list({**columns, "split": ["a", "b"]}, image="photo", label=["x", "y"], folder=tmp_path)
    assert data.labels.tolist() == [[0.5, 2], [1.5, 3]] and data.paths[0] == tmp_path / "a.png"
    parts = nbconv.image_splits(columns, image="photo", label="y", kind="values")
    assert {n: p.labels.tolist() for n, p in parts.items()} == {"train": [2.0], "val": [3.0]}
    assert nbconv.image_list(columns, image="photo", label="y", split="val").classes == ("2", "3")
    assert nbconv.image_list({"path": ["a", "b"], "y": [1, 2]}, kind="values").labels.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,label\na.png,cat,dog\n", {}, r"d.csv, line 2: 3 columns, wanted 2 as in the first"),
        ("path\na.png\n", {}, r"line 1: 1 columns, wanted two columns or more"),
        ("path,a,b\nx.png,1,2\n", {}, r"has the columns path, a, b: say which are labels, label=…"),
        ("a,b,c\nx.png,1,2\n", {}, r"has the columns a, b, c: say which names pictures, image=…"),
        ("path,label\nx.png,\n", {}, r"d.csv, line 2: label is empty"),
        ("path,label\nx.png,1\n", {"label": "kind"}, r"has no column 'kind' \(label\), it has path, label"),
        ("path,label\nx.png,one\n", {"kind": "values"}, r"label is not all numbers, which kind='values' wants"),
        ("path,a,b\nx.png,1,no\n", {"label": ["a", "b"]}, r"b has 'no'; several columns of labels want numbers"),
        ("path,label,split\nx.png,1,train\n", {}, r"has the splits train: say which"),
        ("path,label\n", {}, r"d.csv has no lines"),
    ],
)
def test_wrong_tables(text: str, options: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        nbconv.image_list(tmp_path / "d.csv", **options)


def test_finetune_takes_one_hot_labels() -> None:
    x, y = batch(30)
    options = {"epochs": 3, "optimizer": nbconv.Adam(0.02)}
    wanted = nbconv.finetune(model(mlp()), (x, y), **options)
    for hot in (np.eye(3, dtype=np.float32)[y], np.eye(3, dtype=np.int32)[y], np.eye(3, dtype=bool)[y]):
        assert nbconv.finetune(model(mlp()), (x, hot), **options).history == wanted.history
        part = Arrays(x, hot).part(np.arange(30)[::-1]).part(np.arange(30)[::-1])
        assert nbconv.finetune(model(mlp()), part, **options).history == wanted.history
    for wrong, message in (
        (np.ones((30, 3), int), r"targets have shape \[30, 3\]"),
        (np.ones((30, 3)), "targets are float32"),
    ):
        with pytest.raises(ValueError, match=message):
            nbconv.finetune(model(mlp()), (x, wrong))


def test_finetune_of_masks_says_what_it_wants(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.png", (1, 2, 3))
    Image.new("L", (10, 12), 255).save(tmp_path / "masks.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks.png").rename(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="targets are masks, wanted integers: the numbers of classes"):
        nbconv.finetune(model(mlp()), tmp_path, task="classify")
