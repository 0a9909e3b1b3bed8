"""Kinds of parameters, told by use: what is added to each channel, and what normalisations scale and add."""

from __future__ import annotations

from collections.abc import Iterable

from nbconv.edit.parameters import Parameter
from nbconv.graph import Graph, Node

RECURRENT = ("RNN", "GRU", "LSTM")
SUMS = ("Add", "Sum")


def biases(graph: Graph, among: Iterable[Parameter]) -> list[Parameter]:
    """Those that are added to the channels of a value: biases of layers and offsets of normalisations, in the slots that ops
    have for them or by Add, Sum and Sub."""
    made = graph.producers()
    return [p for p in among if any(_adds(p.node, i, _shape(p, graph)) for i in _slots(p, made))]


def scales_of_norms(graph: Graph, among: Iterable[Parameter]) -> list[Parameter]:
    """Those of normalisations: scale and offset of an op that normalises, and factors and addends a channel behind one or
    behind the division by a root that exporters write for one."""
    made = graph.producers()
    behind = _behind_norms(graph, made)
    found = []
    for p in among:
        for i in _slots(p, made):
            others = [n for k, n in enumerate(p.node.inputs) if n and k != i]
            combines = p.node.op.type in ("Mul", "Sub", *SUMS) and _one_axis(_shape(p, graph))
            if p.node.op.is_norm or (combines and any(n in behind for n in others)):
                found.append(p)
                break
    return found


def _adds(node: Node, i: int, shape: tuple[int, ...]) -> bool:
    """Whether a node adds its input i, of this shape, to channels."""
    op = node.op
    if op.type in RECURRENT:
        return i == 3
    if op.type in SUMS or (op.type == "Sub" and i == 1):
        return _one_axis(shape)
    return len(op.parameters) > 1 and i == op.parameters[1]


def _one_axis(shape: tuple[int, ...]) -> bool:
    """Whether a number a channel is what a constant of this shape has."""
    return sum(d > 1 for d in shape) <= 1


def _shape(p: Parameter, graph: Graph) -> tuple[int, ...]:
    return graph.constants[p.name].shape


def _slots(p: Parameter, made: dict[str, Node]) -> list[int]:
    """The inputs of its node that are a parameter, as it is or rearranged."""
    found = []
    for i, name in enumerate(p.node.inputs):
        while name != p.value and name in made and (made[name].op.rearranges or made[name].op.converts):
            name = made[name].inputs[0]
        if name == p.value:
            found.append(i)
    return found


def _behind_norms(graph: Graph, made: dict[str, Node]) -> set[str]:
    """Values that are a normalisation's result, rearranged or scaled and shifted."""
    found: set[str] = set()
    for node in graph.nodes:
        op = node.op
        reads = [n for n in node.inputs if n]
        moved = (op.rearranges or op.converts) and reads[0] in found
        scaled = op.type in ("Mul", "Sub", *SUMS) and len(reads) == 2 and _with_constant(reads, graph, made, found)
        if op.is_norm or moved or scaled or _divides_by_root(node, made):
            found.update(n for n in node.outputs if n)
    return found


def _with_constant(reads: list[str], graph: Graph, made: dict[str, Node], found: set[str]) -> bool:
    """Whether one of two is of ``found``, and the other a constant, rearranged or not."""
    other = [n for n in reads if n not in found]
    if len(other) != 1:
        return False
    name = other[0]
    while name in made and (made[name].op.rearranges or made[name].op.converts):
        name = made[name].inputs[0]
    return name in graph.constants


def _divides_by_root(node: Node, made: dict[str, Node]) -> bool:
    """x / sqrt(…), or x · (1 / sqrt(…))."""
    if node.op.type == "Div":
        return _made_by(node.inputs[1], made, "Sqrt")
    if node.op.type != "Mul":
        return False
    for name in node.inputs:
        maker = made.get(name)
        if maker is not None and maker.op.type in ("Reciprocal", "Div") and _made_by(maker.inputs[-1], made, "Sqrt"):
            return True
    return False


def _made_by(name: str, made: dict[str, Node], kind: str) -> bool:
    return name in made and made[name].op.type == kind
