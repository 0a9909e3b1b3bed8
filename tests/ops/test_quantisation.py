"""What a value's integers stand for, known before anything is computed, and kept where elements only move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Quantisation, Spec, spec_of
from nbconv.model import Model
from nbconv.ops import Op, lookup
from nbconv.passes.fold import fold
from tests.check import as_tuple

SHAPE = (2, 3, 4, 5)
INT8 = np.dtype(np.int8)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def op(kind: str, **attributes: Any) -> Op:
    return lookup(kind)(**attributes)


CALLS: list[tuple[Op, tuple[np.ndarray | None, ...]]] = [
    (op("Identity"), ()),
    (op("Relu"), ()),
    (op("Clip"), (np.array(0, np.int8), None)),
    (op("Reshape"), (ints(2, 3, 20),)),
    (op("Reshape"), (ints(2, 1, 3, 2, 2, 5),)),
    (op("Reshape"), (ints(6, 20),)),
    (op("Flatten", axis=1), ()),
    (op("Flatten", axis=3), ()),
    (op("Unsqueeze"), (ints(0, 3),)),
    (op("Transpose", perm=(2, 0, 3, 1)), ()),
    (op("Transpose"), ()),
    (op("Split", axis=1), (ints(1, 2),)),
    (op("Slice"), (ints(1, 4), ints(3, -9), ints(2, 3), ints(1, -1))),
    (op("Pad"), (ints(0, 1, 0, 2, 0, 1, -1, 0),)),
    (op("Pad"), (ints(1, 0, 0, 0), None, ints(3, 2))),
    (op("Expand"), (ints(7, 2, 1, 4, 1),)),
    (op("Tile"), (ints(1, 2, 1, 3),)),
    (op("Gather", axis=1), (ints(2, 0).reshape(1, 2),)),
    (op("Gather", axis=1), (np.array(1),)),
    (op("Gather", axis=3), (ints(4, 3, 2, 1, 0),)),
    (op("GatherElements", axis=2), (np.random.default_rng(4).integers(0, 4, (2, 3, 3, 5)),)),
    (op("Resize"), (None, np.array([1, 1, 2, 1.5], np.float32))),
    (op("Resize", axes=(1, 2)), (None, None, ints(3, 9))),
    (op("MaxPool", kernel_shape=(2, 3), pads=(1, 0, 1, 0)), ()),
    (op("MaxPool", kernel_shape=(2, 1), strides=(2, 1)), ()),
    (op("SpaceToDepth", blocksize=1), ()),
    (op("DepthToSpace", blocksize=1), ()),
]
CAUTIOUS = {("MaxPool", 3), ("GatherElements", 0), ("GatherElements", 1), ("GatherElements", 3)}
CAUTIOUS |= {(kind, axis) for kind in ("SpaceToDepth", "DepthToSpace") for axis in range(4)}
"""What is not said of an axis though it could be."""


def quantised(axis: int | None, size: int = 0, zero: int = 0) -> Quantisation:
    """Scales that are powers of 2: what they multiply is exact."""
    if axis is None:
        return Quantisation((0.5,), (zero,))
    return Quantisation(tuple(2.0**-k for k in range(size)), (zero,) * size, axis)


def real(x: np.ndarray, how: Quantisation) -> np.ndarray:
    """What the integers stand for."""
    shape = [-1 if i == how.axis else 1 for i in range(x.ndim)]
    scale, zero = (np.array(v, np.float32).reshape(() if how.axis is None else shape) for v in (how.scale, how.zero_point))
    return (x.astype(np.float32) - zero) * scale


def inferred(made: Op, *specs: Spec | None) -> tuple[Spec, ...]:
    return Node(made, tuple("" if s is None else f"x{i}" for i, s in enumerate(specs)), ("y",)).infer(specs)


@pytest.mark.parametrize(("made", "rest"), CALLS, ids=[f"{i}-{c[0]!r}" for i, c in enumerate(CALLS)])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
def test_results_stand_for_the_results_of_what_inputs_stood_for(made: Op, rest: tuple, axis: int | None) -> None:
    """The op of the real numbers is what the result's integers stand for, with the one axis for which that holds."""
    x = np.random.default_rng(3).integers(1, 127, SHAPE).astype(np.int8)
    how = quantised(axis, 0 if axis is None else SHAPE[axis])
    others = [None if v is None else spec_of(v) for v in rest]
    specs = inferred(made, Spec(SHAPE, INT8, quantisation=how), *others)
    wide = tuple(v.astype(np.float32) if v is not None and v.dtype == np.int8 else v for v in rest)
    for spec, y, e in zip(
        specs, as_tuple(made.reference(x, *rest)), as_tuple(made.reference(real(x, how), *wide)), strict=True
    ):
        if y.dtype != np.int8:
            assert spec.quantisation is None
            continue
        sized = [b for b, d in enumerate(y.shape) if d == len(how.scale)]
        fits = [how] if axis is None else [q for b in sized if np.array_equal(real(y, q := how._replace(axis=b)), e)]
        if (made.type, axis) in CAUTIOUS:
            assert spec.quantisation is None
        else:
            assert [spec.quantisation] == (fits or [None])
        if spec.quantisation:
            np.testing.assert_array_equal(real(y, spec.quantisation), e)


