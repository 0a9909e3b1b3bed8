"""The gradients of one call of an op, held to what they must be.

A call becomes a graph of one node, `backprop` adds the nodes that its op's `gradient` names, and then:

- their references in float64 against central differences of the forward reference: one random direction, drawn again with
  other inputs where the function has a kink (as chainer's `gradient_check` does);
- their float32 kernels, planned and run, against those references within c·ε·Σ|terms|; two threads bitwise as one.

Inputs with NaN or infinity are left to the forward checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.backprop import backprop, differentiable
from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.model import Model
from nbconv.ops import Op
from nbconv.passes.fold import infer
from tests.kernels.harness import EPS, F32, TINY, agree, pooling, possible, terms, unserved

PENDING = frozenset((
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "GlobalLpPool",
    "GlobalMaxPool", "LpPool", "MatMul", "MaxPool",
))  # fmt: skip
"""Differentiable ops that have no gradient yet."""

HELD: dict[str, tuple[int, ...]] = {
    "Dropout": (1,),
    "Resize": (1, 2),
    "DequantizeLinear": (2,),
    "SoftmaxCrossEntropyLoss": (2,),
    "NegativeLogLikelihoodLoss": (2,),
}
"""Inputs of floating point that are parameters of the function, not its arguments: held constant."""

NUMPY_GRADIENT = frozenset()
"""Ops that kernels serve while NumPy has a part in their gradient."""

STEP = 1e-4
RTOL = 1e-5
"""Allowed difference of the two directional derivatives, as a fraction of Σ|dy·dy/dx| + Σ|dx|."""
WIDE_STEP, WIDE_RTOL = 64.0, 2e-2
"""The same for what rounds its result to a shorter type, and is linear but for that."""


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
    if not wrt or (op.domain and type(op).gradient is Op.gradient):
        return  # what gradients are made of needs none itself
    if op.type in PENDING:
        assert type(op).gradient is Op.gradient, f"{op.type} has a gradient now: strike it from PENDING"
        return
    if any(inputs[i].size == 0 for i in wrt):  # pyright: ignore[reportOptionalMemberAccess]
        Call(op, inputs, outputs, wrt)  # nothing to differ: that it can be built is all
        return
    rng = np.random.default_rng(sum(x.size for x in inputs if x is not None))
    check_reference(op, inputs, outputs, wrt, rng)
    check_gradient_kernels(op, inputs, outputs, wrt, rng)


class Call:
    """A call with its gradients: the graph of both, which has the inputs ``x0`` …, and the outputs' gradients ``dy0`` …"""

    def __init__(self, op: Op, inputs: tuple[np.ndarray | None, ...], outputs: int, wrt: tuple[int, ...]) -> None:
        node = Node(
            op, tuple("" if x is None else f"x{i}" for i, x in enumerate(inputs)), tuple(f"y{i}" for i in range(outputs))
        )
        known = {f"x{i}": x for i, x in enumerate(inputs) if x is not None and i not in wrt}
        fed = {f"x{i}": Spec(inputs[i].shape, inputs[i].dtype) for i in wrt}  # pyright: ignore[reportOptionalMemberAccess]
        specs = {**fed, **{name: spec_of(x) for name, x in known.items()}}
        made = dict(zip(node.outputs, infer(node, tuple(specs[n] if n else None for n in node.inputs)), strict=False))
        self.dy = {f"d{y}": spec for y, spec in made.items() if spec.dtype.kind == "f" and not aside(op, y)}
        specs |= made | self.dy
        graph = Graph([node], {**fed, **self.dy}, dict.fromkeys(made), known)
        self.graph, self.specs, self.found = backprop(graph, specs, {dy[1:]: dy for dy in self.dy}, list(fed))
        self.outputs = tuple(made)
        self.gradients = tuple(self.found.values())

    def slopes(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random gradients of the outputs."""
        return {name: rng.standard_normal(s.shape).astype(s.dtype) for name, s in self.dy.items()}


def aside(op: Op, y: str) -> bool:
    """Whether an output is beside the point of the op, and no gradient goes through it."""
    return op.type in ("LayerNormalization", "SoftmaxCrossEntropyLoss") and y != "y0"


def evaluate(graph: Graph, feeds: dict[str, np.ndarray], noise: np.random.Generator | None = None) -> dict[str, np.ndarray]:
    """Every value of the graph by the ops' references, in float64. With ``noise`` each result is changed by ±ε·terms at
    random: what float32 kernels may do to it."""
    values = {n: x.astype(np.float64) if x.dtype == F32 else x for n, x in {**graph.constants, **feeds}.items()}
    for node in graph.nodes:
        given = tuple(values[n] if n else None for n in node.inputs)
        found = node.op.reference(*given)
        found = found if type(found) is tuple else (found,)
        for i, (name, y) in enumerate(zip(node.outputs, found)):
            if noise is not None and y.dtype == np.float64 and moves(node.op):
                with np.errstate(all="ignore"):
                    size = np.nan_to_num(np.broadcast_to(terms(node.op, given, y), y.shape)) if i == 0 else np.abs(y)
                    y = y + size * EPS * noise.choice((-1.0, 1.0), y.shape)
            values[name] = y
    return values


def moves(op: Op) -> bool:
    """Whether the op computes: what only carries values round makes no error."""
    return op.type not in ("Reshape", "ExpandLike", "Flatten",
                           "Squeeze", "Unsqueeze", "SliceGrad", "Same", "Tile")  # fmt: skip


def check_reference(op: Op, inputs: tuple, outputs: int, wrt: tuple[int, ...], rng: np.random.Generator) -> None:
    """The gradients' references against differences of the forward reference."""
    call = Call(op, inputs, outputs, wrt)
    narrow = any(s.dtype.itemsize < 4 for s in call.dy.values()) or op.type in ("Cast", "CastLike")
    step, rtol = (WIDE_STEP, WIDE_RTOL) if narrow else (STEP, RTOL)
    slopes = {n: x.astype(np.float64) if x.dtype == F32 else x for n, x in call.slopes(rng).items()}
    start = {f"x{i}": inputs[i].astype(np.float64) for i in wrt}
    for attempt in range(60):
        x = dict(start) if attempt == 0 else {n: moved(v, attempt, rng) for n, v in start.items()}
        way = {n: rng.standard_normal(v.shape) for n, v in x.items()}
        central = directional(op, inputs, tuple(int(n[2:]) for n in call.dy), x, way, step, smooth=not narrow)
        if central is None:
            continue
        found = evaluate(call.graph, {**x, **slopes})
        parts = {n: np.asarray(found[call.found[n]], np.float64) * way[n] for n in x if n in call.found}
        if not all(np.isfinite(p).all() for p in parts.values()):
            continue
        numeric = sum(float((slopes[f"d{y}"] * d).sum()) for y, d in central.items())
        size = sum(float(np.abs(slopes[f"d{y}"] * d).sum()) for y, d in central.items())
        ours, scale = sum(float(p.sum()) for p in parts.values()), sum(float(np.abs(p).sum()) for p in parts.values())
        assert abs(ours - numeric) <= rtol * (size + scale) + 1e-12, (
            f"gradient of {op!r}: along a random direction {ours!r}, by differences {numeric!r} (attempt {attempt})"
        )
        return
    raise AssertionError(f"gradient of {op!r}: no inputs without a kink found")


def moved(x: np.ndarray, attempt: int, rng: np.random.Generator) -> np.ndarray:
    """Other inputs: first away from ties and corners, then positive, too, for what is defined there only."""
    x = np.clip(x, -9, 9) + 0.03 * rng.standard_normal(x.shape)
    return np.abs(x) + 0.1 if attempt % 2 else x


def directional(
    op: Op,
    inputs: tuple,
    outputs: tuple[int, ...],
    x: dict[str, np.ndarray],
    way: dict[str, np.ndarray],
    step: float,
    smooth: bool,
) -> dict[str, np.ndarray] | None:
    """The derivative of each output along ``way`` by central differences (Richardson's extrapolation of two of them); None
    at a kink, a jump, or where an output is not finite."""

    def at(t: float) -> list[np.ndarray]:
        given = tuple(
            None
            if v is None
            else x[f"x{i}"] + t * way[f"x{i}"]
            if f"x{i}" in x
            else v.astype(np.float64)
            if v.dtype == F32
            else v
            for i, v in enumerate(inputs)
        )
        found = op.reference(*given)
        found = found if type(found) is tuple else (found,)
        return [np.asarray(found[i], np.float64) for i in outputs]

    middle, near, far = at(0), (at(step / 2), at(-step / 2)), (at(step), at(-step))
    found = {}
    for i, m, p, q, pp, qq in zip(outputs, middle, *near, *far, strict=True):
        if not all(np.isfinite(v).all() for v in (m, p, q, pp, qq)):
            return None
        first, wide = (p - q) / step, (pp - qq) / (2 * step)
        if smooth:
            scale = 1e-3 * (np.abs(first) + np.abs(m) + 1)
            bend, bend_wide = np.abs(p + q - 2 * m) / (step / 2), np.abs(pp + qq - 2 * m) / step
            if ((np.abs(first - wide) > scale) | ((bend > scale * 1e-3) & (bend > 0.7 * bend_wide))).any():
                return None
        found[f"y{i}"] = (4 * first - wide) / 3
    return found


def check_gradient_kernels(op: Op, inputs: tuple, outputs: int, wrt: tuple[int, ...], rng: np.random.Generator) -> None:
    """The gradients as planned and run: all float inputs fed, then the first alone with constants beside it, then between
    values that lie channels last."""
    for fed in dict.fromkeys((wrt, wrt[:1])):
        call = Call(op, inputs, outputs, fed)
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
    assert not steps or op.type in NUMPY_GRADIENT, f"NumPy runs {', '.join(steps)} in the gradient of {op!r}"


def expected(call: Call, feeds: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each gradient the float64 answer, the same as float32, and by how much kernels may miss it.

    That is c·ε·Σ|terms| with the terms of every node on the way: each node's result is changed by ±ε of its own terms, at
    random, eight times, and the greatest change of the gradient, with that of its neighbours at a twentieth, is what
    such errors do to it.
    """
    exact = evaluate(call.graph, feeds)
    runs = [evaluate(call.graph, feeds, np.random.default_rng(seed)) for seed in range(8)]
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
