"""The kernels that serve one call of an op, held to the op's reference in float64.

A call becomes graphs of one node: its arrays as inputs, its weights as constants, and between poolings of one cell, which
make the values lie channels last. Each runs on one and on two threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.model import Model
from nbconv.ops import Op, lookup

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
F32 = np.dtype(np.float32)

NUMPY = frozenset(
    """
    And ArgMax ArgMin Cast CastLike Ceil Celu Compress Constant ConstantOfShape Cos CumSum DequantizeLinear Einsum Equal
    EyeLike Floor Gather GatherElements GatherND GlobalLpPool Greater GreaterOrEqual GroupNormalization Hardmax
    InstanceNormalization IsInf IsNaN LayerNormalization Less LessOrEqual LogSoftmax LpNormalization LpPool Mean
    MeanVarianceNormalization Mish Mod NonZero Not OneHot Or QuantizeLinear Range ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMin ReduceProd ReduceSumSquare Round ScatterElements ScatterND Selu Shape Sign Sin Size
    Tan ThresholdedRelu Tile TopK Trilu Where Xor
    """.split()
)
"""Ops that have no kernel: NumPy runs them, and so it may."""

LINEAR = frozenset(
    "Add Sum Conv ConvTranspose Gemm MatMul AveragePool GlobalAveragePool ReduceSum ReduceMean Resize Mean".split()
)
"""Ops whose error is bounded by the same op on absolute values."""


def check_kernels(op: Op, inputs: tuple[np.ndarray | None, ...], want: tuple[np.ndarray, ...], numpy: str) -> None:
    """Runs the call every way there is. ``want``: the reference's outputs, in the inputs' types. ``numpy`` says why NumPy
    serves the call; "" for a call of float32 that kernels must serve."""
    bounds = tolerances(op, inputs, want)
    for fed in variants(op, inputs):
        for wrapped in (False, True):
            graph = one_node(op, inputs, len(want), fed, wrapped)
            if graph is None:
                continue
            model = Model(graph, threads=1)
            feeds = {f"x{i}": inputs[i] for i in fed}
            one, two = model.run(feeds), model.run(feeds, threads=2)  # pyright: ignore[reportArgumentType]
            for name, y, e, (exact, bound) in zip(one, one.values(), want, bounds, strict=True):
                agree(y, e, exact, bound, f"{name} of {op!r}, inputs {fed} fed{', channels last' * wrapped}")
                assert y.tobytes() == two[name].tobytes(), "two threads give other bits than one"
            if fed == (0,) and not wrapped:
                check_served(op, inputs, want, model, numpy)


def check_served(op: Op, inputs: tuple, want: tuple, model: Model, numpy: str) -> None:
    """Fails for a kernel that was lost, and for an exception that is none any more."""
    if op.type in NUMPY or any(x is not None and x.dtype != F32 for x in (inputs[0], *want)) or not any(y.size for y in want):
        return
    steps = model.plan({"x0": inputs[0].shape}).numpy_steps()  # pyright: ignore[reportOptionalMemberAccess]
    if numpy:
        assert steps, f"a kernel serves {op!r} now, although: {numpy}"
    else:
        assert not steps, f"NumPy runs {op!r}"


def variants(op: Op, inputs: tuple[np.ndarray | None, ...]) -> list[tuple[int, ...]]:
    """Which inputs are the graph's: as many as ``infer`` can do without knowing, the first alone, the last alone."""
    given = [i for i, x in enumerate(inputs) if x is not None]
    floats = [i for i in given if inputs[i].dtype == F32]  # pyright: ignore[reportOptionalMemberAccess]
    found: list[tuple[int, ...]] = []
    for fed in (given, floats, floats[:2]):
        if possible(op, inputs, fed):
            found.append(tuple(fed))
            break
    found += [(i,) for i in (*given[:1], *floats[-1:]) if possible(op, inputs, [i])]
    return list(dict.fromkeys(found)) or [()]


def possible(op: Op, inputs: tuple, fed: list[int]) -> bool:
    """Whether shapes can be inferred while these inputs' values are unknown."""
    specs = [None if x is None else Spec(x.shape, x.dtype) if i in fed else spec_of(x) for i, x in enumerate(inputs)]
    try:
        op.infer(*specs)
    except ModelError:
        return False
    return True


