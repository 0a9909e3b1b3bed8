"""A model's head: the layer that makes its classes, found and replaced."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.edit.initializers import INITIALIZERS, Initializer
from nbconv.edit.parameters import master, parameters, stored, type_of
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.dtypes import is_half


class Head(NamedTuple):
    """The classifier: its node, the names of the values it reads as weight and bias ("" where it has none), the value that
    goes into it, how many features that has, and how many classes come out."""

    node: str
    op: str
    weight: str
    bias: str
    input: str
    features: int
    classes: int

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.features} features from {self.input} to {self.classes} classes"


def find_head(graph: Graph, output: str = "") -> Head:
    """The last Gemm, MatMul or convolution before an output (the first one unless named). ValueError where there is none."""
    return _find(graph, output)[0]


def _find(graph: Graph, output: str) -> tuple[Head, Node]:
    """(the head, its node)."""
    name = output or next(iter(graph.outputs))
    made, add = graph.producers(), None
    biases: list[str] = []
    while True:
        node = made.get(name)
        if node is None:
            raise ValueError(f"no classifier before output {name!r}: no node makes it")
        if node.op.type in ("Gemm", "MatMul", "Conv") and stored(node.inputs[1], graph, made):
            break
        if node.op.type == "Add" and add is None:
            sides = [n for n in node.inputs if stored(n, graph, made) is None]
            if len(sides) == 1:
                add, name = node, sides[0]
                biases = [n for n in node.inputs if n != name]
                continue
        if not node.op.keeps_classes:
            raise ValueError(
                f"no classifier before output {output or next(iter(graph.outputs))!r}: {node.name} ({node.op.type}) stands "
                "behind the last layer"
            )
        name = node.inputs[0]
    weight = next(p for p in parameters(graph) if p.value == _slot(node.inputs[1], graph, made))
    shape = master(weight, graph).shape
    out, features = _sides(node, shape)
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if not bias and add is not None:
        bias = biases[0]
    head = Head(node.name, node.op.type, weight.value, bias, next(iter(node.inputs)), features, shape[out])
    return head, node


def _slot(name: str, graph: Graph, made: dict[str, Node]) -> str:
    found = stored(name, graph, made)
    assert found is not None
    return found[1]


def _sides(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """(axis of the weight that counts classes, how many features go in)."""
    if node.op.type == "Conv":
        if getattr(node.op, "group", 1) != 1:
            raise ValueError(f"the last layer {node.name} (Conv) has groups, which no classifier has")
        return 0, shape[1]
    if node.op.type == "Gemm" and getattr(node.op, "transB", 0):
        return 0, shape[1]
    if len(shape) != 2:
        raise ValueError(f"the last layer {node.name} ({node.op.type}) has a weight of shape {list(shape)}, wanted 2 axes")
    return 1, shape[0]


def replace_head(
    graph: Graph, classes: int, init: str | Initializer = "xavier_uniform", seed: int = 0, output: str = ""
) -> tuple[Graph, Head]:
    """(the graph with a fresh classifier for ``classes`` classes under the same names, what was found). Its bias is 0."""
    if not isinstance(classes, (int, np.integer)) or classes < 1:
        raise ValueError(f"classes is {classes!r}, wanted a positive integer")
    initializer = INITIALIZERS[init] if isinstance(init, str) and init in INITIALIZERS else init
    if isinstance(initializer, str):
        raise ValueError(f"init is {init!r}, wanted one of {', '.join(INITIALIZERS)} or a function")
    head, node = _find(graph, output)
    weight = next(p for p in parameters(graph) if p.value == head.weight)
    shape = master(weight, graph).shape
    axis, _ = _sides(node, shape)
    if weight.value != node.inputs[1]:
        raise ValueError(f"the weight of {node.name} ({node.op.type}) is rearranged by {node.inputs[1]!r} before it is used")
    if sum(weight.value in n.inputs for n in graph.nodes) > 1:
        raise ValueError(f"the weight {weight.name!r} of {node.name} is used by other nodes, too")
    wanted = (int(classes), *shape[1:]) if axis == 0 else (int(classes), shape[0])
    fresh = initializer(wanted, np.random.default_rng([seed, 0x6E62]))
    constants = dict(graph.constants)
    kind = type_of(weight.value, graph)
    fresh = fresh.astype(kind) if is_half(kind) else fresh
    constants[head.weight] = fresh if axis == 0 else np.ascontiguousarray(fresh.T)
    gone = {head.weight}
    if head.bias:
        constants[head.bias] = np.zeros(int(classes), fresh.dtype)
        gone.add(head.bias)
    nodes = [_resized(n, graph, constants, head.classes, int(classes), head, node) for n in graph.nodes]
    nodes = [n for n in nodes if gone.isdisjoint(n.outputs)]
    result = graph.derive(nodes, constants)
    result.outputs = {n: _with_classes(s, head.classes, int(classes)) for n, s in graph.outputs.items()}
    return result, head


def _resized(
    node: Node, graph: Graph, constants: dict[str, np.ndarray], old: int, new: int, head: Head, layer: Node
) -> Node:
    """A Reshape behind the head with the new number of classes in its shape."""
    if node.op.type != "Reshape" or node.inputs[1] not in graph.constants or not _behind(node, graph, layer):
        return node
    shape = graph.constants[node.inputs[1]]
    if not (shape == old).any():
        return node
    name = f"{node.inputs[1]}/{new}"
    constants[name] = np.where(shape == old, new, shape).astype(np.int64)
    return Node(node.op, (node.inputs[0], name), node.outputs, node.name)


def _behind(node: Node, graph: Graph, layer: Node) -> bool:
    made = graph.producers()
    todo, seen = [node], set()
    while todo:
        current = todo.pop()
        if current is layer:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            todo += [made[n] for n in current.inputs if n in made]
    return False


def _with_classes(spec: Spec | None, old: int, new: int) -> Spec | None:
    if spec is None:
        return None
    return Spec((spec.shape[0], *(new if d == old else d for d in spec.shape[1:])), spec.dtype)
