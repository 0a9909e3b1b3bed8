"""Real networks against onnxruntime: their outputs before softmax, and every value on the way, at several shapes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import nbconv
from tests.models import LIGHT, asset, light_model, rapidocr

BOUND = 1e-4
"""Of the largest value of an array."""

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "efficientnet_lite0": [(1, 3, 224, 224), (4, 3, 224, 224)],
    "efficientnet_lite0_bn": [(1, 3, 224, 224), (4, 3, 224, 224)],
    "blazeface_short_128": [(1, 3, 128, 128), (4, 3, 128, 128)],
    "selfie_segmentation_256": [(1, 3, 256, 256), (4, 3, 256, 256)],
    "mtcnn_pnet": [(1, 3, 47, 63), (4, 3, 120, 50), (1, 3, 224, 224)],
    "det": [(1, 3, 160, 320), (4, 3, 160, 96), (1, 3, 64, 224)],
    "cls": [(1, 3, 48, 192), (4, 3, 48, 192), (2, 3, 48, 96)],
    "rec": [(1, 3, 48, 320), (4, 3, 48, 160), (2, 3, 48, 64)],
    **{name: [(1, 3, 224, 224), (4, 3, 224, 224)] for name in LIGHT},
}
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]


def content(name: str) -> bytes:
    """The model's file."""
    if name in LIGHT:
        return light_model(name, softmax=False)
    if name in ("det", "cls", "rec"):
        return rapidocr(name).read_bytes()
    if name == "efficientnet_lite0_bn":
        return unfolded(asset("efficientnet_lite0.onnx"))
    return asset(f"{name}.onnx").read_bytes()


def unfolded(path: Path) -> bytes:
    """The model in float32 with a seeded BatchNormalization after each convolution, and weights that make up for it."""
    model = onnx.load(path)
    graph = model.graph
    rng = np.random.default_rng(5)
    weights = {
        t.name: numpy_helper.to_array(t).astype(np.float32)
        for t in graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT16
    }
    casts = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast" and n.input[0] in weights}
    for output, source in casts.items():
        weights[output] = weights.pop(source)
    kept = [t for t in graph.initializer if t.data_type != onnx.TensorProto.FLOAT16]
    weights.update({t.name: numpy_helper.to_array(t) for t in kept})
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in casts:
            continue
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        w, b = weights[node.input[1]], weights[node.input[2]]
        scale, mean, var = rng.uniform(0.5, 2, len(b)), rng.standard_normal(len(b)), rng.uniform(0.3, 3, len(b))
        factor = scale / np.sqrt(var + 1e-3)
        weights[node.input[1]] = (w / factor.reshape(-1, 1, 1, 1)).astype(np.float32)
        fields = {"scale": scale, "shift": b + mean * factor, "mean": mean, "var": var}
        weights.update({f"{node.output[0]}.{k}": v.astype(np.float32) for k, v in fields.items()})
        result, node.output[0] = node.output[0], f"{node.output[0]}.raw"
        inputs = [node.output[0], *(f"{result}.{k}" for k in fields)]
        nodes.append(helper.make_node("BatchNormalization", inputs, [result], epsilon=1e-3))
        del node.input[2]
    graph.ClearField("node")
    graph.ClearField("initializer")
    graph.ClearField("value_info")
    read = {name for node in nodes for name in node.input}
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items() if k in read)
    return model.SerializeToString()


def picture(shape: tuple[int, ...]) -> np.ndarray:
    """Lines of text on paper, from -1 to 1: what a text detector is for; in noise its answer is 1e-8 everywhere, which
    onnxruntime has not exactly either."""
    from PIL import Image, ImageDraw, ImageFont

    n, _, h, w = shape
    images = []
    for i in range(n):
        image = Image.new("RGB", (w, h), (240, 236 - 10 * i, 225))
        draw = ImageDraw.Draw(image)
        for j, y in enumerate(range(6, h - 20, 34)):
            draw.text((5 + 3 * i, y), f"Ticket {j}{i} No. 48-{w}", fill=(20, 10 * i, 60), font=ImageFont.load_default(22))
        images.append(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return np.stack(images)


@functools.lru_cache(maxsize=1)
def both(name: str) -> tuple[nbconv.Model, list[str], list[str], Any]:
    """The model; its outputs and all values of its nodes; onnxruntime's session that gives all of them."""
    data = content(name)
    model = nbconv.load(data, threads=2)
    outputs = [p.name for p in model.outputs]
    proto = onnx.load_from_string(data)
    made = {o for node in proto.graph.node for o in node.output}
    values = [v for v in model.graph.values() if v in made]
    proto.graph.ClearField("output")
    proto.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return model, outputs, values, onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def miss(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| / max|want|; infinite where NaNs or shapes differ."""
    if got.shape != want.shape or got.dtype != want.dtype or (want.dtype.kind == "f" and not np.isfinite(want).all()):
        return np.inf
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(got, want) else np.inf
    scale = np.abs(want).max(initial=0)
    error = np.abs(got - want).max(initial=0)
    return float(error / scale) if scale else float(error)


@pytest.mark.parametrize(("name", "shape"), CASES, ids=lambda v: v if isinstance(v, str) else "x".join(map(str, v)))
def test_agrees(name: str, shape: tuple[int, ...]) -> None:
    model, outputs, values, session = both(name)
    source = model.inputs[0].name
    x = picture(shape) if name in ("det", "cls", "rec") else np.random.default_rng(0).standard_normal(shape, np.float32)
    want = dict(zip(values, session.run(None, {source: x}), strict=True))

    found = model.run({source: x})
    for output in outputs:
        error = miss(found[output], want[output])
        assert error <= BOUND, f"output {output}: {error:.2g}"
        if name in LIGHT:
            assert want[output].std() > 0.01 * np.abs(want[output]).max(), "the test's weights tell nothing"
    alone = model.run({source: x}, threads=1)
    assert all(alone[o].tobytes() == found[o].tobytes() for o in outputs), "one thread gives other bits than two"
    assert not model.plan({source: shape}).numpy_steps()

    if shape[0] > 1 and name in LIGHT:
        return  # all values were compared at batch 1
    every = model.run({source: x}, fetch=values)
    errors = {value: miss(every[value], want[value]) for value in values}
    assert max(errors.values()) <= BOUND, f"first off: {next(f'{v} {e:.2g}' for v, e in errors.items() if e > BOUND)}"


def test_unfolded_is_the_folded_one() -> None:
    """The compensation holds, and folding finds its way back: as many steps as without the normalisations."""
    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224), np.float32)
    folded, spread = (nbconv.load(content(n)) for n in ("efficientnet_lite0", "efficientnet_lite0_bn"))
    assert miss(spread(x), folded(x)) < 1e-3
    steps = [len(m.plan({m.inputs[0].name: x.shape}).steps) for m in (folded, spread)]
    assert steps[0] == steps[1]
