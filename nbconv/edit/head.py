"""A model's head: the layer that makes its classes, found and replaced."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.edit.ends import moved
from nbconv.edit.initializers import INITIALIZERS, Initializer
from nbconv.edit.meaning import without
from nbconv.edit.parameters import parameters, stored, type_of
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.dtypes import is_half
from nbconv.ops.pointwise import Identity

LAYERS = ("Gemm", "MatMul", "Conv", "ConvTranspose")
PASSES = ("Transpose", "Unsqueeze", "Resize", "CastLike", "QuantizeLinear", "Mul", "Div")
"""Operators behind which a head is looked for, beside those that keep classes; factors where they are one number."""


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


class Found(NamedTuple):
    """A head and where it stands: its ``layer``, what stands ``behind`` it up to the output, and the ``axis`` of the output
    along which it has its classes (None: unknown; from the end, where negative)."""

    head: Head
    layer: Node
    behind: tuple[Node, ...]
    axis: int | None


def find_head(graph: Graph, output: str = "", head: str = "") -> Head:
    """The last Gemm, MatMul or convolution before an output (the first one unless named), or the node ``head``. ValueError
    where there is none, which says what stands in the way."""
    return locate(graph, output, head).head


def class_axis(graph: Graph, output: str) -> int | None:
    """The axis along which an output has its classes, as its head tells; None where that is unknown, 0 where the head's one
    class has none any more."""
    try:
        return locate(graph, output).axis
    except ValueError:
        return None


def locate(graph: Graph, output: str = "", head: str = "") -> Found:
    """The head with its surroundings, see `find_head`."""
    name = output or next(iter(graph.outputs))
    if name not in graph.outputs and name not in graph.producers():
        raise ValueError(f"the model has no output {name!r}, its outputs are {', '.join(graph.outputs)}")
    made = graph.producers()
    layer, behind, bias = _named(graph, made, head) if head else _walk(graph, made, name)
    weight = next(p for p in parameters(graph) if p.value == _slot(layer.inputs[1], graph, made))
    shape = read_value(layer.inputs[1], graph, made).shape
    out, features = sides_of(layer, shape)
    bias = layer.inputs[2] if len(layer.inputs) > 2 and layer.inputs[2] else bias
    found = Head(layer.name, layer.op.type, weight.value, bias, next(iter(layer.inputs)), features, shape[out])
    axis = None if head else (-1 if layer.op.type == "MatMul" else 1)
    for node in behind:
        axis = None if axis is None else moved(node, axis, graph.constants, found.classes)
    return Found(found, layer, tuple(behind), axis)


def _is_layer(node: Node | None, graph: Graph, made: dict[str, Node]) -> bool:
    if node is None or node.op.type not in LAYERS or len(node.inputs) < 2:
        return False
    return stored(node.inputs[1], graph, made) is not None


def _walk(graph: Graph, made: dict[str, Node], output: str) -> tuple[Node, list[Node], str]:
    """(the last layer before an output, the nodes behind it, what is added to it)."""
    behind: list[Node] = []
    bias, name = "", output
    while True:
        node = made.get(name)
        if node is None:
            raise ValueError(f"no classifier before output {output!r}: no node makes it{_hint(graph, made, output)}")
        if _is_layer(node, graph, made):
            return node, behind[::-1], bias
        sides = [n for n in node.inputs if n and stored(n, graph, made) is None]
        if node.op.type == "Add" and not bias and len(sides) == 1:
            bias = next(n for n in node.inputs if n != sides[0])
        elif not _passes(node, graph, made, sides):
            raise ValueError(
                f"no classifier before output {output!r}: {node.name} ({node.op.type}) stands behind the last "
                f"layer{_hint(graph, made, name)}"
            )
        behind.append(node)
        name = next(iter(sides)) if node.op.type in ("Add", "Mul", "Div") else node.inputs[0]


def _passes(node: Node, graph: Graph, made: dict[str, Node], sides: list[str]) -> bool:
    """Whether scores of classes behind a node are those before it."""
    if node.op.type in ("Mul", "Div"):
        others = [n for n in node.inputs if n not in sides]
        return len(sides) == 1 and all(read_value(n, graph, made).size == 1 for n in others)
    return node.op.keeps_classes or node.op.converts or node.op.type in PASSES


def _hint(graph: Graph, made: dict[str, Node], name: str) -> str:
    """What to pass: the last layers before a value, and the other outputs."""
    todo, seen, layers = [name], set(), []
    while todo and len(layers) < 6:
        node = made.get(todo.pop(0))
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if _is_layer(node, graph, made):
            layers.append(node.name)
        else:
            todo += node.inputs
    names = ", ".join(map(repr, layers))
    told = f"; the layers before it are {names}: give head= (or trainable=[…]) one of these names" if layers else ""
    others = [n for n in graph.outputs if n != name]
    return told + (f"; or output=, one of {', '.join(map(repr, others))}" if others else "")


def _named(graph: Graph, made: dict[str, Node], head: str) -> tuple[Node, list[Node], str]:
    """The layer of this name, and a bias behind it."""
    node = next((n for n in graph.nodes if n.name == head), made.get(head))
    if not _is_layer(node, graph, made):
        what = f"is a {node.op.type}" if node is not None else "is no node's name"
        raise ValueError(f"head {head!r} {what}, wanted a {', '.join(LAYERS[:-1])} or {LAYERS[-1]} with stored weights")
    assert node is not None
    readers = graph.readers().get(node.outputs[0], [])
    add = readers[0] if len(readers) == 1 and readers[0].op.type == "Add" else None
    biases = [n for n in add.inputs if stored(n, graph, made)] if add is not None else []
    names, behind = set(node.outputs), []
    for other in graph.nodes:
        if names.intersection(other.inputs):
            names.update(other.outputs)
            behind.append(other)
    return node, behind, biases[0] if biases else ""


def _slot(name: str, graph: Graph, made: dict[str, Node]) -> str:
    found = stored(name, graph, made)
    assert found is not None
    return found[1]


def read_value(name: str, graph: Graph, made: dict[str, Node]) -> np.ndarray:
    """A stored value as a node reads it."""
    if name in graph.constants:
        return graph.constants[name]
    node = made[name]
    found = node.op.reference(*(read_value(n, graph, made) if n else None for n in node.inputs))
    return found[0] if isinstance(found, tuple) else found


def sides_of(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """(axis of the weight that counts classes, how many features go in)."""
    if node.op.type in ("Conv", "ConvTranspose"):
        if getattr(node.op, "group", 1) != 1:
            raise ValueError(f"the last layer {node.name} ({node.op.type}) has groups, which no classifier has")
        return (0, shape[1]) if node.op.type == "Conv" else (1, shape[0])
    if node.op.type == "Gemm" and getattr(node.op, "transB", 0):
        return 0, shape[1]
    if len(shape) != 2:
        raise ValueError(f"the last layer {node.name} ({node.op.type}) has a weight of shape {list(shape)}, wanted 2 axes")
    return 1, shape[0]


def replace_head(
    graph: Graph, classes: int, init: str | Initializer = "xavier_uniform", seed: int = 0, output: str = "", head: str = ""
) -> tuple[Graph, Head]:
    """(the graph with a fresh classifier for ``classes`` classes under the same names, what was found). Its bias is 0.
    Integers that its result was quantised to, whose range is the old one's, are left out."""
    if not isinstance(classes, (int, np.integer)) or classes < 1:
        raise ValueError(f"classes is {classes!r}, wanted a positive integer")
    initializer = INITIALIZERS[init] if isinstance(init, str) and init in INITIALIZERS else init
    if isinstance(initializer, str):
        raise ValueError(f"init is {init!r}, wanted one of {', '.join(INITIALIZERS)} or a function")
    found = locate(graph, output, head)
    layer, old, new = found.layer, found.head.classes, int(classes)
    slots = [layer.inputs[1], *([found.head.bias] if found.head.bias else [])]
    for name in slots:
        if sum(name in n.inputs for n in graph.nodes) > 1:
            raise ValueError(f"the weight {name!r} of {layer.name} is used by other nodes, too")
    shape = read_value(slots[0], graph, graph.producers()).shape
    axis, _ = sides_of(layer, shape)
    wanted = (new, *(d for a, d in enumerate(shape) if a != axis))
    fresh = initializer(wanted, np.random.default_rng([seed, 0x6E62]))
    kind = type_of(found.head.weight, graph)
    fresh = fresh.astype(kind) if is_half(kind) else fresh
    constants = dict(graph.constants)
    constants[slots[0]] = np.ascontiguousarray(np.moveaxis(fresh, 0, axis)) if axis else fresh
    for name in slots[1:]:
        sizes = list(read_value(name, graph, graph.producers()).shape)
        places = [a for a, d in enumerate(sizes) if d == old]
        if len(places) > 1:  # (1, 1) of one class
            places = [len(sizes) - (1 if layer.op.type in ("Gemm", "MatMul") else len(shape) - 1)]
        for a in places:
            sizes[a] = new
        constants[name] = np.zeros(sizes, fresh.dtype)
    nodes = [_resized(n, found, constants, new) for n in graph.nodes if not set(n.outputs) & set(slots)]
    result = graph.derive(_unquantised(nodes, found), constants)
    result.metadata = without(graph.metadata, "task", "classes", "output", "metrics")
    mine = output or next(iter(graph.outputs))
    behind = {name for node in found.behind for name in node.outputs} | set(layer.outputs)
    result.outputs = {
        name: _with_classes(spec, old, new, found.axis if name == mine else None) if name in behind else spec
        for name, spec in graph.outputs.items()
    }
    return result, found.head


