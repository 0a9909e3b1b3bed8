"""Each pass by itself: what it derives, that the answers stay, and where authored values went."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import CHANNELS_FIRST, CHANNELS_LAST, Graph, Node, Spec, spec_of
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.ops.inner import Fused
from nbconv.passes.fold import Deferred, array, fold, live
from nbconv.passes.fuse import fold_affine, fuse_epilogues, fuse_silu
from nbconv.passes.layout import choose
from tests.check import sampler
from tests.kernels.harness import reference

r = sampler(11)
F32 = np.dtype(np.float32)
NONE: frozenset[str] = frozenset()


def node(kind: str, inputs: str, outputs: str, **attributes) -> Node:
    """``node("Add", "a b", "y")``; "-" stands for an input left out."""
    return Node(lookup(kind)(**attributes), tuple("" if n == "-" else n for n in inputs.split()), tuple(outputs.split()))


def graph(
    nodes: list[Node], outputs: str, constants: dict[str, np.ndarray] | None = None, **inputs: tuple[int, ...]
) -> Graph:
    return Graph(nodes, {n: Spec(s, F32) for n, s in inputs.items()}, dict.fromkeys(outputs.split()), constants or {})


def specs(g: Graph) -> dict[str, Spec]:
    """The Spec of every value."""
    found = {**g.inputs, **{n: spec_of(v) for n, v in g.constants.items()}}
    for n in g.nodes:
        out = n.op.infer(*(found[i] if i else None for i in n.inputs))
        found.update(zip(n.outputs, out if type(out) is tuple else (out,)))
    return found


def kinds(g: Graph) -> list[str]:
    return [repr(n.op) if isinstance(n.op, Fused) else n.op.type for n in g.nodes]


def evaluate(g: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a derived graph computes, its deferred constants made."""
    made = {n: array(v) if isinstance(v, Deferred) else v for n, v in g.constants.items()}
    return reference(g.derive(g.nodes, made), feeds)


def same(before: Graph, after: Graph, tolerance: float = 1e-5) -> None:
    """Both graphs give the same outputs, the second from fewer nodes."""
    feeds = {n: sampler(5)(*s.shape) for n, s in before.inputs.items()}
    want, found = reference(before, feeds), evaluate(after, feeds)
    for name in before.outputs:
        scale = np.abs(want[name]).max()
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=tolerance * scale)


def bn(i: int, x: str, y: str, **attributes) -> Node:
    return node("BatchNormalization", f"{x} s{i} b{i} m{i} v{i}", y, **attributes)


def bn_constants(i: int, c: int) -> dict[str, np.ndarray]:
    return {f"s{i}": r(c), f"b{i}": r(c), f"m{i}": r(c), f"v{i}": np.abs(r(c)) + np.float32(0.5)}


# fold


def test_fold_constants_and_shapes() -> None:
    """A reshape whose target is computed from a shape; a weight that is computed; what nobody reads."""
    g = graph(
        [
            node("Shape", "x", "dims"), node("Gather", "dims zero", "n"), node("Concat", "n rest", "target", axis=0),
            node("Reshape", "x target", "flat"), node("Mul", "w half", "scaled"), node("MatMul", "flat scaled", "y"),
            node("Relu", "x", "unread"),
        ],
        "y", {"zero": np.array([0]), "rest": np.array([-1]), "w": r(12, 5), "half": np.float32([0.5])}, x=(2, 3, 4),
    )  # fmt: skip
    derived, found, varying = fold(g, g.inputs, Weights())
    assert kinds(derived) == ["Reshape", "MatMul"]
    assert {"n", "target"} <= varying
    assert "scaled" not in varying
    assert found["target"].value is not None
    assert found["target"].value.tolist() == [2, -1]
    assert derived.provenance["scaled"] == "a constant"
    same(g, derived)


