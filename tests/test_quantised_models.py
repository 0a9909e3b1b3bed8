"""Models of quantised values: operators between DequantizeLinear and QuantizeLinear, and those called QLinear, held to
onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nbconv import ModelError, load
from nbconv.lowering.weights import Weights
from nbconv.plan.plan import Plan
from tests.ops.test_integer_kernels import F32, SHORTS, numbers, scale


class Net:
    """A model that is written layer by layer, each value quantised."""

    def __init__(self, x: tuple[int, ...], dtype: Any = np.uint8) -> None:
        self.rng, self.dtype = np.random.default_rng(6), dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.shape = x
        self.top = self.step("x", 0.02)

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def add(self, kind: str, *inputs: str, **fields: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **fields))
        return name

    def step(self, value: str, s: float, zero: int | None = None) -> str:
        """QuantizeLinear and DequantizeLinear of a value."""
        middle = (128 if self.dtype == np.uint8 else 0) + 3 if zero is None else zero
        q = [self.constant(np.asarray(s, F32)), self.constant(np.asarray(middle, self.dtype))]
        return self.add("DequantizeLinear", self.add("QuantizeLinear", value, *q), *q)

    def weights(self, shape: tuple[int, ...], axis: int, one: bool, bits: int = 7) -> tuple[str, np.ndarray]:
        """Their name and scales; they have so many bits and a sign."""
        channels = () if one else (shape[axis],)
        s, w = scale(self.rng, *channels) * F32(0.2), numbers(self.rng, np.int8, *shape) >> (7 - bits)
        names = self.constant(w), self.constant(s), self.constant(np.zeros(channels, np.int8))
        return self.add("DequantizeLinear", *names, axis=axis), s

    def bias(self, n: int, s: np.ndarray, x: float = 0.02) -> str:
        values = self.rng.integers(-3000, 3000, n).astype(np.int32)
        s = s * F32(x)
        return self.add(
            "DequantizeLinear", self.constant(values), self.constant(s), self.constant(np.zeros(s.shape, np.int32)), axis=0
        )

    def model(self, y: str) -> bytes:
        f, x = TensorProto.FLOAT, helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        graph = helper.make_graph(self.nodes, "net", [x], [helper.make_tensor_value_info(y, f, None)], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return made.SerializeToString()


def net(dtype: Any, one: bool) -> bytes:
    """Layers of all kinds that are fused."""
    n = Net((2, 5, 11, 10), dtype)
    least = 0 if dtype == np.uint8 else -128
    w, s = n.weights((20, 5, 3, 3), 0, one)
    y = n.add("Relu", n.add("Conv", n.top, w, n.bias(20, s), pads=(1, 1, 1, 1)))
    a = n.step(y, 0.02, least)
    w, s = n.weights((20, 1, 3, 3), 0, one)
    y = n.add("Conv", a, w, n.bias(20, s), pads=(1, 1, 1, 1), group=20)
    y = n.add("Clip", y, n.constant(np.asarray(-0.5, F32)), n.constant(np.asarray(1.5, F32)))
    b = n.step(y, 0.02)
    y = n.step(n.add("Relu", n.add("Add", a, b)), 0.03)
    gate = n.step(n.add("Sigmoid", y), 1 / 256, least)
    y = n.step(n.add("Mul", y, gate), 0.02)
    y = n.step(n.add("MaxPool", y, kernel_shape=(2, 2), strides=(2, 2)), 0.02)
    y = n.step(n.add("Concat", y, n.step(n.add("LeakyRelu", y, alpha=0.1), 0.015), axis=1), 0.02)
    pooled = n.step(n.add("GlobalAveragePool", y), 0.01)
    y = n.step(n.add("Mul", y, n.step(n.add("HardSigmoid", pooled), 1 / 256, least)), 0.02)
    y = n.step(n.add("GlobalAveragePool", y), 0.01)
    y = n.step(n.add("Flatten", y), 0.01)
    w, s = n.weights((33, 40), 0, one)
    y = n.step(n.add("Gemm", y, w, n.bias(33, s, 0.01), transB=1), 0.05)
    w, s = n.weights((33, 7), 1, one)
    return n.model(n.step(n.add("MatMul", y, w), 0.1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("one", [True, False])
def test_models_of_quantised_values_are_integers_throughout(dtype, one) -> None:
    made = net(dtype, one)
    model = load(made, threads=1)
    x = np.random.default_rng(7).standard_normal((2, 5, 11, 10)).astype(F32)
    plan = model.plan({"x": x.shape})
    assert not plan.numpy_steps()
    floats = [s.kernel for s in plan.steps if s.kernel.split(".")[0] in ("conv", "gemm", "depthwise", "winograd", "pool")]
    assert not floats, f"{floats} compute with floats"
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (want,), (got,) = session.run(None, {"x": x}), model.run({"x": x}).values()
    assert np.abs(got - want).max() <= 0.1 * 1.001, "more than a step apart"
    assert (got == want).mean() > 0.7
    with_floats = Plan(model.graph, plan.inputs, Weights(), plan.fetch, plan.target, integers=False)
    assert any(s.kernel.split(".")[0] == "gemm" for s in with_floats.steps)


@pytest.mark.parametrize("goal", SHORTS, ids=[t.name for t in SHORTS])
def test_a_residual_net_is_onnxruntimes_without_products_of_bytes(monkeypatch, goal) -> None:
    """To the bit: no convolution goes by floats. Weights are small, as onnxruntime saturates sums of two products where a
    processor has AVX2 alone."""
    monkeypatch.setattr("nbconv.kernels.target.host", lambda: goal)
    n = Net((1, 16, 13, 14))
    y = n.top
    for _ in range(4):
        branch = y
        for last in (False, True):
            w, s = n.weights((16, 16, 3, 3), 0, False, 6)
            branch = n.add("Conv", branch, w, n.bias(16, s), pads=(1, 1, 1, 1))
            branch = n.step(branch, 0.02) if last else n.step(n.add("Relu", branch), 0.02, 0)
        y = n.step(n.add("Relu", n.add("Add", y, branch)), 0.02, 0)
    made = n.model(y)
    x = np.random.default_rng(18).standard_normal(n.shape).astype(F32)
    model = load(made, threads=1)
    kernels = [s.kernel for s in model.plan({"x": x.shape}).steps]
    assert kernels.count("quantised_winograd.winograd") == 8 and "winograd.winograd" not in kernels
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (want,), (got,) = session.run(None, {"x": x}), model.run({"x": x}).values()
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(got)) > 50


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("steps", [255.0, 256.0, 100.3])
def test_softmax_of_integers_is_as_onnxruntime_rounds_it(dtype, steps) -> None:
    """It rounds the number of steps of 1 down: of the usual scale, 1/255 as float32, to 254."""
    n = Net((3, 40), dtype)
    n.top = n.step("x", 0.1)
    made = n.model(n.step(n.add("Softmax", n.top, axis=-1), 1 / steps, np.iinfo(dtype).min))
    x = np.random.default_rng(9).standard_normal((3, 40)).astype(F32) * 4
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(*load(made, threads=1).run({"x": x}).values(), session.run(None, {"x": x})[0])


def test_values_that_are_asked_for_or_read_twice_stay_floats() -> None:
    n = Net((1, 4, 6, 6))
    w, s = n.weights((4, 4, 3, 3), 0, True)
    conv = n.add("Conv", n.top, w, n.bias(4, s), pads=(1, 1, 1, 1))
    made = n.model(n.step(n.add("Relu", conv), 0.02))
    x = np.random.default_rng(8).standard_normal((1, 4, 6, 6)).astype(F32)
    model = load(made, threads=1)
    (whole,) = model.run({"x": x}).values()
    inner, y = model.run({"x": x}, fetch=[conv, model.outputs[0].name]).values()
    assert inner.dtype == F32 and inner.min() < 0
    assert np.abs(whole - y).max() <= 0.02 * 1.001


def _ends_of_another_type(n: Net) -> str:
    return n.add("Clip", n.top, n.constant(np.asarray(0, np.int32)))


def _moved_integers_of_another_type(n: Net) -> str:
    s, zero = n.constant(np.asarray(0.02, F32)), n.constant(np.asarray(3, np.int8))
    n.top = n.add("DequantizeLinear", n.nodes[0].output[0], s, zero)
    y = n.add("QuantizeLinear", n.add("Transpose", n.top, perm=(1, 0)), s, zero)
    return n.add("DequantizeLinear", y, s, zero)


def _table_of_another_type(n: Net) -> str:
    s, zero = n.constant(np.asarray(0.02, F32)), n.constant(np.asarray(3, np.int8))
    return n.step(n.add("Sigmoid", n.add("DequantizeLinear", n.nodes[0].output[0], s, zero)), 0.02)


def _product_of(scales: int, zeros: int, axis: int = 1, bias: int = 0) -> Any:
    def product(n: Net) -> str:
        s, zero = np.full(scales, 0.01, F32), np.zeros(zeros, np.int8)
        w = n.add("DequantizeLinear", n.constant(numbers(n.rng, np.int8, 6, 5)), *map(n.constant, (s, zero)), axis=axis)
        return n.step(n.add("Gemm", n.top, w, *([n.bias(5, np.full(bias, 0.01, F32))] if bias else [])), 0.1)

    return product


MALFORMED: list[tuple[tuple[int, ...], Any]] = [
    ((4, 6), _ends_of_another_type),
    ((4, 6), _moved_integers_of_another_type),
    ((4, 6), _table_of_another_type),
    ((4, 6), _product_of(5, 1)),
    ((4, 6), _product_of(5, 5, axis=3)),
    ((4, 6), _product_of(3, 3)),
    ((4, 6), _product_of(5, 5, bias=3)),
    ((2, 4, 6), _product_of(5, 5)),
]


@pytest.mark.parametrize(("shape", "broken"), MALFORMED)
def test_what_is_malformed_is_refused_where_integers_take_its_place(shape, broken) -> None:
    n = Net(shape)
    made = n.model(n.step(broken(n), 0.03))
    with pytest.raises(ModelError):
        load(made, threads=1).run({"x": np.ones(shape, F32)})


def test_negative_scales_turn_the_order_round() -> None:
    n = Net((1, 2, 4, 4))
    n.top = n.step("x", -0.02)
    made = n.model(n.step(n.add("Relu", n.add("MaxPool", n.top, kernel_shape=(2, 2), strides=(2, 2))), -0.02))
    x = np.random.default_rng(12).uniform(-2, 2, (1, 2, 4, 4)).astype(F32)
    wide = x.reshape(1, 2, 2, 2, 2, 2).max(axis=(3, 5))
    (got,) = load(made, threads=1).run({"x": x}).values()
    np.testing.assert_allclose(got, np.maximum(wide, 0), atol=0.011)


def test_windows_in_the_padding_are_the_least_of_the_results_scale() -> None:
    n = Net((1, 2, 2, 2))
    y = n.add("MaxPool", n.top, kernel_shape=(2, 2), dilations=(3, 3), pads=(1, 1, 1, 1), strides=(1, 1))
    (got,) = load(n.model(n.step(y, 0.03, 100)), threads=1).run({"x": np.ones((1, 2, 2, 2), F32)}).values()
    np.testing.assert_array_equal(got, np.full((1, 2, 1, 1), F32(0.03) * F32(-100)), strict=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    "fields", [{}, {"pads": (0, 1, 1, 1)}, {"count_include_pad": 1}, {"count_include_pad": 1, "pads": (0, 1, 1, 1)}]
)
def test_averages_of_windows_are_onnxruntimes(dtype, fields) -> None:
    """Many are halves between two integers: bit for bit where windows lie inside the image. (It averages int8 as floats.)"""
    n = Net((2, 19, 9, 8), dtype)
    y = n.add("AveragePool", n.top, kernel_shape=(3, 2), strides=(3, 2), **fields)
    made = n.model(n.step(y, 0.02))
    x = np.random.default_rng(16).standard_normal((2, 19, 9, 8)).astype(F32)
    model = load(made, threads=1)
    kernels = {s.kernel for s in model.plan({"x": x.shape}).steps}
    assert ("requantise.average_pool" in kernels) == (len(fields) < 2)
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    want, (got,) = np.asarray(session.run(None, {"x": x})[0]), model.run({"x": x}).values()
    assert np.abs(got - want).max() <= 0.02 * 1.001, "more than a step apart"
    assert fields or dtype == np.int8 or (got == want).all()


def test_tables_belong_to_what_is_asked_for() -> None:
    """What is fetched decides which integers a table starts from."""
    n = Net((1, 4, 6, 6))
    sigmoid = n.add("Sigmoid", n.top)
    leaky = n.add("LeakyRelu", n.step(sigmoid, 1 / 256, 0), alpha=0.1)
    made = n.model(n.step(n.add("Elu", n.step(leaky, 1 / 200, 3)), 1 / 150, 7))
    x = np.random.default_rng(11).standard_normal((1, 4, 6, 6)).astype(F32)
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": x})
    model = load(made, threads=1)
    y = model.outputs[0].name
    for fetch in ([y], [sigmoid, y], [leaky, y], [y]):
        got = model.run({"x": x}, fetch=fetch)[y]
        assert np.abs(got - want).max() <= 1.001 / 150, f"more than a step apart with {fetch}"


def test_functions_of_one_integer_are_one_table() -> None:
    """Operators called QLinear, one behind the other, with numbers that are known."""
    q = [np.asarray(0.02, F32), np.uint8(120)]
    x, w, y = ("x", "s", "z"), ("w", "s", "z"), ("s", "z")
    nodes = [
        helper.make_node("QLinearMul", [*w, *x, *y], ["a"], domain="com.microsoft"),
        helper.make_node("QLinearAdd", ["a", *y, *w, *y], ["b"], domain="com.microsoft"),
        helper.make_node("QLinearMul", ["a", *y, "b", *y, *y], ["c"], domain="com.microsoft"),
        helper.make_node("QLinearSigmoid", ["c", *y, *y], ["d"], domain="com.microsoft"),
        helper.make_node("QLinearAdd", ["d", *y, "u", *y, *y], ["y"], domain="com.microsoft"),
    ]
    known = {"w": np.full(1, 200, np.uint8), "s": q[0], "z": np.asarray(q[1])}
    u8 = TensorProto.UINT8
    given = [helper.make_tensor_value_info(name, u8, (2, 3, 4)) for name in ("x", "u")]
    graph = helper.make_graph(nodes, "tables", given, [helper.make_tensor_value_info("y", u8, (2, 3, 4))],
                              [numpy_helper.from_array(v, k) for k, v in known.items()])  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    rng = np.random.default_rng(13)
    feeds: dict[str, Any] = {name: numbers(rng, np.uint8, 2, 3, 4) for name in ("x", "u")}
    model = load(made, threads=1)
    kernels = [s.kernel for s in model.plan(dict.fromkeys(feeds, (2, 3, 4))).steps]
    assert kernels == ["requantise.look_up", "requantise.add"]
    (want,) = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, feeds)
    got = model.run(feeds)["y"]
    assert np.abs(got.astype(int) - np.asarray(want, int)).max() <= 1
    np.testing.assert_array_equal(model.run(feeds, fetch=["c", "y"])["y"], got)


@pytest.mark.parametrize("kind", ["Add", "QLinearAdd"])
def test_numbers_of_an_axis_give_a_scalar_one(kind) -> None:
    """Also where a table stands for several operators."""
    s, zero = np.asarray(0.02, F32), np.asarray(120, np.uint8)
    y = ("s", "z")
    if kind == "Add":
        nodes = [
            helper.make_node("DequantizeLinear", ["x", *y], ["a"]),
            helper.make_node("Add", ["one", "a"], ["b"]),
            helper.make_node("QuantizeLinear", ["b", *y], ["c"]),
        ]
    else:
        nodes = [helper.make_node("QLinearAdd", ["w", *y, "x", *y, *y], ["c"], domain="com.microsoft")]
    nodes.append(helper.make_node("QLinearSigmoid", ["c", *y, *y], ["y"], domain="com.microsoft"))
    known = {"s": s, "z": zero, "one": np.ones(1, F32), "w": np.full(1, 170, np.uint8)}
    ports = [helper.make_tensor_value_info(n, TensorProto.UINT8, shape) for n, shape in (("x", ()), ("y", (1,)))]
    constants = [numpy_helper.from_array(v, k) for k, v in known.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "scalar", ports[:1], ports[1:], constants)
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    feeds = {"x": np.asarray(130, np.uint8)}
    (want,) = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_array_equal(load(made).run(feeds)["y"], np.asarray(want), strict=True)
