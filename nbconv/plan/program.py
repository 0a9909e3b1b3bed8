"""A program: what remains of a plan when nothing is left to decide. Tables for the run loop, sizes, names of constants.

It needs no pass and no graph, ops only where NumPy does steps, and can be kept in a file (see `nbconv.runtime.plan_cache`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import Spec
from nbconv.graph.dtypes import from_text, is_added, text_of
from nbconv.kernels.compile import libraries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    from nbconv.kernels.target import Target

    class Binding(Protocol):
        """`nbconv.plan.host.Binding`."""

        @property
        def kind(self) -> str: ...
        @property
        def key(self) -> str | int: ...
        def array(self, space: Any) -> np.ndarray: ...
        def encode(self) -> list: ...

    class Body(Protocol):
        """`nbconv.plan.call.Body`."""

        @property
        def program(self) -> Program: ...

    class Check(Protocol):
        """`nbconv.plan.host.Check`."""

        def run(self, space: Any) -> None: ...
        def encode(self) -> list: ...

    class OtherStep(Protocol):
        """A step that no kernel does: `nbconv.plan.host.HostStep`, `nbconv.plan.call.CallStep`."""

        @property
        def bodies(self) -> Sequence[Body]: ...
        @property
        def portable(self) -> bool: ...
        def run(self, space: Any, threads: int) -> None: ...
        def encode(self, tables: list[np.ndarray]) -> dict[str, Any]: ...


FIELDS = ("words", "table", "arena_words", "arena_offsets", "constant_words", "constant_indices", "constant_offsets")


OBJECTS = 8 << 10
"""Bytes of Python's objects that a plan of any size takes, some more than were counted for small and large nets."""
MOVE = 128
"""Bytes of the objects that say where an input's or a result's address goes, and of what a step's tables take beside."""


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
        tables: dict[str, np.ndarray], host_steps: Mapping[int, OtherStep] | None = None,
        copies: Sequence[tuple[int, Binding]] = (), checks: Sequence[Check] = (), slots: int = 0,
    ) -> None:  # fmt: skip
        self.results = [(name, tuple(shape), from_text(dtype)) for name, shape, dtype in results]
        self.inputs, self.arena, self.kernels, self.constants = inputs, arena, kernels, constants
        self.input_moves, self.result_moves = input_moves, {int(k): v for k, v in result_moves.items()}
        self.segments = segments
        self.words, self.table, self.arena_words, self.arena_offsets = (tables[n] for n in FIELDS[:4])
        self.constant_words, self.constant_indices, self.constant_offsets = (tables[n] for n in FIELDS[4:])
        self.host_steps = dict(host_steps or {})
        """by number: the steps that no kernel does"""
        self.copies = copies
        """(result, the value it is a copy of) for results that no step writes"""
        self.checks = checks
        """what is to be looked at when the steps are done, before anybody sees results"""
        self.slots = slots
        """most threads that a run may use (some steps have scratch memory for each); 0 when any number may"""
        self.arrays: list[np.ndarray] = []
        self.keys: dict[str, str] | None = None
        """what the kernels' libraries are looked up by, where an earlier process found out"""
        self.own: list[np.ndarray] = []
        """constants that no other plan shares"""
        self.flush_denormals = True
        """whether its kernels take denormals for zeros, and give zeros for them; not kept in a file"""

    @property
    def families(self) -> list[str]:
        """The kernel families it needs, for its bodies, too."""
        mine = [k.split(".")[0] for k in self.kernels]
        return [*dict.fromkeys([*mine, "loop", *(f for body in self.bodies for f in body.families)])]

    @property
    def bodies(self) -> list[Program]:
        """The programs that its steps run."""
        return [body.program for step in self.host_steps.values() for body in step.bodies]

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
        """Bytes that it and a workspace take, Python's objects counted, without arena and weights, which plans share."""
        own = sum(a.nbytes for a in self.own) + sum(p.nbytes for p in self.bodies)
        moves = sum(map(len, self.input_moves.values())) + sum(map(len, self.result_moves.values()))
        tables = self.words.nbytes + 2 * self.table.nbytes + 2 * self.arena_words.nbytes + 3 * self.constant_words.nbytes
        return OBJECTS + own + tables + MOVE * moves

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
        self.words = self.words.copy()
        if len(self.constant_words):
            bases = np.array([a.ctypes.data for a in arrays], np.int64)
            self.words[self.constant_words] = bases[self.constant_indices] + self.constant_offsets
        return self

    def encode(self, tables: list[np.ndarray]) -> dict[str, Any]:
        """An unbound program as JSON values; its tables are added to ``tables``."""
        mine, at = [np.ascontiguousarray(getattr(self, name), np.int64) for name in FIELDS], sum(t.size for t in tables)
        tables += [table.reshape(-1) for table in mine]
        return {
            "results": [(n, s, text_of(d)) for n, s, d in self.results], "inputs": self.inputs, "arena": self.arena,
            "kernels": self.kernels, "constants": self.constants, "input_moves": self.input_moves,
            "result_moves": self.result_moves, "segments": self.segments, "slots": self.slots,
            "at": at, "sizes": [t.size for t in mine],
            "host_steps": [(i, step.encode(tables)) for i, step in self.host_steps.items()],
            "copies": [(k, binding.encode()) for k, binding in self.copies],
            "checks": [check.encode() for check in self.checks],
        }  # fmt: skip

    @classmethod
    def decode(cls, head: dict[str, Any], words: np.ndarray) -> Program:
        """`encode` undone, of all tables one behind the other, for a program of kernels alone (`nbconv.plan.call.decode`
        does the others, and calls this); ValueError, TypeError and their like for what does not fit."""
        own = {k: v for k, v in head.items() if k not in ("at", "sizes", "host_steps", "copies", "checks")}
        at, sizes = head["at"], head["sizes"]
        if min(at, *sizes) < 0 or at + sum(sizes) > len(words):
            raise ValueError("tables that are not there")
        parts = np.split(words[at : at + sum(sizes)], np.cumsum(sizes)[:-1])
        found: dict[str, np.ndarray] = dict(zip(FIELDS, parts, strict=True))
        found["table"] = found["table"].reshape(-1, 4)
        program = cls(tables=found, **own)
        program._check()
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


def plain(name: str) -> np.dtype:
    """The type of this name, if it is one of numbers or bools; else ValueError."""
    dtype = from_text(name)
    if not is_added(dtype) and (dtype.kind not in "biuf" or dtype.str != name):
        raise ValueError(f"type {name!r}")
    return dtype


def bind(program: Program, target: Target, arrays: Mapping[str, np.ndarray], flush_denormals: bool = True) -> Program:
    """The program with the addresses of its kernels (loaded, or compiled now) and constants, and so its bodies; all of
    them flush denormals or keep them."""
    loaded = libraries(program.families, target, program.keys)

    def bound(part: Program) -> Program:
        for body in part.bodies:
            bound(body)
        part.flush_denormals = flush_denormals
        addresses = {k: loaded[k.split(".")[0]].address(k.split(".")[1]) for k in part.kernels}
        return part.bind(addresses, [arrays[n] for n in part.constants])

    return bound(program)
