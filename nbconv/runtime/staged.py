"""Runs of a graph whose shapes depend on values: planned as far as they are known, run, and planned on.

Plans are kept by shapes: a run whose values give the same shapes again plans nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.bodies import SMALL, body_of, free, own_inputs, results
from nbconv.graph.dtypes import from_text, text_of
from nbconv.graph.half import any_half, in_single, takes_float32
from nbconv.graph.op import NUMPY, Op
from nbconv.graph.spec import spec_of
from nbconv.kernels.load import sha256
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

    def __init__(
        self,
        path: tuple,
        ready: Ready | None,
        waiting: list[Waiting],
        known: dict[str, np.ndarray],
        decided: frozenset[str],
        passed: tuple[str, ...] | None,
        later: Graph | None = None,
    ) -> None:
        self.path, self.ready, self.waiting = path, ready, waiting
        self.known = known
        """constants that the waiting nodes read, and what shapes decided"""
        self.decided = decided
        """names of the latter"""
        self.passed = passed
        """inputs of the graph that reads what is there now; None where there is none"""
        self.later = later
        """that graph, where it was made in this process"""
        self.reads: list[str] = [] if ready is None else list(ready.program.inputs)
        self.makes: list[tuple[str, tuple[int, ...], np.dtype]] = []
        if ready is not None:
            self.makes = [(name, tuple(shape), dtype) for name, shape, dtype in ready.program.results]

    def fits(self, there: Iterable[str], fetch: Iterable[str]) -> bool:
        """Whether all that it reads is ``there`` or made by it, and it leads to what is fetched: a file may be wrong."""
        names = {*there}
        if not names.issuperset(self.reads):
            return False
        names.update((name for name, *_ in self.makes), self.known)
        for one in self.waiting:
            if not names.issuperset((*one.reads, *filter(None, one.own))):
                return False
            names.update(one.outputs)
        return names.issuperset(fetch if self.passed is None else self.passed)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        nodes = len(self.waiting) + (len(self.later.nodes) if self.later else 0)
        return 1024 + 512 * nodes + (self.ready.program.nbytes if self.ready else 0)


class Files(Protocol):
    """Where stages are kept for other processes."""

    def read(self, key: tuple) -> Stage | bool | None:
        """What was kept under the key: a stage, or what `Staged` knows of a node without one; None where nothing was."""

    def write(self, key: tuple, stage: Stage | bool) -> None:
        """Keep it, where that can be done."""


class Waiting:
    """A node that is done alone, and what of it is the same in all runs. ``ports``: by body, the names of what it reads and
    gives."""

    def __init__(
        self, node: Node, own: tuple[str, ...], ports: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None
    ) -> None:
        self.node, self.own, self.ports = node, own, ports or {}
        self.reads = [n for n in node.inputs if n]
        self.outputs = [n for n in node.outputs if n]
        self.tries = _tries(node, own)


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
    """The runs of one graph, which is made only where something must be planned. Any number of threads may run it at once.

    ``kept`` has its plans, and those of the bodies in it. ``watch`` is told of each node that is done alone. ``gpu``:
    whether plans are a GPU's, which hold no programs. ``path`` names the graph within the model.
    """

    def __init__(
        self,
        graph: Callable[[], Graph],
        inputs: tuple[str, ...],
        planner: Planner,
        arenas: Arenas,
        kept: Kept,
        watch: Callable[[Done], None] | None = None,
        gpu: bool = False,
        files: Files | None = None,
        path: tuple = (),
    ) -> None:
        self.inputs, self._planner, self._arenas, self.kept = inputs, planner, arenas, kept
        self._make, self._watch, self._gpu, self._files, self._path = graph, watch, gpu, files, path
        self.planned = 0
        """stages that were planned"""
        self.bodies: dict[tuple[str, str], Staged] = {}
        self._lock = threading.RLock()
        self._graph: Graph | None = None
        self._cut: tuple[tuple, Any] | None = None

    nbytes = 1024
    """bytes that one set of shapes takes where it is kept; its plans are counted in ``kept``"""

    @property
    def graph(self) -> Graph:
        """The graph that is run."""
        with self._lock:
            if self._graph is None:
                from nbconv.passes.bounds import bounded

                self._graph = bounded(self._make())
            return self._graph

    def needed(self, inputs: Mapping[str, Any], fetch: tuple[str, ...]) -> bool:
        """Whether a run on such inputs needs stages: else one plan does it."""
        key = self._key((), self.inputs, inputs, fetch)
        stage = self._found(key, inputs, fetch)
        if isinstance(stage, Stage):
            return bool(stage.waiting)
        from nbconv.passes.partition import partition

        cut = partition(self.graph, _specs(self.inputs, key), fetch, self._gpu)
        self._cut = key, cut
        return bool(cut.waiting)

    def run(self, feeds: Mapping[str, Any], fetch: tuple[str, ...], threads: int) -> dict[str, Any]:
        """The values ``fetch`` for these inputs."""
        values: dict[str, Any] = dict(feeds)
        inputs: tuple[str, ...] | None = self.inputs
        before: list[tuple[tuple, Stage]] = []
        decided: frozenset[str] = frozenset()
        while inputs is not None:
            wanted = tuple(n for n in fetch if n not in values)
            key = self._key(before[-1][1].path if before else (), inputs, values, wanted)
            stage = self._found(key, values, wanted)
            if not isinstance(stage, Stage):
                stage = self._plan(key, inputs, wanted, before)
            if stage.ready is not None:
                values.update(self._compute(stage, values, threads))
            decided |= stage.decided
            for waiting in stage.waiting:
                values.update(self._do(waiting, values, stage.known, decided, threads))
            if not before:
                values.update({n: stage.known[n] for n in fetch if n in stage.known and n not in values})
            inputs = stage.passed
            if inputs is not None:
                before.append((key, stage))
                values = {n: v for n, v in values.items() if n in inputs or n in fetch}
        return {n: values[n] for n in fetch}

    def _key(self, path: tuple, inputs: tuple[str, ...], values: Mapping[str, Any], fetch: tuple[str, ...]) -> tuple:
        return (self._path, path, fetch, *(_form(values[n]) for n in inputs))

    def _found(self, key: tuple, there: Iterable[str], fetch: Iterable[str]) -> Stage | bool | None:
        """What was found for the key before, in another process maybe."""
        stage = self.kept.get(key)
        if stage is None and self._files is not None:
            stage = self._files.read(key)
            if isinstance(stage, Stage) and not stage.fits(there, fetch):
                return None
            if stage is not None:
                self.kept.keep(key, stage, stage.nbytes if isinstance(stage, Stage) else 512)
        return stage

    def _plan(self, key: tuple, inputs: tuple[str, ...], fetch: tuple[str, ...], before: list[tuple[tuple, Stage]]) -> Stage:
        """The stage of these inputs, planned now."""
        from nbconv.passes.partition import partition

        with self._lock:
            stage = self.kept.get(key)  # another thread may have planned it meanwhile
            if stage is not None:
                return stage
            graph = self._graph_behind(before)
            specs = _specs(inputs, key)
            cut, self._cut = self._cut, None
            found = cut[1] if cut is not None and cut[0] == key else partition(graph, specs, fetch, self._gpu)
            ready = None
            if found.now.outputs:
                read = {n for node in found.now.nodes for n in node.inputs}
                given = {n: s for n, s in specs.items() if n in read and s is not None}
                decided = {n for _, stage in before for n in stage.decided}
                varying = frozenset(decided & graph.constants.keys())
                ready = self._planner(found.now, given, tuple(found.now.outputs), varying, key)
            asked = dict.fromkeys((*(n for node in found.waiting for n in node.inputs), *fetch))
            known = {n: graph.constants[n] for n in asked if n in graph.constants} | found.decided
            passed = None if found.later is None else tuple(found.later.inputs)
            waiting = [self._waiting(node) for node in found.waiting]
            stage = Stage(_mark(key), ready, waiting, known, frozenset(found.decided), passed, found.later)
            return self._keep(key, stage)

    def _graph_behind(self, before: list[tuple[tuple, Stage]]) -> Graph:
        """What is left of the graph behind these stages, of which another process may have found some."""
        from nbconv.passes.partition import partition

        graph, inputs = self.graph, self.inputs
        for key, stage in before:
            if stage.later is None:
                stage.later = partition(graph, _specs(inputs, key), key[2], self._gpu).later
            assert stage.later is not None
            graph, inputs = stage.later, tuple(stage.later.inputs)
        return graph

    def _waiting(self, node: Node) -> Waiting:
        ports = {}
        for which in node.op.bodies():
            body = body_of(node, which)
            around = [n for n in free(body) if n not in self.graph.constants]
            ports[which] = ((*body.inputs, *around), tuple(body.outputs))
        return Waiting(node, own_inputs(node) if ports else node.inputs, ports)

    def _keep(self, key: tuple, stage: Stage) -> Stage:
        self.planned += 1
        self.kept.keep(key, stage, stage.nbytes)
        if self._files is not None:
            self._files.write(key, stage)
        return stage

    def _compute(self, stage: Stage, values: dict[str, Any], threads: int) -> dict[str, np.ndarray]:
        found = {name: np.empty(shape, dtype) for name, shape, dtype in stage.makes}
        feeds = {n: _contiguous(values[n]) for n in stage.reads}
        assert stage.ready is not None
        stage.ready.run(self._arenas, feeds, list(found.values()), threads)
        return found

    def _do(
        self, waiting: Waiting, values: dict[str, Any], known: dict[str, np.ndarray], decided: frozenset[str], threads: int
    ) -> dict[str, Any]:
        """The outputs of a node whose inputs are there."""
        node, op = waiting.node, waiting.node.op

        def value(name: str) -> Any:
            if not name:
                return None
            return values[name] if name in values else known[name]

        start = perf_counter() if self._watch else 0.0
        try:
            stage = self._alone(waiting, value, known.keys() - values.keys(), decided) if waiting.tries else None
            if stage is not None:
                how, given = "kernels", {n: value(n) for n in stage.reads}
                made = self._compute(stage, given, threads)
            else:
                how, given = "bodies" if op.bodies() else "numpy", [value(n) for n in waiting.own]
                if op.bodies():
                    found = op.interpret(given, lambda which, feeds: self._body(waiting, which, feeds, value, threads))
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

    def _body(self, waiting: Waiting, which: str, feeds: list[Any], value: Callable[[str], Any], threads: int) -> list[Any]:
        """The outputs of one of the node's bodies for these inputs of its own."""
        key = (waiting.outputs[0], which)
        inputs, outputs = waiting.ports[which]
        inner = self.bodies.get(key)
        if inner is None:
            inner = Staged(
                lambda: self._graph_of(*key), inputs, self._planner, self._arenas, self.kept, self._watch, self._gpu,
                self._files, (*self._path, *key),
            )  # fmt: skip
            inner = self.bodies.setdefault(key, inner)
        given = dict(zip(inputs, feeds, strict=False))
        for name in inputs[len(feeds) :]:
            given[name] = value(name)
        found = inner.run(given, outputs, threads)
        return [found[n] for n in outputs]

    def _node(self, output: str) -> Node:
        """The node that makes this value."""
        return next(node for node in self.graph.nodes if output in node.outputs)

    def _graph_of(self, output: str, which: str) -> Graph:
        """A body of the node that makes this value, with the constants that it reads."""
        body, constants = body_of(self._node(output), which), self.graph.constants
        around = {n: constants[n] for n in free(body) if n in constants}
        inputs = {**body.inputs, **{n: Spec((), np.dtype(np.float32)) for n in free(body) if n not in around}}
        return Graph(body.nodes, inputs, body.outputs, {**body.constants, **around}, body.name)

    def _alone(
        self, waiting: Waiting, value: Callable[[str], Any], fixed: Iterable[str], decided: frozenset[str]
    ) -> Stage | None:
        """The plan of one node, which knows the values of small inputs as far as it needs them; None where no kernel does
        it. Those ``fixed`` are the same for these shapes; those ``decided`` of them may be others for other shapes of the
        graph's inputs, though the node's inputs have the same."""
        constants = {n: value(n) for n in waiting.reads if n in fixed}
        given = {n: value(n) for n in waiting.reads if n not in constants}
        if not all(_plain(v) for v in given.values()):
            return None
        shaped = [(n, *_form(v), v.tobytes()) for n, v in constants.items() if n in decided]
        for names in waiting.tries:
            small = {n: v for n, v in given.items() if n in names and _decides(waiting.node, n, v)}
            forms = ((n, *_form(v), v.tobytes() if n in small else b"") for n, v in given.items())
            key = (self._path, waiting.node.outputs, (), *forms, *shaped)
            stage = self._found(key, given, waiting.outputs)
            if stage is None:
                with self._lock:
                    stage = self._plan_alone(waiting.outputs[0], given, small, constants, key)
                    if isinstance(stage, Stage):
                        self._keep(key, stage)
                    else:
                        self.kept.keep(key, stage, 512)
                        if self._files is not None:
                            self._files.write(key, stage)
            if isinstance(stage, Stage):
                return stage
            if stage:
                return None
        return None

    def _plan_alone(
        self, output: str, given: dict[str, Any], small: dict[str, Any], constants: dict[str, Any], key: tuple
    ) -> Stage | bool:
        """The plan; where there is none, whether more values would not help."""
        node = self._node(output)
        specs = {n: spec_of(v) if n in small else Spec(v.shape, v.dtype) for n, v in given.items()}
        specs |= {n: spec_of(v) for n, v in constants.items()}
        found = _served(node, tuple(specs[n] if n else None for n in node.inputs), self._gpu)
        if not found:
            return found is not None
        large = {n: s for n, s in specs.items() if n in given and n not in small}
        fetch = tuple(n for n in node.outputs if n)
        alone = Graph([node], dict(large), dict.fromkeys(fetch), constants | small, "alone")
        varying = frozenset((*small, *(n for n in constants if n not in self.graph.constants)))
        return Stage((), self._planner(alone, large, fetch, varying, key), [], {}, frozenset(), None)


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
    return (value.shape, text_of(value.dtype)) if _plain(value) else ()