def _resized(node: Node, found: Found, constants: dict[str, np.ndarray], new: int) -> Node:
    """A Reshape behind the head with the new number of classes in its shape."""
    if node.op.type != "Reshape" or not any(node is n for n in found.behind) or node.inputs[1] not in constants:
        return node
    shape, old = constants[node.inputs[1]], found.head.classes
    if not (shape == old).any():
        return node
    if (shape == old).sum() > 1:
        raise ValueError(f"{node.name} (Reshape) to {shape.tolist()} has several sizes of {old}: which one counts classes?")
    name = f"{node.inputs[1]}/{new}"
    constants[name] = np.where(shape == old, new, shape).astype(np.int64)
    return Node(node.op, (node.inputs[0], name), node.outputs, node.name)


def _unquantised(nodes: list[Node], found: Found) -> list[Node]:
    """Without the pairs of QuantizeLinear and DequantizeLinear behind the head."""
    makers = {n.outputs[0]: n for n in found.behind if n.op.type == "QuantizeLinear"}
    pairs = {id(n): makers[n.inputs[0]] for n in found.behind if n.op.type == "DequantizeLinear" and n.inputs[0] in makers}
    nodes = [Node(Identity(), pairs[id(n)].inputs[:1], n.outputs, n.name) if id(n) in pairs else n for n in nodes]
    read = {name for node in nodes for name in node.inputs}
    gone = {id(n) for n in pairs.values() if n.outputs[0] not in read}
    return [n for n in nodes if id(n) not in gone]


def _with_classes(spec: Spec | None, old: int, new: int, axis: int | None) -> Spec | None:
    """An output's Spec with another number of classes: along ``axis``, or of the one size that was theirs."""
    if spec is None or not spec.ranked:
        return spec
    sizes = list(spec.shape)
    if not axis or sizes[axis] != old:
        return Spec((*sizes[:1], *(new if d == old else d for d in sizes[1:])), spec.dtype)
    sizes[axis] = new
    return Spec(tuple(sizes), spec.dtype)
