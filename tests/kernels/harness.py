"""The kernels that serve one call of an op, held to the op's reference in float64.

A call becomes graphs of one node: its arrays as inputs, its weights as constants, and between poolings of one cell, which
make the values lie channels last. Each runs on one and on two threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.lowering.step import Step
from nbconv.model import Model
from nbconv.ops import Op, lookup
from nbconv.plan.plan import Plan
from tests.kernels.terms import terms

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
F32 = np.dtype(np.float32)

NUMPY = frozenset(("Cos", "Hardmax", "Mod", "ReduceLogSumExp", "ReduceProd", "Sign", "Sin",
                   "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan"))  # fmt: skip
"""Ops whose family has kernels, and they have none: NumPy runs them, as it does those without ``lower``."""

UNSERVED: dict[str, Callable[..., bool]] = {
    "LayerNormalization": lambda op, *_: op.stash_type != 1,
    "DeformConv": lambda op, x, *_: x.ndim != 4,
    "Einsum": lambda op, *x: any(v.size == 0 for v in x) or any(len(set(t)) < len(t) for t in op.terms(x)[0]),
    "Dropout": lambda op, x, *_: True,
    "FusedMatMul": lambda op, a, b: op.transBatchA or op.transBatchB,
    "Gemm": lambda op, a, b, c=None: a.size == 0 or (c is not None and c.ndim == 2 and c.shape[0] > 1),
    "GlobalAveragePool": lambda op, x: x.size == 0,
    "GridSample": lambda op, x, grid: x.ndim not in (4, 5),
    "GlobalMaxPool": lambda op, x: x.size == 0,
    "MatMul": lambda op, a, b: a.size == 0 or crossing(a.shape[:-2], b.shape[:-2]),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), lambda op, *_: not op.kernel()),
    **dict.fromkeys(("RNNGrad", "GRUGrad", "LSTMGrad"), lambda op, *x: x[7] is not None),
    "MaxUnpool": lambda op, x, places, shape=None: shape is not None and tuple(shape) != op.inferred(x.shape),
    "Pow": lambda op, x, e: e.dtype != F32,
    "ReduceMax": lambda op, x, axes=None: x.size == 0,
    "ReduceMean": lambda op, x, axes=None: x.size == 0,
    "RoiAlignGrad": lambda op, *_: op.mode == "max",
    **dict.fromkeys(
        ("ReduceSum", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"),
        lambda op, x, axes=None: x.size == 0,
    ),
}
"""Calls of float32, weights constant, for which an op that has kernels has none."""


def crossing(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether batches of matrices broadcast so that neither side's are equally spaced, or A's are used again and again."""
    a, b, both = (int(np.prod(s)) for s in (left, right, np.broadcast_shapes(left, right)))
    return a > 1 and b > 1 and not a == b == both


def check_kernels(op: Op, inputs: tuple[np.ndarray | None, ...], want: tuple[np.ndarray, ...], device: str = "cpu") -> None:
    """Runs the call every way there is. ``want``: the reference's outputs, in the inputs' types."""
    bounds = tolerances(op, inputs, want)
    for fed in variants(op, inputs):
        for wrapped in (False, True):
            graph = one_node(op, inputs, len(want), fed, wrapped)
            if graph is None:
                continue
            model = Model(graph, threads=1, device=device)
            feeds = {f"x{i}": inputs[i] for i in fed}
            one, two = model.run(feeds), model.run(feeds, threads=2)  # pyright: ignore[reportArgumentType]
            for name, y, e, (exact, bound) in zip(one, one.values(), want, bounds, strict=True):
                agree(y, e, exact, bound, f"{name} of {op!r}, inputs {fed} fed{', channels last' * wrapped}")
                assert y.tobytes() == two[name].tobytes(), "two threads give other bits than one"
            if fed == (0,) and not wrapped:
                check_served(op, inputs, want, model)


def check_served(op: Op, inputs: tuple, want: tuple, model: Model) -> None:
    """Fails for a kernel that was lost, and for an exception that is none any more."""
    if without(op) or any(x.dtype != F32 for x in (inputs[0], *want)) or not any(y.size for y in want):
        return
    plan = model.plan({"x0": inputs[0].shape})  # pyright: ignore[reportOptionalMemberAccess]
    assert not unwritten(plan), f"a step of {op!r} does not say what it writes"
    steps = plan.numpy_steps()
    specs = tuple(None if x is None else spec_of(x) for x in inputs)
    if unserved(op, inputs) or (plan.target.gpu and op.on_processors(specs, tuple(spec_of(y) for y in want))):
        assert steps, f"a kernel serves {op!r} now: strike it from the table"
    else:
        mine = [node for node in steps if node.op.type == op.type] if plan.target.gpu else steps  # others have their calls
        assert not mine, f"NumPy runs {op!r}"


