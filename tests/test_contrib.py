"""onnxruntime's own operators: models of them, and models that its optimizer saved, held to onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from nbconv.converters.onnx import read, survey, write
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.graph.bodies import infer
from nbconv.model import load
from nbconv.passes.autodiff import missing_gradients

ort: Any = pytest.importorskip("onnxruntime")

MS = "com.microsoft"
KINDS = {np.dtype(t): n for t, n in (("f4", 1), ("u1", 2), ("i1", 3), ("i4", 6), ("i8", 7), ("?", 9))}


def model(
    nodes: list, inputs: dict[str, np.ndarray], outputs: dict[str, int], constants: dict[str, Any], opset: int = 17
) -> bytes:
    """A model of these nodes. Inputs are declared without their sizes."""
    graph = helper.make_graph(
        nodes, "contrib",
        [helper.make_tensor_value_info(n, KINDS[v.dtype], [f"{n}{i}" for i in range(v.ndim)]) for n, v in inputs.items()],
        [helper.make_tensor_value_info(n, kind, None) for n, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def peer(content: bytes | str, level: str = "ORT_DISABLE_ALL", saved: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    return ort.InferenceSession(content, options, ["CPUExecutionProvider"])


def agree(content: bytes, feeds: dict[str, np.ndarray], want: list[np.ndarray], names: list[str], steps: int = 1) -> None:
    """nbconv's results against onnxruntime's: floats as CNNs' are held, integers within ``steps``."""
    got = load(content).run(feeds)
    for name, expected in zip(names, want, strict=True):
        y = got[name]
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype), name
        if y.dtype.kind == "f":
            np.testing.assert_allclose(y, expected, rtol=1e-3, atol=2e-4, err_msg=name)
        else:
            apart = np.abs(y.astype(np.int64) - expected.astype(np.int64)).max(initial=0)
            assert apart <= steps, f"{name}: {apart} apart"


def both(content: bytes, feeds: dict[str, np.ndarray], steps: int = 1) -> None:
    session = peer(content)
    names = [o.name for o in session.get_outputs()]
    want = session.run(None, feeds)
    agree(content, feeds, want, names, steps)
    proto = ModelProto.FromString(content)
    for info, y in zip(proto.graph.output, want, strict=True):
        for size in y.shape:
            info.type.tensor_type.shape.dim.add(dim_value=size)
    agree(write(read(proto.SerializeToString())), feeds, want, names, steps)  # what was read can be written


Draw = Callable[..., np.ndarray]


def floats(rng: np.random.Generator) -> Draw:
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def sizes(rng: np.random.Generator, count: int, low: int = 1, high: int = 9) -> list[int]:
    return [int(v) for v in rng.integers(low, high, count)]


def node(kind: str, inputs: str, outputs: str = "y", domain: str = MS, **attributes: Any) -> Any:
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), domain=domain, name=f"{kind}_{outputs.split()[0]}", **attributes)


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


# Integers


def ints(rng: np.random.Generator, kind: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max + 1, shape).astype(kind)


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


# What the optimizer saves


def optimized(content: bytes, feeds: dict[str, np.ndarray], level: str, path: Path, steps: int = 1) -> set[str]:
    """The operators of onnxruntime's domain in the model that it saves at this level, which nbconv runs as it does."""
    session = peer(content, level, path)
    want = session.run(None, feeds)
    agree(path.read_bytes(), feeds, want, [o.name for o in session.get_outputs()], steps)
    return {n.op_type for n in ModelProto.FromString(path.read_bytes()).graph.node if n.domain}


def onnx_node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return node(kind, inputs, outputs, "", **attributes)


LEVELS = ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"]


@pytest.mark.parametrize("level", LEVELS)
def test_optimized_cnn(level: str, tmp_path: Path) -> None:
    r = floats(np.random.default_rng(20))
    x = r(2, 3, 12, 10)
    nodes = [
        onnx_node("Conv", "x w0 b0", "c0", pads=[1, 1, 1, 1]), onnx_node("Relu", "c0", "r0"),
        onnx_node("Conv", "r0 w1 b1", "c1", pads=[1, 1, 1, 1]), onnx_node("Add", "c1 r0", "s1"),
        onnx_node("Relu", "s1", "r1"),
        onnx_node("Conv", "r1 w1", "c2", strides=[2, 2]), onnx_node("LeakyRelu", "c2", "r2", alpha=0.2),
        onnx_node("Conv", "r2 w1", "c3", pads=[1, 1, 1, 1]), onnx_node("Clip", "c3 low high", "r3"),
        onnx_node("Conv", "r3 w1", "c4", pads=[1, 1, 1, 1]), onnx_node("HardSigmoid", "c4", "r4", alpha=0.3),
        onnx_node("Conv", "r4 w1", "c5", pads=[1, 1, 1, 1]), onnx_node("Sigmoid", "c5", "g5"),
        onnx_node("Mul", "c5 g5", "r5"),
        onnx_node("GlobalAveragePool", "r5", "p"), onnx_node("Flatten", "p", "f"), onnx_node("Gemm", "f m n", "h"),
        onnx_node("Relu", "h", "y"),
    ]  # fmt: skip
    constants = {
        "w0": r(8, 3, 3, 3), "b0": r(8), "w1": r(8, 8, 3, 3) / 8, "b1": r(8), "low": np.float32(0), "high": np.float32(6),
        "m": r(8, 5), "n": r(5),
    }  # fmt: skip
    found = optimized(model(nodes, {"x": x}, {"y": 1}, constants), {"x": x}, level, tmp_path / "saved.onnx")
    assert found == (set() if "BASIC" in level else {"FusedConv", "FusedGemm", "QuickGelu"})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("opset", [13, 17])
