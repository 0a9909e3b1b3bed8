"""Weights that are stored in other types and places: half precision, quantised, behind MatMul and Add; heads, features, and
files when the disk is full."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv import models
from nbconv.base import files
from nbconv.graph import Graph, Spec
from tests.train.models import F32, batch, convolutional, mlp, model, node


def halved() -> Graph:
    """`convolutional` with convolutions' weights stored as float16, each behind a Cast, as exporters write them."""
    graph = convolutional()
    names = ("w1", "w2", "w3")
    constants = {n: a.astype(np.float16) if n in names else a for n, a in graph.constants.items()}
    constants = {f"{n}_half" if n in names else n: a for n, a in constants.items()}
    casts = [node("Cast", f"{n}_half", n, f"cast_{n}", to=1) for n in names]
    return Graph([*casts, *graph.nodes], graph.inputs, graph.outputs, constants)


def quantised() -> Graph:
    """`mlp` with int8 weights behind DequantizeLinear, the first one's scale per channel."""
    graph = mlp()
    constants, nodes = dict(graph.constants), []
    for name, per in (("w1", True), ("w2", False)):
        w = constants.pop(name)
        scale = (np.abs(w).max(axis=1 if per else None) / 127).astype(np.float32)
        constants[f"{name}_q"] = np.rint(w / (scale[:, None] if per else scale)).astype(np.int8)
        constants[f"{name}_scale"] = scale
        constants[f"{name}_zero"] = np.zeros(scale.shape, np.int8)
        nodes.append(node("DequantizeLinear", f"{name}_q {name}_scale {name}_zero", name, f"dq_{name}", axis=0))
    return Graph([*nodes, *graph.nodes], graph.inputs, graph.outputs, constants)


