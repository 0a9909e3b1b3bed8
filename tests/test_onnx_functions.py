"""Operators that ONNX defines by functions and nbconv expands: as onnx's reference has them, on kernels, with gradients."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper

import nbconv
from nbconv.converters.onnx import read, survey
from nbconv.graph import Spec, spec_of
from nbconv.lowering.weights import Weights
from nbconv.passes.autodiff import missing_gradients
from nbconv.passes.fold import fold

NEWEST = onnx.defs.onnx_opset_version()


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_node(op: str, feeds: dict[str, np.ndarray], opset: int, **attributes) -> onnx.ModelProto:
    """A model of this node, whose inputs have no declared sizes."""
    number = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), ["y"], "the_node", **attributes)],
        "case",
        [helper.make_tensor_value_info(n, number(x.dtype), [f"{n}{i}" for i in range(x.ndim)]) for n, x in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


HEADS = {"q": f32(2, 4, 5, 8), "k": f32(2, 4, 6, 8, seed=1), "v": f32(2, 4, 6, 3, seed=2)}
FLAT = {"q": f32(2, 5, 32), "k": f32(2, 6, 32, seed=1), "v": f32(2, 6, 16, seed=2)}
ROTATED = {"x": f32(2, 3, 4, 6), "cos": f32(2, 4, 3, seed=1), "sin": f32(2, 4, 3, seed=2)}
CASES = {
    "attention": (23, "Attention", HEADS, {}),
    "attention causal": (23, "Attention", HEADS, {"is_causal": 1}),
    "attention mask": (24, "Attention", {**HEADS, "mask": f32(5, 6, seed=3)}, {"scale": 0.5}),
    "attention flat": (NEWEST, "Attention", FLAT, {"q_num_heads": 4, "kv_num_heads": 4, "softcap": 2.0}),
    "attention groups": (23, "Attention", {**HEADS, "k": f32(2, 2, 6, 8), "v": f32(2, 2, 6, 3)}, {}),
    "rms": (23, "RMSNormalization", {"x": f32(2, 3, 4), "scale": f32(4, seed=1)}, {}),
    "rms axis": (NEWEST, "RMSNormalization", {"x": f32(2, 3, 4), "scale": f32(3, 4, seed=1)}, {"axis": 1, "epsilon": 0.1}),
    "rotary": (23, "RotaryEmbedding", ROTATED, {}),
    "rotary interleaved": (23, "RotaryEmbedding", ROTATED, {"interleaved": 1}),
    "swish": (24, "Swish", {"x": f32(3, 5)}, {}),
    "swish alpha": (24, "Swish", {"x": f32(3, 5)}, {"alpha": 0.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_expanded(name):
    opset, op, feeds, attributes = CASES[name]
    proto = one_node(op, feeds, opset, **attributes)
    content = proto.SerializeToString()
    assert not survey(content)
    want = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)[0]
    model = nbconv.load(content)
    np.testing.assert_allclose(model.run(feeds)["y"], want, rtol=2e-6, atol=2e-6)
    assert not model.plan({n: x.shape for n, x in feeds.items()}).numpy_steps()
    specs = {n: Spec(x.shape, x.dtype) for n, x in feeds.items()}
    graph, specs, _ = fold(read(content), specs, Weights())
    assert not missing_gradients(graph, specs, list(feeds))


def test_attributes_left_out_have_their_defaults():
    for op in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        feeds = {"size": np.array(10, np.int32)}
        proto = one_node(op, feeds, 17)
        want = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)[0]
        np.testing.assert_allclose(nbconv.load(proto.SerializeToString()).run(feeds)["y"], want, rtol=1e-5, atol=1e-6)


def test_in_the_body_of_an_if():
    branch = one_node("RMSNormalization", {"x": f32(2, 3), "scale": f32(3)}, 23).graph
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "other", [], [branch.output[0]])
    other.output[0].name = "z"
    del branch.input[:]
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y_out"], then_branch=branch, else_branch=other)],
        "outer",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("y_out", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    feeds = {"c": np.array(True), "x": f32(2, 3), "scale": f32(3, seed=1)}
    given = {"x": feeds["x"], "scale": feeds["scale"]}
    want = onnx.reference.ReferenceEvaluator(one_node("RMSNormalization", given, 23)).run(None, given)[0]
    model = nbconv.load(proto.SerializeToString())
    np.testing.assert_allclose(model.run(feeds)["y_out"], want, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(model.run({**feeds, "c": np.array(False)})["y_out"], feeds["x"])


def test_constants_and_weights_survive():
    """A large initializer, whose bytes are not parsed, reaches the expanded nodes."""
    scale = f32(5000, seed=1)
    graph = helper.make_graph(
        [helper.make_node("RMSNormalization", ["x", "scale"], ["y"])],
        "weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(scale, "scale")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    x = f32(2, 5000)
    want = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(nbconv.load(proto.SerializeToString()).run({"x": x})["y"], want, rtol=2e-5, atol=2e-6)
    assert spec_of(read(proto.SerializeToString()).constants["scale"]).shape == (5000,)
