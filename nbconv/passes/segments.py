"""The backward part of a training step in segments, so that little of it is in memory at a time.

What a node makes of one sample mostly depends on that sample alone. What does not, are sums over samples: gradients of
weights and the two sums of a batch normalisation. Between such sums lie *segments*: a segment is done for some samples at a
time, from the values that are kept, sums being added part by part. Values that pass from one segment to another are whole.
What is kept, what is computed again, and in how many parts a segment is done, is a `Choice`: the forward part is as it was,
so batch statistics are those of the whole batch, and are taken once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.ops.batch_norm import BatchNormalization, BatchNormalizationGradInput
from nbconv.ops.grad import UnaryGrad
from nbconv.ops.pointwise import Add, Binary, Unary
from nbconv.ops.rectifier import Clip
from nbconv.ops.shape import Concat, Slice
from nbconv.passes.rematerialise import repeatable

EVER = 1 << 30
"""A segment after all others."""
AGAIN = (0, EVER)
"""How a value is held that each segment computes again that reads it."""


class Choice(NamedTuple):
    """What saves memory, by value and by segment; both may be added to."""

    held: dict[str, tuple[int, int]]
    """values that are not simply kept from where they are made to where they are last read. (a, b): kept for segments before
    a, computed again in each that reads it before b, and of the others by the first, from which on it is kept"""
    parts: dict[int, int]
    """in how many parts a segment is done (default 1)"""


def samples_of(node: Node, specs: Mapping[str, Spec], count: int) -> tuple[int, ...] | None:
    """The inputs of which the node reads ``count`` samples, along their first axis; None for a node that cannot be done a
    sample at a time."""
    op, given = node.op, [specs[n] if n else None for n in node.inputs]

    def holds(spec: Spec | None) -> bool:
        return spec is not None and spec.rank > 1 and spec.shape[0] == count and spec.value is None

    sums = bool(op.batch_sums)
    if op.type == "ReduceSum" and (len(given) < 2 or given[1] is None or given[1].value is None or 0 not in given[1].value):
        return None
    if isinstance(op, BatchNormalization) and op.training_mode:
        return None
    if op.batch_inputs or sums:
        places = tuple(i for i in (op.batch_sums or op.batch_inputs) if i < len(given) and given[i] is not None)
    elif op.type in ("Concat", "Split"):
        if op.axis % specs[node.outputs[0]].rank == 0:  # type: ignore[attr-defined]
            return None
        places = tuple(range(len(given))) if op.type == "Concat" else (0,)
    elif isinstance(op, (Unary, UnaryGrad, Binary, Clip)):
        shape = specs[node.outputs[0]].shape
        places = tuple(i for i, s in enumerate(given) if s is not None and s.shape == shape)
        if any(s is not None and s.rank == len(shape) and s.shape[0] != 1 for i, s in enumerate(given) if i not in places):
            return None
    else:
        return None
    made = node.outputs if not sums else ()
    fits = all(holds(given[i]) for i in places) and all(holds(specs[n]) for n in made if n)
    return places if fits and places else None


class Needs(NamedTuple):
    """What segments read and make, by segment."""

    reads: list[set[str]]
    """values made before that it reads"""
    clones: list[set[str]]
    """values that it computes again"""
    late: list[set[str]]
    """those of them that are kept from there on"""
    renamed: list[set[str]]
    """values that it reads where an earlier segment put what it computed again"""
    last: dict[str, int]
    """the last segment that reads a value, which an earlier one or the forward part makes"""
    changed: set[int]
    """segments of which the Needs that these were derived of say something else"""

    def later(self, name: str, number: int) -> bool:
        """Whether segments after this one read the value."""
        return self.last.get(name, -1) > number


_NOTHING = Needs([], [], [], [], {}, set())


class Segments:
    """The segments of a graph whose first ``forward`` nodes are the forward part, for batches of ``count`` samples.
    ``specs`` has all values, and gets those that `graph` adds."""

    def __init__(self, graph: Graph, specs: dict[str, Spec], forward: int, count: int) -> None:
        self.whole, self.specs, self.forward, self.count = graph, specs, forward, count
        self.at = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
        self.again = [_again(node) for node in graph.nodes]
        """each node as it is done a second time"""
        self.places = [samples_of(node, specs, count) for node in self.again]
        """the inputs of which a node reads samples; None where it cannot be done for some of them"""
        self.segment: dict[str, int] = {}
        """the segment in which a value of the backward part is made"""
        self.segments: list[list[int]] = []
        """numbers of the nodes of each segment"""
        levels: dict[int, int] = {}
        for i, node in enumerate(graph.nodes[forward:], forward):
            level = 0
            for name in node.inputs:
                j = self.at.get(name, -1)
                if j >= forward:
                    level = max(level, levels[j] + self._apart(name, i))
            levels[i] = level
            while len(self.segments) <= level:
                self.segments.append([])
            self.segments[level].append(i)
            self.segment.update({n: level for n in node.outputs if n})
        for level, members in enumerate(self.segments):
            self.segments[level] = self._sums_early(members)
        self._sources = {n: [i for i in self.again[j].inputs if i in self.at] for n, j in self.at.items()}
        self._wants = [
            list(
                dict.fromkeys(n for i in members for n in graph.nodes[i].inputs if n in self.at and self.segment.get(n) != k)
            )
            for k, members in enumerate(self.segments)
        ]

    def _sums_early(self, members: list[int]) -> list[int]:
        """A segment's nodes with each sum right behind what it adds: what else it reads may go then."""
        here = {n: i for i in members for n in self.whole.nodes[i].outputs if n}
        place = {
            i: max((here[n] + 0.5 for n in self.whole.nodes[i].inputs if n in here), default=i) if self.sums(i) else i
            for i in members
        }
        return sorted(members, key=lambda i: (place[i], i))

    def _apart(self, name: str, reader: int) -> bool:
        """Whether the reader of a value must be in a later segment than its maker: it wants all samples, or their sum. What
        cannot be cut is done first in a segment."""
        maker, places = self.at[name], self.places[reader] or ()
        if self.places[maker] is None:
            return False
        return self.sums(maker) or any(j not in places for j, n in enumerate(self.whole.nodes[reader].inputs) if n == name)

    def able(self, name: str) -> bool:
        """Whether a value can be computed again."""
        i = self.at.get(name, -1)
        if i < 0 or name in self.whole.outputs or name != self.whole.nodes[i].outputs[0]:
            return False
        if i < self.forward:
            return repeatable(self.whole.nodes[i])
        return self.places[i] is not None and len(self.whole.nodes[i].outputs) == 1 and not self.sums(i)

    def sums(self, i: int) -> bool:
        """Whether node i adds over samples."""
        return self.places[i] is not None and bool(self.whole.nodes[i].op.batch_sums)

    def needs(self, choice: Choice, near: Needs | None = None, differing: Iterable[str] = ()) -> Needs:
        """What each segment reads and makes. ``near``: what was found for another choice, which differs in these values."""
        count = len(self.segments)
        reads, clones, late, renamed = ([*found] if near else [set()] * count for found in (near or _NOTHING)[:4])
        last = dict(near.last) if near else {}
        other = set(differing)
        """values of which a segment may want something else than before"""
        done: set[str] = set()
        moved: set[str] = set()
        changed: set[int] = set()
        for number in range(count):
            if near is None or not (other.isdisjoint(reads[number]) and other.isdisjoint(clones[number])):
                seen, mine = self._reached(number, choice, done)
                kept = {n for n in mine if choice.held[n][1] <= number}
                if near is not None:
                    other |= kept ^ late[number]
                    moved |= reads[number] ^ (seen - mine)
                reads[number], clones[number], late[number], renamed[number] = seen - mine, mine, kept, done & seen
                changed.add(number)
            done |= late[number]
        if near is None:
            for number, names in enumerate(reads):
                last.update(dict.fromkeys(names, number))
        for name in moved:
            last[name] = next((i for i in range(count - 1, -1, -1) if name in reads[i]), -1)
            if last[name] != near.last.get(name, -1):  # type: ignore[union-attr]
                changed.update(i for i in range(count) if name in late[i])
                changed.update([self.segment[name]] if name in self.segment else [])
        return Needs(reads, clones, late, renamed, last, changed)

    def _reached(self, number: int, choice: Choice, done: set[str]) -> tuple[set[str], set[str]]:
        """The values made before that a segment wants, and those of them that it computes again. ``done``: what an earlier
        one computed again, and keeps."""
        todo = [*self._wants[number]]
        seen: set[str] = set()
        mine: set[str] = set()
        held, at, segment = choice.held, self.at, self.segment
        while todo:
            name = todo.pop()
            if name in seen or name not in at or segment.get(name) == number:
                continue
            seen.add(name)
            if name in held and held[name][0] <= number and name not in done:
                mine.add(name)
                todo.extend(self._sources[name])
        return seen, mine

    def graph(self, choice: Choice) -> Graph:
        """The graph with what was chosen."""
        return _Written(self, choice, self.needs(choice)).graph()

    def sketch(self, number: int, choice: Choice, needs: Needs) -> tuple[list[Node], list[float]]:
        """The nodes of one segment, and how many there are of each: where it is done in many parts three of them, a first, a
        last and one between."""
        written = _Written(self, choice, needs, 3)
        written.names = {n: f"{n}/late" for n in needs.renamed[number]}
        written.nodes, written.times = [], []
        written.write(number, choice.parts.get(number, 1))
        return written.nodes, written.times


