"""Runs of a graph whose shapes depend on values: planned as far as they are known, run, and planned on.

Plans are kept by shapes: a run whose values give the same shapes again plans nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.bodies import SMALL, body_of, free, own_inputs, results
from nbconv.graph.half import any_half, in_single, takes_float32
from nbconv.graph.op import NUMPY
from nbconv.graph.spec import spec_of
from nbconv.ops.fallback import Fallback, of_schema
from nbconv.ops.optional import Held
from nbconv.passes.bounds import bounded
from nbconv.passes.partition import Partition, partition
from nbconv.runtime.executor import Arenas, Ready

Planner = Callable[[Graph, dict[str, Spec], tuple[str, ...], frozenset[str]], Ready]
"""Makes what runs a graph for inputs of these Specs and these results; the names are of constants that shapes decided."""

Watch = Callable[[Node, str, list[Any], list[Any]], None]
"""Is told of a node that is done alone: "bodies", "kernels" or "numpy", its inputs and what it made."""


class Stage(NamedTuple):
    """What was found for one set of shapes of a graph's inputs."""

    number: int
    partition: Partition
    ready: Ready | None
    """what runs ``partition.now``; None where that is empty"""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        nodes = len(self.partition.waiting) + (len(self.partition.later.nodes) if self.partition.later else 0)
        return 512 * nodes + (self.ready.program.nbytes if self.ready else 0)


