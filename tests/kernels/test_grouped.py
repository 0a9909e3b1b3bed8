"""Convolutions of few inputs a group, in strips: of several groups, of one; and of several filters a channel."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.kernels.target import host
from nbconv.lowering.conv import CONVOLUTIONS, WEIGHT_GRADIENTS
from nbconv.model import Model
from nbconv.ops import conv_weight_grad, convolution, lookup

F32 = np.dtype(np.float32)
ENDS = ("Relu", "Identity", "HardSwish", "Sigmoid", "LeakyRelu")


def graph_of(x: np.ndarray, w: np.ndarray, b: np.ndarray, fields: dict, end: str, residual: bool = False) -> Graph:
    """A convolution, what is added to it, and an activation."""
    nodes = [Node(lookup("Conv")(**fields), ("x", "w", "b"), ("c",))]
    if residual:
        nodes += [Node(lookup("Identity")(), ("x",), ("i",)), Node(lookup("Add")(), ("c", "i"), ("s",))]
    nodes.append(Node(lookup(end)(), ("s" if residual else "c",), ("y",)))
    return Graph(nodes, {"x": Spec(x.shape, F32)}, {"y": None}, {"w": w, "b": b})


@pytest.mark.parametrize("row", ["grouped", "first_layer", "depthwise_multiplied"])
def test_any_window(monkeypatch, row) -> None:
    """Random windows, images, channels and activations: what float64 gives, with the same bits on one thread and two."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [r for r in CONVOLUTIONS if r.name == row])
    rng, lanes = np.random.default_rng(7), host().lanes
    for i in range(40):
        kernel = rng.choice([1, 2, 3, 3, 3, 5, 7], 2)
        stride, dilation = rng.choice([1, 1, 1, 2, 2, 3], 2), rng.choice([1, 1, 2, 3], 2)
        size, pads = rng.integers(1, 30, 2), rng.integers(0, 6, 4)
        if row == "first_layer":
            kernel[1], stride[1], dilation[1], pads[1::2] = 3, 1 + i % 2, 1, pads[1::2] % 2
            size += 2
        elif i % 2:
            pads = np.concatenate([(kernel - 1) * dilation // 2] * 2)
        pads[:2] += np.maximum(0, (kernel - 1) * dilation + 1 - size - pads[:2] - pads[2:])
        n, end = int(rng.integers(1, 3)), ENDS[i % len(ENDS)]
        if row == "grouped":
            q = lanes if lanes == 4 else int(rng.choice([q for q in (2, 4, 8, 16) if q <= lanes]))
            groups, per = int(rng.integers(2, 80 // q + 2)), (q, q)
        elif row == "first_layer":
            groups, per = 1, (int(rng.integers(1, 16)), int(rng.choice([1, 15, 16, 17, 40, 64])))
        else:
            groups, per = int(rng.choice([2, 15, 16, 40])), (1, int(rng.integers(2, 6)))
        fields = {"strides": stride, "dilations": dilation, "pads": pads}
        fields = {"group": groups, **{name: tuple(map(int, value)) for name, value in fields.items()}}
        x = rng.standard_normal((n, groups * per[0], *size)).astype(F32)
        w = rng.standard_normal((groups * per[1], per[0], *kernel)).astype(F32)
        b = rng.standard_normal(groups * per[1]).astype(F32)
        graph = graph_of(x, w, b, fields, end)
        one, two = (Model(graph, threads=threads).run({"x": x})["y"] for threads in (1, 2))
        want = lookup("Conv")(**fields).reference(*(v.astype(np.float64) for v in (x, w, b)))
        want = lookup(end)().reference(want)
        np.testing.assert_array_equal(one, two)
        bound = 1e-5 * np.sqrt(kernel.prod() * per[0])
        np.testing.assert_allclose(one, want, rtol=0, atol=bound, err_msg=f"{x.shape} {w.shape} {fields} {end}")


def test_a_residual_and_views(monkeypatch) -> None:
    """What is added, in the kernel; and x and y in the middle of wider values."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [r for r in CONVOLUTIONS if r.name == "grouped"])
    rng, q = np.random.default_rng(5), host().lanes
    x, w = rng.standard_normal((2, 3 * q, 7, 9)).astype(F32), rng.standard_normal((3 * q, q, 3, 3)).astype(F32)
    b = rng.standard_normal(3 * q).astype(F32)
    fields = {"group": 3, "pads": (1, 1, 1, 1)}
    want = lookup("Conv")(**fields).reference(*(v.astype(np.float64) for v in (x, w, b)))
    model = Model(graph_of(x, w, b, fields, "Relu", residual=True))
    assert [s.kernel for s in model.plan({"x": x.shape}).steps].count("grouped.grouped") == 1
    np.testing.assert_allclose(model.run({"x": x})["y"], np.maximum(want + x, 0), rtol=0, atol=1e-4)

    nodes = [
        Node(lookup("Split")(axis=1, num_outputs=2), ("xx",), ("x", "rest")),
        Node(lookup("Conv")(**fields), ("x", "w", "b"), ("c",)),
        Node(lookup("Concat")(axis=1), ("rest", "c"), ("j",)),
        Node(lookup("MaxPool")(kernel_shape=(1, 1)), ("j",), ("y",)),
    ]
    xx = np.concatenate([x, -x], 1)
    model = Model(Graph(nodes, {"xx": Spec(xx.shape, F32)}, {"y": None}, {"w": w, "b": b}))
    np.testing.assert_allclose(model.run({"xx": xx})["y"], np.concatenate([-x, want], 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(0, 2), (5, 0)])
def test_filters_of_an_image_without_cells(monkeypatch, size: tuple[int, int]) -> None:
    """Written as often as a channel has filters it takes no memory; results are the bias."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [r for r in CONVOLUTIONS if r.name == "depthwise_multiplied"])
    w, b = np.ones((6, 1, 3, 3), F32), np.arange(6, dtype=F32)
    graph = graph_of(np.zeros((1, 2, *size), F32), w, b, {"group": 2, "pads": (2, 2, 2, 2)}, "Identity")
    y = Model(graph).run({"x": np.zeros((1, 2, *size), F32)})["y"]
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None, None], (1, 6, size[0] + 2, size[1] + 2)))


@pytest.mark.parametrize("value", [inf, -inf, np.nan])
def test_a_group_sees_no_other(value) -> None:
    """A cell that is not finite reaches its own group's results alone, and those whose window has it."""
    q, rng = 4, np.random.default_rng(3)
    x, w = rng.standard_normal((1, 5 * q, 9, 8)).astype(F32), rng.standard_normal((5 * q, q, 3, 3)).astype(F32)
    fields = {"group": 5, "pads": (1, 1, 1, 1)}
    graph = graph_of(x, w, np.zeros(5 * q, F32), fields, "Identity")
    model = Model(graph)
    assert "grouped.grouped" in {s.kernel for s in model.plan({"x": x.shape}).steps}
    before = model.run({"x": x})["y"]
    x[0, q + 1, 4, 5] = value
    y = model.run({"x": x})["y"]
    touched = np.zeros(y.shape, bool)
    touched[0, q : 2 * q, 3:6, 4:7] = True
    np.testing.assert_array_equal(y[~touched], before[~touched])
    assert not np.isfinite(y[touched]).any()


def test_gradients_by_the_input(monkeypatch) -> None:
    """At stride 1 these are such convolutions: of random windows, what float64 gives, with equal bits on two threads."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [r for r in CONVOLUTIONS if r.name == "grouped"])
    rng, lanes = np.random.default_rng(5), host().lanes
    for _ in range(12):
        q = lanes if lanes == 4 else int(rng.choice([q for q in (2, 4, 8, 16) if q <= lanes]))
        groups = int(rng.integers(1, 4)) * lanes // q * (1 + (q == lanes))
        kernel, dilation = rng.choice([1, 2, 3, 3, 5], 2), rng.choice([1, 1, 2], 2)
        pads = rng.integers(0, (kernel - 1) * dilation + 1)
        size = (kernel - 1) * dilation + rng.integers(1, 20, 2)
        out = size + 2 * pads - (kernel - 1) * dilation
        fields = {"size": size, "dilations": dilation, "pads": np.concatenate([pads, pads])}
        fields = {"group": groups, **{name: tuple(map(int, value)) for name, value in fields.items()}}
        dy = rng.standard_normal((2, groups * q, *out)).astype(F32)
        w = rng.standard_normal((groups * q, q, *kernel)).astype(F32)
        op = lookup("ConvGradInput", "nbconv")(**fields)
        inputs = {"dy": Spec(dy.shape, F32), "w": Spec(w.shape, F32)}
        graph = Graph([Node(op, ("dy", "w"), ("dx",))], inputs, {"dx": None}, {})
        one, two = (Model(graph, threads=threads).run({"dy": dy, "w": w})["dx"] for threads in (1, 2))
        want = op.reference(dy.astype(np.float64), w.astype(np.float64))
        assert np.array_equal(one, two), fields
        assert np.abs(one - want).max() <= 1e-5 * np.abs(want).max(), fields


def test_gradients_by_the_weights(monkeypatch) -> None:
    """Random windows, taps outside the image and padding that no tap leaves: what float64 gives, with equal bits on two
    threads."""
    rows = [r for r in WEIGHT_GRADIENTS if r.name == "weight_grad_grouped"]
    monkeypatch.setattr(conv_weight_grad, "WEIGHT_GRADIENTS", rows)
    rng, lanes = np.random.default_rng(6), host().lanes
    for _ in range(12):
        q = int(rng.choice([q for q in (4, 8) if q <= lanes]))
        groups = int(rng.integers(1, 4)) * lanes // q * (1 + (q == lanes))
        kernel, stride, dilation = (rng.choice(of, 2) for of in ((1, 2, 3, 3, 5), (1, 1, 2, 3), (1, 1, 2)))
        pads, size = rng.integers(0, 6, 2), (kernel - 1) * dilation + rng.integers(1, 20, 2)
        out = (size + 2 * pads - (kernel - 1) * dilation - 1) // stride + 1
        fields = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": np.concatenate([pads, pads])}
        fields = {"group": groups, **{name: tuple(map(int, value)) for name, value in fields.items()}}
        x, dy = (rng.standard_normal((2, groups * q, *s)).astype(F32) for s in (size, out))
        op = lookup("ConvGradWeight", "nbconv")(**fields)
        inputs = {"x": Spec(x.shape, F32), "dy": Spec(dy.shape, F32)}
        graph = Graph([Node(op, ("x", "dy"), ("dw",))], inputs, {"dw": None}, {})
        one, two = (Model(graph, threads=threads).run({"x": x, "dy": dy})["dw"] for threads in (1, 2))
        want = op.reference(x.astype(np.float64), dy.astype(np.float64))[0]
        assert np.array_equal(one, two), fields
        assert np.abs(one - want).max() <= 1e-5 * np.abs(want).max(), fields