def test_joined_values_stand_for_something_if_all_agree() -> None:
    def joined(*given: Quantisation | None, axis: int = 1) -> Quantisation | None:
        return inferred(op("Concat", axis=axis), *(Spec(SHAPE, INT8, quantisation=q) for q in given))[0].quantisation

    one, other = quantised(None), quantised(None, zero=3)
    assert joined(one, one) == one
    assert joined(one, other) is joined(one, None) is joined(None, one) is None
    along = quantised(1, 3)
    assert joined(along, along) is None
    assert joined(along, along, axis=2) == along
    chosen = [Spec((), np.dtype(np.bool_)), Spec(SHAPE, INT8, quantisation=one)]
    assert inferred(op("Where"), *chosen, chosen[1])[0].quantisation == one
    assert inferred(op("Where"), *chosen, Spec(SHAPE, INT8, quantisation=other))[0].quantisation is None


def test_arithmetic_forgets() -> None:
    x = Spec(SHAPE, INT8, quantisation=quantised(None))
    for made, specs in (
        (op("Add"), (x, x)), (op("Resize", mode="linear"), (x, None, spec_of(np.array([1, 1, 2, 2], np.float32)))),
        (op("Cast", to=6), (x,)), (op("DequantizeLinear"), (x, spec_of(np.float32(0.5).reshape(())))),
    ):  # fmt: skip
        assert inferred(made, *specs)[0].quantisation is None


def graph(scale: np.ndarray, zero_point: np.ndarray | None, fed: bool = False) -> Graph:
    """QuantizeLinear, moved about, DequantizeLinear; the scale a constant unless it is ``fed``."""
    given = {"scale": scale} if zero_point is None else {"scale": scale, "zero": zero_point}
    inputs = {"x": Spec(SHAPE, np.dtype(np.float32))}
    if fed:
        inputs["scale"] = Spec(scale.shape, given.pop("scale").dtype)
    nodes = [
        Node(op("QuantizeLinear", axis=-3), ("x", "scale", "zero" if zero_point is not None else ""), ("q",)),
        Node(op("MaxPool", kernel_shape=(2, 2)), ("q",), ("p",)),
        Node(op("Identity"), ("p",), ("same",)),
        Node(op("Transpose", perm=(0, 2, 3, 1)), ("same",), ("turned",)),
        Node(op("Relu") if zero_point is not None and zero_point.dtype == np.int8 else op("Identity"), ("turned",), ("y",)),
    ]
    return Graph(nodes, inputs, {"y": None}, given)


def test_it_comes_from_constant_scales() -> None:
    zero = np.array([0, -3, 50], np.int8)
    made = graph(np.array([0.5, 0.25, 2], np.float32), zero)
    specs = Model(made).plan({"x": SHAPE}).specs
    assert specs["q"].quantisation == Quantisation((0.5, 0.25, 2.0), (0, -3, 50), 1)
    assert specs["turned"].quantisation == specs["y"].quantisation == Quantisation((0.5, 0.25, 2.0), (0, -3, 50), 3)
    for scale, point in ((np.array(0.5, np.float32), None), (np.array([0.5], np.float32), np.array([0], np.uint8))):
        assert Model(graph(scale, point)).plan({"x": SHAPE}).specs["y"].quantisation == Quantisation((0.5,), (0,))
    fed = Model(graph(np.array(0.5, np.float32), None, fed=True)).plan({"x": SHAPE, "scale": ()})
    assert all(spec.quantisation is None for spec in fed.specs.values())


def test_constants_keep_it() -> None:
    """What is computed when the graph is loaded is known as well as what is not."""
    made = graph(np.array(0.5, np.float32), np.array(3, np.int8))
    whole = Graph(made.nodes, {}, made.outputs, {**made.constants, "x": np.ones(SHAPE, np.float32)})
    from nbconv.lowering.weights import Weights

    _, specs, _ = fold(whole, {}, Weights())
    assert specs["y"].constant
    assert specs["y"].quantisation == Quantisation((0.5,), (3,))


def test_it_is_shown() -> None:
    text = str(Model(graph(np.array(0.5, np.float32), np.array(3, np.int8))).plan({"x": SHAPE}))
    assert "int8 [scale 0.5, zero point 3]" in text
    along = str(Model(graph(np.array([0.5, 0.25, 2], np.float32), np.zeros(3, np.int8))).plan({"x": SHAPE}))
    assert "int8 [3 scales along axis 1]" in along
    assert "int8 [3 scales along axis 3]" in along
