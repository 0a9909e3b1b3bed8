"""A trained graph as an ONNX file: the file that was read with other weights in it, or the graph written anew."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nbconv.base.files import replace
from nbconv.edit.fold_norms import folded
from nbconv.graph import Graph, Node


def save(graph: Graph, path: str | os.PathLike, source: Any, fold: bool = False) -> None:
    """Write ``graph``, which training made of what was read from ``source`` (a `nbconv.converters.weights.Source`, or None),
    for inference; whole or not at all.

    The file that the model was read from is written again, with its nodes, names and opset, and new weights; where that is
    not possible (the model came from no file, or from a TFLite one, or its structure was changed on the way in) as opset 21,
    with nbconv's names. ``fold``: batch normalisations go into the layers before them (always opset 21). onnx's
    checker must pass what is written. Raises ModelError where it cannot be written, OSError where the file cannot,
    ImportError without onnx.
    """
    from nbconv.converters.onnx import save as write

    if fold:
        write(folded(graph), path)
        return
    proto = None if source is None else patched(graph, source)
    if proto is None:
        write(graph, path)
        return
    from nbconv.converters.exporter import LIMIT, _checked

    if sum(a.nbytes for a in graph.constants.values()) > LIMIT:
        write(graph, path)
        return
    content = _checked(proto).SerializeToString()
    replace(path, lambda file: file.write(content))


def patched(graph: Graph, source: Any) -> Any:
    """The ModelProto that was read, with the graph's weights; None where it does not have what would be changed."""
    from onnx import ModelProto, external_data_helper, numpy_helper

    from nbconv.converters.onnx import read
    from nbconv.converters.tflite.kind import is_tflite

    if source.external or is_tflite(source.data):
        return None
    before, proto = read(source), ModelProto.FromString(bytes(source.data))
    if any(external_data_helper.uses_external_data(t) for t in proto.graph.initializer):
        return None
    if proto.functions or [n.name for n in _same(before, graph)] != [n.name for n in graph.nodes]:
        return None
    changed = {n: a for n, a in graph.constants.items() if n not in before.constants or a is not before.constants[n]}
    tensors = {t.name: t for t in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers = {name for node in graph.nodes for name in node.inputs}
    sources: set[str] = set()
    for name, array in changed.items():
        old = before.constants.get(name)
        if name not in readers or (old is not None and old.shape == array.shape and np.array_equal(old, array)):
            continue
        if name in tensors:
            tensors[name].CopyFrom(numpy_helper.from_array(np.asarray(array), name))
        elif name in makers and (makers[name].op_type == "Constant" or name not in before.constants):
            sources.update(makers[name].input)
            proto.graph.node.remove(makers[name])
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        else:
            return None
    _drop_unread(proto, sources)
    _rename_shapes(proto, before, graph)
    del proto.graph.value_info[:]
    _declare(proto, graph)
    del proto.metadata_props[:]
    for key, value in graph.metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return proto


def _drop_unread(proto: Any, names: set[str]) -> None:
    """Initializers of these names go where no node reads them any more."""
    read = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            return  # a body may read any name around it
        read.update(node.input)
    for tensor in [t for t in proto.graph.initializer if t.name in names and t.name not in read]:
        proto.graph.initializer.remove(tensor)


def _same(before: Graph, graph: Graph) -> list[Node]:
    """The nodes that were read, less those whose result is a constant now."""
    return [n for n in before.nodes if not any(name in graph.constants for name in n.outputs)]


def _rename_shapes(proto: Any, before: Graph, graph: Graph) -> None:
    """A Reshape behind a new head reads a new shape."""
    from onnx import numpy_helper

    old = {n.name: n for n in before.nodes}
    for node in graph.nodes:
        if node.op.type == "Reshape" and node.inputs[1] != old[node.name].inputs[1]:
            made = next(n for n in proto.graph.node if n.output[0] == node.outputs[0])
            made.input[1] = node.inputs[1]
            proto.graph.initializer.append(numpy_helper.from_array(graph.constants[node.inputs[1]], node.inputs[1]))


def _declare(proto: Any, graph: Graph) -> None:
    """The outputs' shapes, where a new head changed them."""
    for info in proto.graph.output:
        spec = graph.outputs.get(info.name)
        if spec is None or not info.type.tensor_type.HasField("shape"):
            continue
        for dim, size in zip(info.type.tensor_type.shape.dim, spec.shape, strict=False):
            if isinstance(size, int) and dim.dim_value not in (0, size):
                dim.dim_value = size
