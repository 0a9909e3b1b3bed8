"""Scales a skeleton's layers so that values neither vanish nor grow on the way through the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tests.real import skeleton

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def calibrated(packed: bytes, feeds: Mapping[str, np.ndarray], gains: Mapping[str, float]) -> bytes:
    """The skeleton with the deviations in its recipes such that each layer's results have deviation 1 for `feeds`.

    `gains` has other deviations, by a part of the weights' name.
    """
    drawn = skeleton.unpack(packed)
    model = skeleton.read(packed)
    recipes = {t.name: t for t in skeleton.tensors(model.graph) if skeleton.is_drawn(t)}
    values = dict(feeds) | {t.name: numpy_helper.to_array(t) for t in drawn.graph.initializer}
    scaled = set()
    for node in drawn.graph.node:
        outputs = run(node, values, drawn.opset_import)
        weights = [n for n in node.input if n in recipes]
        if node.op_type in LAYERS and weights and not scaled & set(weights):
            scaled |= set(weights)
            deviation = spread(outputs[0])
            if deviation > 1e-6:
                gain = next((g for part, g in gains.items() if part in weights[0]), 1.0) / deviation
                for name in weights:
                    values[name] = values[name] * np.float32(gain)
                    scale(recipes[name], gain)
                outputs = run(node, values, drawn.opset_import)
        values.update(zip(node.output, outputs, strict=True))
    return skeleton.written(model)


def spread(y: np.ndarray) -> float:
    """Deviation of a layer's results: over an image's pixels where there are some, so that they depend on the picture.

    Results that hardly do count as a tenth of their deviation from channel to channel.
    """
    if y.ndim < 4 or y[0, 0].size == 1:
        return float(y.std())
    pixels = np.sqrt(y.var(axis=tuple(range(2, y.ndim))).mean())
    return float(max(pixels, y.std() / 10))


def scale(tensor: onnx.TensorProto, gain: float) -> None:
    kind, mean, deviation = tensor.doc_string.split()
    assert kind == "normal", tensor.name
    tensor.doc_string = f"normal {float(mean) * gain:.4g} {float(deviation) * gain:.4g}"


def run(node: onnx.NodeProto, values: Mapping[str, np.ndarray], opsets: list) -> list[np.ndarray]:
    """What onnxruntime gives for this node alone; where it gives none for an output, so is the list's entry."""
    read = sorted({n for n in reads(node) if n in values})
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), None) for n in read]
    names = [n for n in node.output if n]
    graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=n) for n in names])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(names, {n: values[n] for n in read}), strict=True))
    return [found.get(n, np.zeros(0, np.float32)) for n in node.output]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Its inputs, and all names that its bodies read."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from reads(inner)
            yield from (o.name for o in attribute.g.output)
