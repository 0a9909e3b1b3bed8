"""Models that tests share: onnx's light models with real weights, the bundled and rapidocr's, a small one to damage."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
"""Names for `light_model`."""

RAPIDOCR = {
    "det": "ch_PP-OCRv4_det_infer.onnx",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "rec": "ch_PP-OCRv4_rec_infer.onnx",
}


def asset(name: str) -> Path:
    """The path of a model in the project's models folder, by file name."""
    return Path(__file__).resolve().parent.parent / "models" / name


def rapidocr(name: str) -> Path:
    """The path of rapidocr-onnxruntime's ``det``, ``cls`` or ``rec`` model."""
    import importlib.util

    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "models" / RAPIDOCR[name]


@functools.lru_cache(maxsize=2)  # vgg19 alone is 575 MB
def light_model(name: str, softmax: bool = True, seed: int = 0) -> bytes:
    """One of onnx's light models (1×3×224×224) as a network that tells something: each ConstantOfShape weight becomes a
    seeded initializer (He-scaled where it multiplies, near 1 where it scales, small where it is added), and the batch
    is the dimension "N". ``softmax=False`` leaves a final Softmax out."""
    path = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(path)
    graph = model.graph
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    rng = np.random.default_rng([seed, LIGHT.index(name)])
    roles = _roles(graph)
    replaced, nodes = {}, []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(d) for d in shapes[node.input[0]])
            replaced[node.output[0]] = _weight(rng, shape, roles[node.output[0]])
        else:
            nodes.append(node)
    spent = {node.input[0] for node in graph.node if node.op_type == "ConstantOfShape"}
    for node in nodes:
        if node.op_type == "Reshape" and node.input[0] not in roles and shapes[node.input[1]][0] == 1:
            replaced[node.input[1]] = np.array([0, *shapes[node.input[1]][1:]])
    kept = [t for t in graph.initializer if t.name not in spent and t.name not in replaced]
    inputs = [i for i in graph.input if i.name not in shapes]
    if not softmax and nodes[-1].op_type == "Softmax":
        graph.output[0].name = nodes.pop().input[0]
    for info in (*inputs, *graph.output):
        info.type.tensor_type.shape.dim[0].dim_param = "N"
    known = {t.name: t for t in kept}
    known.update({name: onnx.numpy_helper.from_array(value, name) for name, value in replaced.items()})
    for part in ("node", "initializer", "input", "value_info"):
        graph.ClearField(part)
    graph.node.extend(nodes)
    graph.initializer.extend(known.values())
    graph.input.extend(inputs)
    model.ir_version = 4  # from here on initializers need not be inputs
    return model.SerializeToString()


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each weight does, by the node that reads it (through Unsqueeze and Reshape)."""
    by_slot = {
        "Conv": {1: "conv", 2: "shift"},
        "BatchNormalization": {1: "scale", 2: "shift", 3: "shift", 4: "scale"},
        "Mul": {0: "scale", 1: "scale"},
        "Add": {0: "shift", 1: "shift"},
    }
    roles: dict[str, str] = {}
    for node in reversed(graph.node):
        if node.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            roles.update({node.input[1]: "dense transposed" if transposed else "dense", node.input[2]: "shift"})
        elif node.op_type in ("Unsqueeze", "Reshape") and node.output[0] in roles:
            roles[node.input[0]] = roles[node.output[0]]
        for slot, role in by_slot.get(node.op_type, {}).items():
            if slot < len(node.input):
                roles[node.input[slot]] = role
    return roles


def _weight(rng: np.random.Generator, shape: tuple[int, ...], role: str) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if role == "scale":
        return np.float32(1) + np.float32(0.1) * noise.clip(-3, 3)
    if role == "shift":
        return np.float32(0.05) * noise
    fan_in = {"conv": int(np.prod(shape[1:])), "dense": shape[0], "dense transposed": shape[-1]}[role]
    noise *= np.float32((2 / fan_in) ** 0.5)
    return noise


def small_model(opset: int = 17) -> onnx.ModelProto:
    """Conv, Relu, pooling, Flatten, Gemm over a batch "N" of 3×9×7: quick to run, with weights large and small."""
    rng = np.random.default_rng(7)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 2), np.float32),
        "b": rng.standard_normal(4, np.float32),
        "fc": rng.standard_normal((4, 5), np.float32),
        "fc_b": rng.standard_normal(5, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], "conv1", pads=[1, 0, 1, 1], strides=[2, 1]),
        helper.make_node("Relu", ["conv"], ["act"], "relu1"),
        helper.make_node("GlobalAveragePool", ["act"], ["pool"], "pool1"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten1"),
        helper.make_node("Gemm", ["flat", "fc", "fc_b"], ["y"], "gemm1"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 9, 7])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 5])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="tests")
