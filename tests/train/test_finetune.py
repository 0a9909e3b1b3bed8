"""finetune, from the call and the command line."""

from __future__ import annotations

import io
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbconv
from nbconv.cli import main
from nbconv.edit.head import find_head
from nbconv.graph import Graph, Spec
from nbconv.image import load_image
from nbconv.train import confusion
from tests.train.models import F32, batch, convolutional, mlp, model, node


def test_call_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = batch(60, classes=4)
    nbconv.save(mlp(), tmp_path / "m.onnx")
    report = nbconv.finetune(tmp_path / "m.onnx", (x, y), tmp_path / "m2.onnx", epochs=30, optimizer=nbconv.Adam(0.02))
    assert report.after > 0.8 > report.before
    assert report.confusion.sum() == 12 and report.confusion.shape == (4, 4)
    tuned = nbconv.load(tmp_path / "m2.onnx", threads=1)
    assert (tuned(x).argmax(axis=1) == y).mean() > 0.8
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "m2.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": x})[0], tuned(x), rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "d.npz", x=x, y=y, classes=["a", "b", "<c>", "d"])
    command = ["finetune", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "-o", str(tmp_path / "m3.onnx"), "--std", "1"]
    assert main([*command, "--lr", "0.02", "--epochs", "3", "--html", str(tmp_path / "r.html")]) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    assert "&lt;c&gt;" in (tmp_path / "r.html").read_text()
    assert nbconv.load(tmp_path / "m3.onnx")(x).shape == (60, 4)
    assert main([*command, "--widen", "1", "--epochs", "1"]) == 0
    assert find_head(nbconv.load(tmp_path / "m3.onnx").graph).features == 8 + 16
    assert main([*command, "--layers", "all", "--adapters", "2", "--epochs", "1"]) == 0
    change = nbconv.load(tmp_path / "m3.onnx").graph.constants["w1"] - mlp().constants["w1"]
    assert np.linalg.matrix_rank(change, tol=1e-6) == 2


def pictures(folder: Path) -> list[tuple[str, str]]:
    """(path, class) of 40 pictures: a square at the left or at the right, grey, as PNG and JPEG."""
    found = []
    for i in range(40):
        name = ("left", "right")[i % 2]
        x = np.random.default_rng(i).integers(0, 60, (10, 14), np.uint8)
        x[2:8, slice(0, 6) if name == "left" else slice(8, 14)] += 180
        path = Path(name, f"{i}.{('png', 'jpg')[i // 2 % 2]}")
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(x).convert("RGB").save(folder / path)
        found.append((str(path), name))
    return found


def sided() -> Graph:
    """(n, 3, 10, 14) to (n, 3): every pixel goes into the head."""
    nodes = [node("Flatten", "x", "flat", "flat"), node("Gemm", "flat w b", "y", "fc", transB=1)]
    constants = {"w": np.zeros((3, 420), np.float32), "b": np.zeros(3, np.float32)}
    return Graph(nodes, {"x": Spec(("n", 3, 10, 14), F32)}, {"y": Spec(("n", 3), F32)}, constants)