def _mark(key: tuple) -> tuple:
    """A key in short, the same in every process."""
    return (sha256(repr(key).encode())[:32],)


def _contiguous(value: np.ndarray) -> np.ndarray:
    flags = value.flags
    return value if flags.c_contiguous and flags.aligned else np.require(value, requirements=["C", "A"])


def _specs(inputs: tuple[str, ...], key: tuple) -> dict[str, Spec | None]:
    """What a key says of its inputs; None for what is no tensor of numbers."""
    return {n: Spec(form[0], from_text(form[1])) if form else None for n, form in zip(inputs, key[3:], strict=True)}


def _results(node: Node, inputs: list[Any]) -> tuple[Any, ...]:
    """The outputs of a node. Of strings and sequences onnx's reference computes them, whatever class we have for numbers."""
    op = node.op
    if not all(x is None or _plain(x) for x in inputs):
        from nbconv.ops.fallback import Fallback, of_schema
        from nbconv.ops.optional import Held

        if not isinstance(op, (Fallback, Held)):
            op = of_schema(op.type, op.domain)(**op.attributes())
    return results(Node(op, node.inputs, node.outputs, node.name), inputs)


def _decides(node: Node, name: str, value: np.ndarray) -> bool:
    """Whether a value is taken for one that decides a shape."""
    setting = any(node.inputs[i] == name for i in node.op.settings if i < len(node.inputs))
    return (value.dtype.kind in "iub" or setting) and value.nbytes <= SMALL
