"""The gradients of one call of an op, held to what they must be.

A call becomes a graph of one node, `backprop` adds the nodes that its op's `gradient` names (`nbconv.tools.gradcheck`), and
then:

- their references in float64 against central differences of the forward reference: one random direction, drawn again with
  other inputs where the function has a kink (as chainer's `gradient_check` does);
- their float32 kernels, planned and run, against those references within c·ε·Σ|terms|; two threads bitwise as one.

Inputs with NaN or infinity are left to the forward checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.model import Model
from nbconv.ops import Op
from nbconv.passes.autodiff import differentiable
from nbconv.tools.gradcheck import RTOL, Call, Change, evaluate, slope_error
from tests.kernels.harness import EPS, F32, TINY, agree, pooling, possible, terms, unserved

PENDING: frozenset[str] = frozenset(("If", "Loop", "Scan"))
"""Differentiable ops that have no gradient yet."""

STRAIGHT = frozenset(("StraightRound", "StraightClip"))
"""Ops whose gradient is not the derivative: tests/train/test_quantised.py has steps through them."""

HELD: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "Dropout": (1,),
    "MaxRoiPool": (1,),
    "Resize": (1, 2),
    "RoiAlign": (1,),
    "DequantizeLinear": (2,),
    "Held": (0,),
    "SoftmaxCrossEntropyLoss": (2,),
    "NegativeLogLikelihoodLoss": (2,),
}
"""Inputs of floating point that are parameters of the function, not its arguments: held constant."""

NUMPY_GRADIENT: dict[str, Callable[..., bool]] = {
    "RoiAlign": lambda op, *_: op.mode == "max",
    **dict.fromkeys(
        ("RNN", "GRU", "LSTM"), lambda op, *x: bool(op.clip) or "reset" in op.also or (*x, *[None] * 8)[7] is not None
    ),
}
"""Calls that kernels serve while NumPy has a part in their gradient."""

SEVERAL = frozenset(("ConvGradWeight", "DeformColumnsGrad", "BatchNormalizationGradScale", "RNNGrad", "GRUGrad", "LSTMGrad"))
"""Ops for which `terms` tells the terms of every output."""

WIDE_STEP, WIDE_RTOL = 64.0, 2e-2
"""Of the differences, for what rounds its result to a shorter type and is linear but for that."""


def arguments(op: Op, inputs: tuple[np.ndarray | None, ...]) -> tuple[int, ...]:
    """The inputs by which a call is differentiated; none where `differentiable` says so, or where inputs are not finite."""
    if not all(np.isfinite(x).all() for x in inputs if x is not None and x.dtype.kind == "f"):
        return ()
    held = HELD.get(op.type, ())
    floats = [i for i, x in enumerate(inputs) if x is not None and x.dtype == F32 and i not in held]
    while floats and not possible(op, inputs, floats):  # what must be known is no argument either
        floats.pop()
    given = tuple(None if x is None else Spec(x.shape, x.dtype) if i in floats else spec_of(x) for i, x in enumerate(inputs))
    return tuple(floats) if floats and differentiable(op, given) else ()


def check_gradient(op: Op, inputs: tuple[np.ndarray | None, ...], outputs: int) -> None:
    """Both checks of one call; ``inputs`` as `check_op` has them."""
    wrt = arguments(op, inputs)
    if not wrt or op.type in STRAIGHT or (op.domain and type(op).gradient is Op.gradient):
        return  # what gradients are made of needs none itself
    if op.type in PENDING:
        assert type(op).gradient is Op.gradient, f"{op.type} has a gradient now: strike it from PENDING"
        return
    if any(inputs[i].size == 0 for i in wrt):  # pyright: ignore[reportOptionalMemberAccess]
        Call(op, inputs, outputs, wrt, aside(op, outputs))  # nothing to differ: that it can be built is all
        return
    rng = np.random.default_rng(sum(x.size for x in inputs if x is not None))
    check_reference(op, inputs, Call(op, inputs, outputs, wrt, aside(op, outputs)), wrt, rng)
    check_gradient_kernels(op, inputs, outputs, wrt, rng)


def aside(op: Op, outputs: int) -> tuple[int, ...]:
    """The outputs through which a gradient goes: not running statistics and places, and not statistics of float32, which
    differences in float64 would not see."""
    rounded = op.type == "LayerNormalization" and op.attributes().get("stash_type", 1) != 11
    return (0,) if rounded or op.type in ("BatchNormalization", "MaxPool", "TopK") else tuple(range(outputs))


def noisy(noise: np.random.Generator) -> Change:
    """Changes each result by ±ε·terms at random: what float32 kernels may do to it."""

    def change(node: Node, given: tuple, i: int, y: np.ndarray) -> np.ndarray:
        if y.dtype != np.float64 or not moves(node.op):
            return y
        with np.errstate(all="ignore"):
            size = terms(node.op, given, y) if i == 0 or node.op.type in SEVERAL else np.abs(y)
            size = np.nan_to_num(np.broadcast_to(size[i] if isinstance(size, tuple) else size, y.shape))
            return y + size * EPS * noise.choice((-1.0, 1.0), y.shape)

    return change


def moves(op: Op) -> bool:
    """Whether the op computes: what only carries values round makes no error."""
    return op.type not in ("Reshape", "Transpose", "Slice", "Pad", "Concat", "Split", "Expand", "ExpandLike", "Flatten",
                           "Squeeze", "Unsqueeze", "Identity", "Neg", "Where", "SliceGrad", "Same", "Tile")  # fmt: skip


def check_reference(op: Op, inputs: tuple, call: Call, wrt: tuple[int, ...], rng: np.random.Generator) -> None:
    """The gradients' references against differences of the forward reference."""
    narrow = any(s.dtype.itemsize < 4 for s in call.dy.values()) or op.type in ("Cast", "CastLike")
    options = {"step": WIDE_STEP, "smooth": False} if narrow else {}
    error, told = slope_error(op, inputs, call, wrt, rng, **options)
    assert error <= (WIDE_RTOL if narrow else RTOL), f"gradient of {op!r}: {told}"