def test_fold_defers_large_constants() -> None:
    """Computed when asked for, once for all who ask the weights for it."""
    g = graph([node("Neg", "w", "negative"), node("MatMul", "x negative", "y")], "y", {"w": r(100, 70)}, x=(2, 100))
    weights = Weights()
    derived, found, _ = fold(g, g.inputs, weights)
    assert isinstance(derived.constants["negative"], Deferred)
    assert found["negative"] == Spec((100, 70), F32, None, True)
    np.testing.assert_array_equal(array(derived.constants["negative"]), -g.constants["w"])


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("Identity", "a", {}), ("Dropout", "a", {}), ("Cast", "a", {"to": 1}), ("Reshape", "a same", {}), ("Expand",
        "a ones", {}),
        ("Pad", "a none", {}), ("Slice", "a zero far", {}),
    ],
)  # fmt: skip
def test_fold_bypasses_what_computes_nothing(kind: str, inputs: str, attributes: dict) -> None:
    constants = {
        "same": np.array([2, 3]),
        "ones": np.array([1, 1]),
        "none": np.zeros(4, np.int64),
        "zero": np.array([0]),
        "far": np.array([9]),
    }
    g = graph(
        [node("Relu", "x", "a"), node(kind, inputs, "b", **attributes), node("Neg", "b", "y")], "y", constants, x=(2, 3)
    )
    derived, _, _ = fold(g, g.inputs, Weights())
    assert kinds(derived) == ["Relu", "Neg"]
    assert derived.provenance["b"] == "the same as a"
    kept, _, _ = fold(g, g.inputs, Weights(), frozenset("b"))
    assert kinds(kept) == ["Relu", kind, "Neg"]


def test_fold_keeps_a_mask_that_is_read() -> None:
    g = graph([node("Relu", "x", "a"), node("Dropout", "a", "b mask"), node("Neg", "b", "y")], "y mask", x=(2, 3))
    derived, _, _ = fold(g, g.inputs, Weights())
    assert kinds(derived) == ["Relu", "Dropout", "Neg"]


def test_live() -> None:
    g = graph([node("Relu", "x", "a"), node("Neg", "x", "b"), node("Abs", "a", "y")], "y", x=(2,))
    assert [n.outputs[0] for n in live(g)] == ["a", "y"]
    assert [n.outputs[0] for n in live(g, frozenset("b"))] == ["a", "b", "y"]


# fuse_silu


@pytest.mark.parametrize("inputs", ["x gate", "gate x"])
def test_silu(inputs: str) -> None:
    g = graph([node("Sigmoid", "x", "gate"), node("Mul", inputs, "y")], "y", x=(2, 3))
    derived = fuse_silu(g, specs(g), NONE)
    assert kinds(derived) == ["Silu"]
    assert "gate" in derived.provenance
    same(g, derived)


def test_not_a_silu() -> None:
    """The gate is of another value, is read twice, is an output or is kept."""
    sigmoid, mul = node("Sigmoid", "x", "gate"), node("Mul", "x gate", "y")
    for nodes, outputs, keep in (
        ([node("Sigmoid", "x", "gate"), node("Mul", "z gate", "y")], "y", NONE),
        ([sigmoid, mul, node("Neg", "gate", "w")], "y w", NONE),
        ([sigmoid, mul], "y gate", NONE),
        ([sigmoid, mul], "y", frozenset(("gate",))),
    ):
        g = graph(nodes, outputs, x=(2, 3), z=(2, 3))
        assert "Silu" not in kinds(fuse_silu(g, specs(g), keep))


# fold_affine

