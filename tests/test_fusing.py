"""What a kernel does for its neighbours: factors and terms behind an activation; values made and read in the middle of
others."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import Graph, Node
from nbconv.model import Model
from nbconv.ops.inner import Fused
from tests.kernels.harness import reference
from tests.test_passes import copies, graph, node, r

ACTIVATIONS = {
    "Relu": [node("Relu", "c", "a")],
    "HardSwish": [node("HardSwish", "c", "a")],
    "LeakyRelu": [node("LeakyRelu", "c", "a", alpha=0.3)],
    "Tanh": [node("Tanh", "c", "a")],
    "SiLU": [node("Sigmoid", "c", "s"), node("Mul", "c s", "a")],
}
MAKERS: dict[str, tuple[Node, dict[str, np.ndarray], tuple[int, ...]]] = {
    "pointwise": (node("Conv", "x w b", "c"), {"w": r(37, 5, 1, 1), "b": r(37)}, (2, 5, 7, 6)),
    "grouped": (node("Conv", "x w b", "c", group=2), {"w": r(34, 5, 1, 1), "b": r(34)}, (1, 10, 7, 6)),
    "winograd": (node("Conv", "x w b", "c", pads=(1, 1, 1, 1)), {"w": r(35, 32, 3, 3) / 17, "b": r(35)}, (1, 32, 14, 15)),
    "depthwise": (
        node("Conv", "x w b", "c", group=21, pads=(2, 2, 2, 2)),
        {"w": r(21, 1, 5, 5), "b": r(21)},
        (2, 21, 9, 14),
    ),
    "dilated": (node("Conv", "x w b", "c", group=5, dilations=(2, 2)), {"w": r(5, 1, 3, 3), "b": r(5)}, (1, 5, 9, 8)),
    "apart": (node("ConvTranspose", "x w b", "c", strides=(2, 2)), {"w": r(6, 3, 2, 2), "b": r(3)}, (1, 6, 5, 4)),
    "product": (node("Gemm", "x w b", "c"), {"w": r(9, 35), "b": r(35)}, (13, 9)),
}


def run(g: Graph) -> None:
    """The outputs are the reference's, the same on one thread and on two."""
    feeds = {n: r(*s.shape) for n, s in g.inputs.items()}
    want, model = reference(g, feeds), Model(g)
    found = model.run(feeds, threads=1)
    for name, again in model.run(feeds, threads=2).items():
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=3e-5 * np.abs(want[name]).max())
        assert again.tobytes() == found[name].tobytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("maker", MAKERS)
def test_factor_and_term_behind_an_activation(maker: str, activation: str) -> None:
    made, constants, shape = MAKERS[maker]
    channels = constants["b"].size
    tail = (channels, 1, 1) if len(shape) == 4 else (channels,)
    nodes = [made, *ACTIVATIONS[activation], node("Mul", "a k", "m"), node("Add", "m t", "y")]
    g = graph(nodes, "y", {**constants, "k": r(*tail), "t": r(*tail)}, x=shape)
    derived = Model(g).plan({"x": shape}).graph
    fused = [n.op for n in derived.nodes if isinstance(n.op, Fused)]
    assert len(fused) == 1 and (fused[0].affine is not None or maker == "product")
    run(g)


def test_factor_behind_a_residual_sum() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=(1, 1, 1, 1)), node("Add", "c x", "s"), node("Relu", "s", "a"),
        node("Mul", "a k", "y"),
    ]  # fmt: skip
    g = graph(nodes, "y", {"w": r(20, 20, 3, 3), "k": r(1, 20, 1, 1)}, x=(1, 20, 9, 11))
    plan = Model(g).plan({"x": (1, 20, 9, 11)})
    assert len([s for s in plan.steps if not s.kernel.startswith("move.")]) == 1
    run(g)


def test_a_factor_for_each_row_is_none_for_a_product() -> None:
    """A vector along axis 1 of (batch, rows, columns) is no factor of a column."""
    g = graph(
        [node("MatMul", "x w", "c"), node("Relu", "c", "a"), node("Mul", "a k", "y")],
        "y", {"w": r(6, 4), "k": r(1, 4, 1)}, x=(2, 4, 6),
    )  # fmt: skip
    run(g)