def unwritten(plan: Plan) -> list[tuple[Step, str]]:
    """What steps read before any step wrote it."""
    there, found = {*plan.inputs, *plan.constants}, []
    for step in plan.steps:
        found += [(step, n) for n in step.reads if plan.root(n) not in there]
        there.update(plan.root(n) for n in step.writes)
    return found


def without(op: Op) -> bool:
    """Whether the op has no kernels, nor those of others that stand for it."""
    return type(op).lower is Op.lower and type(op).expand is Op.expand


def unserved(op: Op, inputs: tuple[np.ndarray | None, ...]) -> bool:
    """Whether NumPy runs the call, as the tables say."""
    return without(op) or op.type in NUMPY or (op.type in UNSERVED and UNSERVED[op.type](op, *inputs))


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
    if data_dependent(op, inputs, given):
        found.append(tuple(given))
    return list(dict.fromkeys(found)) or [()]


def data_dependent(op: Op, inputs: tuple, fed: list[int]) -> bool:
    """Whether shapes depend on values of these inputs, so that the call is planned while it runs."""
    try:
        op.infer(*(None if x is None else Spec(x.shape, x.dtype) if i in fed else spec_of(x) for i, x in enumerate(inputs)))
    except DataDependentError:
        return True
    except ModelError:
        pass
    return False


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
        if not nodes or data_dependent(op, inputs, list(fed)):
            return None
    node = Node(op, tuple(reads), tuple(makes))
    nodes.append(node)
    constants = {names[i]: x for i, x in enumerate(inputs) if x is not None and i not in fed}
    graph_inputs = {names[i]: Spec(inputs[i].shape, inputs[i].dtype) for i in fed}
    if wrapped:
        specs = op.infer(
            *(None if x is None else Spec(x.shape, x.dtype) if i in fed else spec_of(x) for i, x in enumerate(inputs))
        )
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
    error = np.abs(got[finite].astype(np.float64) - exact[finite])
    worst = np.argmax(error - bound[finite]) if error.size else 0
    assert (error <= bound[finite]).all(), (
        f"{what}: {got[finite][worst]!r}, wanted {exact[finite][worst]!r} within {bound[finite][worst]:.2g}"
    )


def tolerances(op: Op, inputs: tuple, want: tuple[np.ndarray, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each output the float64 answer, and by how much a float32 kernel may miss it: c·ε·Σ|terms|."""
    wide = tuple(x.astype(np.float64) if x is not None and x.dtype == F32 else x for x in inputs)
    exact = op.reference(*wide)
    found = []
    for i, (y, e) in enumerate(zip(exact if type(exact) is tuple else (exact,), want)):
        if e.dtype != F32:
            found.append((y, np.zeros(e.shape)))
            continue
        if unserved(op, inputs):
            finite = np.abs(e[np.isfinite(e)])
            found.append((e.astype(np.float64), np.full(e.shape, 1e-5 * finite.max(initial=0))))
            continue
        with np.errstate(all="ignore"):
            scale = terms(op, wide, np.asarray(y, np.float64))
            scale = np.broadcast_to(scale[i] if isinstance(scale, tuple) else scale, e.shape)
            found.append(
                (
                    np.asarray(y, np.float64),
                    factor(op, inputs) * EPS * np.nan_to_num(scale, nan=np.inf, posinf=np.inf) + 2 * TINY,
                )
            )
    return found


def factor(op: Op, inputs: tuple) -> float:
    """The c of c·ε·Σ|terms|. Winograd's transforms (F(4×4, 3×3): Barabasz et al., "Error Analysis and Improving the
    Accuracy of Winograd Convolution", 2020) lose about a digit more than the sum itself."""
    filtered = op.type in ("Conv", "ConvTranspose", "ConvGradInput") and inputs[1].shape[2:] == (3, 3)
    return 40 if filtered and op.attributes().get("strides", (1, 1)) == (1, 1) else 8


def reference(graph: Graph, feeds: dict[str, np.ndarray], dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Every value of the graph, node by node, floats in this type."""

    def wide(x: np.ndarray) -> np.ndarray:
        return x.astype(dtype) if x.dtype == F32 else x

    values = {name: wide(x) for name, x in {**graph.constants, **feeds}.items()}
    for node in graph.nodes:
        found = node.op.reference(*(values[n] if n else None for n in node.inputs))
        values.update(zip(node.outputs, found if type(found) is tuple else (found,)))
    return values