def test_optimized_block(level: str, opset: int, tmp_path: Path) -> None:
    """Layer normalisation and Gelu as exporters wrote them before they were operators, and products with a turned side."""
    r = floats(np.random.default_rng(21))
    x = r(2, 6, 16)
    axes = {"axes": [-1], "keepdims": 1}
    nodes = [
        onnx_node("Add", "x x0", "x1"), onnx_node("ReduceMean", "x1", "m", **axes), onnx_node("Sub", "x1 m", "d"),
        onnx_node("Pow", "d two", "d2"), onnx_node("ReduceMean", "d2", "v", **axes), onnx_node("Add", "v eps", "ve"),
        onnx_node("Sqrt", "ve", "sd"), onnx_node("Div", "d sd", "nd"), onnx_node("Mul", "nd g", "ng"),
        onnx_node("Add", "ng t", "ln"),
        onnx_node("MatMul", "ln w", "a"), onnx_node("Add", "a b", "ab"), onnx_node("Div", "ab root", "e0"),
        onnx_node("Erf", "e0", "e1"), onnx_node("Add", "e1 one", "e2"), onnx_node("Mul", "ab e2", "e3"),
        onnx_node("Mul", "e3 half", "ge"),
        onnx_node("Transpose", "ge", "kt", perm=[0, 2, 1]), onnx_node("MatMul", "ge kt", "qk"),
        onnx_node("Mul", "qk scale", "qs"), onnx_node("Softmax", "qs", "p", axis=-1), onnx_node("MatMul", "p ge", "y"),
    ]  # fmt: skip
    numbers = {"two": 2, "eps": 1e-5, "root": 2**0.5, "one": 1, "half": 0.5, "scale": 0.125}
    constants = {
        "x0": r(16),
        "g": r(16),
        "t": r(16),
        "w": r(16, 24),
        "b": r(24),
        **{k: np.float32(v) for k, v in numbers.items()},
    }
    found = optimized(model(nodes, {"x": x}, {"y": 1}, constants, opset), {"x": x}, level, tmp_path / "saved.onnx")
    assert {"FusedMatMul", "BiasGelu"} <= found if "EXTENDED" in level else not found - {"FusedMatMul", "Gelu", "BiasGelu"}


class Quantised:
    """A graph under construction whose values pass through QuantizeLinear and DequantizeLinear."""

    def __init__(self, rng: np.random.Generator, kind: Any) -> None:
        self.rng, self.kind, self.nodes, self.constants = rng, kind, [], {}

    def pair(self, x: str, scale: float, zero: int = 3) -> str:
        self.constants |= {f"{x}_s": np.float32(scale), f"{x}_z": np.array(zero, self.kind)}
        scales = f"{x}_s {x}_z"
        self.nodes += [onnx_node("QuantizeLinear", f"{x} {scales}", f"{x}_q"),
                       onnx_node("DequantizeLinear", f"{x}_q {scales}", f"{x}_d")]  # fmt: skip
        return f"{x}_d"

    def weight(self, name: str, *shape: int, axis: int = 0, bias: float = 0.0) -> str:
        """Dequantised weights by channel, and with the scale of x their bias."""
        scale = self.rng.uniform(0.01, 0.03, shape[axis]).astype(np.float32)
        self.constants |= {f"{name}_s": scale, f"{name}_q": self.rng.integers(-127, 128, shape).astype(np.int8)}
        self.constants[f"{name}_z"] = np.zeros(shape[axis], np.int8)
        self.nodes.append(onnx_node("DequantizeLinear", f"{name}_q {name}_s {name}_z", name, axis=axis))
        if not bias:
            return name
        self.constants |= {f"{name}_bs": scale * np.float32(bias)}
        self.constants[f"{name}_bq"] = self.rng.integers(-5000, 5000, shape[axis]).astype(np.int32)
        self.nodes.append(onnx_node("DequantizeLinear", f"{name}_bq {name}_bs", f"{name}_b", axis=0))
        return f"{name} {name}_b"

    def add(self, kind: str, inputs: str, output: str, scale: float, **attributes: Any) -> str:
        self.nodes.append(onnx_node(kind, inputs, output, **attributes))
        return self.pair(output, scale)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("level", [*LEVELS, "ORT_ENABLE_ALL"])
