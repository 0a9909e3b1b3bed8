"""From steps to tables: one 64-bit word an argument, and which of them are addresses of what."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbconv.graph import Spec
from nbconv.graph.dtypes import text_of
from nbconv.kernels.compile import libraries
from nbconv.lowering.step import Ref, Step
from nbconv.plan.hold import held
from nbconv.plan.host import Binding, Check, HostStep
from nbconv.plan.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from nbconv.graph import Node
    from nbconv.kernels.library import Library
    from nbconv.kernels.target import Target
    from nbconv.plan.program import OtherStep

    class Placed(Protocol):
        """A `nbconv.plan.plan.Plan` whose values have their places."""

        target: Target
        inputs: dict[str, Spec]
        fetch: tuple[str, ...]
        specs: dict[str, Spec]
        constants: dict[str, Any]
        steps: list[Step]
        results: dict[str, int]
        copies: list[tuple[int, str]]
        offsets: dict[str, int]
        arena: int
        slots: int

        def programs(self, node: Node) -> dict[str, tuple[Program, dict[str, Spec]]]: ...
        def root(self, name: str) -> str: ...
        def nbytes(self, name: str) -> int: ...


NUMPY_STEP = ""
"""The kernel name of a step that NumPy does."""


def assemble(plan: Placed) -> Program:
    """The program of a plan whose values have their places."""
    return _Assembly(plan).program()


def checks(steps: Iterable[Step]) -> list[tuple[Step, Ref]]:
    """Steps that check indices, and where their kernels tell what is wrong (see `Lowering.wrongs`)."""
    return [(step, told) for step in steps if isinstance(told := step.arguments.get("wrong"), Ref)]


def labelled(node: Node) -> str:
    """The node, as errors call it."""
    return f"{node.name} ({node.op.type})"


class _Formal(NamedTuple):
    """A kernel's arguments: names, and which of them are float32 and addresses; the others are integers."""

    names: tuple[str, ...]
    floats: tuple[int, ...]
    addresses: tuple[int, ...]


@cache
def _formal(library: Library, kernel: str) -> _Formal:
    arguments = library.arguments(kernel)
    floats = tuple(i for i, (_, kind) in enumerate(arguments) if kind == "float32")
    addresses = tuple(i for i, (_, kind) in enumerate(arguments) if kind.endswith("*"))
    return _Formal(tuple(name for name, _ in arguments), floats, addresses)


class _Assembly:
    def __init__(self, plan: Placed) -> None:
        self.plan = plan
        self.kernels: dict[str, int] = {}
        self.constants: dict[str, int] = {}
        self.words: list[Any] = []
        self.floats: list[tuple[int, float]] = []
        self.fixed: list[tuple[int, int, int]] = []
        self.moves: dict[str, list[tuple[int, int]]] = {}

    def program(self) -> Program:
        plan, table, host_steps = self.plan, [], {}
        used = {step.kernel.split(".")[0] for step in plan.steps if step.kernel != NUMPY_STEP}
        loaded = libraries(used | {"loop"}, plan.target)  # a GPU has no loop
        for number, step in enumerate(plan.steps):
            if step.kernel == NUMPY_STEP:
                host_steps[number] = self.host_step(step)
                table.append((0, 0, 1, 1))
                continue
            family, kernel = step.kernel.split(".")
            start = len(self.words)
            self.arguments(step, _formal(loaded[family], kernel))
            table.append((self.kernels.setdefault(step.kernel, len(self.kernels)), start * 8, step.units, step.chunk))
        copies = [(k, self.binding(root)) for k, root in plan.copies]
        moves, results, offsets = self.moves, plan.results, plan.offsets
        slots = np.array(self.words or [0], np.int64)
        if self.floats:
            slots[[i for i, _ in self.floats]] = np.array([v for _, v in self.floats], np.float32).view(np.uint32)
        arena = [(i, offsets[name] + extra) for name, places in moves.items() if name in offsets for i, extra in places]
        tables = {
            "words": slots, "table": np.array(table or [(0, 0, 0, 1)], np.int64),
            **_columns(("arena_words", "arena_offsets"), arena),
            **_columns(("constant_words", "constant_indices", "constant_offsets"), self.fixed),
        }  # fmt: skip
        return Program(
            results=[(n, plan.specs[n].shape, text_of(plan.specs[n].dtype)) for n in plan.fetch], inputs=list(plan.inputs),
            arena=plan.arena, kernels=list(self.kernels), constants=list(self.constants),
            input_moves={n: moves[n] for n in moves if n in plan.inputs},
            result_moves={results[n]: moves[n] for n in moves if n in results},
            segments=_segments(plan.steps), tables=tables, host_steps=host_steps, copies=copies,
            checks=[self.check(*found) for found in checks(plan.steps)], slots=plan.slots,
        )  # fmt: skip

    def arguments(self, step: Step, formal: _Formal) -> None:
        """The words of a step's arguments."""
        plan, words, given = self.plan, self.words, step.arguments
        start = len(words)
        if len(formal.names) != len(given):
            raise TypeError(f"{step.kernel} takes {list(formal.names)}, got {list(given)}")
        words += [given[name] or 0 for name in formal.names]
        for i in formal.floats:
            self.floats.append((start + i, float(words[start + i])))
            words[start + i] = 0
        for i in formal.addresses:
            value = words[start + i]
            words[start + i] = 0
            if not value:
                continue
            name, offset, _ = value
            root = plan.root(name)
            if root in plan.constants:
                self.fixed.append((start + i, self.constants.setdefault(root, len(self.constants)), offset))
            else:
                self.moves.setdefault(root, []).append((start + i, offset))

    def check(self, step: Step, told: Ref) -> Check:
        """What is looked at behind the steps."""
        place = Binding("arena", self.plan.offsets[told.name], (step.units, 2), np.dtype(np.int64), told.name)
        return Check(place, labelled(step.node))

    def host_step(self, step: Step) -> OtherStep:
        """What stands in the program for a step that no kernel does."""
        node, plan = step.node, self.plan
        programs = plan.programs(node)
        if not programs:
            inputs, outputs = ([self.binding(n) if n else None for n in names] for names in (node.inputs, node.outputs))
            return HostStep(node.op, inputs, outputs, labelled(node))

        def place(name: str, spec: Spec) -> Binding:
            scratch = step.arguments[name]
            assert isinstance(scratch, Ref)
            return Binding("arena", plan.offsets[scratch.name], spec.shape, spec.dtype, scratch.name)

        scratch = step.arguments["scratch"]
        assert isinstance(scratch, Ref)
        arena = place("scratch", Spec((plan.nbytes(scratch.name),), np.dtype(np.uint8)))
        return held(node, plan.specs, programs, arena, self.binding, place)

    def binding(self, name: str) -> Binding:
        """Where a step in Python finds a value."""
        plan = self.plan
        root, (shape, dtype, *_) = plan.root(name), plan.specs[name]
        if root in plan.inputs:
            return Binding("input", root, shape, dtype, root)
        if root in plan.constants:
            return Binding("constant", self.constants.setdefault(root, len(self.constants)), shape, dtype, root)
        if root in plan.results:
            return Binding("result", plan.results[root], shape, dtype, root)
        if root in plan.offsets:
            return Binding("arena", plan.offsets[root], shape, dtype, root)
        return Binding("none", 0, shape, dtype, root)


def _columns(names: tuple[str, ...], rows: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """One int64 array a column."""
    table = np.array(rows, np.int64).reshape(-1, len(names))
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}


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