def block() -> list[Node]:
    """YOLO's C2f: split in two, the second half twice further, all joined."""
    same = {"pads": (1, 1, 1, 1)}
    return [
        node("Conv", "x w0", "c"), node("Relu", "c", "d"), node("Split", "d", "p q", axis=1, num_outputs=2),
        node("Conv", "q w1", "e", **same), node("Add", "e q", "f"), node("Conv", "f w2", "g", **same),
        node("Add", "g f", "h"), node("Concat", "p q f h", "j", axis=1), node("Conv", "j w3", "y"),
    ]  # fmt: skip


@pytest.mark.parametrize("c", [3, 16, 21])
def test_split_and_joined_again(c: int) -> None:
    weights = {"w0": r(2 * c, 5, 1, 1), "w1": r(c, c, 3, 3), "w2": r(c, c, 3, 3), "w3": r(9, 4 * c, 1, 1)}
    g = graph(block(), "y", weights, x=(2, 5, 6, 8))
    assert copies(g) == 2  # the image and the result are turned
    run(g)


def test_concats_of_concats() -> None:
    """DenseNet: each layer reads all before it."""
    nodes, weights, have = [node("Conv", "x w", "j0", pads=(1, 1, 1, 1))], {"w": r(20, 5, 3, 3)}, 20
    for i in range(3):
        weights |= {f"w{i}": r(19, have, 1, 1), **{f"{k}{i}": np.abs(r(have)) + np.float32(0.5) for k in "sbmv"}}
        nodes += [
            node("BatchNormalization", f"j{i} s{i} b{i} m{i} v{i}", f"n{i}"), node("Relu", f"n{i}", f"a{i}"),
            node("Conv", f"a{i} w{i}", f"c{i}"), node("Concat", f"j{i} c{i}", f"j{i + 1}", axis=1),
        ]  # fmt: skip
        have += 19
    nodes += [node("MaxPool", "j3", "y", kernel_shape=(2, 2), strides=(2, 2))]
    g = graph(nodes, "y", weights, x=(2, 5, 6, 8))
    assert copies(g) == 1  # the result is turned
    run(g)


def test_pools_and_resizes_in_the_middle_of_others() -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        node("Conv", "x w", "c"), node("MaxPool", "c", "p", kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
        node("AveragePool", "p", "q", kernel_shape=(3, 2), pads=(1, 0, 1, 1)), node("Concat", "c p q", "j", axis=1),
        node("Resize", "j - k", "u", mode="nearest"), node("Resize", "j - k", "v", mode="linear"),
        node("Concat", "u v", "z", axis=1), node("Conv", "z w1", "y"),
    ]  # fmt: skip
    g = graph(nodes, "y", {"w": r(18, 5, 1, 1), "w1": r(7, 108, 1, 1), "k": scales}, x=(2, 5, 6, 4))
    assert copies(g) == 2
    run(g)


def test_a_value_that_is_joined_twice_or_handed_out_is_copied() -> None:
    nodes = [
        node("Conv", "x w", "c"), node("Conv", "x w1", "d"), node("Concat", "c c", "j", axis=1),
        node("Concat", "d j", "k", axis=1), node("Conv", "k w2", "y"),
    ]  # fmt: skip
    g = graph(nodes, "y d", {"w": r(6, 20, 1, 1), "w1": r(6, 20, 1, 1), "w2": r(4, 18, 1, 1)}, x=(1, 20, 4, 5))
    run(g)


def test_readers_that_cannot_read_there() -> None:
    """A depthwise convolution and an activation of its own want their pixels next to each other."""
    nodes = [
        node("Conv", "x w", "c"), node("Split", "c", "p q", axis=1, num_outputs=2), node("Conv", "p w1", "d", group=10),
        node("Exp", "q", "e"), node("Concat", "d e p", "j", axis=1), node("Conv", "j w2", "y"),
    ]  # fmt: skip
    g = graph(
        nodes, "y", {"w": 0.1 * r(20, 8, 1, 1), "w1": r(10, 1, 3, 3)[:, :, :1, :1], "w2": r(3, 30, 1, 1)}, x=(1, 8, 5, 6)
    )
    run(g)


