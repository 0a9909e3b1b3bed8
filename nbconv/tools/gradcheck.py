"""Gradients held to what they must be: the references of what `backprop` builds against central differences of the forward
reference, in float64, and the float32 kernels of the same nodes against those references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nbconv.edit.parameters import parameters
from nbconv.errors import UnsupportedError
from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.graph.op import Op
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.passes.autodiff import backprop, differentiable
from nbconv.passes.fold import array, fold
from nbconv.passes.promote import promote

F32 = np.dtype(np.float32)
STEP = 1e-4
"""Of the differences, along a direction whose elements are of size 1."""
RTOL = 1e-5
"""Allowed difference of the two directional derivatives, as a fraction of Σ|dy · change of y| + Σ|dx · change of x|."""
KINKS = 0.02
"""Share of the outputs that may be left out for a kink."""
KERNEL_RTOL = 1e-4
"""Allowed error of a kernel's gradient, as a fraction of its greatest element; more only where the inputs' own rounding
does as much (see `rounding`)."""


class Call:
    """One call of an op with its gradients: ``graph`` has the inputs ``x0`` …, those of ``wrt`` fed, the others constants,
    and the gradients ``dy0`` … of its outputs; ``found`` names the gradient of each input that has one."""

    def __init__(
        self,
        op: Op,
        inputs: tuple[np.ndarray | None, ...],
        outputs: int,
        wrt: tuple[int, ...],
        through: tuple[int, ...] = (),
    ) -> None:
        names = tuple("" if x is None else f"x{i}" for i, x in enumerate(inputs))
        node = Node(op, names, tuple(f"y{i}" for i in range(outputs)))
        known = {f"x{i}": x for i, x in enumerate(inputs) if x is not None and i not in wrt}
        fed = {f"x{i}": Spec(inputs[i].shape, inputs[i].dtype) for i in wrt}  # pyright: ignore[reportOptionalMemberAccess]
        specs = {**fed, **{name: spec_of(x) for name, x in known.items()}}
        made = dict(zip(node.outputs, node.infer(tuple(specs[n] if n else None for n in node.inputs)), strict=False))
        through = through or tuple(range(outputs))
        self.dy = {f"dy{i}": made[f"y{i}"] for i in through if made[f"y{i}"].dtype.kind == "f"}
        graph = Graph([node], {**fed, **self.dy}, dict.fromkeys(made), known)
        self.graph, self.specs, self.found = backprop(
            graph, {**specs, **made, **self.dy}, {dy[1:]: dy for dy in self.dy}, list(fed)
        )
        self.gradients = tuple(self.found.values())

    def slopes(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random gradients of the outputs."""
        return {name: rng.standard_normal(s.shape).astype(s.dtype) for name, s in self.dy.items()}


Change = Callable[[Node, tuple, int, np.ndarray], np.ndarray]


def widened(x: np.ndarray) -> np.ndarray:
    """float32 as float64, all else as it is."""
    return x.astype(np.float64) if x.dtype == F32 else x


def evaluate(graph: Graph, feeds: dict[str, np.ndarray], change: Change | None = None) -> dict[str, np.ndarray]:
    """Every value of the graph by the ops' references, in float64; ``change`` is applied to each result."""
    values = {n: widened(array(x)) for n, x in {**graph.constants, **feeds}.items()}
    for node in graph.nodes:
        given = tuple(values[n] if n else None for n in node.inputs)
        found = node.op.reference(*given)
        made: tuple[np.ndarray, ...] = found if isinstance(found, tuple) else (found,)
        for i, (name, y) in enumerate(zip(node.outputs, made, strict=False)):
            values[name] = y if change is None else change(node, given, i, y)
    return values


