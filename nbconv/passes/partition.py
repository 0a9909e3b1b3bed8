"""A graph whose shapes depend on values, cut where planning must wait for one.

The nodes that can be planned now make a graph of their own. A node that needs a value (the sizes of a Resize that the model
computes, a NonZero, a Loop) is done when its inputs are there, alone; what is behind it follows when its shapes are known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.errors import DataDependentError
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.bodies import SMALL, with_values
from nbconv.graph.spec import spec_of
from nbconv.passes.fold import live

MOST = 1 << 26
"""Bytes of a value that is computed here where a shape may depend on it; planning folds larger ones."""


class Partition(NamedTuple):
    """What `partition` found."""

    now: Graph
    """what can be planned; its outputs are all that is needed of it"""
    waiting: list[Node]
    """nodes that need a value, in order: their inputs are there once ``now`` has run"""
    later: Graph | None
    """what reads their results; None where nothing does"""
    decided: dict[str, np.ndarray]
    """small values that shapes decided and later nodes read: constants of ``later``"""


def partition(graph: Graph, inputs: dict[str, Spec | None], fetch: tuple[str, ...], gpu: bool = False) -> Partition:
    """The graph's stages for inputs of these Specs; None for an input that is no tensor of numbers (strings, a sequence, an
    optional value): its readers are done alone, and so are, for a GPU, nodes with bodies. Raises ModelError where shapes or
    types do not fit."""
    graph = Graph(graph.nodes, graph.inputs, dict.fromkeys(fetch), graph.constants, graph.name)
    nodes = live(graph)
    specs: dict[str, Spec] = {name: spec_of(value) for name, value in graph.constants.items() if value.dtype != OBJECT}
    specs |= {name: spec for name, spec in inputs.items() if spec is not None}
    ready = {*graph.constants, *inputs}
    now: list[Node] = []
    waiting: list[Node] = []
    later: list[Node] = []
    for node in nodes:
        reads = [n for n in node.inputs if n]
        if not ready.issuperset(reads):
            later.append(node)
        elif all(n in specs for n in reads) and (found := _found(node, specs, gpu)) is not None:
            now.append(node)
            specs.update(found)
            ready.update(found)
        else:
            waiting.append(node)
    made = {n for node in now for n in node.outputs if n}
    needed = dict.fromkeys(n for node in (*waiting, *later) for n in node.inputs if n)
    decided = {n: v for n in needed if n in made and (v := specs[n].value) is not None and v.nbytes <= SMALL}
    wanted = [n for n in dict.fromkeys((*fetch, *needed)) if n in made and (n not in decided or n in fetch)]
    first = Graph(now, graph.inputs, dict.fromkeys(wanted), graph.constants, graph.name)
    if not later:
        return Partition(first, waiting, None, decided)
    own = {n for node in later for n in node.outputs}
    reads = dict.fromkeys(n for node in later for n in node.inputs if n and n not in own)
    constants = {n: graph.constants[n] for n in reads if n in graph.constants} | {
        n: decided[n] for n in reads if n in decided
    }
    outside = {n: Spec((), np.dtype(np.float32)) for n in reads if n not in constants}
    outputs: dict[str, Spec | None] = {n: None for n in fetch if n in own}
    return Partition(first, waiting, Graph(later, outside, outputs, constants, graph.name), decided)


def _plain(node: Node, given: tuple[Spec | None, ...]) -> bool:
    """Whether a body without bodies in it stands for the node."""
    which = node.op.inlined(given)
    return bool(which) and not any(inner.op.bodies() for inner in node.op.bodies()[which].nodes)


def _found(node: Node, specs: dict[str, Spec], gpu: bool) -> dict[str, Spec] | None:
    """The Specs of the node's outputs, values where they are known; None where they depend on a value that is not, or where
    the node is done alone in any case."""
    given = tuple(specs[n] if n else None for n in node.inputs)
    if gpu and node.op.bodies() and not _plain(node, given):
        return None
    try:
        found = node.infer(given)
    except DataDependentError:
        return None
    if any(spec.dtype == OBJECT for spec in found):
        return None
    found = with_values(node, given, found, MOST)
    return {name: spec for name, spec in zip(node.outputs, found, strict=False) if name}
