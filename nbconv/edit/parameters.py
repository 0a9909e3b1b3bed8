"""What can be trained in a model: its parameters, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nbconv.edit.uses import MASK, Uses, evaluated
from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import kind_of
from nbconv.graph.infer import dtype_of
from nbconv.passes.straight_through import quantises


class Parameter(NamedTuple):
    """A trainable weight: the initializer's ``name``, the ``value`` in which the graph reads it, the ``node`` that does
    first, and how many layers lie between that and the output (``depth`` 0: the last)."""

    name: str
    value: str
    node: Node
    depth: int


def stored(name: str, graph: Graph, made: dict[str, Node]) -> tuple[str, str] | None:
    """(initializer, value in which it is read) behind a slot; None where the slot's value is computed from inputs."""
    if name in graph.constants:
        return name, name
    node = made.get(name)
    if node is not None and node.op.rearranges:
        return stored(node.inputs[0], graph, made)
    value = name
    while node is not None and node.op.converts:
        name = node.inputs[0]
        if name in graph.constants:
            return name, value
        node = made.get(name)
    return None


class Constant(NamedTuple):
    """An initializer of floats (or a dequantised one), as a ``parameter``, and ``why`` it is none ("" for one that is).
    ``able``: whether it could train where its name is given."""

    parameter: Parameter
    why: str
    able: bool


def parameters(graph: Graph) -> list[Parameter]:
    """All that can be trained, in the order in which nodes read it.

    These are the initializers of floats, and the dequantised ones, on which an output depends differentiably, in the slots
    that an op declares as parameters and wherever else a node computes with them: tables that are looked up, factors,
    addends, and what nodes make weights of. `Uses.why` says which are none: settings, statistics, single numbers but for a
    layer's bias, what prepares the input, masks, grids and rotations.
    """
    return [found.parameter for found in constants_of(graph) if not found.why]


def constants_of(graph: Graph) -> list[Constant]:
    """Every initializer of floats that a node reads, and whether it trains."""
    uses = Uses(graph)
    made, place = uses.made, {id(node): i for i, node in enumerate(uses.layers)}
    found: dict[str, Constant] = {}
    same: dict[tuple, str] = {}
    last = -1
    for node in graph.nodes:
        last = place.get(id(node), last)
        depth = max(len(uses.layers) - 1 - max(last, 0), 0)
        declared = _slots(node, made)
        others = () if uses.is_still(node) else (i for i in range(len(node.inputs)) if i not in declared)
        for i in (*declared, *others):
            if i >= len(node.inputs) or node.inputs[i] not in uses.still:
                continue
            for name, value, reader, slot, plain in _leaves(node, i, uses, i in declared):
                if uses.is_still(node) and not plain:
                    continue
                value = same.setdefault(_key(name, value, made), value)
                why, able = uses.why(node, i, reader, slot, value, graph.constants[name])
                if plain and why != MASK:
                    able = value in uses.alive
                    why = "" if able else uses.dead(value)
                    if able and uses.fills(node, i, graph.constants[name]):
                        why = "it fills a slot: the norm's factors and terms stand behind it"
                before = found.get(value)
                if before is None or (before.why and not why):
                    found[value] = Constant(Parameter(name, value, node, depth), why, able)
    return list(found.values())


Leaf = tuple[str, str, Node, int, bool]


def _leaves(node: Node, i: int, uses: Uses, declared: bool) -> Iterator[Leaf]:
    """What a value made of constants alone is made of: (initializer, the value in which it is read, the node that reads it
    and as which input, whether it is as it is, or rearranged or converted, in a slot that an op declares)."""
    graph, made = uses.graph, uses.made
    origin = stored(node.inputs[i], graph, made)
    if origin is not None:
        name, value = origin
        floats = kind_of(graph.constants[name].dtype) == "f"
        if floats or (name != value and (declared or quantises(made[value], graph))):
            yield name, value, node, i, declared
        return
    todo, seen = [(node, i)], set()
    while todo:
        reader, slot = todo.pop()
        name = reader.inputs[slot]
        maker = made.get(name)
        if name in graph.constants:
            if kind_of(graph.constants[name].dtype) == "f":
                yield name, name, reader, slot, False
        elif maker is not None and id(maker) not in seen and uses.passes(maker) == "yes":
            seen.add(id(maker))
            source = maker.inputs[0] if maker.inputs else ""
            copied = maker.op.type == "Identity" and source in graph.constants
            if (copied and kind_of(graph.constants[source].dtype) == "f") or quantises(maker, graph):
                yield source, name, reader, slot, False
                continue
            reads = [k for k, n in enumerate(maker.inputs) if n and (k not in maker.op.fixed or n in graph.constants)]
            todo += [(maker, k) for k in reversed(reads)]


def _slots(node: Node, made: dict[str, Node]) -> Sequence[int]:
    if node.op.type == "Add":  # a bias, as exporters write it behind MatMul
        makers = [made.get(name) for name in node.inputs]
        return [1 - i for i, maker in enumerate(makers) if maker is not None and maker.op.type == "MatMul"]
    return node.op.parameters


def master(parameter: Parameter, graph: Graph) -> np.ndarray:
    """The parameter's value as float32, writeable."""
    made = {} if parameter.value in graph.constants else graph.producers()
    return np.array(evaluated(parameter.value, graph, made, {}), np.float32)


def type_of(value: str, graph: Graph) -> np.dtype:
    """The element type of a parameter where the graph reads it."""
    made = {} if value in graph.constants else graph.producers()
    while value not in graph.constants:
        node = made[value]
        kind = getattr(node.op, "to", 0) or getattr(node.op, "output_dtype", 0)
        if kind:
            return dtype_of(kind)
        value = node.inputs[1 if len(node.inputs) > 1 else 0]  # a scale's type, or a CastLike's
    return graph.constants[value].dtype


def one_value(graph: Graph, chosen: Sequence[Parameter]) -> Graph:
    """The graph in which a stored weight that several nodes convert alike is read as the parameter's value by all."""
    made = graph.producers()
    kept = {_key(p.name, p.value, made): p.value for p in chosen if p.name != p.value}
    names: dict[str, str] = {}
    for node in graph.nodes:
        if node.op.converts and node.inputs[0] in graph.constants:
            value = kept.get(_key(node.inputs[0], node.outputs[0], made), node.outputs[0])
            if value != node.outputs[0]:
                names[node.outputs[0]] = value
    if not names:
        return graph
    made_first = [n for n in graph.nodes if n.outputs[0] in kept.values()]
    others = [n for n in graph.nodes if n.outputs[0] not in names and n.outputs[0] not in kept.values()]
    nodes = [Node(n.op, tuple(names.get(i, i) for i in n.inputs), n.outputs, n.name) for n in others]
    return graph.derive([*made_first, *nodes])


def _key(name: str, value: str, made: dict[str, Node]) -> tuple:
    """What two values of one stored weight have in common where they are tied: not where Identity copies it, which exporters
    write for weights that happen to be equal."""
    node = made.get(value)
    if node is None or node.op.type == "Identity":
        return (value,)
    return name, repr(node.op), node.inputs[1:]


def norms(graph: Graph, chosen: Sequence[Parameter]) -> list[Node]:
    """The batch normalisations that train: those of whose scale or shift a parameter is chosen, and whose running statistics
    are stored. Others, as weight standardisation has, are functions like any other."""
    names, made = {p.value for p in chosen}, graph.producers()
    found = [n for n in graph.nodes if n.op.type == "BatchNormalization" and not names.isdisjoint(n.inputs[1:3])]
    return [n for n in found if all(stored(name, graph, made) for name in n.inputs[3:5])]
