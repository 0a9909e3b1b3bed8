"""Shapes of all values, constants folded through the ops that read only constants, what computes nothing removed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.bodies import body_of, renamed
from nbconv.graph.op import Op
from nbconv.graph.symbolic import Symbol, apply, dtype_of, shape_of
from nbconv.lowering.weights import Weights
from nbconv.ops import lookup
from nbconv.passes.expand import expanded

SMALL = 1 << 14
"""Constants up to this many bytes are computed when planning; larger ones when a kernel needs them."""
FILLED = 1 << 16
"""Bytes of a ConstantOfShape that shapes decide, from which on a kernel makes it in each run."""
LARGEST = 1 << 32
"""Bytes; a folded constant above this is taken for a broken model."""


class Deferred:
    """A constant that is computed when it is asked for, so that what is packed is never held twice."""

    __slots__ = ("dtype", "make", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, make: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype, self.make = shape, dtype, make


def array(constant: np.ndarray | Deferred) -> np.ndarray:
    """A constant's values."""
    return constant.make() if isinstance(constant, Deferred) else constant


def fold(
    graph: Graph,
    inputs: dict[str, Spec],
    weights: Weights,
    keep: frozenset[str] = frozenset(),
    varying: frozenset[str] = frozenset(),
) -> tuple[Graph, dict[str, Spec], set[str]]:
    """The graph for inputs of these Specs (all dimensions known), the Spec of every value in it, and which of its constants
    the inputs' shapes decide (the others may be shared by all plans).

    Nodes whose outputs nobody reads are dropped, those that read only constants become constants, those that compute
    nothing (Identity, Dropout at inference, Cast to the same type …) are bypassed; where known inputs choose one of a node's
    bodies, it stands for the node, and so do the nodes that an op without kernels names (`expanded`). ``keep`` names values
    to leave alone, ``varying`` constants that shapes decided already. Raises ModelError that names the node where shapes or
    types do not fit.
    """
    nodes = live(graph, keep)
    constants: dict[str, Any] = {}
    specs: dict[str, Spec] = dict(inputs)
    for name in dict.fromkeys((*(n for node in nodes for n in node.inputs), *graph.outputs)):
        known = inputs if name in inputs else graph.constants
        if name in known and known[name].dtype == OBJECT:
            raise DataDependentError(f"{name!r} is no tensor of numbers")
        if name in graph.constants:
            constants[name] = graph.constants[name]
            specs[name] = _spec(graph.constants[name])
    static = set(constants) - varying
    same: dict[str, str] = {}
    read = {name for node in nodes for name in node.inputs} | set(graph.outputs) | keep
    kept: list[Node] = []
    fills: dict[str, Node] = {}
    gone: dict[str, str] = {}
    waiting = nodes[::-1]
    while waiting:
        node = waiting.pop()
        if any(name in same for name in node.inputs):
            node = Node(node.op, tuple(same.get(n, n) for n in node.inputs), node.outputs, node.name)
        given = tuple(specs[n] if n else None for n in node.inputs)
        body = node.op.inlined(given)
        if body:
            inner = _inlined(node, body)
            constants |= inner.constants
            static.update(inner.constants)
            specs |= {name: _spec(value) for name, value in inner.constants.items()}
            read.update(name for n in inner.nodes for name in n.inputs)
            waiting += reversed(inner.nodes)
            continue
        found = node.infer(given)
        if any(spec.dtype == OBJECT for spec in found):
            raise DataDependentError(f"{node.name} ({node.op.type}): its result is no tensor of numbers")
        values = _known(node, given, found, constants, weights if static.issuperset(n for n in node.inputs if n) else None)
        for name, spec in zip(node.outputs, found, strict=False):
            if name:
                specs[name] = spec
        if values is not None:
            for name, value in zip(node.outputs, values, strict=False):
                if name:
                    constants[name] = value
                    specs[name] = _spec(value)._replace(quantisation=specs[name].quantisation)
                    gone[name] = "a constant"
                    if static.issuperset(n for n in node.inputs if n):
                        static.add(name)
                    elif node.op.type == "ConstantOfShape" and specs[name].nbytes > FILLED:
                        fills[name] = node
        elif _bypassed(node, given, keep.union(graph.outputs), read):
            same[node.outputs[0]] = node.inputs[0]
            gone[node.outputs[0]] = f"the same as {node.inputs[0]}"
        else:
            stand, added = expanded(node, given, found)
            constants |= added
            static.update(added)
            specs |= {name: _spec(value) for name, value in added.items()}
            read.update(name for n in stand for name in n.inputs)
            waiting += reversed(stand)
            if not stand:
                kept.append(node)
    there = {n for node in kept for n in node.inputs}.difference(keep, graph.outputs)
    for name in [n for n in fills if n in there]:  # a kernel fills it, rather than that each plan keeps it
        shape = f"{name}/shape"
        constants[shape] = np.array(constants.pop(name).shape, np.int64)
        specs[name], specs[shape] = Spec(specs[name].shape, specs[name].dtype), _spec(constants[shape])
        kept.insert(0, Node(fills[name].op, (shape,), (name,), fills[name].name))
        del gone[name]
    derived = graph.derive(kept, constants, gone)
    if gone or any(node.op.control for node in nodes):  # what only a shape was asked of, or the other body reads
        derived = derived.derive(live(derived, keep))
    return derived, specs, set(constants) - static


