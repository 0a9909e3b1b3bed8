"""A program: what remains of a plan when nothing is left to decide. Tables for the run loop, sizes, names of constants.

It needs no pass and no graph, ops only where NumPy does steps, and can be kept in a file (see `nbconv.runtime.plan_cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.graph import Spec
from nbconv.kernels.compile import libraries
from nbconv.plan.host import Binding, HostStep

if TYPE_CHECKING:
    from nbconv.kernels.target import Target

FIELDS = ("words", "table", "arena_words", "arena_offsets", "constant_words", "constant_indices", "constant_offsets")


class Program:
    """The tables of one plan.

    ``words`` holds the steps' arguments, one 64-bit slot each; where a slot is an address, one of the ``*_words`` lists
    names it: ``arena_words`` (+ ``arena_offsets``), ``constant_words`` (+ ``constant_indices`` into ``constants``,
    ``constant_offsets``), ``input_moves`` and ``result_moves`` (by input name and by result, lists of (slot, offset)).
    ``table`` has a row a step: index into ``kernels``, byte offset of its arguments, units, units claimed at a time.
    """

    def __init__(
        self, *, results: list[tuple[str, tuple[int, ...], str]], inputs: list[str], arena: int, kernels: list[str],
        constants: list[str], input_moves: dict[str, list], result_moves: dict[int, list], segments: list[tuple[int, int]],
        tables: dict[str, np.ndarray], host_steps: dict[int, HostStep | CallStep] | None = None,
        copies: list[tuple[int, Binding]] | None = None, slots: int = 0,
    ) -> None:  # fmt: skip
        self.results = [(name, tuple(shape), np.dtype(dtype)) for name, shape, dtype in results]
        self.inputs, self.arena, self.kernels, self.constants = inputs, arena, kernels, constants
        self.input_moves, self.result_moves = input_moves, {int(k): v for k, v in result_moves.items()}
        self.segments = segments
        self.words, self.table, self.arena_words, self.arena_offsets = (tables[n] for n in FIELDS[:4])
        self.constant_words, self.constant_indices, self.constant_offsets = (tables[n] for n in FIELDS[4:])
        self.host_steps = host_steps or {}
        """by number: the steps that no kernel does"""
        self.copies = copies or []
        """(result, the value it is a copy of) for results that no step writes"""
        self.slots = slots
        """most threads that a run may use (some steps have scratch memory for each); 0 when any number may"""
        self.arrays: list[np.ndarray] = []
        self.keys: dict[str, str] | None = None
        """what the kernels' libraries are looked up by, where an earlier process found out"""
        self.own: list[np.ndarray] = []
        """constants that no other plan shares"""

    @property
    def families(self) -> list[str]:
        """The kernel families it needs, for its bodies, too."""
        mine = [k.split(".")[0] for k in self.kernels]
        return [*dict.fromkeys([*mine, "loop", *(f for body in self.bodies for f in body.families)])]

    @property
    def bodies(self) -> list[Program]:
        """The programs that its steps run."""
        return [body.program for step in self.host_steps.values() if isinstance(step, CallStep) for body in step.bodies]

    @property
    def portable(self) -> bool:
        """Whether it can be kept in a file."""
        return all(step.portable for step in self.host_steps.values())

    def constant_names(self) -> list[str]:
        """The constants that it and its bodies read."""
        return [*dict.fromkeys([*self.constants, *(n for p in self.bodies for n in p.constant_names())])]

    @property
    def fetch(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.results)

    @property
    def nbytes(self) -> int:
        """Bytes that it and a workspace take, without arena and weights, which plans share."""
        own = sum(a.nbytes for a in self.own) + sum(p.nbytes for p in self.bodies)
        return own + 3 * (self.words.nbytes + self.table.nbytes) + 128 * len(self.table) + 8 * len(self.arena_words) * 2

    def spec(self, k: int) -> Spec:
        """The Spec of result k."""
        _, shape, dtype = self.results[k]
        return Spec(shape, dtype)

    def bind(self, addresses: dict[str, int], arrays: list[np.ndarray]) -> Program:
        """Put in the addresses of kernels and constants; the arrays are kept alive."""
        self.arrays = arrays
        where = np.array([addresses[k] for k in self.kernels] or [0], np.int64)
        self.table = self.table.copy()
        self.table[:, 0] = where[self.table[:, 0]]
        if len(self.constant_words):
            bases = np.array([a.ctypes.data for a in arrays], np.int64)
            self.words = self.words.copy()
            self.words[self.constant_words] = bases[self.constant_indices] + self.constant_offsets
        return self

    def encode(self, tables: list[np.ndarray]) -> dict[str, Any]:
        """An unbound program as JSON values; its tables are added to ``tables``."""
        mine, at = [np.ascontiguousarray(getattr(self, name), np.int64) for name in FIELDS], sum(t.size for t in tables)
        tables += [table.reshape(-1) for table in mine]
        return {
            "results": [(n, s, d.str) for n, s, d in self.results], "inputs": self.inputs, "arena": self.arena,
            "kernels": self.kernels, "constants": self.constants, "input_moves": self.input_moves,
            "result_moves": self.result_moves, "segments": self.segments, "slots": self.slots,
            "at": at, "sizes": [t.size for t in mine],
            "host_steps": [
                (i, step.encode(tables) if isinstance(step, CallStep) else step.encode())
                for i, step in self.host_steps.items()
            ],
            "copies": [(k, binding.encode()) for k, binding in self.copies],
        }  # fmt: skip

    @classmethod
    def decode(cls, head: dict[str, Any], words: np.ndarray) -> Program:
        """`encode` undone, of all tables one behind the other; ValueError, TypeError and their like for what does not
        fit."""
        at, sizes, steps, copies = (head.pop(k) for k in ("at", "sizes", "host_steps", "copies"))
        if min(at, *sizes) < 0 or at + sum(sizes) > len(words):
            raise ValueError("tables that are not there")
        parts = np.split(words[at : at + sum(sizes)], np.cumsum(sizes)[:-1])
        found: dict[str, np.ndarray] = dict(zip(FIELDS, parts, strict=True))
        found["table"] = found["table"].reshape(-1, 4)
        program = cls(tables=found, **head)
        program._check()
        for i, kept in steps:
            called = "control" in kept
            program.host_steps[i] = CallStep.decode(kept, program, words) if called else HostStep.decode(kept, program)
        program.copies = [(k, Binding.decode(binding, program)) for k, binding in copies]
        for k, binding in program.copies:
            if k < 0 or (program.spec(k).nbytes, program.spec(k).dtype) != (binding.nbytes, binding.dtype):
                raise ValueError(f"result {k} as a copy of {binding}")
        ends = {0, *(end for _, end in program.segments)}
        if not all({i, i + 1} <= ends for i in program.host_steps):
            raise ValueError("a segment of what kernels do and others")
        return program

    def _check(self) -> None:
        """ValueError or IndexError where a table points outside of what it is about."""
        steps, words = len(self.table), len(self.words)
        if self.arena < 0 or min(self.table[:, 2:].min(), self.table[:, 3].min() - 1) < 0:
            raise ValueError("a size that is none")
        moves = [m for rows in (*self.input_moves.values(), *self.result_moves.values()) for m in rows]
        within = (
            (self.table[:, 0], max(1, len(self.kernels))), (self.table[:, 1], 8 * words + 1), (self.arena_words, words),
            (self.arena_offsets, self.arena + 1), (self.constant_words, words),
            (self.constant_indices, len(self.constants)), (np.array([i for i, _ in moves], np.int64), words),
            (np.array([*self.result_moves], np.int64), len(self.results)),
        )  # fmt: skip
        for values, end in within:
            if values.size and not 0 <= int(values.min()) <= int(values.max()) < end:
                raise ValueError("an index that is out of range")
        begins, ends = [0, *(b for _, b in self.segments)], [*(a for a, _ in self.segments), steps]
        if begins != ends and (self.segments or self.table[:, 2].any()):
            raise ValueError("segments that are not all steps in order")
        if not set(self.input_moves) <= set(self.inputs) or len(self.arena_words) != len(self.arena_offsets):
            raise ValueError("tables that do not fit each other")