def slope_error(
    op: Op,
    inputs: tuple[np.ndarray | None, ...],
    call: Call,
    wrt: tuple[int, ...],
    rng: np.random.Generator,
    *,
    step: float = STEP,
    smooth: bool = True,
) -> tuple[float, str]:
    """How far the gradients' references are from central differences of the forward reference, as `RTOL` counts it, along
    one random direction; and a sentence.

    Where outputs have no finite value, or more than `KINKS` of them a kink or a jump, other inputs near those given are
    taken (chainer's ``dodge_nondifferentiable``); a few are left out, by a gradient of 0. ``smooth`` False looks for none.
    Raises ArithmeticError where no inputs will do.
    """
    slopes = {n: widened(x) for n, x in call.slopes(rng).items()}
    start = {f"x{i}": inputs[i].astype(np.float64) for i in wrt}  # pyright: ignore[reportOptionalMemberAccess]
    through = tuple(int(n[2:]) for n in call.dy)
    for attempt in range(60):
        x = dict(start) if attempt == 0 else {n: moved(v, attempt, rng) for n, v in start.items()}
        way = {n: rng.standard_normal(v.shape) for n, v in x.items()}
        central = directional(op, inputs, through, x, way, step, smooth)
        if central is None:
            continue
        derivatives, kinks = central
        if sum(k.sum() for k in kinks.values()) > KINKS * sum(k.size for k in kinks.values()):
            continue
        dy = {n: np.where(kinks[int(n[2:])], v.dtype.type(0), v) for n, v in slopes.items()}
        found = evaluate(call.graph, {**x, **dy})
        parts = [np.asarray(found[call.found[n]], np.float64) * way[n] for n in x if n in call.found]
        if not all(np.isfinite(p).all() for p in parts):
            continue
        changes = [dy[f"dy{i}"] * d for i, d in derivatives.items()]
        numeric, ours = (sum(float(v.sum()) for v in side) for side in (changes, parts))
        scale = sum(float(np.abs(v).sum()) for v in (*changes, *parts))
        told = f"along a random direction {ours:.9g}, by differences {numeric:.9g}, attempt {attempt}"
        return abs(ours - numeric) / (scale + 1e-7), told
    raise ArithmeticError("no inputs without a kink found")


def moved(x: np.ndarray, attempt: int, rng: np.random.Generator) -> np.ndarray:
    """Other inputs: away from ties and corners, and, at odd attempts, positive, for what is defined there only."""
    x = np.clip(x, -9, 9) + 0.03 * rng.standard_normal(x.shape)
    return np.abs(x) + 0.1 if attempt % 2 else x


def directional(
    op: Op,
    inputs: tuple,
    through: tuple[int, ...],
    x: dict[str, np.ndarray],
    way: dict[str, np.ndarray],
    step: float,
    smooth: bool,
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]] | None:
    """The derivatives of outputs along ``way`` by central differences (Richardson's extrapolation of two of them), and
    where there is a kink or a jump; None where an output is not finite."""

    def at(t: float) -> list[np.ndarray]:
        names = (f"x{i}" for i in range(len(inputs)))
        given = (
            None if v is None else x[n] + t * way[n] if n in x else widened(v) for n, v in zip(names, inputs, strict=True)
        )
        found = op.reference(*given)
        found = found if type(found) is tuple else (found,)
        return [np.asarray(found[i], np.float64) for i in through]

    middle, near, far = at(0), (at(step / 2), at(-step / 2)), (at(step), at(-step))
    derivatives, kinks = {}, {}
    for i, m, p, q, pp, qq in zip(through, middle, *near, *far, strict=True):
        if not all(np.isfinite(v).all() for v in (m, p, q, pp, qq)):
            return None
        first, wide = (p - q) / step, (pp - qq) / (2 * step)
        scale = 1e-3 * (np.abs(first) + np.abs(m) + 1)
        bend, bend_wide = np.abs(p + q - 2 * m) / (step / 2), np.abs(pp + qq - 2 * m) / step
        bent = (np.abs(first - wide) > scale) | ((bend > scale * 1e-3) & (bend > 0.7 * bend_wide))
        derivatives[i], kinks[i] = (4 * first - wide) / 3, np.asarray(bent & smooth)
    return derivatives, kinks


class Finding(NamedTuple):
    """What the check of one node found."""

    node: str
    op: str
    wrt: tuple[str, ...]
    """the inputs by which it was differentiated"""
    slope: float | None
    """error of the references against differences, as `RTOL` counts it; None where there was nothing to check"""
    kernel: float | None
    """error of the kernels against the references, as a fraction of the greatest element"""
    numpy: tuple[str, ...]
    """gradient ops that NumPy runs"""
    ok: bool
    note: str = ""


