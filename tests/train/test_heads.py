"""Heads behind whatever exporters put there: found, with the axis along which classes come out, and replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.edit.head import class_axis, find_head, replace_head
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from tests.train.models import F32, model, node

rng = np.random.default_rng(31)
PIXELS, ROWS = ("n", 3, 6, 8), ("n", 5, 6)
K = 4
"""Classes of the models below; no other size of theirs."""


def array(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F32)


def graph(nodes: list[Node], shape: tuple, out: tuple, **constants: np.ndarray) -> Graph:
    return Graph(nodes, {"x": Spec(shape, F32)}, {"y": Spec(out, F32)}, constants)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONV = [node("Conv", "x w1 b1", "c", "stem", pads=(1, 1, 1, 1)), node("Relu", "c", "r", "relu")]
STEM = {"w1": array(7, 3, 3, 3), "b1": array(7), "w": array(K, 7, 1, 1), "b": array(K)}
ROW = [node("MatMul", "x w1", "c", "stem"), node("Relu", "c", "r", "relu")]
QDQ = [
    node("DequantizeLinear", "wq ws", "w", "dqw"),
    *CONV,
    node("Conv", "r w b", "z", "head"),
    node("QuantizeLinear", "z s zero", "q", "q"),
    node("DequantizeLinear", "q s zero", "y", "dq"),
]

CASES: dict[str, tuple[Graph, int]] = {
    "channels last": (
        graph([*CONV, node("Conv", "r w b", "z", "head"), node("Transpose", "z", "y", "t", perm=(0, 2, 3, 1))],
              PIXELS, ("n", 6, 8, K), **STEM), 3),
    "channels last, softmax": (
        graph([*CONV, node("Conv", "r w b", "z", "head"), node("Transpose", "z", "l", "t", perm=(0, 2, 3, 1)),
               node("Softmax", "l", "y", "soft")], PIXELS, ("n", 6, 8, K), **STEM), 3),
    "upsampled": (
        graph([*CONV, node("Conv", "r w b", "z", "head"), Node(lookup("Resize")(), ("z", "", "scales"), ("y",), "up")],
              PIXELS, ("n", K, 12, 16), **STEM, scales=np.array([1, 1, 2, 2], F32)), 1),
    "transposed convolution": (
        graph([*CONV, node("ConvTranspose", "r wt b", "y", "head", strides=(2, 2), kernel_shape=(2, 2))],
              PIXELS, ("n", K, 12, 16), **{**STEM, "wt": array(7, K, 2, 2)}), 1),
    "rows of pixels": (
        graph([*CONV, node("Conv", "r w b", "z", "head"), node("Reshape", "z flat", "f", "flat"),
               node("Transpose", "f", "y", "t", perm=(0, 2, 1))], PIXELS, ("n", 48, K), **STEM, flat=ints(0, K, -1)), 2),
    "sequences": (
        graph([*ROW, node("MatMul", "r w", "m", "head"), node("Add", "m b", "y", "bias")],
              ROWS, ("n", 5, K), w1=array(6, 7), w=array(7, K), b=array(K)), 2),
    "sequences, time first": (
        graph([*ROW, node("MatMul", "r w", "m", "head"), node("Add", "b m", "a", "bias"),
               node("Transpose", "a", "l", "t", perm=(1, 0, 2)), node("LogSoftmax", "l", "y", "soft")],
              ROWS, (5, "n", K), w1=array(6, 7), w=array(7, K), b=array(K)), 2),
    "a weight that is turned": (
        graph([node("Transpose", "wt", "w", "turn", perm=(1, 0)), *ROW, node("MatMul", "r w", "m", "head"),
               node("Mul", "m scale", "y", "scale")],
              ROWS, ("n", 5, K), w1=array(6, 7), wt=array(K, 7), scale=np.array([2], F32)), 2),
    "a cell a class": (
        graph([node("Flatten", "x", "f", "flat"), node("Gemm", "f w b", "g", "head", transB=1),
               node("Unsqueeze", "g two", "u", "u"), node("Squeeze", "u two", "s", "s"), node("Sigmoid", "s", "y", "end")],
              ROWS, ("n", K), w=array(K, 30), b=array(K), two=ints(2)), 1),
    "integers": (
        graph(QDQ, PIXELS, ("n", K, 6, 8),
              **{k: v for k, v in STEM.items() if k != "w"}, wq=rng.integers(-99, 99, (K, 7, 1, 1)).astype(np.int8),
              ws=np.array(0.01, F32), s=np.array(0.02, F32), zero=np.array(3, np.uint8)), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_found_and_replaced(name: str, tmp_path: Path) -> None:
    authored, axis = CASES[name]
    nbconv.save(authored, tmp_path / "m.onnx")
    m = nbconv.load(tmp_path / "m.onnx", threads=1)
    x = (
        np.random.default_rng(1)
        .standard_normal((2, *[d for d in m.inputs[0].shape or () if isinstance(d, int)]))
        .astype(F32)
    )
    before, rank = m(x), m(x).ndim
    assert class_axis(m.graph, "y") in (axis, axis - rank)
    head = m.replace_head(9, seed=3)
    assert (head.node, head.classes) == ("head", K)
    fresh = m(x)
    assert fresh.shape == tuple(9 if a == axis else d for a, d in enumerate(before.shape))
    assert (m.outputs[0].shape or ())[axis] == 9 and np.ptp(fresh) > 0
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.1), trainable="head", **(
        {"loss_options": {"batch_axis": 1}} if name == "sequences, time first" else {}
    ))  # fmt: skip
    assert {p.node.name for p in trainer.parameters} <= {"head", "bias", "turn"}
    labels = np.random.default_rng(2).integers(0, 9, [2, *(d for a, d in enumerate(fresh.shape) if a != axis and d != 2)])
    first = trainer.step(x, labels)
    for _ in range(20):
        last = trainer.step(x, labels)
    assert last < first
    assert trainer.evaluate((x, labels))["confusion"].shape == (9, 9)
    trainer.save(tmp_path / "t.onnx")
    np.testing.assert_allclose(nbconv.load(tmp_path / "t.onnx")(x), trainer.predict(x), rtol=1e-5, atol=1e-6)


def two_levels() -> Graph:
    nodes = [
        *CONV, node("Conv", "r w b", "z1", "cls_8"), node("Conv", "r v d", "z2", "cls_16"),
        node("Reshape", "z1 flat", "f1"), node("Reshape", "z2 flat", "f2"), node("Concat", "f1 f2", "y", "join", axis=2),
        node("Conv", "r u", "boxes", "box"),
    ]  # fmt: skip
    found = graph(
        nodes, PIXELS, ("n", K, 96), **STEM, v=array(K, 7, 1, 1), d=array(K), u=array(4, 7, 1, 1), flat=ints(0, K, -1)
    )
    found.outputs["boxes"] = Spec(("n", 4, 6, 8), F32)
    return found


def test_what_to_pass_is_named() -> None:
    m = model(two_levels())
    with pytest.raises(ValueError, match=r"join \(Concat\) stands behind the last layer; the layers before it are 'cls_8', "
                       "'cls_16': give head=.*; or output=, one of 'boxes'"):  # fmt: skip
        m.replace_head(5)
    with pytest.raises(ValueError, match="give head="):
        nbconv.Trainer(m, output="y", trainable="head")
    assert find_head(m.graph, head="cls_16").classes == K
    for name in ("cls_8", "cls_16"):
        assert m.replace_head(5, head=name).node == name
    assert m.run({"x": array(2, 3, 6, 8)})["y"].shape == (2, 5, 96)
    assert m.replace_head(6, output="boxes").node == "box"
    for wrong, message in (("stem2", "head 'stem2' is no node's name"), ("relu", "head 'relu' is a Relu, wanted a Gemm")):
        with pytest.raises(ValueError, match=message):
            m.replace_head(5, head=wrong)
    with pytest.raises(ValueError, match="the model has no output 'x2'"):
        m.replace_head(5, output="x2")


def test_sizes_that_are_as_many_as_classes() -> None:
    """Where the picture is as high as there are classes, only the classes' axis changes; labels of both readings are told by
    the model."""
    g = graph([*CONV, node("Conv", "r w b", "z", "head"), node("Transpose", "z", "y", "t", perm=(0, 2, 3, 1))],
              ("n", 3, K, K), ("n", K, K, K), **STEM)  # fmt: skip
    m = model(g)
    x, y = array(2, 3, K, K), rng.integers(0, K, (2, K, K))
    trainer = nbconv.Trainer(model(g))
    last = nbconv.Trainer(m, loss_options={"class_axis": 3}).step(x, y)
    assert trainer.step(x, y) == last != nbconv.Trainer(m, loss_options={"class_axis": 1}).step(x, y)
    m.replace_head(7)
    assert m.outputs[0].shape == ("n", K, K, 7)
    nodes = [
        *g.nodes[:-1],
        node("Gather", "z all", "g", "pick", axis=0),
        node("Transpose", "g", "y", "t", perm=(0, 2, 3, 1)),
    ]
    unknown = graph(nodes, ("n", 3, K, K), ("n", K, K, K), **STEM, all=ints(0, 1))
    with pytest.raises(ValueError, match=r"fit outputs \[2, 4, 4, 4\] with classes along axis 1 or 2 or 3: give class_axis"):
        nbconv.Trainer(model(unknown)).step(x, y)


def test_samples_along_the_second_axis() -> None:
    """Outputs (t, n, classes): parts of a prediction are joined along the samples."""
    authored, _ = CASES["sequences, time first"]
    trainer = nbconv.Trainer(model(authored), loss_options={"batch_axis": 1})
    x = array(5, 5, 6)
    np.testing.assert_allclose(trainer.predict(x, batch_size=2), model(authored)(x), rtol=1e-5, atol=1e-6)
    found = trainer.evaluate((x, rng.integers(0, K, (5, 5))), batch_size=2)
    assert found["confusion"].sum() == 25


def test_a_class_that_was_squeezed_away() -> None:
    """Pictures (n, h, w) of one class: dice is over a picture, not over its rows."""
    nodes = [*CONV, node("Conv", "r w1c b1c", "z", "head"), node("Squeeze", "z one", "y", "squeeze")]
    constants = {**STEM, "w1c": array(1, 7, 1, 1), "b1c": array(1)}
    flat = graph(nodes, PIXELS, ("n", 6, 8), **constants, one=ints(1))
    whole = graph([*nodes[:2], node("Conv", "r w1c b1c", "y", "head")], PIXELS, ("n", 1, 6, 8), **constants)
    x, masks = array(2, 3, 6, 8), rng.integers(0, 2, (2, 6, 8))
    assert class_axis(flat, "y") == 0
    for loss in ("dice", "binary_cross_entropy", "binary_focal"):
        for y in (masks, masks[:, None].astype(F32)):
            one, other = (nbconv.Trainer(model(g), loss) for g in (flat, whole))
            assert one.step(x, y) == pytest.approx(other.step(x, y), rel=1e-6)
            assert one.evaluate((x, y))["loss"] == pytest.approx(other.evaluate((x, y))["loss"], rel=1e-6)


def test_weights_of_classes_along_the_last_axis() -> None:
    """binary_cross_entropy's numbers a class lie where the model has its classes."""
    last, _ = CASES["channels last"]
    first = graph([*CONV, node("Conv", "r w b", "y", "head")], PIXELS, ("n", K, 6, 8), **STEM)
    x, y = array(2, 3, 6, 8), rng.integers(0, 2, (2, K, 6, 8))
    options = {"pos_weight": [1.0, 2.0, 0.5, 3.0], "weights": [2.0, 1.0, 1.0, 0.5]}
    one, other = (nbconv.Trainer(model(g), "binary_cross_entropy", loss_options=options) for g in (last, first))
    assert one.step(x, y.transpose(0, 2, 3, 1)) == pytest.approx(other.step(x, y), rel=1e-6)


def test_a_bias_of_one_class_with_axes_of_size_one() -> None:
    """(1, 1) becomes (1, classes), and (1, 1, 1) behind a convolution (classes, 1, 1); samples and pixels stay."""
    rows = graph([node("MatMul", "x w", "z", "fc"), node("Add", "z b", "y", "bias")], ("n", 5), ("n", 1),
                 w=array(5, 1), b=array(1, 1))  # fmt: skip
    pixels = graph([node("Conv", "x w", "z", "head"), node("Add", "z b", "y", "bias")], PIXELS, ("n", 1, 6, 8),
                   w=array(1, 3, 1, 1), b=array(1, 1, 1))  # fmt: skip
    for g, x, wanted in ((rows, array(1, 5), (1, 3)), (pixels, array(1, 3, 6, 8), (1, 3, 6, 8))):
        replaced, _ = replace_head(g, 3)
        assert model(replaced).run({"x": x})["y"].shape == wanted