class Body(NamedTuple):
    """A program that a step of another runs: by its inputs' names and its results' numbers, the outer program's values."""

    program: Program
    inputs: dict[str, Binding]
    results: list[Binding]


class CallStep:
    """A step that runs other programs, its bodies.

    ``control``: how, the name of one of `CONTROLS`. ``operands``: the outer values that it works on itself, such as a
    condition. ``arena``: the part of the outer arena in which the bodies work, one at a time.
    """

    def __init__(self, control: str, bodies: list[Body], operands: list[Binding], arena: Binding) -> None:
        self.control, self.bodies, self.operands, self.arena = control, bodies, operands, arena

    def run(self, space: Any, threads: int) -> None:
        CONTROLS[self.control].run(Calls(self, space, threads))

    @property
    def portable(self) -> bool:
        """Whether another process can make its bodies again."""
        return all(body.program.portable for body in self.bodies)

    def encode(self, tables: list[np.ndarray]) -> dict[str, Any]:
        return {
            "control": self.control, "arena": self.arena.encode(), "operands": [b.encode() for b in self.operands],
            "bodies": [
                [b.program.encode(tables), {n: i.encode() for n, i in b.inputs.items()}, [r.encode() for r in b.results]]
                for b in self.bodies
            ],
        }  # fmt: skip

    @classmethod
    def decode(cls, kept: dict[str, Any], program: Program, words: np.ndarray) -> CallStep:
        arena = Binding.decode(kept["arena"], program)
        bodies = [_decode_body(body, program, arena, words) for body in kept["bodies"]]
        operands = [Binding.decode(b, program) for b in kept["operands"]]
        wanted = CONTROLS[kept["control"]]
        if (len(operands), len(bodies)) != wanted[1:] or arena.kind != "arena" or arena.dtype != np.uint8:
            raise ValueError(f"control {kept['control']!r} in {kept['arena']}")
        return cls(kept["control"], bodies, operands, arena)


