"""A head that reads earlier layers, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.edit.head import find_head
from nbconv.edit.widen import widened
from nbconv.graph import Graph, Node, Spec
from tests.train.models import F32, batch, convolutional, mlp, model, node


def chain(seed: int, rank: int, head: str) -> Graph:
    """A few convolutions of random channels over ``rank`` axes, their mean, and a head: Gemm (transposed or not), MatMul
    and Add, or a 1×1 convolution before the Flatten."""
    rng = np.random.default_rng(seed)
    nodes, constants, x, channels = [], {}, "x", 2
    for i in range(int(rng.integers(2, 5))):
        new = int(rng.integers(1, 7))
        constants[f"w{i}"] = rng.standard_normal((new, channels, *[3] * rank)) * 0.4
        nodes += [node("Conv", f"{x} w{i}", f"c{i}", f"conv{i}", pads=(1,) * (2 * rank)), node("Relu", f"c{i}", f"r{i}")]
        x, channels = f"r{i}", new
    nodes.append(node("GlobalAveragePool", x, "mean"))
    if head != "conv":
        nodes.append(node("Flatten", "mean", "flat"))
    w, constants["b"] = rng.standard_normal((3, channels)), rng.standard_normal(3)
    if head == "conv":
        nodes += [node("Conv", "mean w b", "z", "head"), node("Flatten", "z", "y")]
        w = w.reshape(*w.shape, *[1] * rank)
    elif head == "matmul":
        nodes += [node("MatMul", "flat w", "z", "head"), node("Add", "z b", "y")]
        w = w.T
    else:
        nodes.append(node("Gemm", "flat w b", "y", "head", transB=int(head == "transposed")))
        w = w if head == "transposed" else w.T
    constants["w"] = w
    sizes = tuple(int(d) for d in rng.integers(3, 7, rank))
    return Graph(
        nodes, {"x": Spec(("n", 2, *sizes), F32)}, {"y": Spec(("n", 3), F32)},
        {k: np.ascontiguousarray(v, F32) for k, v in constants.items()},
    )  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("head", ["transposed", "gemm", "matmul", "conv"])
def test_outputs_stay_and_the_head_sees_means(rank: int, head: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    for seed in range(3):
        net = model(chain(10 * rank + seed, rank, head))
        x = np.random.default_rng(seed).standard_normal((5, *net.inputs[0].shape[1:])).astype(F32)
        before = net(x)
        read = net.run({"x": x}, [f"r{i}" for i in range(5) if f"r{i}" in net.graph.producers()])
        names = net.widen_head(sum(n.op.type == "Conv" for n in net.graph.nodes) - (2 if head == "conv" else 1))
        assert names == list(read)[:-1]
        np.testing.assert_allclose(net(x), before, atol=1e-6)
        wide = net.features(x)
        expected = [read[n].mean(axis=tuple(range(2, 2 + rank))) for n in (list(read)[-1], *names)]
        np.testing.assert_allclose(wide.reshape(5, -1), np.concatenate(expected, 1), atol=1e-6)
        trainer = nbconv.Trainer(net, optimizer=nbconv.SGD(0.1), trainable="head")
        trainer.fit((x, np.arange(5) % 3), epochs=2, batch_size=5)
        path = tmp_path / f"{seed}.onnx"
        trainer.save(path)
        found = ort.InferenceSession(str(path)).run(None, {"x": x})[0]
        np.testing.assert_allclose(found, trainer.predict(x), atol=1e-5)
        assert np.abs(found - before).max() > 1e-3


def test_training_is_that_of_a_regression_on_the_means() -> None:
    """Two steps of SGD, written in NumPy."""
    net = model(convolutional())
    x, y = batch(12, (2, 7, 9))
    net.widen_head(1)
    f = net.features(x)[:, :, 0, 0].astype(np.float64)
    trainer = nbconv.Trainer(net, optimizer=nbconv.SGD(0.1), trainable="head")
    w, b = trainer.state["w3"][:, :, 0, 0].astype(np.float64), trainer.state["b3"].astype(np.float64)
    for _ in range(2):
        trainer.step(x, y)
        z = f @ w.T + b
        p = np.exp(z - z.max(1, keepdims=True))
        d = (p / p.sum(1, keepdims=True) - np.eye(3)[y]) / len(y)
        w, b = w - 0.1 * d.T @ f, b - 0.1 * d.sum(0)
    np.testing.assert_allclose(trainer.state["w3"][:, :, 0, 0], w, atol=1e-5)
    assert np.abs(w[:, 6:]).max() > 1e-3  # the new ones learn, too


@pytest.mark.parametrize("trainable", ["head", "last:2"])
def test_features_of_several_layers_are_kept(trainable: str) -> None:
    """Losses are those without a cache, where several values come from frozen layers."""
    x, y = batch(12, (2, 7, 9))
    losses = []
    for cache in (True, False):
        net = model(convolutional(norm=False))
        net.widen_head(1)
        trainer = nbconv.Trainer(net, optimizer=nbconv.Adam(1e-2), trainable=trainable)
        history = trainer.fit((x, y), epochs=3, batch_size=4, cache=cache)
        assert history.report["cached"] is cache
        losses.append(history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_new_head_keeps_the_features_and_a_file_too(tmp_path: Path) -> None:
    net = model(convolutional())
    assert net.widen_head(["relu1"]) == ["r1"]
    assert net.replace_head(5).features == 12
    path = tmp_path / "m.onnx"
    net.save(path)
    again = nbconv.load(path)
    assert find_head(again.graph)[5:] == (12, 5)
    x, _ = batch(4, (2, 7, 9))
    np.testing.assert_array_equal(again(x), net(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_steps_of_a_sequence_are_averaged(dtype: type) -> None:
    """Values whose channels lie along the last axis, of both types."""
    rng = np.random.default_rng(3)
    nodes = [
        node("MatMul", "x w1", "a", "first"), node("Relu", "a", "r"), node("MatMul", "r w2", "c", "second"),
        node("ReduceMean", "c axes", "m", keepdims=0), node("Gemm", "m w b", "y", "head"),
    ]  # fmt: skip
    sizes = {"w1": (4, 5), "w2": (5, 6), "w": (6, 3), "b": (3,)}
    constants = {name: rng.standard_normal(shape).astype(dtype) for name, shape in sizes.items()}
    spec = Spec(("n", 7, 4), np.dtype(dtype))
    net = model(Graph(nodes, {"x": spec}, {"y": None}, {**constants, "axes": np.array([1])}))
    x = rng.standard_normal((2, 7, 4)).astype(dtype)
    before = net(x)
    assert net.widen_head(1) == ["r"]
    np.testing.assert_array_equal(net(x), before)
    r = net.run({"x": x}, ["r"])["r"].astype(np.float32)
    np.testing.assert_allclose(net.features(x)[:, 6:], r.mean(1), rtol=2e-3 if dtype is np.float16 else 1e-6)


def steps_first(steps: int) -> Graph:
    """(n, steps, 4) to (n, 3), with steps before samples between: what layers read is no vector of a sample."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Transpose", "x", "t", perm=(1, 0, 2)), node("MatMul", "t w1", "a", "first"), node("Relu", "a", "r"),
        node("MatMul", "r w2", "b", "second"), node("Gather", "b zero", "f", axis=0), node("MatMul", "f w", "y", "last"),
    ]  # fmt: skip
    constants = {n: rng.standard_normal(s).astype(F32) for n, s in (("w1", (4, 5)), ("w2", (5, 6)), ("w", (6, 3)))}
    return Graph(nodes, {"x": Spec(("n", steps, 4), F32)}, {"y": None}, {**constants, "zero": np.array(0)})


def test_what_cannot_be_widened() -> None:
    with pytest.raises(ValueError, match="layers is 2, wanted 1 to 1: so many stand before the head head"):
        widened(convolutional(), 2)
    with pytest.raises(ValueError, match="'x' is no value before the head that a layer reads; the last are r1"):
        widened(convolutional(), ["x"])
    assert widened(convolutional(), "r1")[1] == ["r1"]
    with pytest.raises(ValueError, match="no layer before the head last reads what can be averaged"):
        widened(steps_first(3), 1)
    twice, _ = widened(convolutional(), 1)
    with pytest.raises(ValueError, match="head was widened already"):
        widened(twice, 1)
    pixels = convolutional()
    pixels.nodes = [Node(n.op, ("c2", *n.inputs[1:]), n.outputs, n.name) if n.name == "head" else n for n in pixels.nodes]
    with pytest.raises(
        ValueError, match=r"head \(Conv\) reads c2, \[6, 3, 7\] a sample: a head can be widened that reads a vector"
    ):
        widened(pixels, 1)
    graph, names = widened(mlp(), 1)
    assert names == ["flat"]
    assert graph.constants["w2"].shape == (3, 24)
