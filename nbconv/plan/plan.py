"""From a Graph and the shapes of its inputs to a Plan: steps, where every value lies, and the tables the run loop reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.kernels.compile import libraries
from nbconv.lowering.context import Lowering, Ref, Step
from nbconv.lowering.weights import Weights
from nbconv.passes.fold import Deferred, array, fold
from nbconv.passes.fuse import fold_affine, fuse_epilogues, fuse_hard_swish, fuse_shuffle, fuse_silu
from nbconv.passes.layout import choose, join
from nbconv.plan.memory import place
from nbconv.plan.program import Program, bind
from nbconv.runtime.executor import available_threads

if TYPE_CHECKING:
    from nbconv.kernels.target import Target
    from nbconv.runtime.executor import Workspace

NUMPY_STEP = ""
"""The kernel name of a step that NumPy does."""


class Derived(NamedTuple):
    """What the passes make of an authored graph for one set of input shapes."""

    graph: Graph
    specs: dict[str, Spec]
    last: dict[str, bool]
    """which values lie channels last"""
    weights: Weights
    """where constants made from the model's are kept: the model's own, unless input shapes decide some of them"""


def derive(graph: Graph, inputs: dict[str, Spec], weights: Weights, fetch: tuple[str, ...]) -> Derived:
    """The graph that is lowered. ``fetch`` names the values to compute: outputs, or any other, which is then not fused
    away."""
    wanted = frozenset(fetch)
    graph = Graph(
        graph.nodes, graph.inputs, dict.fromkeys(fetch), graph.constants, graph.name, graph.metadata, graph.provenance
    )
    graph, specs, varying = fold(graph, inputs, weights, wanted)
    if any(specs[name].dtype.kind == "f" for name in varying):
        weights = Weights()
    graph = fuse_silu(graph, specs, wanted)
    graph = fuse_hard_swish(graph, specs, wanted)
    graph = fuse_shuffle(graph, specs, wanted)
    graph = fold_affine(graph, specs, wanted)
    graph = fuse_epilogues(graph, specs, wanted)
    graph, last = choose(graph, specs)
    return Derived(graph, specs, last, weights)


class Plan:
    """All that running a model on inputs of one set of shapes needs, but memory to run in (see `runtime.Workspace`).

    ``fetch`` names the results in order; ``specs`` their Specs; ``steps`` what is done; ``arena`` the bytes of memory for
    intermediate values; ``graph`` the derived graph, whose ``provenance`` says where authored values went. ``most_packed``:
    bytes that one convolution's transformed weights may take, where these are constants and where they are not. ``at_once``:
    see `Lowering`; ``enough``: see `place`. ``threads``: most threads that a run may use (default: those that there are).
    """

    def __init__(
        self, graph: Graph, inputs: dict[str, Spec], weights: Weights, fetch: tuple[str, ...], target: Target,
        choices: Mapping[str, int] | None = None, most_packed: tuple[float, float] = (inf, inf), threads: int | None = None,
        at_once: float = inf, enough: float | None = None,
    ) -> None:  # fmt: skip
        self.target = target
        self.inputs = inputs
        self.fetch = fetch
        shared = weights
        self.graph, self.specs, self.last, weights = derive(graph, inputs, weights, fetch)
        self.constants: dict[str, Any] = dict(self.graph.constants)
        self.choices = choices or {}
        self.steps: list[Step] = []
        self._aliases: dict[str, str] = {}
        self._scratches: dict[str, int] = {}
        self.threads, self.slots = threads or available_threads(), 0
        self.most_packed, self.at_once, self.enough = most_packed, at_once, enough
        self._placed = join(self.graph, self.specs, self.last, frozenset(fetch))
        for node in self.graph.nodes:
            self._lower(node, weights)
        self.tables = [n for n in self.constants if n not in self.graph.constants and n not in weights.arrays]
        """names of constants that only this plan has: input shapes decide them"""
        self._place()
        self.arrays: dict[str, np.ndarray] = {}
        self.portable = weights is shared and not self.copies and all(s.kernel != NUMPY_STEP for s in self.steps)
        """whether the program can be kept in a file"""
        self.program = self._assemble(weights)

    def _lower(self, node: Node, weights: Weights) -> None:
        given = tuple(self.specs[n] if n else None for n in node.inputs)
        found = tuple(self.specs[n] for n in node.outputs if n)
        from nbconv.ops.op import NUMPY

        if all(spec.size == 0 for spec in found):
            return
        last = tuple(self.last.get(n, False) for n in node.inputs)
        if node.op.layout(given, found) == NUMPY and node.op.place(given, found, last) is None:
            self.steps.append(Step(node, NUMPY_STEP, 1, 1, {}))
            return
        to = Lowering(
            node, node.op, given, found, self.last, _Arrays(self.constants), weights, self.target, self.threads, self._placed
        )
        to.choices = self.choices
        to.at_once = self.at_once
        to.most_packed = self.most_packed[not (len(given) > 1 and given[1] is not None and given[1].constant)]
        node.op.lower(to)
        self._aliases.update(to.aliases)
        self._scratches.update(to.scratches)
        self.slots = max(self.slots, to.slots)
        self.steps += to.steps

    def root(self, name: str) -> str:
        """The value whose memory this one shares (itself, mostly)."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def lies_in(self, name: str) -> str:
        """The value in whose memory this one lies, in its middle maybe."""
        return self.root(self._placed[name].ref.name if name in self._placed else name)

    def _place(self) -> None:
        """Results first: a value that is handed out lies in the caller's array. The others get their place in the arena."""
        self.results: dict[str, int] = {}
        copies = []
        for i, name in enumerate(self.fetch):
            root = self.root(name)
            if root in self.inputs or root in self.constants or root in self.results or self.specs[root].size == 0:
                copies.append((i, root))
            else:
                self.results[root] = i
        self.copies: list[tuple[int, str]] = copies
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        for i, step in enumerate(self.steps):
            for name in self._touched(step):
                begins.setdefault(name, i)
                ends[name] = i
        for _, name in copies:
            if name in ends:
                ends[name] = len(self.steps)
        names = [n for n in begins if n not in self.results and n not in self.inputs and n not in self.constants]
        sizes = [self.nbytes(n) for n in names]
        offsets, self.arena = place(sizes, [begins[n] for n in names], [ends[n] for n in names], self.enough)
        self.offsets = dict(zip(names, offsets, strict=True))
        memory = inf if self.target.gpu else _memory()
        if self.arena > memory:
            raise ModelError(
                f"this model needs {self.arena / 2**30:.1f} GiB for inputs of these shapes, there are {memory / 2**30:.1f}"
            )

    def nbytes(self, name: str) -> int:
        """Bytes of a value, or of a step's scratch memory."""
        return self._scratches.get(name) or self.specs[name].nbytes

    def _touched(self, step: Step) -> Iterable[str]:
        """Values whose memory a step reads or writes, each once, in the step's order: that of a set differs by process."""
        if step.kernel == NUMPY_STEP:
            names = (n for n in (*step.node.inputs, *step.node.outputs) if n)
        else:
            names = (v.name for v in step.arguments.values() if isinstance(v, Ref))
        return dict.fromkeys(self.root(n) for n in names)

    def _assemble(self, weights: Weights) -> Program:
        """Tables: one 64-bit word an argument, and which of them are addresses of what."""
        kernels: dict[str, int] = {}
        constants: dict[str, int] = {}
        words: list[int] = []
        floats: list[tuple[int, float]] = []
        fixed: list[tuple[int, int, int]] = []
        moves: dict[str, list[tuple[int, int]]] = {}
        table: list[tuple[int, int, int, int]] = []
        foreign: dict[int, Callable] = {}
        used = {step.kernel.split(".")[0] for step in self.steps if step.kernel != NUMPY_STEP}
        loaded = libraries(used | {"loop"}, self.target)  # a GPU has no loop
        for number, step in enumerate(self.steps):
            if step.kernel == NUMPY_STEP:
                foreign[number] = Reference(self, step.node)
                table.append((0, 0, 1, 1))
                continue
            family, kernel = step.kernel.split(".")
            start = len(words)
            formal = loaded[family].arguments(kernel)
            if len(formal) != len(step.arguments):
                raise TypeError(f"{step.kernel} takes {[n for n, _ in formal]}, got {list(step.arguments)}")
            for name, kind in formal:
                value = step.arguments[name]
                if isinstance(value, Ref):
                    root = self.root(value.name)
                    if root in self.constants:
                        fixed.append((len(words), constants.setdefault(root, len(constants)), value.offset))
                    else:
                        moves.setdefault(root, []).append((len(words), value.offset))
                    words.append(0)
                elif kind == "float32":
                    floats.append((len(words), float(value)))  # type: ignore[arg-type]
                    words.append(0)
                else:
                    words.append(0 if value is None else int(value))
            table.append((kernels.setdefault(step.kernel, len(kernels)), start * 8, step.units, step.chunk))
        slots = np.array(words or [0], np.int64)
        if floats:
            slots[[i for i, _ in floats]] = np.array([v for _, v in floats], np.float32).view(np.uint32)
        arena = [
            (i, self.offsets[name] + extra) for name, places in moves.items() if name in self.offsets for i, extra in places
        ]
        tables = {
            "words": slots, "table": np.array(table or [(0, 0, 0, 1)], np.int64),
            **_columns(("arena_words", "arena_offsets"), arena),
            **_columns(("constant_words", "constant_indices", "constant_offsets"), fixed),
        }  # fmt: skip
        program = Program(
            results=[(n, self.specs[n].shape, self.specs[n].dtype.str) for n in self.fetch], inputs=list(self.inputs),
            arena=self.arena, kernels=list(kernels), constants=list(constants),
            input_moves={n: moves[n] for n in moves if n in self.inputs},
            result_moves={self.results[n]: moves[n] for n in moves if n in self.results},
            segments=_segments(self.steps), tables=tables, foreign=foreign,
            copies=[(k, Held(self, root)) for k, root in self.copies], slots=self.slots,
        )  # fmt: skip
        for name in constants:
            self.array(name, weights)
        return program

    def array(self, name: str, weights: Weights) -> np.ndarray:
        """A constant's array as kernels read it, which the plan keeps alive."""
        if name not in self.arrays:
            constant = self.constants[name]
            found = weights.get(name, constant.make) if isinstance(constant, Deferred) else constant
            self.arrays[name] = np.require(found, requirements=["C", "A"])
        return self.arrays[name]

    def bound(self) -> Program:
        """The program, ready to run."""
        program = bind(self.program, self.target, [self.arrays[n] for n in self.program.constants])
        program.own = [self.arrays[n] for n in self.tables]
        return program

    def numpy_steps(self) -> list[Node]:
        """The nodes for which there is no kernel."""
        return [step.node for step in self.steps if step.kernel == NUMPY_STEP]


