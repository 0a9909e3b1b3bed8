"""The machine's roofline, measured: floating-point operations a second on registers, bytes a second at each level of the
memory (Williams, Waterman and Patterson, "Roofline", 2009)."""

from __future__ import annotations

import os
import threading
import time
from typing import NamedTuple

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.kernels.target import Target, host
from nbconv.plan.program import FIELDS, Program, bind
from nbconv.runtime.executor import Workspace

SPELL = 0.004
"""Seconds that one measurement takes at least."""
TIMES = 4
"""Measurements of each figure; the best counts."""
CHAINS = 12
"""Multiply-adds of a turn of kernels/cpu/roof.py."""
BEYOND, MOST = 8, 256 << 20
"""The memory's bandwidth is measured with so many times the last cache, at most so many bytes a thread: with less, a part of
them is still found in the cache."""


class Level(NamedTuple):
    """A cache, or the memory: how many bytes the threads find there in all, and bytes a second for all of them together."""

    name: str
    size: float
    """infinite for the memory"""
    read: float
    """reading alone"""
    copy: float
    """reading and writing in equal parts, both counted"""


class Roofline(NamedTuple):
    """The ceilings for this many threads."""

    threads: int
    flops: float
    """float32 operations a second, a multiply-add counting as two"""
    levels: tuple[Level, ...]

    def level(self, nbytes: float) -> Level:
        """The nearest level that holds this much."""
        return next(level for level in self.levels if nbytes <= level.size)

    def move(self, reads: float, writes: float) -> float:
        """Seconds that it takes at least to move these bytes: no level holds more of them than its size, and what is
        written pairs with as much that is read."""
        paired, left, seconds = min(reads, writes), reads + writes, 0.0
        alone = reads + writes - 2 * paired
        for level in self.levels:
            part = min(left, level.size) / (reads + writes) if left > 0 else 0.0
            speed = level.read if reads > writes else level.copy
            seconds += part * (2 * paired / level.copy + alone / speed)
            left -= level.size
        return seconds

    def as_json(self) -> dict:
        levels = [
            {"name": v.name, "bytes": None if v.size == float("inf") else int(v.size), "read": v.read, "copy": v.copy}
            for v in self.levels
        ]
        return {"threads": self.threads, "flops": self.flops, "levels": levels}


_found: dict[tuple[str, int], Roofline] = {}
_lock = threading.Lock()


def roofline(threads: int = 1, target: Target | None = None) -> Roofline:
    """The ceilings of this machine with so many threads, measured once a process (about half a second)."""
    goal = target or host()
    threads = max(1, min(threads, available_threads()))
    alone = roofline(1, goal) if threads > 1 else None
    with _lock:
        key = goal.name, threads
        if key not in _found:
            _found[key] = _measure(threads, goal) if alone is None else _at_least(_measure(threads, goal), alone)
        return _found[key]


def _at_least(found: Roofline, alone: Roofline) -> Roofline:
    """Several threads do no less than one: where they seem to, another process had their processors."""
    levels = (
        level._replace(read=max(level.read, one.read), copy=max(level.copy, one.copy))
        for level, one in zip(found.levels, alone.levels, strict=True)
    )
    return Roofline(found.threads, max(found.flops, alone.flops), tuple(levels))


def _measure(threads: int, target: Target) -> Roofline:
    lanes = target.lanes
    flops = _rate("multiply_add", 3 * lanes, 20000, threads, target, 0.75) * 2 * CHAINS * lanes * 20000
    levels, below = [], 0.0
    sizes = cache_sizes()
    for name, size in (*sizes.items(), ("memory", float("inf"))):
        shared = name == "L3"
        mine = size / threads if shared else size
        nbytes = (
            min(BEYOND * below, MOST) if name == "memory" else min(mine / 2, 4 * below) if shared and below else mine / 2
        )
        n = max(1, int(nbytes) // (32 * lanes)) * 8 * lanes
        read, copy = (_rate(kernel, n, n, threads, target, 1.0) * 4 * n for kernel in ("read", "scale"))
        levels.append(Level(name, size if shared else size * threads, read, copy))
        below = mine
    return Roofline(threads, flops, tuple(levels))


def _rate(kernel: str, floats: int, n: int, threads: int, target: Target, value: float) -> float:
    """Units a second of a kernel of kernels/cpu/roof.py, all threads together, each with ``floats`` floats of its own."""
    part = -(-floats // 1024) * 1024 + 1024 + 16 * target.lanes
    words = {"words": np.array([0, n, part]), "arena_words": np.array([0]), "arena_offsets": np.array([0])}
    tables = {name: np.zeros(0, np.int64) for name in FIELDS} | words
    units = threads
    best = 0.0
    program = Program(
        results=[],
        inputs=[],
        arena=4 * part * threads,
        kernels=[f"roof.{kernel}"],
        constants=[],
        input_moves={},
        result_moves={},
        segments=[(0, 1)],
        tables={**tables, "table": np.array([[0, 0, units, 1]])},
        slots=threads,
    )
    space = Workspace(bind(program, target, {}))
    space.arena.view(np.float32)[:] = value
    space.run({}, [], threads)
    measured = 0
    while measured < TIMES:
        space.table[0, 2] = units
        start = time.perf_counter()
        space.run({}, [], threads)
        seconds = time.perf_counter() - start
        best = max(best, units / seconds)
        if seconds >= SPELL:
            measured += 1
        else:
            units = max(2 * units, int(units * min(64.0, 1.5 * SPELL / seconds)))
    return best


def cache_sizes() -> dict[str, int]:
    """Bytes of the data caches, nearest first: {"L1": …, "L2": …, "L3": …} as far as there are any; common sizes where the
    system does not tell."""
    found: dict[str, int] = {}
    root = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for entry in sorted(os.listdir(root)):
            if not entry.startswith("index"):
                continue
            kind, level, size = (_line(f"{root}/{entry}/{name}") for name in ("type", "level", "size"))
            if kind != "Instruction" and size[-1:] in "KMG" and level in ("1", "2", "3"):
                found[f"L{level}"] = int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]
    except (OSError, ValueError, KeyError):
        found = {}
    return dict(sorted(found.items())) or {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}


def _line(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read().strip()
