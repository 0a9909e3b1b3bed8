"""If, Loop, Scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.model import Model
from nbconv.ops import Op, lookup
from nbconv.ops.control import BatchedScan, If, Loop, Scan
from tests.check import case, run_cases, sampler

r = sampler(11)
BOOL = Spec((), np.dtype(np.bool_))


def body(nodes: list[tuple[str, str, str]], outputs: str, **constants: Any) -> Graph:
    """A graph of (op, inputs, outputs) that reads what it lacks around it."""
    made = [Node(lookup(op)(), tuple(inputs.split(",")), tuple(out.split(","))) for op, inputs, out in nodes]
    return Graph(made, {}, dict.fromkeys(outputs.split(",")), {k: np.array(v, np.float32) for k, v in constants.items()})


def branches(one: Graph, other: Graph) -> Op:
    return If(then_branch=one, else_branch=other)


SUM, PRODUCT = body([("Add", "x1,x2", "s")], "s"), body([("Mul", "x1,x2", "p")], "p")
DEEP = branches(body([("Sub", "a,x3", "d")], "d"), body([("Relu", "a", "d")], "d"))
NESTED = Graph([Node(lookup("Neg")(), ("x1",), ("a",)), Node(DEEP, ("x2", "a", "x3"), ("n",))], {}, {"n": None}, {})


def looped(nodes: list[tuple[str, str, str]], inputs: str, outputs: str, types: str) -> Graph:
    """A body whose inputs have these types: b for bool, i for int64, f for float32."""
    made = body(nodes, outputs)
    kinds = {"b": np.dtype(np.bool_), "i": np.dtype(np.int64), "f": np.dtype(np.float32)}
    specs = {n: Spec((), kinds[t]) for n, t in zip(inputs.split(","), types, strict=True)}
    return Graph(made.nodes, specs, made.outputs, made.constants)


SUMS = looped([("Identity", "c", "go"), ("Add", "h,x3", "s"), ("Neg", "s", "n")], "i,c,h", "go,s,n", "ibf")
ONCE = looped([("Not", "c", "go"), ("Add", "h,x3", "s")], "i,c,h", "go,s", "ibf")
STEP = looped([("Add", "h,x", "s"), ("Mul", "s,x", "p")], "h,x", "s,p", "ff")

CASES = [
    case(Loop(body=SUMS), 3, True, 1.0, 2.0, outputs=2, expect=(7.0, [-3.0, -5.0, -7.0])),
    case(Loop(body=SUMS), 0, True, 1.0, 2.0, outputs=2, expect=(1.0, np.zeros(0, np.float32))),
    case(Loop(body=ONCE), 3, False, 1.0, 2.0, expect=1.0),
    case(Loop(body=SUMS), 2, None, 1.0, 2.0, outputs=2, expect=(5.0, [-3.0, -5.0])),
    case(Loop(body=ONCE), None, True, 1.0, 2.0, expect=3.0),
    case(Scan(body=STEP, num_scan_inputs=1), 1.0, [1.0, 2.0, 3.0], outputs=2, expect=(7.0, [2.0, 8.0, 21.0])),
    case(
        Scan(body=STEP, num_scan_inputs=1, scan_input_directions=(1,), scan_output_directions=(1,)),
        1.0,
        [1.0, 2.0, 3.0],
        outputs=2,
        expect=(7.0, [7.0, 12.0, 12.0]),
    ),
    case(
        BatchedScan(body=STEP, num_scan_inputs=1),
        np.array([3, 1]),
        [1.0, 2.0],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        outputs=2,
        expect=([7.0, 6.0], [[2.0, 8.0, 21.0], [24.0, 0.0, 0.0]]),
    ),
    case(BatchedScan(body=STEP, num_scan_inputs=1, directions=(1,)), None, [1.0], [[1.0, 2.0]], expect=[4.0]),
    case(branches(SUM, PRODUCT), True, [1.0, 2.0], [3.0, -4.0], expect=[4.0, -2.0]),
    case(branches(SUM, PRODUCT), False, [1.0, 2.0], [3.0, -4.0], expect=[3.0, -8.0]),
    case(branches(SUM, PRODUCT), np.array([[True]]), r(2, 3, 4, 5), r(2, 3, 4, 5)),
    case(branches(SUM, PRODUCT), False, [1, 2], [3, -4], expect=[3, -8]),
    case(branches(NESTED, body([("Abs", "x1", "a")], "a")), True, [1.0, 2.0], True, [3.0, -4.0], expect=[-4.0, 2.0]),
    case(branches(NESTED, body([("Abs", "x1", "a")], "a")), True, [1.0, -2.0], False, [3.0, -4.0], expect=[0.0, 2.0]),
    case(branches(NESTED, body([("Abs", "x1", "a")], "a")), False, [1.0, -2.0], True, [3.0, -4.0], expect=[1.0, 2.0]),
    case(branches(body([], "c", c=[1.0]), body([], "c", c=[2.0])), False, expect=[2.0]),
]
test_cases = run_cases(CASES)


def test_what_does_not_fit() -> None:
    x, y = Spec((2,), np.dtype(np.float32)), Spec((3,), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"the condition is float32\(2\), wanted one bool"):
        branches(SUM, PRODUCT).infer(x, x, x)
    with pytest.raises(ModelError, match="its bodies read x1, x2 around them, 1 values are given"):
        branches(SUM, PRODUCT).infer(BOOL, x)
    with pytest.raises(ModelError, match=r"s \(Add\): .*"):
        branches(SUM, PRODUCT).infer(BOOL, x, y)
    with pytest.raises(DataDependentError, match=r"output 0 is float32\(2\) in then_branch, float32\(3\) in else_branch"):
        branches(body([("Neg", "x1", "s")], "s"), body([("Neg", "x2", "s")], "s")).infer(BOOL, x, y)
    with pytest.raises(ModelError, match="1 and 2 outputs"):
        branches(body([("Neg", "x1", "s")], "s"), body([("Neg", "x1", "s")], "s,x1")).infer(BOOL, x)
    with pytest.raises(ModelError, match="then_branch"):
        If(then_branch=3, else_branch=SUM)
    with pytest.raises(ModelError, match="lacks its attribute 'else_branch'"):
        If(then_branch=SUM)


def test_a_batch_that_does_not_fit() -> None:
    op, real = BatchedScan(body=STEP, num_scan_inputs=1), np.dtype(np.float32)
    state, x = Spec((2,), real), Spec((2, 3), real)
    lengths = spec_of(np.array([3, 1]))
    with pytest.raises(DataDependentError):
        op.infer(lengths, state, x)
    with pytest.raises(ModelError, match=r"sequence_lens is int64\(3\)"):
        op.infer(spec_of(np.array([3, 1, 2])), state, x)
    with pytest.raises(ModelError, match="sequence_lens is float64"):
        op.infer(spec_of(np.array([3.0, 1.0])), state, x)
    with pytest.raises(ModelError, match="wanted one size of the batch"):
        op.infer(lengths, Spec((3,), real), x)


def test_a_known_condition_decides() -> None:
    """Then the other branch may give what it likes, or not fit at all."""
    op = branches(SUM, body([("Neg", "x1", "s")], "s"))
    x, y = Spec((2,), np.dtype(np.float32)), Spec((3,), np.dtype(np.float32))
    assert op.infer(spec_of(np.array(False)), x, y) == (x,)
    with pytest.raises(ModelError):
        op.infer(spec_of(np.array(True)), x, y)


def test_flops_are_those_of_the_larger_branch() -> None:
    op = branches(SUM, Graph([*PRODUCT.nodes, Node(lookup("Neg")(), ("p",), ("q",))], {}, {"q": None}, {}))
    x = Spec((5, 7), np.dtype(np.float32))
    assert op.flops((BOOL, x, x), (x,)) == 70


def test_a_branch_that_is_not_for_these_shapes() -> None:
    """As where one window is for 16 kHz, the other for 8: it matters only if it is taken."""
    x, w = Spec((2, 3), np.dtype(np.float32)), Spec((2, 3), np.dtype(np.float32))
    op = branches(SUM, body([("MatMul", "x1,x2", "p")], "p"))
    with pytest.raises(DataDependentError, match="a branch cannot be taken with these shapes"):
        op.infer(BOOL, x, w)
    (y,) = op.infer(spec_of(np.array(True)), x, w)
    assert y.shape == (2, 3)
    with pytest.raises(ModelError, match="has 3 columns"):
        op.infer(spec_of(np.array(False)), x, w)
    one, other = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    model = Model(Graph([Node(op, ("c", "x1", "x2"), ("y",))], {"c": BOOL, "x1": x, "x2": w}, {"y": None}, {}))
    np.testing.assert_array_equal(model.run({"c": np.array(True), "x1": one, "x2": other})["y"], one + other)
    with pytest.raises(ModelError, match="columns"):
        model.run({"c": np.array(False), "x1": one, "x2": other})