def _again(node: Node) -> Node:
    if isinstance(node.op, BatchNormalization) and node.op.training_mode and len(node.outputs) == 5:
        inputs = (*node.inputs[:3], *node.outputs[3:5])
        return Node(BatchNormalization(epsilon=node.op.epsilon), inputs, node.outputs[:1], node.name)
    return node


class _Written:
    """A graph on the way to being written in segments. ``most``: of how many parts, where not of all."""

    def __init__(self, of: Segments, choice: Choice, needs: Needs, most: int | None = None) -> None:
        self.of, self.choice, self.specs, self.most = of, choice, of.specs, most
        self.needs, self.clones = needs, needs.clones
        self.nodes = list(of.whole.nodes[: of.forward])
        self.times: list[float] = [1.0] * of.forward
        self.time = 1.0
        self.constants = dict(of.whole.constants)
        self.names: dict[str, str] = {}
        """the names under which late values are read"""

    def graph(self) -> Graph:
        """The whole graph."""
        for number in range(len(self.of.segments)):
            parts = self.choice.parts.get(number, 1)
            if self.of.count % parts:
                raise AssertionError(f"{self.of.count} samples in {parts} parts")
            self.write(number, parts)
        return self.of.whole.derive(self.nodes, self.constants)

    def add(self, node: Node) -> None:
        """A node behind those there are."""
        self.nodes.append(node)
        self.times.append(self.time)

    def write(self, number: int, parts: int) -> None:
        """Adds a segment: what cannot be cut, then part after part, then what puts parts together."""
        of, members = self.of, self.of.segments[number]
        here: dict[str, str] = {}
        single = [i for i in members if parts == 1 or of.places[i] is None]
        for i in single:
            self.clone(number, i, here, None, 1)
            node = of.whole.nodes[i]
            self.add(Node(node.op, tuple(self.name(n, here) for n in node.inputs), node.outputs, node.name))
        rest = [i for i in members if i not in set(single)]
        pieces: dict[str, list[str]] = {}
        sums: dict[str, str] = {}
        done = min(parts, self.most or parts) if rest else 0
        self.time = parts / max(done, 1)
        for k in range(done):
            mine: dict[str, str] = {}
            for i in rest:
                self.clone(number, i, here, mine, parts, k, pieces)
                node = of.whole.nodes[i]
                outputs = tuple(f"{n}/part{k}" if n else "" for n in node.outputs)
                self.piece(number, i, node, outputs, here, mine, parts, k)
                if of.sums(i):
                    self.total(number, node, outputs, sums, k == done - 1)
                    continue
                mine.update({n: o for n, o in zip(node.outputs, outputs, strict=True) if n})
                for n, o in zip(node.outputs, outputs, strict=True):
                    if n and (self.needs.later(n, number) or n in of.whole.outputs):
                        pieces.setdefault(n, []).append(o)
        self.time = 1.0
        for name, found in pieces.items():
            again = f"{name}/late" if of.segment.get(name) != number else name
            if again != name:
                self.names[name] = again
                self.specs[again] = self.specs[name]
            self.add(Node(Concat(axis=0), tuple(found), (again,), f"{again}/parts"))
        self.names.update({n: here[n] for n in self.clones[number] if n in here and self.choice.held[n][1] <= number})

    def name(self, name: str, here: Mapping[str, str]) -> str:
        """Under which name a whole value is read."""
        return here.get(name) or self.names.get(name, name)

    def clone(
        self,
        number: int,
        i: int,
        here: dict[str, str],
        mine: dict[str, str] | None,
        parts: int,
        k: int = 0,
        pieces: dict[str, list[str]] | None = None,
    ) -> None:
        """Adds what node i reads that is computed again: whole where ``mine`` is None or it cannot be cut, else part k."""
        of, needed, whole = self.of, set(), set()
        todo = [(n, self._whole_read(i, j, mine)) for j, n in enumerate(of.whole.nodes[i].inputs)]
        while todo:
            name, all_of_it = todo.pop()
            if name not in self.clones[number] or name in here or name in whole:
                continue
            j = of.at[name]
            if all_of_it or of.places[j] is None:
                whole.add(name)
                todo.extend((n, True) for n in of.again[j].inputs)
            elif mine is not None and name not in mine and name not in needed:
                needed.add(name)
                todo.extend((n, self._whole_read(j, m, mine)) for m, n in enumerate(of.again[j].inputs))
        for name in sorted(needed | whole, key=lambda n: (of.at[n], n)):
            node = of.again[of.at[name]]
            if name in whole:
                here[name] = f"{name}/late" if self.choice.held[name][1] <= number else f"{name}/again{number}"
                self.specs[here[name]] = self.specs[name]
                if pieces is not None:
                    pieces.pop(name, None)
                self.add(Node(node.op, tuple(self.name(n, here) for n in node.inputs), (here[name],), f"{node.name}/again"))
            if name in needed and name not in whole:
                assert mine is not None
                made = f"{name}/again{number}.{k}"
                self.piece(number, of.at[name], node, (made,), here, mine, parts, k)
                mine[name] = made
                if self.choice.held[name][1] <= number and self.needs.later(name, number) and pieces is not None:
                    pieces.setdefault(name, []).append(made)

    def _whole_read(self, i: int, j: int, mine: dict[str, str] | None) -> bool:
        return mine is None or j not in (self.of.places[i] or ())

    def piece(
        self,
        number: int,
        i: int,
        node: Node,
        outputs: tuple[str, ...],
        here: dict[str, str],
        mine: dict[str, str],
        parts: int,
        k: int,
    ) -> None:
        """Adds a node for part k of the samples."""
        rows, op = self.of.count // parts, node.op
        inputs = []
        for j, name in enumerate(node.inputs):
            if j in (self.of.places[i] or ()):
                if name not in mine:
                    mine[name] = self.cut(number, self.name(name, here), rows, k)
                inputs.append(mine[name])
            else:
                inputs.append(self.name(name, here) if name else name)
        if isinstance(op, BatchNormalizationGradInput):
            shape = self.specs[node.inputs[1]].shape
            op = BatchNormalizationGradInput(**{**op.attributes(), "count": int(np.prod(shape)) // shape[1]})
        for made, name in zip(outputs, node.outputs, strict=True):
            if made:
                spec = self.specs[name]
                self.specs[made] = spec if self.of.sums(i) else Spec((rows, *spec.shape[1:]), spec.dtype)
        self.add(Node(op, tuple(inputs), outputs, f"{node.name}/part{k}"))

    def cut(self, number: int, name: str, rows: int, k: int) -> str:
        """Part k of a whole value."""
        bounds = []
        for v in (k * rows, (k + 1) * rows, 0):
            key = f"part/{v}"
            self.constants[key] = np.array([v], np.int64)
            self.specs[key] = Spec((1,), self.constants[key].dtype, self.constants[key], True)
            bounds.append(key)
        made, spec = f"{name}/cut{number}.{k}", self.specs[name]
        self.specs[made] = Spec((rows, *spec.shape[1:]), spec.dtype)
        self.add(Node(Slice(), (name, *bounds), (made,), made))
        return made

    def total(self, number: int, node: Node, outputs: tuple[str, ...], sums: dict[str, str], last: bool) -> None:
        """Adds a part's sums to those of the parts before."""
        for name, part in zip(node.outputs, outputs, strict=True):
            if not name:
                continue
            if name not in sums:
                sums[name] = part
                continue
            made = name if last else f"{part}/sum"
            self.specs[made] = self.specs[name]
            self.add(Node(Add(), (sums[name], part), (made,), made))
            sums[name] = made