def check_model(graph: Graph, feeds: dict[str, np.ndarray], seed: int = 0) -> Iterator[Finding]:
    """Checks every node that a gradient goes through, on the values that ``feeds`` make of its inputs, half precision in
    float32 as it trains. Differentiated is by values that vary and by parameters. Raises ModelError where shapes do not
    fit."""
    inputs = {n: Spec(x.shape, x.dtype) for n, x in feeds.items()}
    derived, specs, _ = fold(graph, inputs, Weights())
    promoted = promote(derived, specs, rounds=False)
    if promoted is not derived:
        derived, specs, _ = fold(promoted, inputs, Weights())
    weights = {p.value for p in parameters(graph)}
    values = {n: array(x) for n, x in {**derived.constants, **feeds}.items()}
    rng = np.random.default_rng(seed)
    for node in derived.nodes:
        given = tuple(values[n] if n else None for n in node.inputs)
        found = node.op.reference(*given)
        values.update(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
        wrt = tuple(
            i
            for i, n in enumerate(node.inputs)
            if n and values[n].dtype == F32 and values[n].size
            if n not in derived.constants or i in node.op.parameters or n in weights
        )
        known = tuple(
            None if not n else Spec(values[n].shape, values[n].dtype) if i in wrt else specs[n]
            for i, n in enumerate(node.inputs)
        )
        if wrt and differentiable(node.op, known):
            yield _check_node(node, given, wrt, specs, rng)


def _check_node(
    node: Node,
    given: tuple,
    wrt: tuple[int, ...],
    specs: dict[str, Spec],
    rng: np.random.Generator,
) -> Finding:
    names = tuple(node.inputs[i] for i in wrt)
    used = [i for i, n in enumerate(node.outputs) if n and specs[n].dtype.kind == "f"]
    try:
        call = Call(node.op, given, len(node.outputs), wrt, tuple(used))
    except UnsupportedError as error:
        return Finding(node.name, node.op.type, names, None, None, (), False, str(error).split(": ", 1)[-1])
    if not call.gradients:
        return Finding(node.name, node.op.type, names, None, None, (), True, "its gradient is 0")
    if not all(np.isfinite(x).all() for x in given if x is not None and x.dtype.kind == "f"):
        return Finding(node.name, node.op.type, names, None, None, (), False, "its inputs are not finite")
    narrow = node.op.type in ("Cast", "CastLike")
    options = {"step": 64.0, "smooth": False} if narrow else {}
    try:
        slope, note = slope_error(node.op, given, call, wrt, rng, **options)
    except ArithmeticError as error:
        slope, note = np.inf, str(error)
    ok = slope <= (2e-2 if narrow else RTOL)
    kernel, numpy, fits = _kernels(call, given, wrt, rng)
    return Finding(node.name, node.op.type, names, slope, kernel, numpy, ok and fits, "" if ok else note)


def _kernels(
    call: Call, given: tuple, wrt: tuple[int, ...], rng: np.random.Generator
) -> tuple[float, tuple[str, ...], bool]:
    """(the greatest error of the planned gradients, the ops among them that NumPy runs, whether it may be so large)."""
    feeds = {**{f"x{i}": given[i] for i in wrt}, **call.slopes(rng)}
    graph = Graph(call.graph.nodes, call.graph.inputs, dict.fromkeys(call.gradients), call.graph.constants)
    model = Model(graph, threads=1)
    got = model.run(feeds)
    steps = model.plan({n: x.shape for n, x in feeds.items()}).numpy_steps()
    exact = evaluate(graph, feeds)
    worst, fits = 0.0, True
    for name in call.gradients:
        error = float(np.abs(got[name].astype(np.float64) - exact[name]).max(initial=0))
        size = float(np.abs(exact[name]).max(initial=0))
        ratio = error / size if size else (np.inf if error else 0.0)
        if not ratio <= KERNEL_RTOL:
            fits = fits and error <= rounding(graph, feeds, name, exact[name])
        worst = max(worst, ratio if np.isfinite(ratio) else np.inf)
    return worst, tuple(sorted({node.op.type for node in steps})), fits


def rounding(graph: Graph, feeds: dict[str, np.ndarray], name: str, exact: np.ndarray) -> float:
    """What rounding alone may do to a value: 64 times its greatest change where every value on the way, the inputs too, is
    changed by ±ε of itself at random (four times)."""
    eps, worst = float(np.finfo(np.float32).eps), 0.0
    for seed in range(4):
        noise = np.random.default_rng(seed)

        def change(node: Node, given: tuple, i: int, y: np.ndarray, noise: np.random.Generator = noise) -> np.ndarray:
            return y * (1 + eps * noise.choice((-1.0, 1.0), y.shape)) if y.dtype == np.float64 else y

        shaken = {n: change(graph.nodes[0], (), 0, widened(x)) for n, x in feeds.items()}
        worst = max(worst, float(np.abs(evaluate(graph, shaken, change)[name] - exact).max(initial=0)))
    return 64 * worst
