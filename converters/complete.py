"""A model as onnx's own message with all of its data inside, for engines that are handed one: read under the same guards
as a Graph, which ``onnx.load`` has not in every version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from nbconv.converters.parse import parse
from nbconv.converters.tensors import place_of
from nbconv.converters.tflite.kind import is_tflite
from nbconv.converters.weights import Source
from nbconv.graph.dtypes import packed


def complete(source: Source) -> onnx.ModelProto:
    """The model as its file says it, data of other files taken in; a TFLite model as ONNX. ModelError where it is none, or
    where they are not files of the model's folder."""
    model, converted = parse(source), is_tflite(source.data)
    if not converted:
        model = onnx.ModelProto.FromString(source.data)  # pyright: ignore[reportArgumentType] - it takes any buffer
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or (converted and tensor.doc_string):
            name = tensor.name or "a tensor"
            data = packed(source.view(name, place_of(name, tensor)))
            for field in ("external_data", "data_location", "doc_string"):
                tensor.ClearField(field)
            tensor.raw_data = data
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, whatever holds it; `parse` has refused what is nested too deeply."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for a in node.attribute:
            yield from (a.t, *a.tensors)
            for sparse in (a.sparse_tensor, *a.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (a.g, *a.graphs):
                yield from _of_graph(graph)