def check_gradient_kernels(op: Op, inputs: tuple, outputs: int, wrt: tuple[int, ...], rng: np.random.Generator) -> None:
    """The gradients as planned and run: all float inputs fed, then the first alone with constants beside it, then between
    values that lie channels last."""
    for fed in dict.fromkeys((wrt, wrt[:1])):
        call = Call(op, inputs, outputs, fed, aside(op, outputs))
        if not call.gradients:
            continue
        slopes = call.slopes(rng)
        feeds = {**{f"x{i}": inputs[i] for i in fed}, **slopes}
        bounds = expected(call, feeds)
        for wrapped in (False, True):
            graph = between_poolings(call) if wrapped else call.graph
            if graph is None:
                continue
            graph = Graph(graph.nodes, graph.inputs, dict.fromkeys(call.gradients), graph.constants)
            model = Model(graph, threads=1)
            one, two = model.run(feeds), model.run(feeds, threads=2)
            for name, y in one.items():
                exact, want, bound = bounds[name]
                agree(y, want, exact, bound, f"{name} of {op!r}, inputs {fed} fed{', channels last' * wrapped}")
                assert y.tobytes() == two[name].tobytes(), "two threads give other bits than one"
            if fed == wrt[:1] and not wrapped:
                check_no_numpy(op, inputs, model, feeds)


def check_no_numpy(op: Op, inputs: tuple, model: Model, feeds: dict[str, np.ndarray]) -> None:
    """Fails where kernels serve the op but not its gradient."""
    if unserved(op, inputs) or any(x.size == 0 for x in feeds.values()):
        return
    steps = [n.op.type for n in model.plan({n: x.shape for n, x in feeds.items()}).numpy_steps()]
    allowed = op.type in NUMPY_GRADIENT and NUMPY_GRADIENT[op.type](op, *inputs)
    if allowed:
        assert steps, f"kernels serve the gradient of {op!r} now: strike it from the table"
    else:
        assert not steps, f"NumPy runs {', '.join(steps)} in the gradient of {op!r}"


def expected(call: Call, feeds: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each gradient the float64 answer, the same as float32, and by how much kernels may miss it.

    That is c·ε·Σ|terms| with the terms of every node on the way: each node's result is changed by ±ε of its own terms, at
    random, eight times, and the greatest change of the gradient, with that of its neighbours at a twentieth, is what
    such errors do to it.
    """
    exact = evaluate(call.graph, feeds)
    runs = [evaluate(call.graph, feeds, noisy(np.random.default_rng(seed))) for seed in range(8)]
    found = {}
    for name in call.gradients:
        y = np.asarray(exact[name], np.float64)
        with np.errstate(all="ignore"):
            spread = np.max([np.nan_to_num(np.abs(run[name] - y)) for run in runs], axis=0)
        bound = 16 * spread + 8 * EPS * np.nan_to_num(np.abs(y)) + 2 * TINY
        with np.errstate(over="ignore"):
            found[name] = (y, y.astype(call.specs[name].dtype), bound)
    return found


def between_poolings(call: Call) -> Graph | None:
    """The graph with its inputs, and what comes out, passed through poolings of one cell, which want their values channels
    last; None when there is nothing to wrap."""
    wide = {n for n, s in call.graph.inputs.items() if s.dtype == F32 and s.rank in (3, 4) and s.size}
    if not wide:
        return None
    ends = {n for n in call.gradients if call.specs[n].rank in (3, 4) and call.specs[n].dtype == F32 and call.specs[n].size}
    ends -= set(call.graph.inputs)
    start, end = {n: f"wrapped_{n}" for n in wide}, {n: f"inner_{n}" for n in ends}
    nodes: list[Any] = [pooling(call.graph.inputs[n].rank, n, start[n]) for n in sorted(wide)]
    for node in call.graph.nodes:
        reads = tuple(start.get(n, end.get(n, n)) for n in node.inputs)
        nodes.append(Node(node.op, reads, tuple(end.get(n, n) for n in node.outputs), node.name))
    nodes += [pooling(call.specs[n].rank, end[n], n) for n in sorted(ends)]
    return Graph(nodes, call.graph.inputs, {}, call.graph.constants)
