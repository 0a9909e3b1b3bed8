"""The model that training made: the authored graph with new weights, for inference and for files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np

from nbconv.edit.parameters import Parameter, norms, stored, type_of
from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import is_half
from nbconv.passes.straight_through import quantises, requantised


def deployed(
    graph: Graph, chosen: Iterable[Parameter], state: Mapping[str, np.ndarray], metadata: Mapping[str, object] | None = None
) -> Graph:
    """The graph with the values of ``state`` (copied) for what was trained. A weight of half precision is rounded, and one
    of integers behind DequantizeLinear is quantised again, by the scales that it has. One
    that is stored in another type than it is used in becomes float32 under the same name where a Cast reads it, else what it
    is used as, under the name in which it was used. ``metadata`` goes into the
    metadata as JSON under "nbconv.training"."""
    chosen, made = list(chosen), graph.producers()
    constants = dict(graph.constants)
    gone: set[str] = set()
    values = [(p.name, p.value) for p in chosen if p.value in state]
    for node in norms(graph, chosen):
        for name in node.inputs[3:5]:
            origin = stored(name, graph, made)
            if origin is not None and origin[1] in state:
                values.append(origin)
    for name, value in values:
        if name != value and quantises(made[value], graph):
            constants[name] = requantised(state[value], made[value], graph)
            continue
        array = np.array(state[value], np.float32)
        if name == value or not _cast_once(value, name, made):
            kind = type_of(value, graph)
            array = array.astype(kind) if is_half(kind) else array
        array.flags.writeable = False
        if name == value or _cast_once(value, name, made):
            constants[name] = array
        else:
            constants[value] = array
            gone.add(value)
    nodes = [n for n in graph.nodes if gone.isdisjoint(n.outputs)]
    result = graph.derive(nodes, constants)
    if metadata:
        result.metadata = {**graph.metadata, "nbconv.training": json.dumps(metadata, sort_keys=True)}
    return result


def _cast_once(value: str, name: str, made: dict[str, Node]) -> bool:
    node = made[value]
    return node.op.type == "Cast" and node.inputs[0] == name


def frontier(
    graph: Graph, chosen: Iterable[Parameter], logits: tuple[str, ...], held: Iterable[str] = ()
) -> tuple[str, ...]:
    """The values computed by the frozen part alone that the trained part reads: what can be kept from epoch to epoch.
    ``held`` names values that a training has beside the graph's constants."""
    chosen = list(chosen)
    training = {id(n) for n in norms(graph, chosen)}
    fixed = {*graph.constants, *held}
    active = {p.value for p in chosen}
    behind = _needed(graph, logits)
    found: dict[str, None] = {}
    for node in graph.nodes:
        if not behind.intersection(node.outputs):
            continue
        read = [n for n in node.inputs if n]
        if id(node) in training or not active.isdisjoint(read) or not active.isdisjoint(node.outputs):
            active.update(n for n in node.outputs if n)
        elif fixed.issuperset(read):
            fixed.update(node.outputs)
    for node in graph.nodes:
        if behind.intersection(node.outputs) and not active.isdisjoint(node.outputs):
            found.update(dict.fromkeys(n for n in node.inputs if n and n not in active and n not in fixed))
    return tuple(found)


def _needed(graph: Graph, names: Iterable[str]) -> set[str]:
    wanted = set(names)
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(n for n in node.inputs if n)
    return wanted


def tail(graph: Graph, at: Mapping[str, object], logits: tuple[str, ...]) -> Graph:
    """The part of the graph from the values ``at`` (name to Spec), its inputs now, to the logits."""
    nodes = [n for n in graph.nodes if not any(name in at for name in n.outputs)]
    ends = {name: graph.outputs.get(name) for name in logits}
    whole = Graph(nodes, dict(at), ends, graph.constants, graph.name)  # type: ignore[arg-type]
    needed = _needed(whole, logits)
    whole.nodes = [n for n in nodes if needed.intersection(n.outputs)]
    return whole
