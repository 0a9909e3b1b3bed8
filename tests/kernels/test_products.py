"""Convolutions and matrix products: every tile height and width, depths beyond one chunk, odd geometry, fused epilogues."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.model import Model
from nbconv.ops import lookup
from tests.check import sampler
from tests.kernels.harness import check_kernels, one_node, reference


def check(op: Op, *inputs: np.ndarray | None) -> None:
    with np.errstate(all="ignore"):
        check_kernels(op, inputs, (op.reference(*inputs),))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("k", [1, 3, 4, 6, 384, 385, 1000])
def test_every_tile_height(k: int) -> None:
    r = sampler(k)
    for m in range(1, 31):
        check(lookup("Gemm")(), r(m, k), r(k, (m * 7) % 70 + 1), r((m * 7) % 70 + 1))


@pytest.mark.parametrize("k", [1, 5, 400])
def test_every_width(k: int) -> None:
    r = sampler(k)
    for n in range(1, 71):
        check(lookup("MatMul")(), r(n % 30 + 1, k), r(k, n))


def test_many_blocks() -> None:
    """Beyond one block of rows and of panels."""
    r = sampler(3)
    for m, k, n in ((700, 33, 17), (97, 1200, 230), (3, 2100, 600), (1, 513, 1000)):
        check(lookup("Gemm")(transB=1), r(m, k), r(n, k), r(n))
        check(lookup("MatMul")(), r(2, m, k), r(2, k, n))


# channels in, channels out, groups, size, kernel, strides, dilations, pads
CONVS = [
    (1, 1, 1, (1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    (3, 17, 1, (9, 8), (3, 3), (2, 1), (1, 1), (1, 0, 2, 1)),
    (5, 33, 1, (7, 11), (5, 2), (1, 3), (1, 2), (0, 3, 1, 0)),
    (12, 20, 4, (6, 7), (3, 1), (1, 1), (2, 1), (2, 0, 0, 0)),
    (34, 34, 2, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (6, 66, 3, (5, 9), (2, 2), (3, 2), (1, 3), (1, 1, 1, 1)),
    (400, 9, 1, (4, 3), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    (400, 35, 1, (5, 4), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (800, 12, 2, (3, 3), (2, 2), (1, 1), (1, 1), (0, 1, 1, 0)),
    (2, 3, 1, (40, 40), (21, 21), (1, 1), (1, 1), (10, 10, 10, 10)),
    (1, 2, 1, (70, 70), (67, 66), (1, 1), (1, 1), (0, 0, 0, 0)),
    (8, 16, 8, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),  # two filters a channel
    (7, 7, 7, (9, 14), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (16, 16, 16, (9, 23), (5, 5), (2, 2), (1, 1), (1, 2, 2, 1)),
    (17, 17, 17, (8, 9), (3, 3), (2, 2), (1, 1), (0, 1, 1, 0)),
    (31, 31, 31, (7, 30), (3, 5), (1, 1), (2, 1), (2, 2, 2, 2)),
    (33, 33, 33, (7, 6), (7, 7), (1, 1), (1, 1), (3, 3, 3, 3)),
    (5, 5, 5, (4, 3), (3, 3), (3, 3), (1, 1), (2, 2, 2, 2)),
    (20, 20, 20, (6, 17), (2, 3), (1, 2), (3, 3), (3, 4, 0, 2)),
    (9, 9, 9, (2, 1), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    (3, 3, 3, (1, 9), (3, 3), (1, 1), (1, 1), (5, 5, 5, 5)),  # windows that see nothing but padding
    (6, 11, 1, (13,), (3,), (2,), (2,), (2, 1)),
    (6, 6, 6, (29,), (5,), (1,), (1,), (0, 4)),
]


@pytest.mark.parametrize("row", CONVS, ids=str)
def test_conv(row: tuple) -> None:
    ci, co, group, size, kernel, strides, dilations, pads = row
    r = sampler(ci)
    op = lookup("Conv")(group=group, strides=strides, dilations=dilations, pads=pads)
    for n in (1, 2):
        check(op, r(n, ci, *size), r(co, ci // group, *kernel), r(co))


# channels in, channels out, groups, size, kernel, strides, dilations, pads, output_padding
TRANSPOSES = [
    (3, 5, 1, (4, 3), (2, 2), (3, 4), (1, 1), (0, 0, 0, 0), (0, 0)),  # strides beyond the kernel
    (3, 5, 1, (4, 3), (2, 2), (3, 4), (1, 1), (1, 0, 0, 1), (2, 3)),
    (17, 18, 1, (3, 5), (4, 4), (2, 2), (1, 1), (1, 1, 1, 1), (0, 0)),
    (6, 9, 3, (3, 4), (3, 3), (2, 1), (2, 3), (0, 1, 1, 2), (1, 0)),
    (5, 5, 5, (5, 3), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), (1, 1)),
    (4, 33, 1, (2, 2), (5, 3), (4, 3), (2, 3), (2, 1, 0, 3), (1, 2)),
    (450, 7, 1, (2, 3), (3, 2), (1, 1), (1, 1), (0, 0, 0, 0), (0, 0)),
    (4, 6, 2, (7,), (3,), (4,), (2,), (1, 0), (3,)),
    (2, 3, 1, (1, 1), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
]


@pytest.mark.parametrize("row", TRANSPOSES, ids=str)
def test_conv_transpose(row: tuple) -> None:
    ci, co, group, size, kernel, strides, dilations, pads, extra = row
    r = sampler(co)
    op = lookup("ConvTranspose")(group=group, strides=strides, dilations=dilations, pads=pads, output_padding=extra)
    check(op, r(2, ci, *size), r(ci, co // group, *kernel), r(co))


ACTIVATIONS = [
    lookup("Relu")(),
    lookup("LeakyRelu")(alpha=0.2),
    lookup("Sigmoid")(),
    lookup("HardSigmoid")(alpha=0.3, beta=0.4),
    lookup("HardSwish")(),
    lookup("Tanh")(),
    lookup("Gelu")(),
    lookup("Silu", "nbconv")(),
    lookup("Clip")(),
]
MAKERS = {
    "Conv": (lookup("Conv")(pads=(1, 1, 0, 1), strides=(2, 1)), (2, 5, 6, 7), (19, 5, 3, 3), 19),
    "deep": (lookup("Conv")(pads=(1, 1, 1, 1)), (1, 390, 3, 5), (35, 390, 3, 3), 35),
    "groups": (lookup("Conv")(group=2), (2, 8, 4, 3), (22, 4, 2, 2), 22),
    "depthwise": (lookup("Conv")(group=21, pads=(1, 1, 1, 1)), (2, 21, 4, 12), (21, 1, 3, 3), 21),
    "transposed": (lookup("ConvTranspose")(strides=(2, 3), pads=(0, 1, 1, 0)), (2, 5, 3, 4), (5, 19, 3, 2), 19),
    "Gemm": (lookup("Gemm")(transB=1), (13, 400), (37, 400), 37),
    "MatMul": (lookup("MatMul")(), (2, 7, 9), (9, 37), None),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("residual", [False, True])
def test_fused(maker: str, residual: bool) -> None:
    """Maker, sum and activation as one step, against the three in float64; NaN and infinity where those have them."""
    op, xs, ws, co = MAKERS[maker]
    r = sampler(len(maker))
    x, w = r(*xs), r(*ws)
    shape = op.infer(*(Spec(s, x.dtype) for s in (xs, ws))).shape
    other = r(*shape)
    other.flat[::11], other.flat[5::37], other.flat[7::41] = np.nan, np.inf, -np.inf
    constants = {"w": w, "low": np.float32(-0.5).reshape(()), "high": np.float32(0.75).reshape(())}
    maker_inputs = ("x", "w") if co is None else ("x", "w", "b")
    if co is not None:
        constants["b"] = r(co)
    for activation in ACTIVATIONS:
        nodes = [Node(op, maker_inputs, ("made",))]
        if residual:
            nodes.append(Node(lookup("Add")(), ("other", "made"), ("sum",)))
        tail = ("low", "high") if activation.type == "Clip" else ()
        nodes.append(Node(activation, (nodes[-1].outputs[0], *tail), ("y",)))
        feeds = {"x": x, "other": other} if residual else {"x": x}
        graph = Graph(nodes, {k: Spec(v.shape, v.dtype) for k, v in feeds.items()}, {"y": None}, constants)
        model = Model(graph, threads=1)
        y = model.run(feeds)["y"]
        np.testing.assert_array_equal(y, model.run(feeds, threads=2)["y"])
        computing = {s.node.outputs[0].partition("#")[0] for s in model.plan({k: v.shape for k, v in feeds.items()}).steps}
        fuses = not (residual and maker == "depthwise")
        assert (computing - {"x", "other"} == {"y"}) == fuses, f"{maker}, {activation!r}: steps make {computing}"
        want = reference(graph, feeds)["y"]
        scale = np.abs(reference(graph, feeds)["made"]).max()
        np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6 * scale, err_msg=f"{maker}, {activation!r}")


def test_strided_batches() -> None:
    """A leading axis on one side only; equal sizes that are not equal shapes."""
    r = sampler(9)
    for a, b in (
        ((2, 1, 3, 4), (1, 2, 4, 5)),
        ((3, 4), (2, 4, 5)),
        ((4,), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((1, 2, 3, 4), (2, 4, 5)),
    ):
        check(lookup("MatMul")(), r(*a), r(*b))


def test_nothing_to_sum() -> None:
    """k = 0 leaves the bias."""
    for op, inputs in (("Gemm", ((3, 0), (0, 4), (4,))), ("MatMul", ((3, 0), (0, 4)))):
        arrays = [np.ones(s, np.float32) for s in inputs]
        graph = one_node(lookup(op)(), tuple(arrays), 1, (0,), False)
        assert graph is not None
        want = np.full((3, 4), 1.0 if op == "Gemm" else 0.0, np.float32)
        np.testing.assert_array_equal(Model(graph).run({"x0": arrays[0]})["y0"], want)