AFFINES = {
    "bn": [bn(1, "c", "y", epsilon=0.01)],
    "bn mul add": [bn(1, "c", "p"), node("Mul", "p k", "q"), node("Add", "t q", "y")],
    "sub div": [node("Sub", "c k", "p"), node("Div", "p t", "y")],
    "scalars": [node("Mul", "c one", "p"), node("Add", "p one", "y")],
    "bn bn": [bn(1, "c", "p"), bn(2, "p", "y")],
}
MAKERS = {
    "conv": (node("Conv", "x w b", "c", pads=(1, 1, 1, 1)), (6, 4, 3, 3)),
    "no bias": (node("Conv", "x w", "c", group=2), (6, 2, 3, 3)),
    "transposed": (node("ConvTranspose", "x w b", "c", strides=(2, 1)), (4, 6, 2, 2)),
    "groups": (node("ConvTranspose", "x w b", "c", group=2), (4, 3, 2, 2)),
    "normalised": (bn(3, "z", "c"), (6, 1)),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("tail", AFFINES)
def test_affine(maker: str, tail: str) -> None:
    first, shape = MAKERS[maker]
    constants = {
        "w": r(*shape),
        "b": r(6),
        "k": r(6, 1, 1),
        "t": np.abs(r(1, 6, 1, 1)) + np.float32(0.5),
        "one": np.float32([1.5]),
    }
    for i in (1, 2, 3):
        constants |= bn_constants(i, 6)
    g = graph([first, *AFFINES[tail]], "y", constants, x=(2, 4, 5, 7), z=(2, 6, 3, 4))
    before = {n: v.copy() for n, v in constants.items()}
    derived = fold_affine(g, specs(g), NONE)
    assert kinds(derived) == [first.op.type]
    assert set(derived.provenance) == set(g.values()) - {"y"}
    same(g, derived)
    assert all(np.array_equal(g.constants[n], v) for n, v in before.items())


def test_not_affine() -> None:
    """What is read elsewhere, kept, an output, not a constant a channel, or a constant less the value."""
    conv = node("Conv", "x w", "c")
    constants = {"w": r(6, 4, 1, 1), "k": r(6, 1, 1), "wide": r(6, 1, 7), "last": r(7), "zero": np.zeros((6, 1, 1), F32)}
    for nodes, outputs, keep in (
        ([conv, node("Mul", "c k", "y"), node("Relu", "c", "other")], "y other", NONE),
        ([conv, node("Mul", "c k", "y")], "y c", NONE),
        ([conv, node("Mul", "c k", "y")], "y", frozenset("c")),
        ([conv, node("Mul", "c wide", "y")], "y", NONE),
        ([conv, node("Add", "c last", "y")], "y", NONE),
        ([conv, node("Sub", "k c", "y")], "y", NONE),
        ([conv, node("Div", "k c", "y")], "y", NONE),
        ([conv, node("Div", "c zero", "y")], "y", NONE),
    ):
        g = graph(nodes, outputs, constants, x=(2, 4, 5, 7))
        assert kinds(fold_affine(g, specs(g), keep)) == kinds(g)


def test_affine_in_the_square() -> None:
    """As many columns as channels: a vector along the columns is none along the channels."""
    g = graph([node("Conv", "x w", "c"), node("Mul", "c k", "y")], "y", {"w": r(6, 4, 1, 1), "k": r(6)}, x=(1, 4, 6, 6))
    assert kinds(fold_affine(g, specs(g), NONE)) == ["Conv", "Mul"]


def test_names_of_folded_constants_are_free() -> None:
    """A weight that is shared, under a name that looks like a derived one; fetched and folded in turn."""
    constants = {
        "y.w": r(7, 5, 1, 1),
        "y.b": r(7),
        "k": r(7, 1, 1),
        **{k: v for i in (1, 2, 3) for k, v in bn_constants(i, 7).items()},
    }
    g = graph(
        [
            node("Conv", "x y.w y.b", "c"), node("Mul", "c k", "y"), node("Conv", "x y.w y.b", "d"), node("Add", "y d", "e"),
            node("Tanh", "e", "f"), bn(1, "f", "p"), bn(2, "p", "q"), bn(3, "q", "z"),
        ],
        "z", constants, x=(1, 5, 4, 6),
    )  # fmt: skip
    model, x = Model(g), r(1, 5, 4, 6)
    want = reference(g, {"x": x})
    for fetch in (["z"], ["c", "z"], ["p", "z"], ["y", "z"], ["q"], ["z"], ["d", "q", "z"], list(g.values())):
        for name, y in model.run({"x": x}, fetch=fetch).items():
            np.testing.assert_allclose(
                y, want[name], rtol=0, atol=1e-5 * np.abs(want[name]).max(), err_msg=f"{name} of {fetch}"
            )


# fuse_epilogues

C = {
    "w": r(4, 4, 3, 3),
    "b": r(4),
    "deep": r(4, 1, 3, 3),
    "low": np.float32(0).reshape(()),
    "high": np.float32(6).reshape(()),
}
SAME = {"pads": (1, 1, 1, 1)}
FUSIONS = [
    ("relu", "y", [node("Conv", "x w", "c", **SAME), node("Relu", "c", "y")], ["Conv(pads=(1, 1, 1, 1))+Relu"]),
    ("clip", "y", [node("Conv", "x deep", "c", group=4), node("Clip", "c low high", "y")], ["Conv(group=4)+Clip"]),
    (
        "residual", "y", [node("Conv", "x w", "c", **SAME), node("Add", "x c", "s"), node("Relu", "s", "y")],
        ["Conv(pads=(1, 1, 1, 1))+Add+Relu"],
    ),
    (
        "the later of two makers", "y",
        [node("Conv", "x w", "c", **SAME), node("Conv", "x w b", "d", **SAME), node("Sum", "c d", "s"), node("Sigmoid",
        "s", "y")],
        ["Conv", "Conv(pads=(1, 1, 1, 1))+Sum+Sigmoid"],
    ),
    (
        "two sums", "y", [node("Conv", "x w", "c", **SAME), node("Add", "c x", "s"), node("Add", "s z", "y")],
        ["Conv(pads=(1, 1, 1, 1))+Add", "Add"],
    ),
    ("pool clamps", "y", [node("MaxPool", "x", "c", kernel_shape=(2, 2)), node("Relu", "c", "y")],
    ["MaxPool(kernel_shape=(2, 2))+Relu"]),
    ("pool does no more", "y", [node("MaxPool", "x", "c", kernel_shape=(2, 2)), node("Tanh", "c", "y")], ["MaxPool",
    "Tanh"]),
    ("one activation", "y", [node("Conv", "x w", "c"), node("Relu", "c", "d"), node("Tanh", "d", "y")], ["Conv()+Relu",
    "Tanh"]),
    ("depthwise adds nothing", "y", [node("Conv", "x deep", "c", group=4, **SAME), node("Add", "c x", "y")], ["Conv",
    "Add"]),
    ("an output", "y c", [node("Conv", "x w", "c"), node("Relu", "c", "y")], ["Conv", "Relu"]),
    ("twice the same", "y", [node("Conv", "x w", "c"), node("Add", "c c", "y")], ["Conv", "Add"]),
    ("broadcast", "y", [node("Conv", "x w", "c", **SAME), node("Add", "c v", "y")], ["Conv", "Add"]),
    ("weights computed", "y", [node("Tanh", "u", "w2"), node("Conv", "x w2", "c"), node("Relu", "c", "y")], ["Tanh",
    "Conv()+Relu"]),
    ("volumes", "y", [node("Conv", "vol w3", "c"), node("Relu", "c", "y")], ["Conv()+Relu"]),
    ("product of broadcasts", "y", [node("MatMul", "m1 m2", "c"), node("Relu", "c", "y")], ["MatMul", "Relu"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "outputs", "nodes", "want"), FUSIONS, ids=[f[0] for f in FUSIONS])
def test_epilogues(name: str, outputs: str, nodes: list[Node], want: list[str]) -> None:
    inputs = {"x": (2, 4, 5, 6), "z": (2, 4, 5, 6), "v": (1, 4, 1, 1), "u": (4, 4, 3, 3), "vol": (1, 2, 3, 3, 3)}
    inputs |= {"m1": (2, 1, 3, 4), "m2": (1, 5, 4, 6)}
    g = graph(nodes, outputs, {**C, "w3": r(3, 2, 2, 2, 2)}, **inputs)
    derived = fuse_epilogues(g, specs(g), NONE)
    assert kinds(derived) == want
    made = {n for node in derived.nodes for n in node.outputs}
    assert set(g.values()) == made | set(derived.provenance)
    feeds = {n: sampler(3)(*s) for n, s in inputs.items()}
    expected = reference(g, feeds)
    for output, y in Model(g, threads=1).run(feeds).items():
        np.testing.assert_allclose(y, expected[output], rtol=0, atol=1e-5 * np.abs(expected[output]).max())


@pytest.mark.parametrize(
    "shape", [(2, 4, 5, 6), (4, 5, 6), (1, 4, 5, 6), (4, 1, 6), (5, 6), (1, 1, 5, 6), (1, 4, 1, 1), (6,), (2, 1, 1, 1)]
)
def test_sum_with_a_constant_of_any_shape(shape: tuple[int, ...]) -> None:
    """The convolution's result lies channels last, the constant as ONNX has it."""
    g = graph([node("Conv", "x w", "c", **SAME), node("Add", "c k", "y")], "y", {**C, "k": r(*shape)}, x=(2, 4, 5, 6))
    x = r(2, 4, 5, 6)
    np.testing.assert_allclose(Model(g).run({"x": x})["y"], reference(g, {"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 9), (4, 9), (1, 9), (4, 1), (9,), (1, 4, 1)])
def test_sum_with_an_input_of_any_shape(shape: tuple[int, ...]) -> None:
    g = graph([node("Conv", "x w", "c"), node("Mul", "k c", "y")], "y", {"w": r(4, 3, 2)}, x=(2, 3, 10), k=shape)
    feeds = {"x": r(2, 3, 10), "k": r(*shape)}
    np.testing.assert_allclose(Model(g).run(feeds)["y"], reference(g, feeds)["y"], atol=1e-5)


# layout


def copies(g: Graph) -> int:
    """Steps of the plan that only move what is there."""
    plan = Model(g).plan({n: s.shape for n, s in g.inputs.items()})
    return sum(step.kernel == "move.copy" for step in plan.steps)


def test_layout_turns_only_at_the_doors() -> None:
    g = graph(
        [node("Conv", "x w", "a", **SAME), node("Relu", "a", "b"), node("MaxPool", "b", "c", kernel_shape=(2, 2)),
        node("Neg", "c", "d"),
         node("GlobalAveragePool", "d", "e"), node("Flatten", "e", "y")],
        "y", {"w": r(20, 20, 3, 3)}, x=(2, 20, 5, 6),
    )  # fmt: skip
    derived, layouts = choose(g, specs(g))
    assert [n.op.type for n in derived.nodes] == [
        "Reorder",
        "Conv",
        "Relu",
        "MaxPool",
        "Neg",
        "GlobalAveragePool",
        "Reorder",
        "Flatten",
    ]
    assert all(layouts[n] is CHANNELS_LAST for n in "abcde")
    assert layouts["y"] is CHANNELS_FIRST
    assert copies(g) == 1


def test_layout_of_a_model_from_channels_last() -> None:
    """Exporters of NHWC models put Transposes around their convolutions: nothing is left to move."""
    g = graph(
        [node("Transpose", "x", "a", perm=(0, 3, 1, 2)), node("Conv", "a w", "c", **SAME), node("Transpose", "c", "d",
        perm=(0, 2, 3, 1)),
         node("Relu", "d", "e"), node("Transpose", "e", "f", perm=(0, 3, 1, 2)), node("Conv", "f w b", "g", **SAME),
         node("Transpose", "g", "y", perm=(0, 2, 3, 1))],
        "y", {"w": r(20, 20, 3, 3), "b": r(20)}, x=(2, 5, 6, 20),
    )  # fmt: skip
    assert copies(g) == 0
    x = r(2, 5, 6, 20)
    want = reference(g, {"x": x})["y"]
    np.testing.assert_allclose(Model(g).run({"x": x})["y"], want, atol=2e-5 * np.abs(want).max())


def test_layout_outputs_lie_as_onnx_says() -> None:
    """A value that is read channels last and handed out."""
    g = graph(
        [node("Conv", "x w", "a", **SAME), node("Conv", "a w", "y", **SAME), node("Reshape", "a to", "z")],
        "a y z",
        {**C, "to": np.array([2, -1])},
        x=(2, 4, 5, 6),
    )
    x = r(2, 4, 5, 6)
    want = reference(g, {"x": x})
    for name, y in Model(g).run({"x": x}).items():
        np.testing.assert_allclose(y, want[name], atol=1e-4)
    derived, layouts = choose(g, specs(g))
    assert all(layouts[n] is CHANNELS_FIRST for n in g.outputs)
    assert {"a", "y", "z"} <= {o for n in derived.nodes for o in n.outputs}


def test_reduction_over_axes_that_lie_side_by_side_only_channels_last() -> None:
    g = graph(
        [node("Conv", "x w", "a", **SAME), node("ReduceMax", "a axes", "y")],
        "y",
        {**C, "axes": np.array([1, 3])},
        x=(2, 4, 5, 6),
    )
    x = r(2, 4, 5, 6)
    np.testing.assert_allclose(Model(g).run({"x": x})["y"], reference(g, {"x": x})["y"], atol=1e-5)
