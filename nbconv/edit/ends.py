"""How a model ends: the Softmax or Sigmoid behind its last layer, and along which axis an output has its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nbconv.edit.parameters import stored
from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import kind_of
from nbconv.graph.infer import dtype_of

KINDS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
SPACE = ("Resize", "Upsample")
MIXES = (
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Neg", "Clip", "Min", "Max", "Sum", "Mean", "Concat", "Slice",
    "Split", "Gather", "Pad", "ReduceMean", "ReduceSum", "ReduceMax", "AveragePool", "MaxPool", "GlobalAveragePool",
    "GlobalMaxPool", "Relu",
)  # fmt: skip
"""Operators that make other values of probabilities, and are no layers."""


class Ending(NamedTuple):
    """A last Softmax or Sigmoid: ``kind`` "softmax" or "sigmoid", the ``node``, the value ``logits`` with which it is left
    out, the ``nodes`` that make that (what stood behind the activation, on what went into it), and ``axis``, along which the
    output has what it normalises (None: unknown). ``blurred``: the node behind it with which it does not commute."""

    kind: str
    node: Node
    logits: str
    nodes: tuple[Node, ...]
    axis: int | None
    blurred: Node | None


def ending(graph: Graph, output: str, own: str) -> Ending | None:
    """The Softmax, LogSoftmax or Sigmoid that an output ends in, seen through operators that leave values as they are or
    move them; None where there is none. ``own``: the kind that a loss has, "" for either. ValueError, with the nodes' names,
    where the output is computed of one of this kind: it has no logits then."""
    made = graph.producers()
    name, behind, log = output, [], None
    while (node := made.get(name)) is not None:
        if node.op.type in KINDS and (log is None or node.op.type == "Softmax"):
            return _found(graph, node, behind)
        if node.op.type == "Log" and log is None:
            log = node
        elif _same(node) or node.op.rearranges or node.op.type in SPACE:
            behind.append(node)
        else:
            break
        name = node.inputs[0]
    mixed = _mixed(graph, made, output, 0)
    if mixed is not None and own in ("", KINDS[mixed[1].op.type]):
        last, activation = mixed
        raise ValueError(
            f"output {output!r} is computed of {activation.name} ({activation.op.type}) by {last.name} ({last.op.type}), "
            f"and the loss has a {KINDS[activation.op.type]} of its own: give output={activation.inputs[0]!r}, what goes "
            "into it, or a loss of probabilities"
        )
    return None


def _same(node: Node) -> bool:
    """Whether the result has the values of the first input, as far as its type can hold them."""
    if node.op.type == "Cast":
        return kind_of(dtype_of(getattr(node.op, "to", 0))) == "f"
    return node.op.converts or node.op.type in ("Identity", "Dropout", "QuantizeLinear")


def _found(graph: Graph, node: Node, behind: list[Node]) -> Ending:
    axis: int | None = getattr(node.op, "axis", -1) if KINDS[node.op.type] == "softmax" else None
    name, nodes, blurred = node.inputs[0], [], None
    for other in reversed(behind):
        axis = None if axis is None else moved(other, axis, graph.constants)
        if _same(other):
            continue
        if other.op.type in SPACE and getattr(other.op, "mode", "nearest") != "nearest":
            blurred = other
        made = f"{other.outputs[0]}/logits"
        nodes.append(Node(other.op, (name, *other.inputs[1:]), (made,), f"{other.name}/logits"))
        name = made
    return Ending(KINDS[node.op.type], node, name, tuple(nodes), axis, blurred)


def _mixed(graph: Graph, made: Mapping[str, Node], name: str, depth: int) -> tuple[Node, Node] | None:
    """(the last operator that changes values, an activation before it) where all of a value comes from activations."""
    node = made.get(name)
    if node is None or depth > 8:
        return None
    if depth > 0 and node.op.type in KINDS:
        return node, node
    if _same(node) or node.op.rearranges or node.op.type in SPACE:
        return _mixed(graph, made, node.inputs[0], depth)
    if node.op.type not in MIXES:
        return None
    branches = [n for n in node.inputs if n and n not in graph.constants and stored(n, graph, dict(made)) is None]
    found = [_mixed(graph, made, n, depth + 1) for n in branches]
    if not found or any(f is None for f in found) or found[0] is None:
        return None
    return node, found[0][1]


def moved(node: Node, axis: int, constants: Mapping[str, np.ndarray], classes: int = 0) -> int | None:
    """The axis of a node's result that is ``axis`` of its first input (from the end, where negative); None where that
    cannot be told, 0 where it was squeezed away. ``classes``: its size, if known."""
    op = node.op
    if axis == 0:
        return 0
    if op.type == "Transpose":
        perm = getattr(op, "perm", None)
        return None if perm is None else list(perm).index(axis % len(perm))
    if op.type == "Flatten":
        return 1 if axis == 1 and getattr(op, "axis", 1) == 1 else None
    if op.type in ("Squeeze", "Unsqueeze"):
        return _shifted(node, axis, constants)
    if op.type == "Reshape":
        return _reshaped(node, axis, constants, classes)
    return axis


def _shifted(node: Node, axis: int, constants: Mapping[str, np.ndarray]) -> int | None:
    if len(node.inputs) < 2 or not node.inputs[1]:
        return 1 if axis == 1 else None
    if node.inputs[1] not in constants:
        return None
    axes = sorted(int(a) for a in constants[node.inputs[1]].ravel())
    if axis < 0:
        return axis if all(a >= 0 for a in axes) and node.op.type == "Squeeze" and max(axes, default=0) <= 1 else None
    if any(a < 0 for a in axes):
        return None
    if node.op.type == "Squeeze":
        return 0 if axis in axes else axis - sum(a < axis for a in axes)
    for a in axes:
        axis += a <= axis
    return axis


def _reshaped(node: Node, axis: int, constants: Mapping[str, np.ndarray], classes: int) -> int | None:
    shape = constants.get(node.inputs[1])
    if shape is None:
        return None
    sizes = [int(d) for d in shape.ravel()]
    if classes and sizes.count(classes) == 1:
        return sizes.index(classes)
    if axis >= 0 and axis < len(sizes) and sizes[axis] == 0 and all(d == 0 for d in sizes[:axis]):
        return axis
    return 1 if axis == 1 and len(sizes) == 2 and sizes[1] == -1 else None
