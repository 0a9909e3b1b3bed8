"""What a training step in segments takes, by estimate: bytes by segment, and time."""

from __future__ import annotations

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

Place = tuple[int, int]
"""A segment (-1: the forward part), and a node of it."""


class Memory(NamedTuple):
    """What a graph in segments takes."""

    peaks: dict[int, int]
    """most bytes by segment"""
    where: dict[int, int]
    """at which of the segment's nodes that is"""
    lives: dict[str, tuple[Place, Place]]
    """the first and the last node of each value that passes from one segment to another"""
    cost: float
    """of the backward part, in floating-point operations"""

    def most(self) -> int:
        return max(self.peaks.values())

    def live(self, segment: int) -> list[str]:
        """What passes through the segment where it takes most."""
        at = segment, self.where[segment]
        return [name for name, (begin, end) in self.lives.items() if begin <= at <= end]


class Fragment(NamedTuple):
    """One segment."""

    profile: np.ndarray
    """bytes at each node of scratch memory and of values that do not leave the segment"""
    begins: dict[str, int]
    """where values are made that do"""
    ends: dict[str, int]
    """where it last reads those and values made before"""
    over: dict[str, str]
    """values that it may make where another lies"""
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
        self._scratch: dict[Any, int] = {}
        self._cost: dict[Any, float] = {}
        self._fragments: dict[Any, Fragment] = {}
        self._own = {n for node in segments.whole.nodes if owns(node) for n in node.outputs}
        self._forward = self._fragment(segments.whole.nodes[: segments.forward], [], None)

    def memory(self, choice: Choice) -> Memory:
        """Values from where they are made to where they are last read, and scratch memory of each node."""
        self.count += 1
        needs = self.segments.needs(choice)
        found = [self._forward, *(self.segment(i, choice, needs) for i in range(len(self.segments.segments)))]
        outputs, end = self.segments.whole.outputs, (len(found) - 2, len(found[-1].profile) - 1)
        home: dict[str, str] = {}
        begins: dict[str, Place] = {}
        ends: dict[str, Place] = {}
        for i, part in enumerate(found, -1):
            for y, x in part.over.items():
                at = home.get(x, x)
                if at in begins and x.removesuffix("/late") not in needs.later[i]:
                    home[y] = at
            for name, j in part.begins.items():
                begins.setdefault(home.get(name, name), (i, j))
            for name, j in part.ends.items():
                ends[home.get(name, name)] = i, j
        lives = {n: (b, end if n in outputs else ends.get(n, b)) for n, b in begins.items()}
        passing = np.zeros(len(found) + 1, np.int64)
        changes = [np.zeros(len(part.profile) + 1, np.int64) for part in found]
        for name, ((i, a), (j, b)) in lives.items():
            size = self.segments.specs[name].nbytes
            changes[i + 1][a] += size
            changes[j + 1][b + 1] -= size
            if j > i:
                changes[j + 1][0] += size
                passing[i + 2] += size
                passing[j + 1] -= size
        base = np.cumsum(passing)
        peaks: dict[int, int] = {}
        where: dict[int, int] = {}
        for i, (part, change) in enumerate(zip(found, changes, strict=True)):
            live = part.profile + np.cumsum(change)[:-1]
            where[i - 1] = int(live.argmax()) if len(live) else 0
            peaks[i - 1] = int(live[where[i - 1]] + base[i]) if len(live) else 0
        return Memory(peaks, where, lives, sum(part.cost for part in found[1:]))

    def segment(self, number: int, choice: Choice, needs: Needs) -> Fragment:
        """A segment as it is chosen."""
        late = frozenset(n for n in needs.clones[number] if choice.held[n][1] <= number)
        later = needs.later[number]
        kept = frozenset(n for n in later if n in late or self.segments.segment.get(n) == number)
        key = (
            number,
            choice.parts.get(number, 1),
            frozenset(needs.clones[number]),
            late,
            kept,
            frozenset(needs.renamed[number]),
        )
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
        passing = {n: i for n, i in ends.items() if n not in mine and (n in before or n in begins)}
        return Fragment(profile, {n: i for n, i in begins.items() if n not in mine}, passing, over, cost)

    def price(self, node: Node) -> float:
        """Floating-point operations in the time that a node takes."""
        specs = self.segments.specs
        key = (node.op.type, *[specs[n].shape for n in node.inputs if n])
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
