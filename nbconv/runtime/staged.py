"""Runs of a graph whose shapes depend on values: planned as far as they are known, run, and planned on.

Plans are kept by shapes: a run whose values give the same shapes again plans nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.bodies import SMALL, body_of, free, own_inputs, results
from nbconv.graph.half import any_half, in_single, takes_float32
from nbconv.graph.op import NUMPY, Op
from nbconv.graph.spec import spec_of
from nbconv.kernels.load import sha256
from nbconv.ops.fallback import Fallback, of_schema
from nbconv.ops.optional import Held
from nbconv.passes.partition import Partition, partition
from nbconv.runtime.executor import Arenas, Ready
from nbconv.runtime.kept import Kept

Planner = Callable[[Graph, dict[str, Spec], tuple[str, ...], frozenset[str], tuple], Ready]
"""Makes what runs a graph for inputs of these Specs and these results; the names are of constants that shapes decided, the
tuple says, in this process and others, which graph of a model it is, for which inputs."""


class Done(NamedTuple):
    """A node that was done alone."""

    node: Node
    how: str
    """"bodies", "kernels" or "numpy\""""
    given: list[Any]
    made: list[Any]
    seconds: float


class Stage:
    """What was found for one set of shapes of a graph's inputs."""

    def __init__(self, path: tuple, found: Partition, ready: Ready | None) -> None:
        self.path, self.partition, self.ready = path, found, ready
        self.waiting = [_Waiting(node) for node in found.waiting]
        self.reads: list[str] = [] if ready is None else list(ready.program.inputs)
        self.makes: list[tuple[str, tuple[int, ...], np.dtype]] = []
        if ready is not None:
            self.makes = [(name, tuple(shape), dtype) for name, shape, dtype in ready.program.results]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        nodes = len(self.partition.waiting) + (len(self.partition.later.nodes) if self.partition.later else 0)
        return 1024 + 512 * nodes + (self.ready.program.nbytes if self.ready else 0)