PADDED = {
    "conv": node("Conv", "p w", "y", pads=(0, 1, 1, 0)),
    "valid": node("Conv", "p w", "y", auto_pad="VALID", strides=(2, 2)),
    "depthwise": node("Conv", "p v", "y", group=5, dilations=(2, 1)),
    "mean": node("AveragePool", "p", "y", kernel_shape=(3, 4)),
    "counted": node("AveragePool", "p", "y", kernel_shape=(3, 4), pads=(1, 1, 1, 1), count_include_pad=1),
    "maximum": node("MaxPool", "p", "y", kernel_shape=(4, 4), strides=(2, 2)),
}
ROUND = np.array([0, 0, 2, 0, 0, 0, 1, 3])


@pytest.mark.parametrize("reader", PADDED)
def test_padding_goes_into_windows(reader: str) -> None:
    constants: dict[str, np.ndarray] = {"a": ROUND, "w": r(6, 5, 3, 3), "v": r(5, 1, 3, 3)}
    makes = [node("Relu", "x", "r"), node("Pad", "r a", "p"), PADDED[reader]]
    g = graph(makes, "y", constants, x=(2, 5, 8, 9))
    derived = Model(g).plan({"x": (2, 5, 8, 9)}).graph
    assert "Pad" not in [n.op.type for n in derived.nodes] and derived.provenance["p"] == "fused into y"
    run(g)


@pytest.mark.parametrize("value", [-np.inf, 1.0, 0.0])
def test_only_padding_that_a_maximum_ignores_goes_into_it(value: float) -> None:
    constants = {"a": ROUND, "k": np.array(value, np.float32)}
    makes = [node("Pad", "x a k", "p"), node("MaxPool", "p", "y", kernel_shape=(4, 4))]
    g = graph(makes, "y", constants, x=(1, 5, 8, 9))
    plan = Model(g).plan({"x": (1, 5, 8, 9)})
    assert ("Pad" in [n.op.type for n in plan.graph.nodes]) == (value != -np.inf)
    run(g)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Pad", "x a", "p", mode="edge"), node("Conv", "p w", "y")],
        [node("Pad", "x a k", "p"), node("Conv", "p w", "y")],
        [node("Pad", "x c", "p"), node("Conv", "p w", "y")],
        [node("Pad", "x d", "p"), node("Conv", "p u", "y")],
        [node("Pad", "x a", "p"), node("AveragePool", "p", "y", kernel_shape=(3, 3), pads=(1, 1, 1, 1))],
        [node("Pad", "x a", "p"), node("AveragePool", "p", "y", kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1)],
        [node("Relu", "x", "r"), node("Pad", "r a", "p"), node("MaxPool", "p", "y", kernel_shape=(2, 2))],
        [node("Relu", "x", "r"), node("Pad", "r e", "p"), node("MaxPool", "p", "y", kernel_shape=(1, 2), dilations=(1, 12))],
        [node("Pad", "x a", "p"), node("Conv", "p w", "z"), node("Abs", "p", "y")],
    ],
    ids=[
        "edge",
        "value",
        "cropped",
        "channels",
        "own padding",
        "ceil mode",
        "windows in the padding",
        "gaps",
        "another reader",
    ],
)
def test_other_padding_stays(nodes: list[Node]) -> None:
    constants = {
        "a": ROUND, "c": np.array([0, 0, -1, 1, 0, 0, 1, 1]), "d": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        "e": np.array([0, 0, 0, 5, 0, 0, 0, 5]),
        "k": np.array(2.0, np.float32), "w": r(6, 5, 3, 3), "u": r(6, 6, 3, 3),
    }  # fmt: skip
    g = graph(nodes, "y z" if any("z" in n.outputs for n in nodes) else "y", constants, x=(1, 5, 8, 9))
    assert "Pad" in [n.op.type for n in Model(g).plan({"x": (1, 5, 8, 9)}).graph.nodes]
    run(g)


def test_padding_that_is_asked_for_stays() -> None:
    g = graph([node("Pad", "x a", "p"), node("Conv", "p w", "y")], "y p", {"a": ROUND, "w": r(6, 5, 3, 3)}, x=(1, 5, 8, 9))
    assert [n.op.type for n in Model(g).plan({"x": (1, 5, 8, 9)}).graph.nodes].count("Pad") == 1
    run(g)
