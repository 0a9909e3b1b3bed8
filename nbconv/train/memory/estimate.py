"""What a training step in segments takes, by estimate: bytes by segment, and time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import CHANNELS_FIRST, CHANNELS_LAST, FLOAT32, Graph, Node, Spec
from nbconv.kernels.target import Target
from nbconv.lowering.context import Lowering
from nbconv.lowering.weights import Weights
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.passes.inplace import overwritten, owns
from nbconv.passes.segments import Choice, Needs, Segments

MOVED = 32.0
"""Floating-point operations in the time of reading or writing an element."""
CALL = 3e5
"""Floating-point operations in the time that a step costs beside its work."""


class Memory:
    """What a choice takes, by estimate. Segment -1 is the forward part."""

    def __init__(self, of: Estimate, choice: Choice, needs: Needs, parts: list[Fragment]) -> None:
        self.of, self.choice, self.needs, self.parts = of, choice, needs, parts
        self.cost = sum(part.cost for part in parts[1:])
        """of the backward part, in floating-point operations"""
        self.starts = np.cumsum([0, *(len(part.profile) for part in parts)])
        """the first node of each part, and the number of all"""
        self.begins, self.ends = self._lives()
        """of each value, by number, that passes from one segment to another: its first and its last node; -1 of others"""
        there = np.nonzero(self.begins >= 0)[0]
        sizes, count = of.sizes[there], int(self.starts[-1])
        change = np.bincount(self.begins[there], sizes, count + 1) - np.bincount(self.ends[there] + 1, sizes, count + 1)
        self.bytes = np.concatenate([part.profile for part in parts]) + np.cumsum(change)[:-1]
        self.peaks = np.maximum.reduceat(self.bytes, self.starts[:-1])
        """most bytes by segment, the forward part first"""

    def _lives(self) -> tuple[np.ndarray, np.ndarray]:
        of, parts = self.of, self.parts
        begun = np.concatenate([part.begun for part in parts])
        begins = np.concatenate([part.begins for part in parts]) + np.repeat(self.starts[:-1], [len(p.begun) for p in parts])
        read = np.concatenate([part.read for part in parts])
        ends = np.concatenate([part.ends for part in parts]) + np.repeat(self.starts[:-1], [len(p.read) for p in parts])
        first = np.full(len(of.sizes), -1)
        first[begun[::-1]] = begins[::-1]
        home: dict[int, int] = {}
        for number, part in enumerate(parts, -1):
            for y, x, name in part.over:
                at = home.get(x, x)
                if 0 <= first[at] < self.starts[number + 1] and not self.needs.later(name, number):
                    home[y] = at
        if home:
            lies = np.arange(len(first))
            lies[[*home]] = [*home.values()]
            begun, read = lies[begun], lies[read]
            first[:] = -1
            first[begun[::-1]] = begins[::-1]
        last = first.copy()
        last[read] = ends
        last[of.outputs[first[of.outputs] >= 0]] = self.starts[-1] - 1
        return first, last

    def most(self) -> int:
        return int(self.peaks.max())

    def excess(self, nbytes: float) -> float:
        """Bytes that segments take beyond so many."""
        return float(np.maximum(self.peaks - nbytes, 0).sum())

    def forward(self) -> int:
        """Bytes that the forward part takes."""
        return int(self.peaks[0])

    def worst(self) -> int:
        """The segment that takes most."""
        return int(self.peaks.argmax()) - 1

    def live(self, segment: int) -> list[str]:
        """What passes through a segment where it takes most."""
        start, end = self.starts[segment + 1 : segment + 3]
        at = start + self.bytes[start:end].argmax()
        return sorted(self.of.names[i] for i in np.nonzero((self.begins >= 0) & (self.begins <= at) & (at <= self.ends))[0])


class Fragment(NamedTuple):
    """One segment. Values go by their numbers, places are those of nodes."""

    profile: np.ndarray
    """bytes at each node of scratch memory and of values that do not leave the segment"""
    begun: np.ndarray
    """values made in it that leave it"""
    begins: np.ndarray
    """where"""
    read: np.ndarray
    """these, and values made before that it reads"""
    ends: np.ndarray
    """where it does so last"""
    over: list[tuple[int, int, str]]
    """values that it may make where another lies, which is a copy of a value of that name"""
    cost: float


class Estimate:
    """``target``, ``threads``, ``packed`` and ``scratch_limit`` as in `Plan`."""

    def __init__(
        self, segments: Segments, target: Target, threads: int, packed: tuple[float, float], scratch_limit: float
    ) -> None:
        self.segments, self.target, self.threads, self.packed, self.scratch_limit = (
            segments,
            target,
            threads,
            packed,
            scratch_limit,
        )
        self.count = 0
        """how often `memory` was asked for"""
        self.names: list[str] = []
        """of values, by number"""
        self.sizes = np.zeros(0, np.int64)
        """bytes of values, by number"""
        self._numbers: dict[str, int] = {}
        self._scratch: dict[Any, int] = {}
        self._cost: dict[Any, float] = {}
        self._fragments: dict[Any, Fragment] = {}
        self._own = {n for node in segments.whole.nodes if owns(node) for n in node.outputs}
        self.outputs = self._numbered(n for n in segments.whole.outputs if n in segments.at)
        self._forward = self._fragment(segments.whole.nodes[: segments.forward], [], None)

    def _numbered(self, names: Iterable[str]) -> np.ndarray:
        """The numbers of values."""
        found = []
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = len(self.names)
                self.names.append(name)
            found.append(self._numbers[name])
        if len(self.names) > len(self.sizes):
            more = [self.segments.specs[n].nbytes for n in self.names[len(self.sizes) :]]
            self.sizes = np.concatenate([self.sizes, np.array(more, np.int64)])
        return np.array(found, np.int64)

    def memory(self, choice: Choice, near: Memory | None = None) -> Memory:
        """Values from where they are made to where they are last read, and scratch memory of each node. ``near``: of another
        choice, that differs little."""
        self.count += 1
        segments = range(len(self.segments.segments))
        if near is None:
            needs = self.segments.needs(choice)
            return Memory(self, choice, needs, [self._forward, *(self.segment(i, choice, needs) for i in segments)])
        old = near.choice
        differing = {n for n, _ in choice.held.items() ^ old.held.items()}
        needs = self.segments.needs(choice, near.needs, differing)
        parts = [*near.parts]
        cut = {i for i, _ in choice.parts.items() ^ old.parts.items()}
        for i in sorted(needs.changed | cut):  # a late value is made known by the segment that makes it
            parts[i + 1] = self.segment(i, choice, needs)
        return Memory(self, choice, needs, parts)

    def segment(self, number: int, choice: Choice, needs: Needs) -> Fragment:
        """A segment as it is chosen."""
        late = needs.late[number]
        own = (n for i in self.segments.segments[number] for n in self.segments.whole.nodes[i].outputs)
        kept = frozenset(n for n in (*late, *own) if needs.later(n, number))
        parts = choice.parts.get(number, 1)
        key = number, parts, frozenset(needs.clones[number]), frozenset(late), kept, frozenset(needs.renamed[number])
        if key not in self._fragments:
            nodes, times = self.segments.sketch(number, choice, needs)
            self._fragments[key] = self._fragment(nodes, times, {*kept, *(f"{n}/late" for n in kept)})
        return self._fragments[key]

    def _fragment(self, nodes: list[Node], times: list[float], kept: set[str] | None) -> Fragment:
        """Of these nodes; ``kept`` names the values that later segments read (None: all may be)."""
        specs, outputs, home = self.segments.specs, self.segments.whole.outputs, _homes(nodes)
        made = {n for node in nodes for n in node.outputs if n}
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        for i, node in enumerate(nodes):
            ends.update({home.get(n, n): i for n in node.inputs if n})
            for n in node.outputs:
                if n and home.get(n, n) in made:
                    begins.setdefault(home.get(n, n), i)
                    ends.setdefault(home.get(n, n), i)
        mine = {n for n in begins if kept is not None and n not in kept and n not in outputs}
        change = np.zeros(len(nodes) + 1, np.int64)
        for name in mine:
            change[begins[name]] += specs[name].nbytes
            change[ends[name] + 1] -= specs[name].nbytes
        profile = np.cumsum(change)[:-1] + np.array([self.scratch(n) for n in nodes], np.int64)
        known = self._own | {n for n in ends if n.endswith("/late")}
        graph = Graph(nodes, {}, outputs, {})
        over = {y: x for y, x in overwritten(graph, specs, known).items() if y in begins and y not in mine}
        cost = sum(self.price(n) * t for n, t in zip(nodes, times, strict=True)) if times else 0.0
        before = {n for n in ends if n in self.segments.at or n.endswith("/late")}
        made_here = {n: i for n, i in begins.items() if n not in mine}
        passing = {n: i for n, i in ends.items() if n not in mine and (n in before or n in begins)}
        numbers = self._numbered((*over, *over.values())).reshape(2, -1).T.tolist()
        return Fragment(
            profile,
            self._numbered(made_here),
            np.array([*made_here.values()], np.int64),
            self._numbered(passing),
            np.array([*passing.values()], np.int64),
            [(y, x, name.removesuffix("/late")) for (y, x), name in zip(numbers, over.values(), strict=True)],
            cost,
        )

    def price(self, node: Node) -> float:
        """Floating-point operations in the time that a node takes."""
        specs = self.segments.specs
        key = (node.op.type, *[specs[n].shape for n in (*node.inputs, *node.outputs) if n])
        if key not in self._cost:
            given = tuple(specs[n] if n else None for n in node.inputs)
            found = tuple(specs[n] for n in node.outputs if n)
            moved = sum(s.size for s in (*given, *found) if s is not None)
            self._cost[key] = CALL if _copies(node) else CALL + node.op.flops(given, found) + MOVED * moved
        return self._cost[key]

    def scratch(self, node: Node) -> int:
        """Bytes that the kernels of a node take beside its values."""
        op = node.op
        if isinstance(op, BatchNormalization) or "Conv" not in op.type:
            return 0
        specs = self.segments.specs
        key = (id(op), *[specs[n].shape for n in node.inputs])  # these ops are the segments'
        if key not in self._scratch:
            given = tuple(specs[n] if n else None for n in node.inputs)
            found = tuple(specs[n] for n in node.outputs if n)
            self._scratch[key] = self._lowered(node, given, found)
        return self._scratch[key]

    def _lowered(self, node: Node, given: tuple[Any, ...], found: tuple[Spec, ...]) -> int:
        """What lowering asks for, with weights that vary."""
        if any(s is None or s.constant or s.dtype != FLOAT32 for s in (*given, *found)):
            return 0
        inputs = tuple(Spec(s.shape, s.dtype) for s in given)
        names = zip((*node.inputs, *node.outputs), (*inputs, *found), strict=False)
        layouts = {n: CHANNELS_LAST if s.rank > 2 else CHANNELS_FIRST for n, s in names}
        if "Grad" not in node.op.type or node.op.type == "ConvGradInput":
            layouts[node.inputs[1]] = CHANNELS_FIRST
        to = Lowering(node, node.op, inputs, found, layouts, {}, Weights(), self.target, self.threads, {})
        to.packed_limit, to.scratch_limit = self.packed[1], self.scratch_limit
        node.op.lower(to)
        uses = [{*step.reads, *step.writes} for step in to.steps]
        ends = {n: i for i, names in enumerate(uses) for n in names}
        begins = {n: i for i, names in reversed(list(enumerate(uses))) for n in names}
        scratches = [(n, s) for n, s in to.scratches.items() if n in begins]
        return max((sum(s for n, s in scratches if begins[n] <= i <= ends[n]) for i in range(len(uses))), default=0)


def _copies(node: Node) -> bool:
    """Whether the node only says where samples lie."""
    cut = node.op.type == "Slice" and node.inputs[1].startswith("part/")
    return cut or (node.op.type == "Concat" and node.op.axis == 0)  # type: ignore[attr-defined]


def _homes(nodes: list[Node]) -> dict[str, str]:
    """In which value's memory each one lies that has none of its own: parts in the whole, and what a kernel makes on the
    way to an activation."""
    home: dict[str, str] = {}
    for node in reversed(nodes):
        if node.op.type == "Concat" and _copies(node):
            home.update(dict.fromkeys(node.inputs, home.get(node.outputs[0], node.outputs[0])))
    made: Node | None = None
    for node in nodes:
        if node.op.type == "Slice" and _copies(node):
            home[node.outputs[0]] = home.get(node.inputs[0], node.inputs[0])
        clamps = node.op.type in ("Relu", "Clip") and made is not None and made.outputs == node.inputs[:1]
        if clamps and made is not None and made.op.type == "BatchNormalization":
            home[made.outputs[0]] = home.get(node.outputs[0], node.outputs[0])
        made = node
    return home