class _Waiting:
    """A node that is done alone, and what of it is the same in all runs."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.reads = [n for n in node.inputs if n]
        self.outputs = [n for n in node.outputs if n]
        self.own = own_inputs(node) if node.op.bodies() else node.inputs
        self.tries = _tries(node, self.own)


def _tries(node: Node, own: tuple[str, ...]) -> list[frozenset[str]]:
    """Inputs whose values a plan of the node alone may have to know, less first; none where it has no kernels."""
    op = node.op
    if op.control == "repeat":
        return [frozenset(n for n in own[: op.own] if n), frozenset(n for n in node.inputs if n)]  # type: ignore[attr-defined]
    kernels = op.kernel_dtypes or op.processor_dtypes or type(op).layout is not Op.layout
    if op.bodies() or not (kernels or type(op).has_kernel is not Op.has_kernel):
        return []
    return [frozenset(n for n in node.inputs[1:] if n), frozenset(n for n in node.inputs if n)]


class Staged:
    """The runs of one graph. Any number of threads may run it at once.

    ``kept`` has its plans, and those of the bodies in it. ``watch`` is told of each node that is done alone. ``gpu``:
    whether plans are a GPU's, which hold no programs. ``path`` names the graph within the model.
    """

    def __init__(
        self,
        graph: Graph,
        planner: Planner,
        arenas: Arenas,
        kept: Kept,
        watch: Callable[[Done], None] | None = None,
        gpu: bool = False,
        path: tuple = (),
    ) -> None:
        self.graph, self._planner, self._arenas, self.kept = graph, planner, arenas, kept
        self._watch, self._gpu, self._path = watch, gpu, path
        self.planned = 0
        """stages that were planned"""
        self.bodies: dict[tuple[str, str], Staged] = {}
        self._wanted: dict[tuple[str, str], tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._cut: tuple[tuple, Partition] | None = None

    nbytes = 1024
    """bytes that one set of shapes takes where it is kept; its plans are counted in ``kept``"""

    def needed(self, inputs: Mapping[str, Any], fetch: tuple[str, ...]) -> bool:
        """Whether a run on such inputs needs stages: else one plan does it."""
        specs = {n: _spec(inputs[n]) for n in self.graph.inputs}
        found = partition(self.graph, specs, fetch, self._gpu)
        self._cut = self._key((), self.graph, inputs, fetch), found
        return bool(found.waiting)

    def run(self, feeds: Mapping[str, Any], fetch: tuple[str, ...], threads: int) -> dict[str, Any]:
        """The values ``fetch`` for these inputs."""
        values: dict[str, Any] = dict(feeds)
        graph: Graph | None = self.graph
        path: tuple = ()
        decided = frozenset[str]()
        while graph is not None:
            stage = self._stage(path, graph, values, tuple(n for n in fetch if n not in values), decided)
            if stage.ready is not None:
                values.update(self._compute(stage, values, threads))
            known = stage.partition.decided
            for waiting in stage.waiting:
                values.update(self._do(waiting, graph, values, known, threads))
            graph, path = stage.partition.later, stage.path
            if graph is not None:
                decided |= known.keys()
                values = {n: v for n, v in values.items() if n in graph.inputs or n in fetch}
        return {n: values[n] if n in values else self.graph.constants[n] for n in fetch}

    def _key(self, path: tuple, graph: Graph, values: Mapping[str, Any], fetch: tuple[str, ...]) -> tuple:
        shapes = (_form(values[n]) for n in graph.inputs)
        return (self._path, path, fetch, *shapes)

    def _stage(
        self, path: tuple, graph: Graph, values: dict[str, Any], fetch: tuple[str, ...], decided: frozenset[str]
    ) -> Stage:
        """The stage of these inputs, planned now where it was not before."""
        key = self._key(path, graph, values, fetch)
        stage = self.kept.get(key)
        if stage is not None:
            return stage
        with self._lock:
            stage = self.kept.get(key)  # another thread may have planned it meanwhile
            if stage is None:
                inputs = {n: _spec(values[n]) for n in graph.inputs}
                cut, self._cut = self._cut, None
                found = cut[1] if cut is not None and cut[0] == key else partition(graph, inputs, fetch, self._gpu)
                ready = None
                if found.now.outputs:
                    read = {n for node in found.now.nodes for n in node.inputs}
                    given = {n: s for n, s in inputs.items() if n in read and s is not None}
                    varying = frozenset(decided & graph.constants.keys())
                    ready = self._planner(found.now, given, tuple(found.now.outputs), varying, key)
                stage = self._keep(key, Stage(_mark(key), found, ready))
            return stage

    def _keep(self, key: tuple, stage: Stage) -> Stage:
        self.planned += 1
        self.kept.keep(key, stage, stage.nbytes)
        return stage

    def _compute(self, stage: Stage, values: dict[str, Any], threads: int) -> dict[str, np.ndarray]:
        found = {name: np.empty(shape, dtype) for name, shape, dtype in stage.makes}
        feeds = {n: _contiguous(values[n]) for n in stage.reads}
        assert stage.ready is not None
        stage.ready.run(self._arenas, feeds, list(found.values()), threads)
        return found

    def _do(
        self, waiting: _Waiting, graph: Graph, values: dict[str, Any], known: dict[str, np.ndarray], threads: int
    ) -> dict[str, Any]:
        """The outputs of a node whose inputs are there."""
        node, op, constants = waiting.node, waiting.node.op, graph.constants

        def value(name: str) -> Any:
            if not name:
                return None
            return values[name] if name in values else known[name] if name in known else constants[name]

        start = perf_counter() if self._watch else 0.0
        try:
            stage = self._alone(waiting, graph, value) if waiting.tries else None
            if stage is not None:
                how, given = "kernels", {n: value(n) for n in stage.reads}
                made = self._compute(stage, given, threads)
            else:
                how, given = "bodies" if op.bodies() else "numpy", [value(n) for n in waiting.own]
                if op.bodies():
                    found = op.interpret(given, lambda which, feeds: self._body(node, which, feeds, value, threads))
                else:
                    found = _results(node, given)
                made = {name: y for name, y in zip(node.outputs, found, strict=False) if name}
        except ModelError as error:
            named = str(error).startswith(f"{node.name} (")
            raise error if named else type(error)(f"{node.name} ({op.type}): {error}") from None
        except (ValueError, IndexError, OverflowError, TypeError, ArithmeticError) as error:
            raise ModelError(f"{node.name} ({op.type}): {error}") from None
        if self._watch:
            seconds = perf_counter() - start
            self._watch(Done(node, how, [value(n) for n in node.inputs], list(made.values()), seconds))
        return made

    def _body(self, node: Node, which: str, feeds: list[Any], value: Callable[[str], Any], threads: int) -> list[Any]:
        """The outputs of one of the node's bodies for these inputs of its own."""
        key = (next(n for n in node.outputs if n), which)
        inner = self.bodies.get(key)
        if inner is None:
            body = body_of(node, which)
            around = {n: self.graph.constants[n] for n in free(body) if n in self.graph.constants}
            inputs = {**body.inputs, **{n: Spec((), np.dtype(np.float32)) for n in free(body) if n not in around}}
            whole = Graph(body.nodes, inputs, body.outputs, {**body.constants, **around}, body.name)
            path = (*self._path, *key)
            inner = Staged(whole, self._planner, self._arenas, self.kept, self._watch, self._gpu, path)
            inner = self.bodies.setdefault(key, inner)
        given = dict(zip(inner.graph.inputs, feeds, strict=False))
        for name in list(inner.graph.inputs)[len(feeds) :]:
            given[name] = value(name)
        found = inner.run(given, tuple(inner.graph.outputs), threads)
        return [found[n] for n in inner.graph.outputs]

    def _alone(self, waiting: _Waiting, graph: Graph, value: Callable[[str], Any]) -> Stage | None:
        """The plan of one node, which knows the values of small inputs as far as it needs them; None where no kernel does
        it."""
        given = {n: value(n) for n in waiting.reads if n not in graph.constants}
        if not all(_plain(v) for v in given.values()):
            return None
        for names in waiting.tries:
            small = {n: v for n, v in given.items() if n in names and _decides(waiting.node, n, v)}
            forms = ((n, *_form(v), v.tobytes() if n in small else b"") for n, v in given.items())
            key = (self._path, waiting.node.outputs, *forms)
            stage = self.kept.get(key)
            if stage is None:
                with self._lock:
                    stage = self._plan_alone(waiting, graph, given, small, key)
                    if isinstance(stage, Stage):
                        self._keep(key, stage)
                    else:
                        self.kept.keep(key, stage, 512)
            if isinstance(stage, Stage):
                return stage
            if stage:
                return None
        return None

    def _plan_alone(
        self, waiting: _Waiting, graph: Graph, given: dict[str, Any], small: dict[str, Any], key: tuple
    ) -> Stage | bool:
        """The plan; where there is none, whether more values would not help."""
        node, own = waiting.node, graph.constants
        specs = {n: spec_of(v) if n in small else Spec(v.shape, v.dtype) for n, v in given.items()}
        specs |= {n: spec_of(own[n]) for n in waiting.reads if n in own}
        found = _served(node, tuple(specs[n] if n else None for n in node.inputs), self._gpu)
        if not found:
            return found is not None
        large = {n: s for n, s in specs.items() if n in given and n not in small}
        constants = {n: own[n] for n in waiting.reads if n in own} | small
        fetch = tuple(waiting.outputs)
        alone = Graph([node], dict(large), dict.fromkeys(fetch), constants, graph.name)
        ready = self._planner(alone, large, fetch, frozenset(small), key)
        return Stage((), Partition(alone, [], None, {}), ready)


