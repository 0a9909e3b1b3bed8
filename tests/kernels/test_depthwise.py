"""Depthwise convolutions of any window, by strips."""

from __future__ import annotations

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup

F32 = np.dtype(np.float32)
ENDS = ("Relu", "Identity", "HardSwish", "Sigmoid", "LeakyRelu")


def test_any_window() -> None:
    """Random windows, images, channels and activations: what float64 gives, with the same bits on one thread and two."""
    rng = np.random.default_rng(11)
    for i in range(60):
        kernel = rng.choice([1, 2, 3, 3, 5, 5, 7, 7, 9, 11], 2)
        stride, dilation = rng.choice([1, 1, 1, 2, 3], 2), rng.choice([1, 1, 2, 3], 2)
        size, pads = rng.integers(1, 30, 2), rng.integers(0, 6, 4)
        if i % 2:
            pads = np.concatenate([(kernel - 1) * dilation // 2] * 2)
        pads[:2] += np.maximum(0, (kernel - 1) * dilation + 1 - size - pads[:2] - pads[2:])
        c, n, act = int(rng.choice([2, 15, 16, 17, 40, 130])), int(rng.integers(1, 3)), ENDS[i % len(ENDS)]
        fields = {"strides": stride, "dilations": dilation, "pads": pads}
        conv = lookup("Conv")(group=c, **{name: tuple(map(int, value)) for name, value in fields.items()})
        end = lookup(act)()
        x = rng.standard_normal((n, c, *size)).astype(F32)
        w, b = rng.standard_normal((c, 1, *kernel)).astype(F32), rng.standard_normal(c).astype(F32)
        nodes = [Node(conv, ("x", "w", "b"), ("c",)), Node(end, ("c",), ("y",))]
        graph = Graph(nodes, {"x": Spec(x.shape, F32)}, {"y": None}, {"w": w, "b": b})
        one, two = (Model(graph, threads=threads).run({"x": x})["y"] for threads in (1, 2))
        want = end.reference(conv.reference(*(v.astype(np.float64) for v in (x, w, b))))
        np.testing.assert_array_equal(one, two)
        bound = 1e-6 * np.sqrt(kernel.prod()) * 10
        np.testing.assert_allclose(one, want, rtol=0, atol=bound, err_msg=f"{x.shape} {kernel} {fields} {act}")


def test_an_image_without_columns_is_its_padding() -> None:
    """Then results are the bias."""
    w, b = np.ones((2, 1, 1, 1), F32), np.array([3, 5], F32)
    conv = Node(lookup("Conv")(group=2, pads=(0, 1, 0, 1)), ("x", "w", "b"), ("y",))
    graph = Graph([conv], {"x": Spec((1, 2, 4, 0), F32)}, {"y": None}, {"w": w, "b": b})
    y = Model(graph).run({"x": np.zeros((1, 2, 4, 0), F32)})["y"]
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None, None], (1, 2, 4, 2)))