def test_optimized_quantised(level: str, kind: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(22)
    x, q = floats(rng)(2, 3, 12, 10), Quantised(rng, kind)
    v = q.pair("x", 0.03)
    a = q.add("Conv", f"{v} {q.weight('w0', 8, 3, 3, 3, bias=0.03)}", "c0", 0.05, pads=[1, 1, 1, 1])
    b = q.add("Conv", f"{a} {q.weight('w1', 8, 8, 1, 1, bias=0.05)}", "c1", 0.06)
    s = q.add("Add", f"{a} {b}", "s", 0.1)
    m = q.add("MaxPool", s, "mp", 0.1, kernel_shape=[2, 2], strides=[2, 2])
    g = q.add("Sigmoid", m, "g", 1 / 256)
    w = q.add("Mul", f"{m} {g}", "mul", 0.1)
    e = q.add("LeakyRelu", w, "l", 0.08, alpha=0.1)
    c = q.add("Concat", f"{w} {e}", "j", 0.09, axis=1)
    p = q.add("GlobalAveragePool", c, "p", 0.03)
    f = q.add("Flatten", p, "f", 0.03)
    y = q.add("Gemm", f"{f} {q.weight('fc', 16, 7, axis=1)}", "y0", 0.05)
    q.nodes.append(onnx_node("Identity", y, "y"))
    content = model(q.nodes, {"x": x}, {"y": 1}, q.constants)
    session, path = peer(content, level, tmp_path / "saved.onnx"), tmp_path / "saved.onnx"
    want = session.run(None, {"x": x})[0]
    got = load(path).run({"x": x})["y"]
    assert np.abs(got - want).max() < 0.051  # one step of the result
    found = {n.op_type for n in ModelProto.FromString(path.read_bytes()).graph.node if n.domain}
    if kind is np.uint8 and level != "ORT_ENABLE_BASIC":
        assert {"QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat", "QGemm"} <= found


MOVES: dict[str, tuple[str, dict[str, Any], dict[str, np.ndarray]]] = {
    "ArgMax": ("", {"axis": 1}, {}),
    "DepthToSpace": ("", {"blocksize": 2}, {}),
    "Expand": (" k", {}, {"k": np.array([2, 2, 4, 6, 5])}),
    "Flatten": ("", {"axis": 2}, {}),
    "Gather": (" k", {"axis": 2}, {"k": np.array([5, 0, -1])}),
    "MaxPool": ("", {"kernel_shape": [2, 3], "strides": [1, 2]}, {}),
    "Pad": (" k", {}, {"k": np.array([0, 0, 1, 0, 0, 1, 0, 2])}),
    "ReduceMax": ("", {"axes": [2]}, {}),
    "Resize": (" - k", {"mode": "nearest"}, {"k": np.float32([1, 1, 2, 1.5])}),
    "Resize linear": (" - k", {"mode": "linear"}, {"k": np.float32([1, 1, 2, 1.5])}),
    "Slice": (" k l", {}, {"k": np.array([0, 1, 2]), "l": np.array([9, 3, 4])}),
    "Tile": (" k", {}, {"k": np.array([1, 2, 1, 3])}),
    "Transpose": ("", {"perm": [0, 2, 3, 1]}, {}),
    "Unsqueeze": (" k", {}, {"k": np.array([0, 3])}),
}  # fmt: skip


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("name", MOVES)
def test_optimized_between_pairs(name: str, kind: Any, tmp_path: Path) -> None:
    """What onnxruntime lets integers pass through where a pair of QuantizeLinear and DequantizeLinear is on both sides."""
    rng = np.random.default_rng(23)
    x, q = floats(rng)(2, 4, 6, 5), Quantised(rng, kind)
    more, attributes, constants = MOVES[name]
    v = q.pair("x", 0.03)
    q.nodes.append(onnx_node(name.split()[0], v + more, "moved", **attributes))
    if name != "ArgMax":
        q.constants |= {"moved_s": q.constants["x_s"], "moved_z": q.constants["x_z"]}
        q.nodes += [onnx_node("QuantizeLinear", "moved moved_s moved_z", "moved_q"),
                    onnx_node("DequantizeLinear", "moved_q moved_s moved_z", "y")]  # fmt: skip
    content = model(q.nodes, {"x": x}, {"moved": 7} if name == "ArgMax" else {"y": 1}, {**q.constants, **constants})
    session, path = peer(content, "ORT_ENABLE_EXTENDED", tmp_path / "saved.onnx"), tmp_path / "saved.onnx"
    want = session.run(None, {"x": x})[0]
    (got,) = load(path).run({"x": x}).values()
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=0.031 if "linear" in name else 0)


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