def _served(node: Node, specs: tuple[Spec | None, ...], gpu: bool) -> bool | None:
    """Whether a kernel does the node, or a step that holds its body; None where more values may say."""
    if any(s is not None and s.dtype == OBJECT for s in specs):
        return False
    try:
        found = node.infer(specs)
    except DataDependentError:
        return None
    if any(s.dtype == OBJECT for s in found):
        return False
    if node.op.control == "repeat":
        return not gpu and node.op.turns(specs) is not None  # type: ignore[attr-defined]
    there = node.op.layout(specs, found) != NUMPY or (
        any_half(specs)
        and takes_float32(node.op.infer, specs, found)
        and node.op.layout(in_single(specs), in_single(found)) != NUMPY
    )
    return there and any(s.size for s in found)


def _plain(value: Any) -> bool:
    """Whether a value is a tensor of numbers: no strings, no sequence, no optional value that is not there."""
    return isinstance(value, np.ndarray) and value.dtype != OBJECT


def _form(value: Any) -> tuple:
    """What plans are kept by."""
    return (value.shape, value.dtype.str) if _plain(value) else ()


def _mark(key: tuple) -> tuple:
    """A key in short, the same in every process."""
    return (sha256(repr(key).encode())[:32],)


def _contiguous(value: np.ndarray) -> np.ndarray:
    flags = value.flags
    return value if flags.c_contiguous and flags.aligned else np.require(value, requirements=["C", "A"])


def _spec(value: Any) -> Spec | None:
    """What is known of a value; None for what is no tensor of numbers."""
    return Spec(value.shape, value.dtype) if _plain(value) else None


def _results(node: Node, inputs: list[Any]) -> tuple[Any, ...]:
    """The outputs of a node. Of strings and sequences onnx's reference computes them, whatever class we have for numbers."""
    op = node.op
    if not isinstance(op, (Fallback, Held)) and not all(x is None or _plain(x) for x in inputs):
        op = of_schema(op.type, op.domain)(**op.attributes())
    return results(Node(op, node.inputs, node.outputs, node.name), inputs)


def _decides(node: Node, name: str, value: np.ndarray) -> bool:
    """Whether a value is taken for one that decides a shape."""
    setting = any(node.inputs[i] == name for i in node.op.settings if i < len(node.inputs))
    return (value.dtype.kind in "iub" or setting) and value.nbytes <= SMALL