class Staged:
    """The runs of one graph. Any number of threads may run it at once. ``watch`` is called for each node that is done
    alone."""

    def __init__(self, graph: Graph, planner: Planner, arenas: Arenas, limit: int, watch: Watch | None = None) -> None:
        self.graph, self._planner, self._arenas, self._limit = bounded(graph), planner, arenas, limit
        self._watch = watch
        self._stages: OrderedDict[tuple, Stage] = OrderedDict()
        self._count = 0
        self._nbytes = 0
        self._bodies: dict[tuple[str, str], Staged] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that its plans take, about."""
        return self._nbytes + sum(body.nbytes for body in self._bodies.values())

    def run(self, feeds: Mapping[str, Any], fetch: tuple[str, ...], threads: int) -> dict[str, Any]:
        """The values ``fetch`` for these inputs."""
        values: dict[str, Any] = dict(feeds)
        graph: Graph | None = self.graph
        before, decided = 0, frozenset[str]()
        while graph is not None:
            stage = self._stage(before, graph, values, tuple(n for n in fetch if n not in values), decided)
            values |= self._compute(stage, values, threads)
            for node in stage.partition.waiting:
                values.update(self._do(node, graph, {**stage.partition.decided, **values}, threads))
            decided |= frozenset(stage.partition.decided)
            graph, before = stage.partition.later, stage.number
            if graph is not None:
                values = {n: v for n, v in values.items() if n in graph.inputs or n in fetch}
        return {n: values[n] if n in values else self.graph.constants[n] for n in fetch}

    def _stage(
        self, before: int, graph: Graph, values: dict[str, Any], fetch: tuple[str, ...], decided: frozenset[str]
    ) -> Stage:
        """The stage of these inputs, planned now where it was not before."""
        inputs = {n: _spec(values[n]) for n in graph.inputs}
        key = (before, fetch, *((s.shape, s.dtype.str) if s else None for s in inputs.values()))
        with self._lock:
            stage = self._stages.get(key)
            if stage is None:
                found = partition(graph, inputs, fetch)
                ready = None
                if found.now.outputs:
                    read = {n for node in found.now.nodes for n in node.inputs}
                    given = {n: s for n, s in inputs.items() if n in read and s is not None}
                    varying = decided & graph.constants.keys()
                    ready = self._planner(found.now, given, tuple(found.now.outputs), frozenset(varying))
                self._count += 1
                stage = self._keep(key, Stage(self._count, found, ready))
            self._stages.move_to_end(key)
            return stage

    def _keep(self, key: tuple, stage: Stage) -> Stage:
        """Keep a stage; those not used for longest go while all take more than the limit."""
        self._stages[key] = stage
        self._nbytes += stage.nbytes
        while self._nbytes > self._limit and len(self._stages) > 1:
            _, old = self._stages.popitem(last=False)
            self._nbytes -= old.nbytes
        return stage

    def _compute(self, stage: Stage, values: dict[str, Any], threads: int) -> dict[str, np.ndarray]:
        if stage.ready is None:
            return {}
        program = stage.ready.program
        found = [np.empty(program.spec(k).shape, program.spec(k).dtype) for k in range(len(program.fetch))]
        feeds = {n: np.require(values[n], requirements=["C", "A"]) for n in program.inputs}
        stage.ready.run(self._arenas, feeds, found, threads)
        return dict(zip(program.fetch, found, strict=True))

    def _do(self, node: Node, graph: Graph, values: dict[str, Any], threads: int) -> dict[str, Any]:
        """The outputs of a node whose inputs are there."""

        def value(name: str) -> Any:
            return None if not name else values[name] if name in values else graph.constants[name]

        op = node.op
        try:
            if op.bodies():
                given = [value(n) for n in own_inputs(node)]
                found = op.interpret(given, lambda which, feeds: self._body(node, which, feeds, value, threads))
            elif self._has_kernel(node, graph, values):
                made = self._alone(node, graph, {n: value(n) for n in node.inputs if n}, threads)
                if self._watch:
                    self._watch(node, "kernels", [value(n) for n in node.inputs], list(made.values()))
                return made
            else:
                found = _results(node, [value(n) for n in node.inputs])
            if self._watch:
                self._watch(node, "bodies" if op.bodies() else "numpy", [value(n) for n in node.inputs], list(found))
        except ModelError as error:
            named = str(error).startswith(f"{node.name} (")
            raise error if named else type(error)(f"{node.name} ({op.type}): {error}") from None
        except (ValueError, IndexError, OverflowError, TypeError, ArithmeticError) as error:
            raise ModelError(f"{node.name} ({op.type}): {error}") from None
        return {name: made for name, made in zip(node.outputs, found, strict=False) if name}

    def _body(self, node: Node, which: str, feeds: list[Any], value: Callable[[str], Any], threads: int) -> list[Any]:
        """The outputs of one of the node's bodies for these inputs of its own."""
        key = (next(n for n in node.outputs if n), which)
        inner = self._bodies.get(key)
        if inner is None:
            body = body_of(node, which)
            around = {n: self.graph.constants[n] for n in free(body) if n in self.graph.constants}
            inputs = {**body.inputs, **{n: Spec((), np.dtype(np.float32)) for n in free(body) if n not in around}}
            whole = Graph(body.nodes, inputs, body.outputs, {**body.constants, **around}, body.name)
            inner = Staged(whole, self._planner, self._arenas, self._limit, self._watch)
            inner = self._bodies.setdefault(key, inner)
        names = list(inner.graph.inputs)
        given = dict(zip(names[: len(feeds)], feeds, strict=True)) | {n: value(n) for n in names[len(feeds) :]}
        wanted = tuple(inner.graph.outputs)
        found = inner.run(given, tuple(dict.fromkeys(wanted)), threads)
        return [found[n] for n in wanted]

    def _has_kernel(self, node: Node, graph: Graph, values: dict[str, Any]) -> bool:
        """Whether a kernel does the node once its small inputs' values are known."""
        specs: list[Spec | None] = []
        for name in node.inputs:
            value = values[name] if name in values else graph.constants[name] if name else None
            if name and not _plain(value):
                return False
            specs.append(None if value is None else spec_of(value) if _small(value) else Spec(value.shape, value.dtype))
        try:
            found = node.infer(tuple(specs))
        except DataDependentError:
            return False
        if any(s.dtype == OBJECT for s in found):
            return False
        there = node.op.layout(tuple(specs), found) != NUMPY or (
            any_half(specs)
            and takes_float32(node.op.infer, specs, found)
            and node.op.layout(in_single(specs), in_single(found)) != NUMPY
        )
        return there and any(s.size for s in found)

    def _alone(self, node: Node, graph: Graph, values: dict[str, Any], threads: int) -> dict[str, Any]:
        """The outputs of one node by a plan of its own, which knows its small inputs' values."""
        own = graph.constants
        small = {n: v for n, v in values.items() if n not in own and _small(v)}
        large = {n: v for n, v in values.items() if n not in own and n not in small}
        key = (node.outputs, *((n, v.shape, v.dtype.str, v.tobytes()) for n, v in small.items()),
               *((v.shape, v.dtype.str) for v in large.values()))  # fmt: skip
        with self._lock:
            stage = self._stages.get(key)
            if stage is None:
                specs = {n: Spec(v.shape, v.dtype) for n, v in large.items()}
                constants = {n: own[n] for n in values if n in own} | small
                fetch = tuple(n for n in node.outputs if n)
                alone = Graph([node], dict(specs), dict.fromkeys(fetch), constants, graph.name)
                ready = self._planner(alone, specs, fetch, frozenset(small))
                self._count += 1
                stage = self._keep(key, Stage(self._count, Partition(alone, [], None, {}), ready))
            self._stages.move_to_end(key)
        return self._compute(stage, large, threads)


def _plain(value: Any) -> bool:
    """Whether a value is a tensor of numbers: no strings, no sequence, no optional value that is not there."""
    return isinstance(value, np.ndarray) and value.dtype != OBJECT


def _spec(value: Any) -> Spec | None:
    """What is known of a value; None for what is no tensor of numbers."""
    return Spec(value.shape, value.dtype) if _plain(value) else None


def _results(node: Node, inputs: list[Any]) -> tuple[Any, ...]:
    """The outputs of a node. Of strings and sequences onnx's reference computes them, whatever class we have for numbers."""
    op = node.op
    if not isinstance(op, (Fallback, Held)) and not all(x is None or _plain(x) for x in inputs):
        op = of_schema(op.type, op.domain)(**op.attributes())
    return results(Node(op, node.inputs, node.outputs, node.name), inputs)


def _small(value: np.ndarray) -> bool:
    """Whether it is taken for what decides a shape."""
    return value.dtype.kind in "iub" and value.nbytes <= SMALL
