"""From a Graph and the shapes of its inputs to a Plan: steps, where every value lies, and the tables the run loop reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.base import machine
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import CHANNELS_FIRST, Graph, Layout, Node, Spec
from nbconv.graph.bodies import body_of, free, own_inputs
from nbconv.graph.dtypes import is_added, kind_of, text_of
from nbconv.kernels.compile import libraries
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.step import Impl, Step, Work
from nbconv.lowering.weights import Weights
from nbconv.passes.dequantise import dequantise
from nbconv.passes.fold import Deferred, array, fold
from nbconv.passes.fuse import fold_affine, fuse_epilogues, fuse_hard_swish, fuse_shuffle, fuse_silu
from nbconv.passes.layout import arranged, choose, eliminate_concat, specs_of
from nbconv.passes.promote import promote
from nbconv.passes.quantise import fuse_quantised
from nbconv.plan.call import Body, CallStep
from nbconv.plan.host import Binding, HostStep
from nbconv.plan.memory import plan_memory
from nbconv.plan.program import Program, bind

if TYPE_CHECKING:
    from nbconv.kernels.target import Target

NUMPY_STEP = ""
"""The kernel name of a step that NumPy does."""


class Derived(NamedTuple):
    """What the passes make of an authored graph for one set of input shapes."""

    graph: Graph
    specs: dict[str, Spec]
    layouts: dict[str, Layout]
    """how each value lies, where that is not as ONNX has it"""
    weights: Weights
    """where constants made from the model's are kept: the model's own, unless input shapes decide some of them"""
    varying: set[str]
    """constants that input shapes decide"""


def derive(
    graph: Graph,
    inputs: dict[str, Spec],
    weights: Weights,
    fetch: tuple[str, ...],
    varying: frozenset[str] = frozenset(),
    gpu: bool = False,
    integers: Target | None = None,
) -> Derived:
    """The graph that is lowered. ``fetch`` names the values to compute: outputs, or any other, which is then not fused
    away; ``varying`` constants that shapes decided; ``gpu``: whether a GPU's kernels do it; ``integers``: the
    processor that computes with integers what stands between them, None where floats are wanted."""
    wanted = frozenset(fetch)
    graph = Graph(
        graph.nodes, graph.inputs, dict.fromkeys(fetch), graph.constants, graph.name, graph.metadata, graph.provenance
    )
    if integers is not None:
        graph = fuse_quantised(graph, wanted)
    graph, specs, decided = fold(graph, inputs, weights, wanted, varying)
    promoted = promote(graph, specs)
    if promoted is not graph:
        graph, specs, decided = fold(promoted, inputs, weights, wanted, varying | decided)
    if any(kind_of(specs[name].dtype) == "f" for name in decided):
        weights = Weights()
    if integers is not None:
        graph = dequantise(graph, specs, integers)
    graph = fuse_silu(graph, specs, wanted)
    graph = fuse_hard_swish(graph, specs, wanted)
    graph = fuse_shuffle(graph, specs, wanted)
    graph = fold_affine(graph, specs, wanted)
    graph = fuse_epilogues(graph, specs, wanted)
    graph, layouts = choose(graph, specs, gpu)
    return Derived(graph, specs, layouts, weights, decided)


class Plan:
    """All that running a model on inputs of one set of shapes needs, but memory to run in (see `runtime.Workspace`).

    ``fetch`` names the results in order; ``specs`` are all Specs, those of bodies too; ``steps`` what is done; ``arena`` the
    bytes of memory for intermediate values; ``graph`` the derived graph, whose ``provenance`` says where authored values
    went. ``packed_limit``: bytes that one convolution's transformed weights may take, where these are constants and where
    they are not. ``scratch_limit``: see `Lowering`; ``enough``: see `plan_memory`. ``threads``: most threads that a run may
    use (default: those that there are). ``varying``: constants of the graph that are others for other shapes. ``integers``:
    whether what stands between integers is computed with them, not as floats.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: dict[str, Spec],
        weights: Weights,
        fetch: tuple[str, ...],
        target: Target,
        choices: Mapping[Any, str] | None = None,
        packed_limit: tuple[float, float] = (inf, inf),
        threads: int | None = None,
        scratch_limit: float = inf,
        enough: float | None = None,
        varying: frozenset[str] = frozenset(),
        integers: bool = True,
    ) -> None:
        self.target = target
        self.inputs = inputs
        self.fetch = fetch
        shared = weights
        counted = target if integers and not target.gpu else None
        derived = derive(graph, inputs, weights, fetch, varying, target.gpu, counted)
        self.graph, self.specs, self.layouts, weights = derived.graph, derived.specs, derived.layouts, derived.weights
        self.constants: dict[str, Any] = dict(self.graph.constants)
        self.choices = choices or {}
        self.steps: list[Step] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.own: set[str] = set()
        """names of constants that are others for other shapes: these, or some of these"""
        self.bodies: dict[Node, dict[str, Plan]] = {}
        """by the nodes that hold them, and their attributes: the plans of bodies"""
        self._aliases: dict[str, str] = {}
        self._scratches: dict[str, int] = {}
        self.threads, self.slots = threads or machine.available_threads(), 0
        self.packed_limit, self.scratch_limit, self.enough = packed_limit, scratch_limit, enough
        self._views = eliminate_concat(self.graph, self.specs, self.layouts, frozenset(fetch), self.target.gpu)
        for node in self.graph.nodes:
            if node.op.control:
                self._hold(node, weights, frozenset(derived.varying))
            else:
                self._lower(node, weights)
        self.tables = [n for n in self.constants if n not in self.graph.constants and n not in weights.arrays]
        """names of constants that only this plan has: input shapes decide them"""
        self._place()
        self.own |= {*self.tables, *derived.varying, *(() if weights is shared else self.constants)}
        for body in self._inner():
            self.tables += body.tables
            self.own |= body.own
        self.program = self._assemble(weights)

    def __repr__(self) -> str:
        return f"<Plan of {self.graph.name} for {self.target.name}: {len(self.steps)} steps>"

    def __str__(self) -> str:
        from nbconv.plan.listing import listing

        return listing(self)

    def _lower(self, node: Node, weights: Weights) -> None:
        given, found = specs_of(node, self.specs)
        if all(spec.size == 0 for spec in found):
            return
        if arranged(node, self.specs, self.layouts, self.target.gpu) is None:
            self.steps.append(_host(node))
            return
        to = Lowering(
            node,
            node.op,
            given,
            found,
            self.layouts,
            _Arrays(self.constants),
            weights,
            self.target,
            self.threads,
            self._views,
        )
        to.choices = self.choices
        to.scratch_limit = self.scratch_limit
        to.packed_limit = self.packed_limit[not (len(given) > 1 and given[1] is not None and given[1].constant)]
        node.op.lower(to)
        self._aliases.update(to.aliases)
        self._scratches.update(to.scratches)
        self.slots = max(self.slots, to.slots)
        self.steps += to.steps

    def _hold(self, node: Node, weights: Weights, varying: frozenset[str]) -> None:
        """A step that runs other programs: a plan for each body of the node, all in one piece of scratch memory."""
        if self.target.gpu:
            why = "control flow runs on the CPU alone: load the model with device='cpu'"
            raise UnsupportedError(f"{node.name} ({node.op.type}): {why}")
        wanted = [i for i, name in enumerate(node.outputs) if name]
        plans = {}
        for which in node.op.bodies():
            body = body_of(node, which)
            around = [n for n in free(body) if n in self.constants]
            constants = {**body.constants, **{n: self.constants[n] for n in around}}
            read = {n: self.specs[n] for n in free(body) if n not in constants}
            inputs = {n: Spec(s.shape, s.dtype, quantisation=s.quantisation) for n, s in read.items()}
            found, graph = [*body.outputs], Graph(body.nodes, inputs, body.outputs, constants, body.name)
            plans[which] = Plan(
                graph, inputs, weights, tuple(found[i] for i in wanted), self.target, self.choices, self.packed_limit,
                self.threads, self.scratch_limit, varying=varying,
            )  # fmt: skip
            self.specs = {**plans[which].specs, **self.specs}
        self.bodies[node] = plans
        scratch = Ref(f"{node.outputs[wanted[0]]}#scratch")
        self._scratches[scratch.name] = max(1, *(plan.arena for plan in plans.values()))
        self.slots = max(self.slots, *(plan.slots for plan in plans.values()))
        self.steps.append(_host(node, scratch=scratch))

    def _inner(self) -> list[Plan]:
        """The plans of bodies."""
        return [plan for plans in self.bodies.values() for plan in plans.values()]

    def layout(self, name: str) -> Layout:
        """How a value lies."""
        return self.layouts.get(name, CHANNELS_FIRST)

    def root(self, name: str) -> str:
        """The value whose memory this one shares (itself, mostly)."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

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
        offsets, self.arena = plan_memory(sizes, [begins[n] for n in names], [ends[n] for n in names], self.enough)
        self.offsets = dict(zip(names, offsets, strict=True))
        memory = inf if self.target.gpu else machine.memory()
        if self.arena > memory:
            raise ModelError(
                f"this model needs {self.arena / 2**30:.1f} GiB for inputs of these shapes, there are {memory / 2**30:.1f}"
            )

    def nbytes(self, name: str) -> int:
        """Bytes of a value, or of a step's scratch memory."""
        return self._scratches.get(name) or self.specs[name].nbytes

    def _touched(self, step: Step) -> Iterable[str]:
        """Values whose memory a step reads or writes, each once, in the step's order: that of a set differs by process."""
        return dict.fromkeys(self.root(n) for n in (*step.reads, *step.writes))

    def _assemble(self, weights: Weights) -> Program:
        """Tables: one 64-bit word an argument, and which of them are addresses of what."""
        kernels: dict[str, int] = {}
        constants: dict[str, int] = {}
        words: list[int] = []
        floats: list[tuple[int, float]] = []
        fixed: list[tuple[int, int, int]] = []
        moves: dict[str, list[tuple[int, int]]] = {}
        table: list[tuple[int, int, int, int]] = []
        host_steps: dict[int, HostStep | CallStep] = {}
        used = {step.kernel.split(".")[0] for step in self.steps if step.kernel != NUMPY_STEP}
        loaded = libraries(used | {"loop"}, self.target)  # a GPU has no loop
        for number, step in enumerate(self.steps):
            if step.kernel == NUMPY_STEP:
                host_steps[number] = self._host_step(step, constants)
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
        copies = [(k, self._binding(root, constants)) for k, root in self.copies]
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
            results=[(n, self.specs[n].shape, text_of(self.specs[n].dtype)) for n in self.fetch], inputs=list(self.inputs),
            arena=self.arena, kernels=list(kernels), constants=list(constants),
            input_moves={n: moves[n] for n in moves if n in self.inputs},
            result_moves={self.results[n]: moves[n] for n in moves if n in self.results},
            segments=_segments(self.steps), tables=tables, host_steps=host_steps, copies=copies, slots=self.slots,
        )  # fmt: skip
        for name in constants:
            self.array(name, weights)
        for body in self._inner():
            self.arrays |= body.arrays
        return program

    def _host_step(self, step: Step, constants: dict[str, int]) -> HostStep | CallStep:
        """What stands in the program for a step that no kernel does."""
        node = step.node
        outputs = [self._binding(n, constants) if n else None for n in node.outputs]
        if node not in self.bodies:
            return HostStep(node.op, [self._binding(n, constants) if n else None for n in node.inputs], outputs)
        bodies = [
            Body(plan.program, {n: self._binding(n, constants) for n in plan.inputs}, [b for b in outputs if b is not None])
            for plan in self.bodies[node].values()
        ]
        scratch = step.arguments["scratch"]
        assert isinstance(scratch, Ref)
        size, offset = self._scratches[scratch.name], self.offsets[scratch.name]
        arena = Binding("arena", offset, (size,), np.dtype(np.uint8), scratch.name)
        return CallStep(node.op.control, bodies, [self._binding(n, constants) for n in own_inputs(node)], arena)

    def _binding(self, name: str, constants: dict[str, int]) -> Binding:
        """Where a step in Python finds a value; ``constants`` has the index of each that is needed so far."""
        root, (shape, dtype, *_) = self.root(name), self.specs[name]
        if root in self.inputs:
            return Binding("input", root, shape, dtype, root)
        if root in self.constants:
            return Binding("constant", constants.setdefault(root, len(constants)), shape, dtype, root)
        if root in self.results:
            return Binding("result", self.results[root], shape, dtype, root)
        if root in self.offsets:
            return Binding("arena", self.offsets[root], shape, dtype, root)
        return Binding("none", 0, shape, dtype, root)

    def array(self, name: str, weights: Weights) -> np.ndarray:
        """A constant's array as kernels read it, which the plan keeps alive."""
        if name not in self.arrays:
            constant = self.constants[name]
            found = weights.get(name, constant.make) if isinstance(constant, Deferred) else constant
            self.arrays[name] = np.require(found, requirements=["C", "A"])
        return self.arrays[name]

    def bound(self) -> Program:
        """The program, ready to run."""
        program = bind(self.program, self.target, self.arrays)
        program.own = [self.arrays[n] for n in self.tables]
        return program

    @property
    def portable(self) -> bool:
        """Whether the program can be kept in a file. What a GPU's steps on the CPU need, only a plan knows."""
        there = self.target.gpu and (self.program.host_steps or self.program.copies)
        kept = (self.arrays[n].dtype.kind in "biuf" or is_added(self.arrays[n].dtype) for n in self.program.constant_names())
        return not there and self.program.portable and all(kept)

    def numpy_steps(self) -> list[Node]:
        """The nodes for which there is no kernel, those of bodies too."""
        mine = [step.node for step in self.steps if step.kernel == NUMPY_STEP and step.node not in self.bodies]
        return [*mine, *(node for body in self._inner() for node in body.numpy_steps())]


def _host(node: Node, **scratch: Ref) -> Step:
    """The step of an op that no kernel does, with its ``scratch`` memory."""
    reads, writes = (tuple(n for n in names if n) for names in (node.inputs, node.outputs))
    writes += tuple(ref.name for ref in scratch.values())
    impl = Impl("programs", "other", "programs") if node.op.control else Impl("numpy", "numpy", "NumPy")
    return Step(node, NUMPY_STEP, 1, 1, {**scratch}, impl, Work(), reads, writes)


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
