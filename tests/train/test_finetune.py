"""finetune, from the call and the command line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.cli import main
from tests.train.models import batch, convolutional, mlp, model


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
