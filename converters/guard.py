"""What must hold of a parsed model before the rest of it may be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx

from nbconv.errors import ModelError

MOST_NODES = 1_000_000
"""Nodes at which a model whose functions are written out is refused."""


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all bodies of its nodes, of theirs, and so on."""
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [g for node in graph.node for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]


def texts(model: onnx.ModelProto) -> Iterator[Any]:
    """Every string of the model that reading it uses."""
    yield from (entry.domain for entry in model.opset_import)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for graph in graphs(model.graph):
        yield from _texts(graph, graph.node)
    for function in model.functions:
        yield from _texts(onnx.GraphProto(), function.node)


def _texts(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    yield graph.name
    for info in (*graph.input, *graph.output):
        yield info.name
        yield from (d.dim_param for d in info.type.tensor_type.shape.dim)
    tensors = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for a in node.attribute:
            yield from (a.name, a.ref_attr_name)
            if a.type == onnx.AttributeProto.TENSOR:
                tensors.append(a.t)
    for tensor in tensors:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def check_functions(model: onnx.ModelProto) -> None:
    """ModelError for functions that call themselves, or that written out would be more than `MOST_NODES` nodes."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    if len(bodies) != len(model.functions):
        raise ModelError("two of the model's functions have the same name")
    sizes: dict[tuple[str, str], int] = {}
    active: set[tuple[str, str]] = set()

    def size(nodes: Any) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1 if key not in bodies else body(key)
            total += sum(size(g.node) for a in node.attribute for g in (a.g, *a.graphs))
        if total > MOST_NODES:
            raise ModelError(f"the model's functions, written out, are more than {MOST_NODES} nodes")
        return total

    def body(key: tuple[str, str]) -> int:
        if key not in sizes:
            if key in active:
                raise ModelError(f"the function {key[1]!r} calls itself")
            active.add(key)
            sizes[key] = size(bodies[key].node)
        return sizes[key]

    try:
        size(model.graph.node)
    except RecursionError:
        raise ModelError("the model's functions are nested too deeply") from None