@pytest.mark.parametrize("listed", [False, True])
def test_folders_and_lists(listed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds of data teach left from right; the confusion matrix is drawn."""
    data, out = tmp_path / "data", tmp_path / "m2.onnx"
    data.mkdir()
    found = pictures(data)
    if listed:
        (data / "list.csv").write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in found))
    nbconv.save(sided(), tmp_path / "m.onnx")
    source = data / "list.csv" if listed else data
    command = ["finetune", str(tmp_path / "m.onnx"), str(source), "-o", str(out), "--epochs", "15", "--lr", "0.01"]
    assert main([*command, "--batch", "8", "--png", str(tmp_path / "c.png")]) == 0
    said = re.search(r"accuracy (\S+) before, (\S+) after", capsys.readouterr().out)
    assert said is not None and float(said[2]) == 1.0
    with Image.open(tmp_path / "c.png") as drawn:
        assert drawn.format == "PNG"
        colours = {c for _, c in drawn.convert("RGB").getcolors(1 << 20) or ()}
    assert (40, 120, 200) in colours  # the diagonal
    x = np.concatenate([load_image(data / path, (10, 14)) for path, _ in found])
    answers = nbconv.load(out)(x).argmax(axis=1)
    assert [("left", "right")[i] for i in answers] == [name for _, name in found]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"y": lambda y: y[:5]}, "", "d.npz: 60 samples and 5 targets"),
        ({"y": lambda y: y - 1}, "", "labels begin at -1, wanted 0 or more"),
        ({"y": lambda y: y + 0.5}, "", "targets are float32, wanted integers: the numbers of classes"),
        ({"y": lambda y: y.astype(complex)}, "", "d.npz: targets are complex128, wanted integers (labels), floats, or"),
        ({"y": lambda y: y.astype(object)}, "", "d.npz is no .npz file of numbers: an array is of objects"),
        ({"y": lambda y: y[:1], "x": lambda x: x[:1]}, "", "there are 1 samples, wanted two or more of a class"),
        ({"x": lambda x: x * np.nan}, "", "the loss is nan at step 1, learning rate 0.001: the step was not taken; nothing"),
        ({}, "--std 0", "std is [0.0], wanted finite numbers that are not 0"),
        ({}, "--mean nan", "mean is [nan], wanted finite numbers"),
        ({}, "--std 1,2", "std has 2 numbers, the samples have 1 channels"),
        ({}, "--std 1,b", "'1,b': wanted numbers separated by commas"),
        ({}, "--seed -1", "argument --seed: '-1': wanted an integer, 0 or more"),
        ({}, "--html none/r.html", "none/r.html: No such file or directory"),
        ({}, "--png .", ".: Is a directory"),
        ({}, "--out none/m.onnx", "none/m.onnx: No such file or directory"),
        ({}, "--layers last:x", "trainable is 'last:x', wanted last:1, last:2"),
    ],
)  # fmt: skip
def test_wrong_input(
    change: dict, options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line, before anything is trained or written."""
    monkeypatch.chdir(tmp_path)
    x, y = batch(60, classes=4)
    nbconv.save(mlp(), "m.onnx")
    np.savez("d.npz", **{name: change.get(name, np.asarray)(a) for name, a in (("x", x), ("y", y))})
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["finetune", "m.onnx", "d.npz", "-o", "m2.onnx", "--epochs", "1", "--std", "1", *options.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"nbconv: {message}") and said.count("\n") == 1, said
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.npz", None, "d.npz: No such file or directory"),
        ("d.npz", b"nothing", "d.npz is no .npz file of numbers: it is damaged, or another kind of file"),
        ("d.npz", b"PK\3\4nothing", "d.npz is no .npz file of numbers: it is damaged, or another kind of file"),
        ("d.csv", b"\xff\xfe\0,\x80\n", "d.csv is no CSV file in UTF-8"),
        ("d.csv", b"none.png,a\nnone.png,b\n" * 4, "none.png: No such file or directory"),
        ("d.csv", b"none.png,a\nnone.png,b\n", "none.png: No such file or directory"),
        ("d.txt", b"nothing", "d.txt is no folder, .csv, .npz or COCO's .json"),
    ],
)
def test_wrong_files(
    name: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    nbconv.save(mlp(), "m.onnx")
    if content is not None:
        Path(name).write_bytes(content)
    assert main(["finetune", "m.onnx", name, "-o", "m2.onnx"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"nbconv: {message}") and said.count("\n") == 1, said


def test_a_list_may_begin_with_a_mark(tmp_path: Path) -> None:
    """As spreadsheets write UTF-8."""
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbfpath,label\na.png,cat\nb.png,dog\n")
    found = nbconv.image_list(tmp_path / "d.csv", size=(4, 4))
    assert [Path(p).name for p in found.paths] == ["a.png", "b.png"] and found.classes == ("cat", "dog")


def test_flip(tmp_path: Path) -> None:
    """Mirrored half of the time, left and right cannot be told apart; the same run without --flip can."""
    pictures(tmp_path)
    nbconv.save(sided(), tmp_path / "m.onnx")
    command = ["finetune", str(tmp_path / "m.onnx"), str(tmp_path), "-o", str(tmp_path / "m2.onnx"), "--epochs", "15"]
    assert main([*command, "--lr", "0.003", "--flip"]) == 0
    x, wanted = nbconv.image_folder(tmp_path, size=(10, 14)).batch(np.arange(40))
    sure = nbconv.load(tmp_path / "m2.onnx")(x)
    assert main([*command, "--lr", "0.003"]) == 0
    surer = nbconv.load(tmp_path / "m2.onnx")(x)
    sides = np.where(wanted == 1, 1, -1)
    assert ((surer[:, 1] - surer[:, 0]) * sides).mean() > 3 * abs(((sure[:, 1] - sure[:, 0]) * sides).mean())


@pytest.mark.parametrize("classes", [1, 5, 40, 700])
def test_confusion_picture(classes: int) -> None:
    matrix = np.arange(classes * classes).reshape(classes, classes)
    names = [f"{'an uncommonly long name, ' * 9}{i} 猫\n" for i in range(classes)]
    with Image.open(io.BytesIO(confusion.png(matrix, names, "accuracy 1; 2 s"))) as drawn:
        assert max(drawn.size) < 1700


def test_confusion_picture_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install Pillow"):
        confusion.png(np.eye(2, dtype=int), ["a", "b"], "")


def test_learning_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    x, y = batch(24)
    nbconv.Trainer(model(mlp())).fit((x, y), 0.25, epochs=2, callbacks=[nbconv.LearningCurve(tmp_path / "c.png")])
    with Image.open(tmp_path / "c.png") as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (1080, 420))
        assert len(drawn.convert("RGB").getcolors(1 << 20) or ()) > 10  # curves, not an empty frame


def test_learning_curve_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ImportError, match=r"pip install 'nbconv\[train\]'"):
        nbconv.LearningCurve("c.png")


def test_empty_class_folder(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="no pictures in cats, dogs"):
        nbconv.image_folder(tmp_path, size=(8, 8))


@pytest.mark.parametrize("graph", [mlp, convolutional])
def test_head_and_file(graph, tmp_path: Path) -> None:
    nbconv.save(graph(), tmp_path / "m.onnx")
    m = nbconv.load(tmp_path / "m.onnx", threads=1)
    head = m.replace_head(5)
    assert (head.classes, head.op) == (3, "Gemm" if graph is mlp else "Conv")
    x, y = batch(10, tuple(int(d) for d in m.inputs[0].shape[1:]), classes=5)  # pyright: ignore[reportOptionalSubscript]
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.1))
    trainer.step(x, y)
    trainer.save(tmp_path / "kept.onnx")
    trainer.save(tmp_path / "folded.onnx", fold=True)
    for name in ("kept.onnx", "folded.onnx"):
        again = nbconv.load(tmp_path / name, threads=1)
        np.testing.assert_allclose(again(x), trainer.predict(x), rtol=1e-4, atol=1e-5)
        assert "nbconv.training" in again.graph.metadata
    kept = nbconv.load(tmp_path / "kept.onnx").graph
    assert [n.name for n in kept.nodes] == [n.name for n in nbconv.load(tmp_path / "m.onnx").graph.nodes]
    with pytest.raises(ValueError, match="classes is 0"):
        model(graph()).replace_head(0)