class Reference:
    """The work of a NumPy step: the op's `reference` on the values' arrays."""

    def __init__(self, plan: Plan, node: Node) -> None:
        self.node = node
        self.inputs = [Held(plan, n) if n else None for n in node.inputs]
        self.outputs = [Held(plan, n) if n else None for n in node.outputs]

    def __call__(self, space: Workspace, feeds: dict[str, np.ndarray], results: list[np.ndarray]) -> None:
        found = self.node.op.reference(*(None if held is None else held(space, feeds, results) for held in self.inputs))
        for held, value in zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=False):
            if held is not None:
                np.copyto(held(space, feeds, results), value)


class Held:
    """Where the array of a value is found during a run; the value lies as ONNX has it."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.root = root = plan.root(name)
        self.spec = plan.specs[name]
        self.input = root if root in plan.inputs else None
        self.result = plan.results.get(root)
        self.constant = array(plan.constants[root]) if root in plan.constants else None
        self.offset = plan.offsets.get(root)

    def __call__(self, space: Workspace, feeds: dict[str, np.ndarray], results: list[np.ndarray]) -> np.ndarray:
        shape, dtype = self.spec.shape, self.spec.dtype
        if self.input is not None:
            return feeds[self.input].reshape(shape)
        if self.constant is not None:
            return self.constant.reshape(shape)
        if self.result is not None:
            return results[self.result].reshape(shape)
        if self.offset is None:
            return np.empty(shape, dtype)
        return space.memory(self.root, self.offset, self.spec.nbytes).view(dtype).reshape(shape)


def _columns(names: tuple[str, ...], rows: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """One int64 array a column."""
    table = np.array(rows, np.int64).reshape(-1, len(names))
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}


class _Arrays(dict):
    """Constants for `Lowering`: asking for one gives its array, computed then if it was deferred."""

    def __init__(self, constants: dict[str, Any]) -> None:
        super().__init__()
        self.constants = constants

    def __getitem__(self, name: str) -> np.ndarray:
        return array(self.constants[name])

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self.constants[name] = value


def _segments(steps: list[Step]) -> list[tuple[int, int]]:
    """[first, last) ranges of steps for one native call each; a NumPy step is a range of its own. Long plans are cut so
    that Python sees a Ctrl-C in time."""
    found: list[tuple[int, int]] = []
    begin, work = 0, 0
    for i, step in enumerate(steps):
        if step.kernel == NUMPY_STEP:
            if begin < i:
                found.append((begin, i))
            found.append((i, i + 1))
            begin, work = i + 1, 0
            continue
        work += step.units * 65536 // step.chunk
        if work > 1 << 31:
            found.append((begin, i + 1))
            begin, work = i + 1, 0
    if begin < len(steps):
        found.append((begin, len(steps)))
    return found


def _memory() -> int:
    """Bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40