def _spec(constant: np.ndarray | Deferred) -> Spec:
    """The Spec of a constant, its value included if it is known already."""
    if type(constant) is Symbol:
        return Spec(shape_of(constant), dtype_of(constant), constant, True)
    deferred = isinstance(constant, Deferred)
    return Spec(tuple(constant.shape), constant.dtype, None if deferred else constant, True)


def _inlined(node: Node, which: str) -> Graph:
    """A body of the node as nodes that make the node's outputs."""
    body = body_of(node, which)
    made, names, copies = set(body.values()), {}, []
    for name, output in zip(body.outputs, node.outputs, strict=False):
        if output and name in made:
            names[name] = output
        elif output:
            copies.append(Node(lookup("Identity")(), (name,), (output,), output))
    inner = renamed(body, names)
    return inner.derive([*inner.nodes, *copies])


def _bypassed(node: Node, given: tuple[Spec | None, ...], wanted: frozenset[str], read: set[str]) -> bool:
    """Whether the readers of the node's first output can read its first input, and nobody reads its others."""
    return node.op.bypass(given) and node.outputs[0] not in wanted and read.isdisjoint(node.outputs[1:])


def live(graph: Graph, keep: frozenset[str] = frozenset()) -> list[Node]:
    """The nodes that outputs (and ``keep``) depend on, in order."""
    wanted = set(graph.outputs) | keep
    found = []
    for node in reversed(graph.nodes):
        if any(name in wanted for name in node.outputs if name):
            wanted.update(name for name in node.inputs if name)
            found.append(node)
    found.reverse()
    return found


def _computed(op: Op, *sources: np.ndarray | Deferred | None) -> list[np.ndarray]:
    result = op.reference(*(None if s is None else array(s) for s in sources))
    return [np.asarray(r) for r in (result if isinstance(result, tuple) else (result,))]


def _known(node: Node, given, found: tuple[Spec, ...], constants: dict, weights: Weights | None) -> list | None:
    """The outputs, where they are known without running the model. ``weights``: where to keep what no input decides."""
    op = node.op
    values = op.known(*given)
    if values is not None:
        return list(values)
    if not op.pure or any(spec is not None and name not in constants for name, spec in zip(node.inputs, given, strict=True)):
        return None
    size = sum(spec.nbytes for spec in found)
    if size > LARGEST:
        raise ModelError(f"{node.name} ({op.type}): a constant of {size} bytes")
    sources = [constants[n] if n else None for n in node.inputs]

    def make() -> list[np.ndarray]:
        return _computed(op, *sources)

    if any(type(source) is Symbol for source in sources):
        return list(apply(partial(_computed, op), *sources))
    if weights is None:
        return make()
    if size > SMALL and len(node.outputs) == 1:
        return [Deferred(found[0].shape, found[0].dtype, lambda: make()[0])]
    return [weights.get(name or f"{node.name}#{i}", lambda i=i: make()[i]) for i, name in enumerate(node.outputs)]
