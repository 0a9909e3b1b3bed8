"""Models that onnxruntime's optimizer saved, held to onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from nbconv.model import load
from tests.contrib import agree, floats, model, onnx_node, peer


def optimized(content: bytes, feeds: dict[str, np.ndarray], level: str, path: Path, steps: int = 1) -> set[str]:
    """The operators of onnxruntime's domain in the model that it saves at this level, which nbconv runs as it does."""
    session = peer(content, level, path)
    want = session.run(None, feeds)
    agree(path.read_bytes(), feeds, want, [o.name for o in session.get_outputs()], steps)
    return {n.op_type for n in ModelProto.FromString(path.read_bytes()).graph.node if n.domain}


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
    "Resize": (" - k", {"mode": "nearest"}, {"k": np.array([1, 1, 2, 1.5], np.float32)}),
    "Resize linear": (" - k", {"mode": "linear"}, {"k": np.array([1, 1, 2, 1.5], np.float32)}),
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