def _decode_body(kept: list, outer: Program, arena: Binding, words: np.ndarray) -> Body:
    head, inputs, results = kept
    program = Program.decode(head, words)
    body = Body(
        program, {n: Binding.decode(b, outer) for n, b in inputs.items()}, [Binding.decode(b, outer) for b in results]
    )
    if program.arena > arena.nbytes or set(body.inputs) != set(program.inputs) or len(results) != len(program.results):
        raise ValueError("a body that does not fit the step")
    for k, binding in enumerate(body.results):
        spec = program.spec(k)
        if (spec.shape, spec.dtype) != (binding.shape, binding.dtype) or not binding.writable:
            raise ValueError("a body's result that does not fit the value")
    return body


class Calls:
    """One execution of a `CallStep`: what its control reads, and runs."""

    def __init__(self, step: CallStep, space: Any, threads: int) -> None:
        self.step, self.space, self.threads = step, space, threads

    def operand(self, i: int) -> np.ndarray:
        """The array of operand i."""
        return self.step.operands[i].array(self.space)

    def run(
        self, k: int, feeds: Mapping[str, np.ndarray] | None = None, results: Mapping[int, np.ndarray] | None = None
    ) -> None:
        """Run body k, on these arrays where they are given, such as those that a loop carries, else on the outer values."""
        body, feeds, results = self.step.bodies[k], feeds or {}, results or {}
        program, space = body.program, self.space
        given = {n: feeds[n] if n in feeds else body.inputs[n].array(space) for n in program.inputs}
        found = [results[i] if i in results else body.results[i].array(space) for i in range(len(program.results))]
        with space.inner((id(self.step), k), program, self.step.arena) as inner:
            inner.run(given, found, self.threads)


def choose(calls: Calls) -> None:
    """If: the first body where the one operand, a bool, holds, else the second."""
    calls.run(0 if calls.operand(0).reshape(-1)[0] else 1)


class Control(NamedTuple):
    """How a step runs its bodies, of which, and of operands, it has so many."""

    run: Callable[[Calls], None]
    operands: int
    bodies: int


CONTROLS = {"if": Control(choose, 1, 2)}
"""By the names that ops and files have for them."""


def bind(program: Program, target: Target, arrays: Mapping[str, np.ndarray]) -> Program:
    """The program with the addresses of its kernels (loaded, or compiled now) and constants, and so its bodies."""
    loaded = libraries(program.families, target, program.keys)

    def bound(part: Program) -> Program:
        for body in part.bodies:
            bound(body)
        addresses = {k: loaded[k.split(".")[0]].address(k.split(".")[1]) for k in part.kernels}
        return part.bind(addresses, [arrays[n] for n in part.constants])

    return bound(program)
