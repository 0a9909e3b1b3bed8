"""Element types that are stored and not computed with: moved, ordered and pooled by kernels, to the bit as the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import Op, lookup
from tests.check import as_tuple, onnxruntime_answer

STORED = [np.dtype(t) for t in ("?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "i8", "u8", "f8")]


def values(dtype: np.dtype, *shape: int) -> np.ndarray:
    """Any bits at all: NaN of both signs, infinities, both zeros and extremes among them."""
    rng = np.random.default_rng([dtype.itemsize, ord(dtype.kind)])
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    x = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()
    special = [0, 1, np.nan, np.inf, -np.inf, -0.0] if dtype.kind == "f" else [0, np.iinfo(dtype).min, np.iinfo(dtype).max]
    flat = x.reshape(-1)
    flat[: len(special)] = np.array(special, dtype)[: len(flat)]
    rng.shuffle(flat)
    return x


def op(kind: str, **attributes: Any) -> Op:
    return lookup(kind)(**attributes)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def check(made: Op, *inputs: np.ndarray | None, fed: int = 1, outputs: int = 1, differs: bool = False) -> None:
    """The call with ``fed`` inputs given to `run`: no NumPy step, the reference's bits, with one thread and with
    two, denormals kept; and onnxruntime's values, unless that ``differs``."""
    given = tuple(f"x{i}" if x is not None else "" for i, x in enumerate(inputs))
    names = [f"y{i}" for i in range(outputs)]
    constants = {n: x for n, x in zip(given[fed:], inputs[fed:], strict=True) if x is not None}
    feeds = {n: x for n, x in zip(given[:fed], inputs[:fed], strict=True) if x is not None}
    shapes = {n: Spec(x.shape, x.dtype) for n, x in feeds.items()}
    graph = Graph([Node(made, given, tuple(names))], shapes, dict.fromkeys(names), constants)
    model = Model(graph, threads=1, flush_denormals=False)
    plan = model.plan({n: x.shape for n, x in feeds.items()})
    assert not plan.numpy_steps(), f"NumPy runs {made!r}"
    want = as_tuple(made.reference(*inputs))[:outputs]
    for threads in (1, 2):
        found = model.run(feeds, threads=threads)
        for name, y in zip(names, want, strict=True):
            assert (found[name].dtype, found[name].shape) == (y.dtype, y.shape)
            assert found[name].tobytes() == np.ascontiguousarray(y).tobytes(), f"{made!r}, {threads} threads"
    peer = None if differs else onnxruntime_answer(made, inputs, [y.dtype for y in want])
    for y, e in zip(want, peer or want, strict=True):
        np.testing.assert_array_equal(y, e)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_moved(dtype: np.dtype) -> None:
    x = values(dtype, 2, 3, 5, 7)
    check(op("Reshape"), x, ints(3, -1))
    for perm in ((3, 2, 1, 0), (0, 2, 3, 1), (1, 0, 3, 2)):
        check(op("Transpose", perm=perm), x)
    for axis in range(4):
        check(op("Concat", axis=axis), x, values(dtype, 2, 3, 5, 7)[::-1].copy(), fed=2)
        check(op("Split", axis=axis), x, ints(1, x.shape[axis] - 1), outputs=2)
    check(op("Slice"), x, ints(4, -1), ints(-6, 0), ints(2, 3), ints(-2, -3))
    check(op("Pad"), x, ints(0, 1, 0, 2, 1, 0, -1, 0), values(dtype, 1).reshape(()))
    check(op("Pad"), x, ints(0, 0, 1, 1, 0, 0, 1, 1))
    check(op("Gather", axis=2), x, np.array([[4, -5], [0, 1]]))
    check(op("Gather", axis=3), x, np.array(6))
    check(op("Expand"), values(dtype, 3, 1, 7), ints(2, 3, 4, 7))
    check(op("Tile"), x, ints(1, 2, 1, 3))
    check(op("DepthToSpace", blocksize=2), values(dtype, 1, 8, 3, 5))
    check(op("SpaceToDepth", blocksize=2), values(dtype, 1, 3, 4, 6))
    empty = np.zeros((2, 0, 5), dtype)
    check(op("Concat", axis=1), empty, values(dtype, 2, 3, 5), fed=2)
    check(op("Pad"), empty, ints(0, 1, 0, 0, 1, 0))


@pytest.mark.parametrize("dtype", [d for d in STORED if d.kind != "b"], ids=str)
def test_resized_to_the_nearest(dtype: np.dtype) -> None:
    check(op("Resize"), values(dtype, 2, 19, 5, 7), None, np.array([1, 1, 2.5, 0.6], np.float32))


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in ("f2", "i1", "i4", "i8")], ids=str)
def test_relu(dtype: np.dtype) -> None:
    for shape in ((), (1,), (3, 17), (5000,)):
        check(op("Relu"), values(dtype, *shape))


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in ("i1", "u1")], ids=str)
def test_clip(dtype: np.dtype) -> None:
    low, high = np.array(9, dtype), np.array(100, dtype)
    for limits in ((low, high), (low,), (None, high), (), (high, low)):
        for shape in ((), (1,), (3, 17), (2, 3, 5, 7), (70001,)):
            check(op("Clip"), values(dtype, *shape), *limits)


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in ("f2", "i1", "u1")], ids=str)
def test_max_pool(dtype: np.dtype) -> None:
    for attributes in (
        {"kernel_shape": (2, 2)},
        {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 1)},
        {"kernel_shape": (2, 3), "dilations": (2, 2), "ceil_mode": 1},
    ):
        x = values(dtype, 2, 19, 9, 8)
        check(op("MaxPool", **attributes), x, differs=dtype.kind == "f")  # which drops some NaNs
        check(op("MaxPool", **attributes), np.nan_to_num(x))
    check(op("MaxPool", kernel_shape=(3,)), np.nan_to_num(values(dtype, 1, 2, 10)))


@pytest.mark.parametrize("dtype", [np.dtype(t) for t in ("f2", "i1", "u1")], ids=str)
def test_a_graph_of_stored_values(dtype: np.dtype) -> None:
    """Pooled channels last, joined without a copy, cut, surrounded and turned: no NumPy step, the reference's bits."""
    x = values(dtype, 2, 6, 8, 8)
    nodes = [
        Node(op("MaxPool", kernel_shape=(2, 2), strides=(2, 2)), ("x",), ("a",)),
        Node(op("MaxPool", kernel_shape=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1)), ("x",), ("b",)),
        Node(op("Concat", axis=1), ("a", "b"), ("c",)),
        Node(op("Slice"), ("c", "starts", "ends", "axes"), ("d",)),
        Node(op("Pad"), ("d", "pads"), ("e",)),
        Node(op("Transpose", perm=(0, 2, 3, 1)), ("e",), ("y",)),
    ]
    constants = {"starts": ints(2, 0), "ends": ints(9, 3), "axes": ints(1, 2), "pads": ints(0, 0, 1, 0, 0, 0, 0, 2)}
    graph = Graph(nodes, {"x": Spec(x.shape, dtype)}, {"y": None}, constants)
    model = Model(graph, threads=1)
    plan = model.plan({"x": x.shape})
    assert not plan.numpy_steps()
    assert sum(step.kernel.startswith("elements.copy") for step in plan.steps if step.node.op.type == "Concat") == 0
    made = {"x": x, **constants}
    for node in nodes:
        made[node.outputs[0]] = as_tuple(node.op.reference(*(made[n] for n in node.inputs)))[0]
    for threads in (1, 2):
        assert model.run({"x": x}, threads=threads)["y"].tobytes() == np.ascontiguousarray(made["y"]).tobytes()
