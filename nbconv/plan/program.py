"""A program: what remains of a plan when nothing is left to decide. Tables for the run loop, sizes, names of constants.

It needs no op, no pass and no graph, and can be kept in a file (see `nbconv.runtime.plan_cache`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import Spec
from nbconv.kernels.compile import libraries

if TYPE_CHECKING:
    from nbconv.kernels.target import Target
    from nbconv.runtime.executor import Workspace

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
        tables: dict[str, np.ndarray], foreign: dict[int, Callable] | None = None,
        copies: list[tuple[int, Callable]] | None = None, slots: int = 0,
    ) -> None:  # fmt: skip
        self.results = [(name, tuple(shape), np.dtype(dtype)) for name, shape, dtype in results]
        self.inputs, self.arena, self.kernels, self.constants = inputs, arena, kernels, constants
        self.input_moves, self.result_moves = input_moves, {int(k): v for k, v in result_moves.items()}
        self.segments = segments
        self.words, self.table, self.arena_words, self.arena_offsets = (tables[n] for n in FIELDS[:4])
        self.constant_words, self.constant_indices, self.constant_offsets = (tables[n] for n in FIELDS[4:])
        self.foreign = foreign or {}
        """by step: what NumPy does instead of a kernel, as function(space, feeds, results)"""
        self.copies = copies or []
        """(result, function(space, feeds, results) → array) for results that no step writes"""
        self.slots = slots
        """most threads that a run may use (some steps have scratch memory for each); 0 when any number may"""
        self.arrays: list[np.ndarray] = []
        self.keys: dict[str, str] | None = None
        """what the kernels' libraries are looked up by, where an earlier process found out"""
        self.own: list[np.ndarray] = []
        """constants that no other plan shares"""

    @property
    def families(self) -> list[str]:
        """The kernel families it needs."""
        return [*dict.fromkeys(k.split(".")[0] for k in self.kernels), "loop"]

    @property
    def fetch(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.results)

    @property
    def nbytes(self) -> int:
        """Bytes that it and a workspace take, without arena and weights, which plans share."""
        own = sum(a.nbytes for a in self.own)
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

    def workspace(self, arena: np.ndarray | None = None) -> Workspace:
        """Memory and tables for one run at a time, once it is bound."""
        from nbconv.runtime.executor import Workspace

        return Workspace(self, arena)

    def encode(self) -> tuple[bytes, bytes]:
        """(JSON header, tables) of an unbound program without foreign work."""
        tables = [np.ascontiguousarray(getattr(self, name), np.int64) for name in FIELDS]
        head = {
            "results": [(n, s, d.str) for n, s, d in self.results], "inputs": self.inputs, "arena": self.arena,
            "kernels": self.kernels, "constants": self.constants, "input_moves": self.input_moves,
            "result_moves": self.result_moves, "segments": self.segments, "slots": self.slots,
            "sizes": [t.size for t in tables],
        }  # fmt: skip
        return json.dumps(head, separators=(",", ":")).encode(), b"".join(t.tobytes() for t in tables)

    @classmethod
    def decode(cls, head: dict[str, Any], tables: np.ndarray) -> Program:
        """`encode` undone; ValueError, KeyError or TypeError for what does not fit."""
        parts = np.split(tables, np.cumsum(head.pop("sizes"))[:-1])
        found: dict[str, np.ndarray] = dict(zip(FIELDS, parts, strict=True))
        found["table"] = found["table"].reshape(-1, 4)
        return cls(tables=found, **head)


def bind(program: Program, target: Target, arrays: list[np.ndarray]) -> Program:
    """The program with the addresses of its kernels (loaded, or compiled now) and constants."""
    loaded = libraries(program.families, target, program.keys)
    return program.bind({k: loaded[k.split(".")[0]].address(k.split(".")[1]) for k in program.kernels}, arrays)
