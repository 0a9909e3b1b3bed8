"""Exported models without their weights: `pack` makes a file of some kilobytes, `unpack` the model.

A skeleton is an ONNX model, compressed by xz, in which the tensors that were learnt have no data. Their `doc_string` says
how to draw them: `normal MEAN DEVIATION`, or `lognormal MEAN DEVIATION` (of the logarithm) where all values were positive.
All else is as exported, tables and small constants included.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

LEAST = 256
"""Elements of a tensor that is drawn; smaller ones are carried."""

LEARNT = 0.8
"""What has been learnt or drawn hardly compresses; tables of coordinates and masks do."""


def pack(model: onnx.ModelProto) -> tuple[bytes, list[str]]:
    """The skeleton, and a line for each tensor of more than 4 KiB that it carries."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.producer_name = model.doc_string = ""
    carried = []
    for tensor in tensors(model.graph):
        tensor.doc_string = ""
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= LEAST and compressed(values) > LEARNT:
            drawn = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            drawn.doc_string = recipe(values)
            tensor.CopyFrom(drawn)
        elif values.nbytes > 4096:
            carried.append(f"{tensor.name}: {values.dtype}{values.shape}, compresses to {compressed(values):.2f}")
    for graph in graphs(model.graph):
        del graph.value_info[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    del model.metadata_props[:]
    return written(model), carried


def written(model: onnx.ModelProto) -> bytes:
    return lzma.compress(model.SerializeToString(deterministic=True), preset=9 | lzma.PRESET_EXTREME)


def read(data: bytes) -> onnx.ModelProto:
    """The skeleton, as it is: without weights."""
    return onnx.ModelProto.FromString(lzma.decompress(data))


def is_drawn(tensor: onnx.TensorProto) -> bool:
    return tensor.doc_string.startswith(("normal ", "lognormal "))


def unpack(data: bytes, seed: int = 0) -> onnx.ModelProto:
    """The model, with weights of this seed."""
    model = read(data)
    for i, tensor in enumerate(tensors(model.graph)):
        if is_drawn(tensor):
            kind, *numbers = tensor.doc_string.split()
            mean, deviation = map(np.float32, numbers)
            drawn = np.random.default_rng([seed, i]).standard_normal(tuple(tensor.dims), np.float32)
            drawn = mean + deviation * drawn
            tensor.raw_data = (np.exp(drawn) if kind == "lognormal" else drawn).tobytes()
            tensor.doc_string = ""
    return model


def recipe(values: np.ndarray) -> str:
    kind = "normal"
    if values.min() > 0:
        kind, values = "lognormal", np.log(values)
    return f"{kind} {values.mean(dtype=np.float64):.4g} {values.std(dtype=np.float64):.4g}"


def compressed(values: np.ndarray) -> float:
    """Of its size."""
    return len(zlib.compress(values.tobytes())) / max(values.nbytes, 1)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """It, and the bodies in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, those of bodies included; always in the same order."""
    for each in graphs(graph):
        yield from each.initializer
        for node in each.node:
            yield from (a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR)
