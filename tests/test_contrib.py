"""onnxruntime's own operators, held to onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.converters.onnx import read, survey
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.graph.bodies import infer
from nbconv.model import load
from nbconv.passes.autodiff import missing_gradients
from tests.contrib import KINDS, MS, both, floats, ints, model, node, onnx_node, sizes

# Floats

CONV_ACTIVATIONS = {
    "Relu": [], "Tanh": [], "Sigmoid": [], "LeakyRelu": [0.1], "Clip": [-0.5, 0.75], "HardSigmoid": [0.3, 0.4], "": [],
}  # fmt: skip


@pytest.mark.parametrize("seed", range(14))
def test_fused_conv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, (n, ci, co, h, w) = floats(rng), sizes(rng, 5, 3)
    kind, params = list(CONV_ACTIVATIONS.items())[seed % len(CONV_ACTIVATIONS)]
    options: dict[str, Any] = {"activation": kind} if kind else {}
    if params:
        options["activation_params"] = params
    x, weights = r(n, ci, h, w), r(co, ci, 3, 3)
    constants, residual = {"w": weights, "b": r(co)}, seed % 2 and kind in ("Relu", "")
    feeds = {"x": x, "z": r(n, co, h, w)} if residual else {"x": x}
    made = node("FusedConv", "x w b z" if residual else "x w b" if seed % 3 else "x w", pads=[1, 1, 1, 1], **options)
    both(model([made], feeds, {"y": 1}, constants), feeds)


@pytest.mark.parametrize("options", [
    {"activation": "Relu"}, {"activation": "LeakyRelu", "activation_alpha": 0.2}, {"activation": "Tanh", "transA": 1},
    {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.2, "transB": 1, "alpha": 0.5},
    {"activation": "Elu", "activation_alpha": 0.5, "beta": 2.0}, {"activation": "Softplus"},
])  # fmt: skip
def test_fused_gemm(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    r, (m, k, n) = floats(rng), sizes(rng, 3, 2)
    a = r(k, m) if options.get("transA") else r(m, k)
    b = r(n, k) if options.get("transB") else r(k, n)
    both(model([node("FusedGemm", "a b c", **options)], {"a": a}, {"y": 1}, {"b": b, "c": r(n)}), {"a": a})


@pytest.mark.parametrize("kind", ["FusedMatMul", "TransposeMatMul"])
def test_fused_mat_mul(kind: str) -> None:
    r = floats(np.random.default_rng(4))
    a, b = r(2, 3, 5), r(2, 7, 5)
    both(model([node(kind, "a b", transB=1, alpha=0.25)], {"a": a, "b": b}, {"y": 1}, {}), {"a": a, "b": b})


@pytest.mark.parametrize("kind,inputs,options", [
    ("Gelu", "x", {}), ("BiasGelu", "x b", {}), ("FastGelu", "x", {}), ("FastGelu", "x b", {}), ("QuickGelu", "x", {}),
    ("QuickGelu", "x", {"alpha": 1.0}), ("QuickGelu", "x", {"alpha": 0.3}),
])  # fmt: skip
def test_gelu(kind: str, inputs: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    r, (n, m, c) = floats(rng), sizes(rng, 3)
    x = 3 * r(n, m, c)
    both(model([node(kind, inputs, **options)], {"x": x}, {"y": 1}, {"b": r(c)} if "b" in inputs.split() else {}), {"x": x})


@pytest.mark.parametrize("inputs,outputs", [
    ("x s g", "y"), ("x s g t", "y"), ("x s g t b", "y"), ("x s g t b", "y - - total"), ("x s g t", "y - - total"),
])  # fmt: skip
def test_skip_layer_normalization(inputs: str, outputs: str) -> None:
    r = floats(np.random.default_rng(6))
    x, s = r(2, 5, 16), r(2, 5, 16)
    made = node("SkipLayerNormalization", inputs, "y", epsilon=1e-5)
    made.output[:] = ["" if n == "-" else n for n in outputs.split()]
    constants = {"g": r(16), "t": r(16), "b": r(16)}
    kept = {n: v for n, v in constants.items() if n in inputs.split()}
    named = {n: 1 for n in outputs.split() if n != "-"}
    both(model([made], {"x": x, "s": s}, named, kept), {"x": x, "s": s})


def test_skip_simplified_layer_normalization() -> None:
    r = floats(np.random.default_rng(7))
    x, s = r(2, 5, 16), r(2, 5, 16)
    made = node("SkipSimplifiedLayerNormalization", "x s g b", epsilon=1e-5)
    both(model([made], {"x": x, "s": s}, {"y": 1}, {"g": r(16), "b": r(16)}), {"x": x, "s": s})


@pytest.mark.parametrize("kind", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_normalization_in_an_older_opset(kind: str) -> None:
    r = floats(np.random.default_rng(8))
    x = r(2, 5, 16)
    inputs = "x g t" if kind == "LayerNormalization" else "x g"
    constants = {n: r(16) for n in inputs.split()[1:]}
    both(model([node(kind, inputs, domain="", axis=-1, epsilon=1e-5)], {"x": x}, {"y": 1}, constants, 13), {"x": x})


@pytest.mark.parametrize("last,activation", [(1, 1), (1, 0), (0, 1)])
def test_group_norm(last: int, activation: int) -> None:
    """onnxruntime has it on GPUs alone."""
    r = floats(np.random.default_rng(9))
    x, g, t = r(2, 6, 3, 4), r(6), r(6)
    groups = x.reshape(2, 3, -1)
    y = ((groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    y = y * g.reshape(-1, 1, 1) + t.reshape(-1, 1, 1)
    y = y / (1 + np.exp(-y)) if activation else y
    feed = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
    made = node("GroupNorm", "x g t", groups=3, activation=activation, channels_last=last)
    content = model([made], {"x": feed}, {"y": 1}, {"g": g, "t": t})
    np.testing.assert_allclose(
        load(content).run({"x": feed})["y"], np.moveaxis(y, 1, -1) if last else y, rtol=1e-4, atol=1e-5
    )


def test_bias_split_gelu() -> None:
    """onnxruntime has it on GPUs alone."""
    x = np.array([[[1.0, 2.0, 0.5, -1.0]]], np.float32)
    content = model([node("BiasSplitGelu", "x b")], {"x": x}, {"y": 1}, {"b": np.array([1, 0, 0.5, 0], np.float32)})
    np.testing.assert_allclose(load(content).run({"x": x})["y"], [[[2 * 0.8413447, 2 * -0.15865526]]], rtol=1e-5)


def test_gradients_go_through_what_is_rewritten() -> None:
    r = floats(np.random.default_rng(10))
    nodes = [
        node("FusedConv", "x w b", "c", activation="LeakyRelu", activation_params=[0.1]), node("Gelu", "c", "g"),
        node("FusedMatMul", "g m", "f", transB=1), node("QuickGelu", "f", "y"),
    ]  # fmt: skip
    x = r(1, 3, 8, 8)
    content = model(nodes, {"x": x}, {"y": 1}, {"w": r(4, 3, 3, 3), "b": r(4), "m": r(5, 6)})
    graph = read(content)
    assert not load(content).plan({"x": x.shape}).numpy_steps()
    assert missing_gradients(graph, infer(graph, {"x": Spec(x.shape, x.dtype)}), ["x"]) == []


def test_shapes_are_known_behind_them() -> None:
    """Of opset 18's GroupNormalization and opset 11's Softmax the rewriting wants the channels and the rank."""
    r = floats(np.random.default_rng(13))
    x = r(2, 3, 6, 5)
    nodes = [
        node("FusedConv", "x w b", "c", activation="Relu"), node("Gelu", "c", "g"),
        onnx_node("GroupNormalization", "g s t", "y", num_groups=2),
    ]  # fmt: skip
    constants = {"w": r(4, 3, 3, 3), "b": r(4), "s": r(2), "t": r(2)}
    both(model(nodes, {"x": x}, {"y": 1}, constants, 18), {"x": x})
    content = model(
        [nodes[0], onnx_node("Softmax", "c", "y", axis=3)], {"x": x}, {"y": 1}, {"w": constants["w"], "b": r(4)}, 11
    )
    assert [n.op.type for n in read(content).nodes] == ["Conv", "Relu", "Softmax"]
    both(content, {"x": x})


# Integers


@pytest.mark.parametrize("seed", range(6))
def test_dynamic_quantize_mat_mul(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, (batch, m, k, n) = floats(rng), sizes(rng, 4, 2, 40)
    kind, per_column, bias = (np.uint8, np.int8)[seed % 2], seed % 3, seed > 2
    constants = {
        "b": ints(rng, kind, k, n), "s": np.abs(r(n) if per_column else r()) + np.float32(0.01),
        "z": ints(rng, kind, n) if per_column else ints(rng, kind), "t": r(n),
    }  # fmt: skip
    a = r(batch, m, k)
    made = node("DynamicQuantizeMatMul", "a b s z t" if bias else "a b s z")
    kept = {name: v for name, v in constants.items() if name in made.input}
    both(model([made], {"a": a}, {"y": 1}, kept), {"a": a})


@pytest.mark.parametrize("seed", range(4))
def test_mat_mul_integer_to_float(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, (m, k, n) = floats(rng), sizes(rng, 3, 2, 40)
    constants = {
        "b": ints(rng, np.int8, k, n), "p": np.float32(0.02), "q": np.abs(r(n)), "u": np.uint8(100),
        "v": ints(rng, np.int8, n), "t": r(n),
    }  # fmt: skip
    a = ints(rng, np.uint8, m, k)
    made = node("MatMulIntegerToFloat", ["a b p q", "a b p q u", "a b p q u v t", "a b p q - v"][seed])
    kept = {name: v for name, v in constants.items() if name in made.input}
    both(model([made], {"a": a}, {"y": 1}, kept), {"a": a})


@pytest.mark.parametrize("seed", range(6))
def test_q_gemm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = sizes(rng, 3, 2, 30)
    trans: dict[str, Any] = {"transA": seed % 2, "transB": seed // 2 % 2}
    a = ints(rng, np.uint8, *((k, m) if trans["transA"] else (m, k)))
    constants = {
        "b": ints(rng, np.int8, *((n, k) if trans["transB"] else (k, n))), "p": np.float32(0.02), "u": np.uint8(100),
        "q": np.float32(0.03), "v": np.int8(3), "c": rng.integers(-3000, 3000, n).astype(np.int32),
        "s": np.float32(0.7), "z": np.uint8(128),
    }  # fmt: skip
    made = node("QGemm", ["a p u b q v c s z", "a p u b q v c", "a p u b q v - s z"][seed % 3], alpha=0.5, **trans)
    kept = {name: v for name, v in constants.items() if name in made.input}
    both(model([made], {"a": a}, {"y": 1 if seed % 3 == 1 else 2}, kept), {"a": a})


@pytest.mark.parametrize("seed", range(4))
def test_q_linear_conv_channels_last(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, ci, co, h, w = sizes(rng, 5, 4, 20)
    constants = {
        "w": ints(rng, np.int8, co, ci, 3, 3), "p": np.float32(0.02), "u": np.uint8(100), "q": np.float32(0.03),
        "v": np.int8(0), "s": np.float32(2), "z": np.uint8(128), "b": rng.integers(-3000, 3000, co).astype(np.int32),
    }  # fmt: skip
    x = ints(rng, np.uint8, n, h, w, ci) if seed % 2 else ints(rng, np.uint8, n, ci, h, w)
    options: dict[str, Any] = {"kernel_shape": [3, 3]} if seed < 2 else {}
    made = node("QLinearConv", "x p u w q v s z b", channels_last=seed % 2, pads=[1, 0, 1, 2], **options)
    both(model([made], {"x": x}, {"y": 2}, constants), {"x": x})


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_nhwc_max_pool(kind: Any) -> None:
    x = ints(np.random.default_rng(11), kind, 2, 9, 7, 5)
    made = node("NhwcMaxPool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    both(model([made], {"x": x}, {"y": KINDS[x.dtype]}, {}), {"x": x}, 0)


def test_quantize_and_dequantize_of_their_domain() -> None:
    x = floats(np.random.default_rng(12))(3, 5)
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")]
    both(model(nodes, {"x": x}, {"y": 1}, {"s": np.float32(0.02), "z": np.uint16(30000)}), {"x": x})


# Refusals


@pytest.mark.parametrize("kind,domain,message", [
    ("Attention", MS, r"operator com\.microsoft\.Attention is not supported"),
    ("Conv", f"{MS}.nchwc", r"operator com\.microsoft\.nchwc\.Conv is not supported .*'extended'"),
    ("Silu", "nbconv", r"operator nbconv\.Silu is not supported"),
    ("Relu", "com.example", r"operator com\.example\.Relu is not supported"),
])  # fmt: skip
def test_refused_by_name(kind: str, domain: str, message: str) -> None:
    content = model([node(kind, "x", domain=domain)], {"x": np.zeros((1, 2), np.float32)}, {"y": 1}, {})
    with pytest.raises(UnsupportedError, match=message):
        read(content)
    assert survey(content)


def test_attributes_are_checked() -> None:
    x = np.zeros((1, 2), np.uint8)
    constants = {"s": np.float32(1), "z": np.uint8(0)}
    with pytest.raises(ModelError, match="lacks its attribute 'opset'"):
        read(model([node("QLinearSoftmax", "x s z s z")], {"x": x}, {"y": 2}, constants))
    with pytest.raises(UnsupportedError, match="QLinearSigmoid has no attribute 'alpha'"):
        read(model([node("QLinearSigmoid", "x s z s z", alpha=1.0)], {"x": x}, {"y": 2}, constants))
    with pytest.raises(UnsupportedError, match="the activation 'Mystery' is not supported"):
        read(model([node("FusedConv", "x w", activation="Mystery")], {"x": np.zeros((1, 2, 3, 3), np.float32)}, {"y": 1},
                   {"w": np.zeros((1, 2, 1, 1), np.float32)}))  # fmt: skip
    with pytest.raises(ModelError, match=r"FusedConv.*wants 2 inputs"):
        read(model([node("FusedConv", "x")], {"x": np.zeros((1, 2, 3, 3), np.float32)}, {"y": 1}, {}))