def matmul() -> Graph:
    """(n, 1, 4, 4) to (n, 3): a MatMul whose result gets a bias from the left, a Reshape that names the classes."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Flatten", "x", "flat", "flat"),
        node("MatMul", "flat w1", "m1", "mm1"), node("Add", "m1 b1", "a1", "add1"), node("Relu", "a1", "r", "relu"),
        node("MatMul", "r w2", "m2", "mm2"), node("Add", "b2 m2", "a2", "add2"), node("Reshape", "a2 shape", "y", "reshape"),
    ]  # fmt: skip
    constants = {
        "w1": rng.standard_normal((16, 8)) * 0.3, "b1": rng.standard_normal(8) * 0.1,
        "w2": rng.standard_normal((8, 3)) * 0.3, "b2": np.zeros(3),
    }  # fmt: skip
    values = {k: v.astype(np.float32) for k, v in constants.items()} | {"shape": np.array([-1, 3])}
    return Graph(nodes, {"x": Spec(("n", 1, 4, 4), F32)}, {"y": Spec(("n", 3), F32)}, values)


def same_in_onnxruntime(path: Path, x: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(nbconv.load(path, threads=1)(x), wanted, rtol=1e-4, atol=1e-5)
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        np.testing.assert_allclose(session.run(None, {name: x})[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [halved, quantised, matmul])
def test_masters_are_float32_and_saved_as_they_were(graph, tmp_path: Path) -> None:
    nbconv.save(graph(), tmp_path / "m.onnx")
    m = nbconv.load(tmp_path / "m.onnx", threads=1)
    shape = (2, 7, 9) if graph is halved else (1, 4, 4)
    x, y = batch(12, shape)
    before = m(x)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(1e-3))
    np.testing.assert_allclose(trainer.predict(x), before, rtol=1e-5, atol=1e-6)
    weights = {"w1", "w2"} | ({"w3"} if graph is halved else set())
    assert weights <= {p.value for p in trainer.parameters}
    start = {n: trainer.state[n].copy() for n in weights}
    first = trainer.step(x, y)
    for _ in range(20):
        last = trainer.step(x, y)
    assert last < first
    for name, value in start.items():
        assert trainer.state[name].dtype == np.float32
        assert not np.array_equal(trainer.state[name], value)
        exact = trainer.graph().constants
        if graph is quantised:
            scale = exact[f"{name}_scale"].reshape(-1, 1)
            rounded = np.clip(np.rint(trainer.state[name] / scale), -128, 127)
            np.testing.assert_array_equal(exact[f"{name}_q"], rounded)
        else:
            np.testing.assert_array_equal(next(exact[n] for n in (name, f"{name}_half") if n in exact), trainer.state[name])
    trainer.save(tmp_path / "m2.onnx")
    same_in_onnxruntime(tmp_path / "m2.onnx", x, trainer.predict(x))
    again = nbconv.Trainer(nbconv.load(tmp_path / "m2.onnx", threads=1), optimizer=nbconv.SGD(1e-3))
    for name in weights:
        value = next(a for n, a in again.state.items() if n == name)
        step = trainer.graph().constants[f"{name}_scale"].reshape(-1, 1) / 2 if graph is quantised else 0.0
        assert (np.abs(value - trainer.state[name]) <= step * 1.001).all()


@pytest.mark.parametrize("graph", [halved, quantised, matmul])
def test_new_heads(graph, tmp_path: Path) -> None:
    nbconv.save(graph(), tmp_path / "m.onnx")
    m = nbconv.load(tmp_path / "m.onnx", threads=1)
    head = m.replace_head(5)
    assert head.classes == 3
    x, y = batch(20, (2, 7, 9) if graph is halved else (1, 4, 4), classes=5)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.1), trainable="head")
    assert len(trainer.parameters) == 2
    losses = trainer.fit((x, y), epochs=3, batch_size=5)["loss"]
    assert losses[-1] < losses[0]
    trainer.save(tmp_path / "m2.onnx")
    assert trainer.predict(x).shape == (20, 5)
    same_in_onnxruntime(tmp_path / "m2.onnx", x, trainer.predict(x))


def test_bundled_half_precision_classifier(tmp_path: Path) -> None:
    m = nbconv.load(models.efficientnet_lite0(), threads=1)
    m.replace_head(3)
    x, y = batch(6, (3, 224, 224))
    found = m.features(x)
    assert found.shape[:2] == (6, 1280)
    trainer = nbconv.Trainer(m, optimizer=nbconv.Adam(1e-2), trainable="head")
    losses = trainer.fit((x, y), epochs=20, batch_size=6)["loss"]
    assert losses[-1] < losses[0] / 3
    trainer.save(tmp_path / "m.onnx")
    same_in_onnxruntime(tmp_path / "m.onnx", x, trainer.predict(x))
    assert (tmp_path / "m.onnx").stat().st_size < 1 << 24


def test_features() -> None:
    x, _ = batch(7, (2, 7, 9))
    m = model(convolutional())
    pooled = m.features(x, batch_size=3)
    np.testing.assert_array_equal(pooled, m.features(x, "pool"))
    np.testing.assert_allclose(pooled[:, :, 0, 0], m.features(x, "conv2").mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(m.features(x, "c2"), m.run({"x": x}, ["c2"])["c2"], rtol=1e-6)
    with pytest.raises(ValueError, match="nowhere"):
        m.features(x, "nowhere")


class Full:
    """A file on a disk that is full after ``room`` bytes."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        data = bytes(data)
        self.file.write(data[: self.room])
        if len(data) > self.room:
            raise OSError(28, "No space left on device")
        self.room -= len(data)
        return len(data)

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


@pytest.mark.parametrize("fold", [False, True])
def test_a_full_disk_leaves_the_old_file(fold: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    nbconv.save(convolutional(), path)
    kept = path.read_bytes()
    m = nbconv.load(path, threads=1)
    x, y = batch(6, (2, 7, 9))
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.1))
    trainer.step(x, y)
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda p, mode: Full(Path(p).open(mode), 100), raising=False)  # noqa: SIM115
        for save in (trainer.save, m.save):
            with pytest.raises(OSError, match="No space"):
                save(path, fold=fold)
            assert path.read_bytes() == kept and os.listdir(tmp_path) == ["m.onnx"]
    trainer.save(path, fold=fold)
    assert path.read_bytes() != kept
    np.testing.assert_allclose(nbconv.load(path, threads=1)(x), trainer.predict(x), rtol=1e-4, atol=1e-5)
