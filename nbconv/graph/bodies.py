"""Graphs that nodes hold, the bodies of control flow.

A body reads values of the graph around it by their names, as ONNX has it; a node lists these behind its own inputs
(`captured`), so that a pass sees all that a node depends on. Passes may rename what a node reads: the order of the list says
which is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph.graph import Graph, Node
from nbconv.graph.spec import OBJECT, Spec, spec_of

SMALL = 1 << 14
"""Values up to this many bytes are computed where shapes may depend on them."""


def free(graph: Graph) -> list[str]:
    """Names that the graph reads and does not define, in order."""
    own = {*graph.inputs, *graph.constants, *graph.values(), ""}
    read = [*(name for node in graph.nodes for name in node.inputs), *graph.outputs]
    return [name for name in dict.fromkeys(read) if name not in own]


def captured(bodies: Iterable[Graph]) -> tuple[str, ...]:
    """Names that bodies read from the graph around them: the last inputs of the node that holds the bodies."""
    return tuple(dict.fromkeys(name for body in bodies for name in free(body)))


def own_inputs(node: Node) -> tuple[str, ...]:
    """A node's inputs without those that its bodies alone read."""
    return node.inputs[: len(node.inputs) - len(captured(node.op.bodies().values()))]


def surroundings(node: Node) -> dict[str, str]:
    """The names by which the node's bodies know values → those values."""
    names = captured(node.op.bodies().values())
    if len(names) > len(node.inputs):
        raise ModelError(f"{node.name} ({node.op.type}): its bodies read {', '.join(names)}, which must be its last inputs")
    return dict(zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True))


def renamed(graph: Graph, names: Mapping[str, str], prefix: str = "") -> Graph:
    """The graph with other names for its values: those in ``names``, and before all others ``prefix``."""

    def new(name: str) -> str:
        return names.get(name, prefix + name) if name else ""

    nodes = [Node(n.op, tuple(map(new, n.inputs)), tuple(map(new, n.outputs)), prefix + n.name) for n in graph.nodes]
    inputs, outputs = {new(k): v for k, v in graph.inputs.items()}, {new(k): v for k, v in graph.outputs.items()}
    return Graph(nodes, inputs, outputs, {new(k): v for k, v in graph.constants.items()}, graph.name)


def body_of(node: Node, which: str) -> Graph:
    """The node's body of this attribute with names that are unique in the graph around it: those of what it reads there,
    and else such as begin with the node's first output."""
    scope = next(name for name in node.outputs if name)
    return renamed(node.op.bodies()[which], surroundings(node), f"{scope}.{which}/")


def infer(graph: Graph, given: Mapping[str, Spec]) -> dict[str, Spec]:
    """The Specs of a graph's values, for these of its inputs and of what it reads around it."""
    specs = {**given, **{name: spec_of(value) for name, value in graph.constants.items()}}
    for node in graph.nodes:
        inputs = [specs[n] if n else None for n in node.inputs]
        if any(spec is not None and spec.dtype == OBJECT for spec in inputs):
            raise DataDependentError(f"{node.name} ({node.op.type}): reads what is no tensor of numbers")
        found = with_values(node, inputs, node.infer(tuple(inputs)), SMALL)
        specs.update(zip(node.outputs, found, strict=False))
    return specs


def with_values(node: Node, given: Sequence[Spec | None], found: Sequence[Spec], limit: int) -> tuple[Spec, ...]:
    """The Specs of the node's outputs, ``found`` for those ``given``, with their values where Specs alone decide these, or
    where all inputs are known and the outputs have ``limit`` bytes at most."""
    values = node.op.known(*given)
    known = node.op.pure and all(s is None or s.value is not None for s in given)
    if values is None and known and sum(s.nbytes for s in found) <= limit:
        values = results(node, [s and s.value for s in given])
    if values is None:
        return tuple(found)
    return tuple(spec_of(np.asarray(v))._replace(quantisation=s.quantisation) for v, s in zip(values, found, strict=False))


def run(graph: Graph, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """A graph's outputs as its ops' references compute them."""
    values = {**graph.constants, **given}
    for node in graph.nodes:
        found = results(node, [values[n] if n else None for n in node.inputs])
        values.update(zip(node.outputs, found, strict=False))
    return [values[name] for name in graph.outputs]


def results(node: Node, inputs: list) -> tuple[np.ndarray, ...]:
    """A node's outputs as its op's `reference` computes them."""
    found = node.op.reference(*inputs)
    return found if isinstance(found, tuple) else (found,)
