"""Steps that need less memory: the batch in parts, and forward values computed again.

The forward part of a graph is written out once a micro-batch, one after another, and their results are put together before
the loss, which sees the whole batch: weighted losses are what they were. Backprop then adds the parts' gradients in order,
and each part's forward values are computed again before its backward part (`nbconv.passes.rematerialise`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.ops.shape import Concat, Slice
from nbconv.passes.rematerialise import LEAST, cheap, plain

MIB = 1 << 20
FROZEN = 4 * MIB
"""Bytes of the largest value of a frozen part that is done in halves."""


class MemoryPolicy(NamedTuple):
    """How a step saves memory."""

    parts: int = 1
    """micro-batches"""
    packed: tuple[int, int] = (1 * MIB, 16 * MIB)
    """bytes that a convolution's weights may take for Winograd: of a frozen layer, which are kept, and others"""
    scratch_limit: float = inf
    """bytes of packed weights, or of sums, that a convolution holds at a time"""
    segmented: bool = False
    """whether the backward part is done in segments (see `nbconv.train.memory.search`)"""
    rows: int = 0
    """samples of each micro-batch but the last, where they are not equal"""


USUAL = MemoryPolicy()


def micro_batches(samples: int) -> list[MemoryPolicy]:
    """The batch in parts, from fast to small."""
    small = (MIB // 4, 3 * MIB)
    found = [MemoryPolicy(k, small if k > 2 else USUAL.packed) for k in (2, 4, 8, 16, 32) if samples % k == 0]
    return list(dict.fromkeys([*found, MemoryPolicy(samples, small)]))


def accumulating(samples: int, rows: int) -> MemoryPolicy:
    """For a batch that is gathered from batches of so many samples: what takes little more memory than one of them."""
    return MemoryPolicy(-(-samples // rows), rows=0 if samples % rows == 0 else rows)


def depending(graph: Graph, names: Iterable[str]) -> set[str]:
    """The values that depend on these, themselves included."""
    found = set(names)
    for node in graph.nodes:
        if not found.isdisjoint(node.inputs):
            found.update(n for n in node.outputs if n)
    return found


def frozen(graph: Graph, specs: Mapping[str, Spec], feeds: Mapping[str, Spec], chosen: Iterable[str]) -> set[str]:
    """The values made of the feeds and of nothing that trains, where they are large."""
    found = depending(graph, feeds) - depending(graph, chosen) - set(feeds)
    return found if any(specs[n].nbytes >= FROZEN for n in found) else set()


def split(
    graph: Graph,
    specs: Mapping[str, Spec],
    folded: Callable[[int], tuple[Graph, dict[str, Spec]]],
    shared: Mapping[str, object],
    feeds: Mapping[str, Spec],
    inner: set[str],
    sizes: Sequence[int],
) -> tuple[Graph, dict[str, Spec]] | None:
    """The graph whose values ``inner`` are made in parts of these sizes along their first axis, the last one's may be
    another, and its Specs; None where they cannot. ``folded`` gives the graph for feeds of so many samples; ``shared`` names
    the constants that all have."""
    samples = next(iter(feeds.values())).shape[0]
    theirs = [n for n in graph.nodes if n.outputs[0] not in inner]
    if any(s.shape[:1] != (samples,) for s in feeds.values()):
        return None
    parts = {rows: folded(rows) for rows in dict.fromkeys(sizes)}
    nodes_of = {rows: [n for n in part.nodes if n.outputs[0] in inner] for rows, (part, _) in parts.items()}
    first = [n.outputs for n in nodes_of[sizes[0]]]
    for rows, (_, part_specs) in parts.items():
        if len(first) + len(theirs) != len(graph.nodes) or [n.outputs for n in nodes_of[rows]] != first:
            return None
        for node in nodes_of[rows]:
            y = node.outputs[0]
            wanted = samples, *part_specs[y].shape[1:]
            if part_specs[y].shape[:1] != (rows,) or specs[y].shape != wanted or not plain(node.op):
                return None
    made = {name for names in first for name in names} | set(feeds)
    found, constants = {**specs}, dict(graph.constants)
    nodes: list[Node] = []

    def named(name: str, k: int) -> str:
        part, part_specs = parts[sizes[k]]
        if name in made:
            return f"{name}/part{k}"
        if name in part.constants and name not in shared:
            new = f"{name}/part" if sizes[k] == sizes[0] else f"{name}/last"
            constants[new], found[new] = part.constants[name], part_specs[name]
            return new
        return name

    for k, rows in enumerate(sizes):
        part_specs, begin = parts[rows][1], sum(sizes[:k])
        for name, spec in feeds.items():
            bounds = []
            for v in (begin, begin + rows, 0):
                key = f"part/{v}"
                constants[key] = np.array([v], np.int64)
                found[key] = Spec((1,), constants[key].dtype, constants[key], True)
                bounds.append(key)
            nodes.append(Node(Slice(), (name, *bounds), (f"{name}/part{k}",), f"{name}/part{k}"))
            found[f"{name}/part{k}"] = Spec((rows, *spec.shape[1:]), spec.dtype)
        for node in nodes_of[rows]:
            names = tuple(named(n, k) if n else n for n in node.outputs)
            nodes.append(Node(node.op, tuple(named(n, k) if n else n for n in node.inputs), names, f"{node.name}/part{k}"))
            found.update({new: part_specs[old] for old, new in zip(node.outputs, names, strict=True) if old})
    wanted = {n for node in theirs for n in node.inputs} | set(graph.outputs)
    for name in (names[0] for names in first):
        if name in wanted:
            pieces = tuple(f"{name}/part{k}" for k in range(len(sizes)))
            nodes.append(Node(Concat(axis=0), pieces, (name,), f"{name}/parts"))
    read = {name for mine in nodes_of.values() for node in mine for name in node.inputs}
    early: set[int] = set()
    for node in reversed(theirs):
        if not read.isdisjoint(node.outputs):
            read.update(node.inputs)
            early.add(id(node))
    before, behind = ([n for n in theirs if (id(n) in early) is first] for first in (True, False))
    return graph.derive([*before, *nodes, *behind], constants), found


def again(graph: Graph, chosen: Iterable[str], logits: Iterable[str], policy: MemoryPolicy) -> Callable[[Node, Spec], bool]:
    """What is computed again (see `nbconv.passes.rematerialise`); ``graph`` is the forward part up to ``logits``."""
    active = depending(graph, chosen)
    if policy.parts == 1:
        return lambda node, spec: cheap(node, spec) and node.outputs[0] in active
    able = {node.outputs[0] for node in graph.nodes if node.outputs[0] in active} - set(logits)
    return lambda node, spec: node.outputs[0] in able and spec.nbytes >= LEAST


def mebibytes(nbytes: float) -> str:
    """The number of MiB that is no less, to some digits."""
    digits = 3 if nbytes < 10 * MIB else 2
    return f"{ceil(nbytes / MIB * 10**digits) / 10**digits:.{digits}f}"


class TooLarge(ModelError):
    """A step that needs more memory than it may take: ``nbytes``, of which ``live`` hold something at one time."""

    def __init__(self, message: str, nbytes: float, live: float) -> None:
        super().__init__(message)
        self.nbytes, self.live = nbytes, live
