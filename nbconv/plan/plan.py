"""From a Graph and the shapes of its inputs to a Plan: steps, where every value lies, and the tables the run loop reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.base import machine
from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import CHANNELS_FIRST, Graph, Layout, Node, Spec
from nbconv.graph.dtypes import is_added
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.step import Impl, Step, Work
from nbconv.lowering.weights import Weights
from nbconv.passes.fold import Deferred, array
from nbconv.passes.layout import arranged, eliminate_concat, specs_of
from nbconv.plan.assemble import NUMPY_STEP, assemble, checks
from nbconv.plan.derive import Derived, derive
from nbconv.plan.hold import holds, parts, scratches
from nbconv.plan.memory import most_live, plan_memory
from nbconv.plan.program import Program, bind

if TYPE_CHECKING:
    from nbconv.kernels.target import Target


class Outline(NamedTuple):
    """A plan before its values have places."""

    derived: Derived
    constants: dict[str, Any]
    """those that steps were lowered to, beside those of the graph"""
    steps: list[Step]
    aliases: dict[str, str]
    scratches: dict[str, int]
    slots: int


class Plan:
    """All that running a model on inputs of one set of shapes needs, but memory to run in (see `runtime.Workspace`).

    ``fetch`` names the results in order; ``specs`` are all Specs, those of bodies too; ``steps`` what is done; ``arena`` the
    bytes of memory for intermediate values; ``graph`` the derived graph, whose ``provenance`` says where authored values
    went. ``packed_limit``: bytes that one convolution's transformed weights may take, where these are constants and where
    they are not. ``scratch_limit``: see `Lowering`; ``enough``: see `plan_memory`, with it ``live`` says how many bytes live
    at one time. ``threads``: most threads that a run may use (default: those that there are). ``varying``: constants of the
    graph that are others for other shapes. ``outline``: the graph derived and lowered already, by a template (see
    `nbconv.plan.template`). ``integers``: whether what stands between integers is computed with them, not as floats.
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
        outline: Outline | None = None,
        integers: bool = True,
    ) -> None:
        self.target = target
        self.inputs = inputs
        self.fetch = fetch
        shared = weights
        counted = target if integers and not target.gpu else None
        derived = outline.derived if outline else derive(graph, inputs, weights, fetch, varying, target.gpu, counted)
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
        if outline is None:
            self._views = eliminate_concat(self.graph, self.specs, self.layouts, frozenset(fetch), self.target.gpu)
            for node in self.graph.nodes:
                if holds(node, specs_of(node, self.specs)[0]):
                    self._hold(node, weights if derived.floats else shared, frozenset(derived.varying))
                else:
                    self._lower(node, derived.weights_of(node))
        else:
            self.constants |= outline.constants
            self.steps, self._aliases, self._scratches, self.slots = outline[2:]
        added = self.constants if outline is None else outline.constants
        known = derived.varying if weights is not shared else set()
        self.tables = [n for n in added if (n in known or n not in self.graph.constants) and n not in shared.arrays]
        """names of constants that only this plan has: input shapes decide them"""
        self._place()
        self.own |= {*self.tables, *derived.varying}
        if weights is not shared:
            self.own |= {n for n in self.constants if n not in derived.fixed and n not in shared.arrays}
        for body in self._inner():
            self.tables += body.tables
            self.own |= body.own
        self.program = self._assemble(derived)

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
            self.steps.append(host_step(node))
            return
        guard(node, self.specs, self.steps)
        to = Lowering(
            node,
            node.op,
            given,
            found,
            self.layouts,
            Constants(self.constants, self.constants),
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
            raise DataDependentError(f"{node.name} ({node.op.type}): a GPU's plan holds no programs")
        plans = {
            which: Plan(
                part.graph, part.inputs, weights, part.fetch, self.target, self.choices, self.packed_limit, self.threads,
                self.scratch_limit, varying=varying,
            )
            for which, part in parts(node, self.specs, self.constants).items()
        }  # fmt: skip
        for plan in plans.values():
            self.specs = {**plan.specs, **self.specs}
        self.bodies[node] = plans
        scope = next(name for name in node.outputs if name)
        sizes = scratches(node, self.specs, max(plan.arena for plan in plans.values()))
        places = {name: Ref(f"{scope}#{name}") for name in sizes}
        self._scratches.update({places[name].name: size for name, size in sizes.items()})
        self.slots = max(self.slots, *(plan.slots for plan in plans.values()))
        self.steps.append(host_step(node, **places))

    def _inner(self) -> list[Plan]:
        """The plans of bodies."""
        return [plan for plans in self.bodies.values() for plan in plans.values()]

    def _assemble(self, derived: Derived) -> Program:
        """The program, whose constants the plan now has."""
        program = assemble(self)
        for name in program.constants:
            self.array(name, derived.shared if name in derived.fixed else derived.weights)
        for body in self._inner():
            self.arrays |= body.arrays
        return program

    def programs(self, node: Node) -> dict[str, tuple[Program, dict[str, Spec]]]:
        """The programs of a node's bodies, by attribute, and what each reads."""
        return {which: (plan.program, plan.inputs) for which, plan in self.bodies.get(node, {}).items()}

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
        for name in (*(name for _, name in copies), *(told.name for _, told in checks(self.steps))):
            if name in ends:
                ends[name] = len(self.steps)
        names = [n for n in begins if n not in self.results and n not in self.inputs and n not in self.constants]
        sizes = [self.nbytes(n) for n in names]
        lives = [begins[n] for n in names], [ends[n] for n in names]
        offsets, self.arena = plan_memory(sizes, *lives, self.enough)
        self.live = most_live(sizes, *lives) if self.enough is not None else 0
        self.offsets = dict(zip(names, offsets, strict=True))
        memory = inf if self.target.gpu else machine.memory()
        if self.arena > memory:
            raise ModelError(
                f"this model needs {self.arena / 2**30:.1f} GiB for inputs of these shapes, there are {memory / 2**30:.1f}"
            )

    def nbytes(self, name: str) -> int:
        """Bytes of a value, or of a step's scratch memory."""
        scratch = self._scratches.get(name)
        return self.specs[name].nbytes if scratch is None else scratch

    def _touched(self, step: Step) -> Iterable[str]:
        """Values whose memory a step reads or writes, each once, in the step's order: that of a set differs by process."""
        return dict.fromkeys(self.root(n) for n in (*step.reads, *step.writes))

    def array(self, name: str, weights: Weights) -> np.ndarray:
        """A constant's array as kernels read it, which the plan keeps alive."""
        if name not in self.arrays:
            constant = self.constants[name]
            found = weights.get(name, constant.make) if isinstance(constant, Deferred) else constant
            self.arrays[name] = np.require(found, requirements=["C", "A"])
        return self.arrays[name]

    def bound(self, flush_denormals: bool = True) -> Program:
        """The program, ready to run; its kernels take denormals for zeros, or keep them."""
        program = bind(self.program, self.target, self.arrays, flush_denormals)
        program.own = [self.arrays[n] for n in self.tables if n in self.arrays]
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


def guard(node: Node, specs: dict[str, Spec], steps: list[Step]) -> None:
    """Adds the step that looks at what the node's kernels do not check (`Op.guard`), and the Spec of its result."""
    found = node.op.guard(node, specs_of(node, specs)[0])
    if found is not None:
        specs.update(zip(found.outputs, found.infer(tuple(specs[n] for n in found.inputs)), strict=True))
        steps.append(host_step(found))


def host_step(node: Node, **scratch: Ref) -> Step:
    """The step of an op that no kernel does, with its ``scratch`` memory."""
    reads, writes = (tuple(n for n in names if n) for names in (node.inputs, node.outputs))
    writes += tuple(ref.name for ref in scratch.values())
    impl = Impl("programs", "other", "programs") if scratch else Impl("numpy", "numpy", "NumPy")
    return Step(node, NUMPY_STEP, 1, 1, {**scratch}, impl, Work(), reads, writes)


class Constants(dict):
    """Constants for `Lowering`: asking for one gives its array, computed then if it was deferred; new ones are ``added``."""

    def __init__(self, constants: dict[str, Any], added: dict[str, Any]) -> None:
        super().__init__()
        self._constants, self._added = constants, added

    def __getitem__(self, name: str) -> np.ndarray:
        return array(self._constants[name])

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self._added[name] = value