def one_node(op: Op, inputs: tuple, outputs: int, fed: tuple[int, ...], wrapped: bool) -> Graph | None:
    """The graph of one node. Wrapped, it stands between poolings of one cell, which want their values channels last; None
    when there is nothing to wrap."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    nodes, reads, makes = [], list(names), [f"y{i}" for i in range(outputs)]
    if wrapped:
        for i in fed:
            if inputs[i].dtype == F32 and inputs[i].ndim in (3, 4) and inputs[i].size:
                reads[i] = f"wrapped{i}"
                nodes.append(pooling(inputs[i].ndim, names[i], reads[i]))
        if not nodes:
            return None
    node = Node(op, tuple(reads), tuple(makes))
    nodes.append(node)
    constants = {names[i]: x for i, x in enumerate(inputs) if x is not None and i not in fed}
    graph_inputs = {names[i]: Spec(inputs[i].shape, inputs[i].dtype) for i in fed}
    if wrapped:
        specs = op.infer(*(None if x is None else Spec(x.shape, x.dtype) if i in fed else spec_of(x) for i, x in enumerate(inputs)))
        for i, spec in enumerate((specs if type(specs) is tuple else (specs,))[:outputs]):
            if spec.dtype == F32 and spec.rank in (3, 4) and spec.size:
                node.outputs = (*node.outputs[:i], f"inner{i}", *node.outputs[i + 1 :])
                nodes.append(pooling(spec.rank, f"inner{i}", makes[i]))
    return Graph(nodes, graph_inputs, dict.fromkeys(makes), constants)


def pooling(rank: int, x: str, y: str) -> Node:
    """The identity, to the bit, as an op that works channels last."""
    return Node(lookup("MaxPool")(kernel_shape=(1,) * (rank - 2)), (x,), (y,))


def agree(got: np.ndarray, want: np.ndarray, exact: np.ndarray, bound: np.ndarray, what: str) -> None:
    """Same shape, type, NaNs and infinities as ``want``; finite floats within ``bound`` of ``exact``, all else equal."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype), what
    if got.dtype != F32:
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=what)
    error = np.abs(got.astype(np.float64) - exact)[finite]
    worst = np.argmax(error - bound[finite]) if error.size else 0
    assert (error <= bound[finite]).all(), (
        f"{what}: {got[finite][worst]!r}, wanted {exact[finite][worst]!r} within {bound[finite][worst]:.2g}"
    )


def tolerances(op: Op, inputs: tuple, want: tuple[np.ndarray, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each output the float64 answer, and by how much a float32 kernel may miss it: c·ε·Σ|terms|."""
    wide = tuple(x.astype(np.float64) if x is not None and x.dtype == F32 else x for x in inputs)
    exact = op.reference(*wide)
    found = []
    for y, e in zip(exact if type(exact) is tuple else (exact,), want):
        if e.dtype != F32:
            found.append((y, np.zeros(e.shape)))
            continue
        with np.errstate(all="ignore"):
            scale = np.broadcast_to(terms(op, wide, np.asarray(y, np.float64)), e.shape)
            found.append((np.asarray(y, np.float64), 8 * EPS * np.nan_to_num(scale, nan=np.inf, posinf=np.inf) + 2 * TINY))
    return found


def terms(op: Op, x: tuple, y: np.ndarray) -> Any:
    """Σ|terms| of each output element; the answer's size where nothing is summed."""
    size = tuple(np.abs(v) if v is not None and v.dtype == np.float64 else v for v in x)
    attribute = {**op.fields, **op.attributes()}
    match op.type:
        case "Gemm":
            return type(op)(**{**op.attributes(), "alpha": abs(attribute["alpha"]), "beta": abs(attribute["beta"])}).reference(*size)
        case name if name in LINEAR and attribute.get("mode") != "cubic":
            return op.reference(*size)
        case "Sub":
            return size[0] + size[1]
        case "BatchNormalization":
            spread = [np.reshape(v, (-1, *[1] * (y.ndim - 2))) for v in (*size[1:4], x[4])]
            factor = spread[0] / np.sqrt(spread[3] + attribute["epsilon"])
            return (size[0] + spread[2]) * factor + spread[1]
        case "HardSigmoid":
            return np.abs(attribute["alpha"] * x[0]) + abs(attribute["beta"])
        case "HardSwish":
            return size[0] * (size[0] / 6 + 0.5)
        case "Gelu":
            return size[0]
        case "Erf" | "Tanh" | "Sigmoid" | "Softplus" | "Elu":
            return np.maximum(np.abs(y), attribute.get("alpha", 1))
        case "Softmax":
            return y * (1 + np.abs(x[0] - x[0].max(axis=attribute["axis"], keepdims=True, initial=-np.inf)))
        case "LRN":
            return 2 * np.abs(y)
        case _:
            return np.abs(y)
