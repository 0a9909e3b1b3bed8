"""Kernels on 8-bit integers: over random calls the bits of the operators' references, in one thread and in two, for each
way in which this machine multiplies; and models with QuantizeLinear and DequantizeLinear, held to onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nbconv import ModelError, load
from nbconv.graph import Graph, Node, Spec
from nbconv.kernels.target import Target, host, target
from nbconv.lowering.conv import INTEGER_KERNELS, integer_gemm
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.ops import Op, lookup
from nbconv.plan.plan import Plan

F32 = np.float32
WAYS = {"": [""], "vnni": ["", "vnni"], "amx": ["", "vnni", "amx"]}[host().dot]
"""How bytes are multiplied here."""


def numbers(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def eight_bits(rng: np.random.Generator) -> Any:
    return (np.uint8, np.int8)[int(rng.integers(2))]


def scale(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(rng.random(shape) * 0.05 + 1e-3, F32)


def shape_of_x(inputs: list[np.ndarray | None]) -> tuple[int, ...]:
    """The shape of the graph's input."""
    assert inputs[0] is not None
    return inputs[0].shape


def graph_of(op: Op, inputs: list[np.ndarray | None]) -> tuple[Graph, np.ndarray]:
    """The node alone, of which the first input is the graph's, and what its reference gives."""
    names = ["" if x is None else f"i{k}" for k, x in enumerate(inputs)]
    constants = {names[k]: x for k, x in enumerate(inputs) if k and x is not None}
    x = inputs[0]
    assert x is not None
    want = op.reference(*inputs)
    assert isinstance(want, np.ndarray)
    node = Node(op, tuple(names), ("y",))
    return Graph([node], {"i0": Spec(x.shape, x.dtype)}, {"y": Spec(want.shape, want.dtype)}, constants), want


def check(op: Op, inputs: list[np.ndarray | None], kernel: str = "") -> None:
    """The bits of the reference, without NumPy, in one thread and in two."""
    graph, want = graph_of(op, inputs)
    model = Model(graph, threads=2)
    feeds: dict[str, Any] = {"i0": inputs[0]}
    plan = model.plan({"i0": shape_of_x(inputs)})
    assert not plan.numpy_steps(), f"NumPy runs {op!r}"
    assert kernel in " ".join(step.kernel for step in plan.steps)
    for threads in (1, 2):
        got = model.run(feeds, threads=threads)["y"]
        np.testing.assert_array_equal(got, want, err_msg=f"{op!r} of {[None if v is None else v.shape for v in inputs]}")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch) -> str:
    """This machine as one that multiplies so; wherever integers and tiles of AMX can be taken, they are."""
    goal: Target = host()._replace(dot=request.param)
    monkeypatch.setattr("nbconv.kernels.target.host", lambda: goal)
    monkeypatch.setattr(integer_gemm, "by_squares", lambda *_: True)
    monkeypatch.setattr("nbconv.passes.dequantise.integer_cost", lambda *_: 0.0)
    return request.param


def random_conv(rng: np.random.Generator, depthwise: bool) -> tuple[Op, list[np.ndarray | None]]:
    """A ConvInteger or QLinearConv of random geometry, types, scales and zero points."""
    axes = int(rng.integers(1, 3))
    group, ci, co = int(rng.choice([1, 1, 2, 3])), int(rng.integers(1, 20)), int(rng.integers(1, 50))
    if depthwise:
        group, ci, co = int(rng.integers(2, 50)), 1, 1
    elif rng.integers(3) == 0:
        ci = 16 * int(rng.integers(1, 6))
    kernel, stride, dilation = rng.integers(1, 4, axes), rng.integers(1, 3, axes), rng.integers(1, 3, axes)
    size, pads = rng.integers(7, 12, axes), rng.integers(0, 3, 2 * axes)
    x_type, w_type, y_type = (eight_bits(rng) for _ in range(3))
    channels = (group * co,) * int(rng.integers(2))
    x = numbers(rng, x_type, int(rng.integers(1, 3)), group * ci, *size)
    w, w_zero = numbers(rng, w_type, group * co, ci, *kernel), numbers(rng, w_type, *channels)
    if rng.integers(3):
        w_zero = np.full(channels, 128 if w_type == np.uint8 else 0, w_type)
    given = {"strides": stride, "dilations": dilation, "pads": pads}
    fields: dict[str, Any] = {name: tuple(map(int, value)) for name, value in given.items()} | {"group": group}
    if rng.integers(4) == 0:
        return lookup("ConvInteger")(**fields), [x, w, numbers(rng, x_type), w_zero]
    b = rng.integers(-5000, 5000, group * co).astype(np.int32) if rng.integers(2) else None
    y_scale = np.asarray(0.3 * np.sqrt(ci * kernel.prod()) * rng.random() + 0.01, F32)
    inputs = [x, scale(rng), numbers(rng, x_type), w, scale(rng, *channels), w_zero, y_scale, numbers(rng, y_type), b]
    return lookup("QLinearConv")(**fields), inputs


def test_convolutions_have_the_references_bits(way) -> None:
    rng = np.random.default_rng(1)
    for i in range(36):
        check(*random_conv(rng, depthwise=i % 3 == 0))


@pytest.mark.parametrize("size,stride", [((9, 8), 1), ((10, 7), 2), ((3, 3), 1)])
@pytest.mark.parametrize(
    "kernel,pads", [((3, 3), (1, 1, 1, 1)), ((5, 5), (2, 2, 2, 2)), ((1, 3), (0, 2, 0, 0)), ((3,), (1, 1))]
)
def test_depthwise_convolutions_slide(way, size, stride, kernel, pads) -> None:
    """Fewer channels than a vector has go with all others."""
    rng = np.random.default_rng(2)
    size = size[: len(kernel)]
    for c, x_type, w_type in ((host().lanes, np.uint8, np.int8), (2 * host().lanes + 3, np.int8, np.uint8)):
        x, w = numbers(rng, x_type, 2, c, *size), numbers(rng, w_type, c, 1, *kernel)
        op = lookup("QLinearConv")(group=c, pads=pads, strides=(stride,) * len(kernel))
        inputs = [x, scale(rng), numbers(rng, x_type), w, scale(rng, c), numbers(rng, w_type, c), np.asarray(0.3, F32),
                  numbers(rng, x_type), None]  # fmt: skip
        check(op, inputs, "quantised_depthwise")


def test_products_have_the_references_bits(way) -> None:
    rng = np.random.default_rng(3)
    for i in range(24):
        m, k, n = (int(v) for v in rng.integers(1, 80, 3))
        if i % 4 == 0:
            m, k = 48, 128
        a_type, b_type, y_type = (eight_bits(rng) for _ in range(3))
        columns = (n,) * int(rng.integers(2))
        a, b, a_zero = numbers(rng, a_type, 2, m, k), numbers(rng, b_type, k, n), numbers(rng, a_type)
        b_zero = numbers(rng, b_type, *columns) if i % 3 == 0 else np.full((), 128 if b_type == np.uint8 else 0, b_type)
        y = [np.asarray(0.2, F32), numbers(rng, y_type)]
        numbers_of = [a, scale(rng), a_zero, b, scale(rng, *columns), b_zero, *y]
        check(lookup("MatMulInteger")(), [a, b, a_zero, b_zero])
        check(lookup("QLinearMatMul")(), numbers_of)
        bias = rng.integers(-5000, 5000, n).astype(np.int32)
        check(lookup("QLinearGemm", "nbconv")(), [a[0], *numbers_of[1:], bias])
        check(lookup("QLinearGemm", "nbconv")(), [a[1], *numbers_of[1:], None])


def test_other_kernels_have_the_references_bits() -> None:
    rng = np.random.default_rng(4)
    for i in range(24):
        t = eight_bits(rng)
        shape = tuple(int(v) for v in rng.integers(1, 9, rng.integers(1, 5)))
        if len(shape) > 1 and i % 2:
            shape = (shape[0], int(rng.integers(1, 70)), *shape[2:])
        x, floats = numbers(rng, t, *shape), (rng.standard_normal(shape) * 8).astype(F32)
        floats.reshape(-1)[:3] = [np.nan, np.inf, -1e30][: floats.size]
        beside = numbers(rng, t, *(d if rng.integers(2) else 1 for d in shape))
        own, other, result = ([scale(rng), numbers(rng, t)] for _ in range(3))
        check(lookup("DequantizeLinear")(), [x, *own])
        check(lookup("QuantizeLinear")(), [floats, *own])
        check(lookup("QLinearAdd", "com.microsoft")(), [x, *own, numbers(rng, t, *shape), *other, *result])
        check(lookup("QLinearMul", "com.microsoft")(), [x, *own, beside, *other, *result])
        check(lookup("QLinearSigmoid", "com.microsoft")(), [x, *own, *result])
        check(lookup("QLinearLeakyRelu", "com.microsoft")(alpha=0.2), [x, *own, *result])
        check(lookup("LookUp", "nbconv")(), [x, numbers(rng, t, 256)])
        if len(shape) in (3, 4):
            given = {"kernel_shape": (2,) * (len(shape) - 2), "pads": (1,) * (2 * len(shape) - 4)}
            pool = lookup("QLinearAveragePool", "com.microsoft")
            check(pool(count_include_pad=i % 2, **given), [x, *own, *result], "average_pool")
        if len(shape) > 2:
            check(lookup("QLinearGlobalAveragePool", "com.microsoft")(), [x, *own, *result])


@pytest.mark.parametrize("t", [np.uint8, np.int8])
def test_every_byte_is_looked_up(t) -> None:
    x = np.arange(256, dtype=np.uint8).view(t)
    rng = np.random.default_rng(14)
    check(lookup("LookUp", "nbconv")(), [np.concatenate([x, x[::-1], x[5:18]]), numbers(rng, np.uint8, 256)])


@pytest.mark.parametrize("c", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 53)])
def test_images_are_turned_while_they_are_quantised(c, size) -> None:
    """With a layer behind that wants channels last."""
    rng = np.random.default_rng(15)
    x = rng.standard_normal((2, c, *size)).astype(F32) * 3
    x.reshape(-1)[:3] = [np.nan, np.inf, -np.inf]
    s, zero, one = np.asarray(0.02, F32), np.asarray(100, np.uint8), np.asarray(1, F32)
    w = np.eye(c, dtype=np.int8).reshape(c, c, 1, 1)
    constants = {"s": s, "z": zero, "w": w, "one": one, "none": np.zeros((), np.int8)}
    nodes = [
        Node(lookup("QuantizeLinear")(), ("x", "s", "z"), ("q",)),
        Node(lookup("QLinearConv")(), ("q", "s", "z", "w", "one", "none", "s", "z"), ("y",)),
    ]
    graph = Graph(nodes, {"x": Spec(x.shape, x.dtype)}, {"y": Spec(x.shape, np.dtype(np.uint8))}, constants)
    model = Model(graph, threads=2)
    kernels = [step.kernel for step in model.plan({"x": x.shape}).steps]
    assert kernels[0] == ("requantise.quantize" if c == 2 else "requantise.quantize_pixels")
    for threads in (1, 2):
        for fetch in (["y"], ["q", "y"]):
            for got in model.run({"x": x}, fetch=fetch, threads=threads).values():
                np.testing.assert_array_equal(got, lookup("QuantizeLinear")().reference(x, s, zero))


def test_what_kernels_lack_is_numpys() -> None:
    """Weights that vary, scales that do, sums that an int32 does not hold, volumes."""
    rng = np.random.default_rng(5)
    x, w, zero = numbers(rng, np.uint8, 1, 2, 4, 4, 4), numbers(rng, np.int8, 3, 2, 2, 2, 2), np.zeros((), np.int8)
    y = [np.asarray(9, F32), zero]
    ones, bias = np.ones((), F32), np.array([255 * 128 * 16 + 2 - 2**31], np.int32)
    calls = [
        (lookup("QLinearConv")(), [np.full((1, 16, 1, 1), 255, np.uint8), ones, np.uint8(0).reshape(()),
                                   np.zeros((1, 16, 1, 1), np.uint8), ones, np.uint8(255).reshape(()),
                                   np.asarray(2**25, F32), np.uint8(128).reshape(()), bias]),
        (lookup("QLinearConv")(), [x, scale(rng), np.uint8(3).reshape(()), w, scale(rng), zero, *y]),
        (lookup("QLinearMatMul")(), [numbers(rng, np.int8, 2, 34000), scale(rng), zero, numbers(rng, np.int8, 34000, 3),
                                     scale(rng), zero, *y]),
    ]  # fmt: skip
    for op, inputs in calls:
        graph, want = graph_of(op, inputs)
        model = Model(graph)
        assert model.plan({"i0": inputs[0].shape}).numpy_steps()
        np.testing.assert_array_equal(model.run({"i0": inputs[0]})["y"], want, strict=True)


# Models with QuantizeLinear and DequantizeLinear


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

    def weights(self, shape: tuple[int, ...], axis: int, one: bool) -> tuple[str, np.ndarray]:
        channels = () if one else (shape[axis],)
        s, w = scale(self.rng, *channels) * F32(0.2), numbers(self.rng, np.int8, *shape)
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


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_floats_do_what_integers_are_slow_at(monkeypatch, name) -> None:
    """Dilated depthwise windows and groups of few channels everywhere, and little else where bytes are added up in an
    instruction."""
    monkeypatch.setattr(Plan, "_assemble", lambda *_: None)  # kernels of another machine need not be there
    rng, goal = np.random.default_rng(9), target(name)

    def kernels(dot: str, c: int, group: int, k: int, dilation: int = 1) -> list[str]:
        x, w = numbers(rng, np.uint8, 1, c, 28, 28), numbers(rng, np.int8, c, c // group, k, k)
        inputs = [x, scale(rng), np.uint8(3).reshape(()), w, scale(rng, c), np.zeros(c, np.int8), np.asarray(9, F32),
                  np.zeros((), np.uint8), rng.integers(-9, 9, c).astype(np.int32)]  # fmt: skip
        graph, _ = graph_of(lookup("QLinearConv")(group=group, dilations=(dilation, dilation)), inputs)
        return [s.kernel for s in Model(graph).plan({"i0": x.shape}, target=goal._replace(dot=dot)).steps]

    floats = {"requantise.dequantize", "requantise.quantize"}
    assert floats < {*kernels("", 64, 64, 3, 2)}
    if name in ("x86-64-v3", "x86-64-v4"):
        assert floats < {*kernels("vnni", 64, 64, 3, 2)} and floats < {*kernels("vnni", 128, 32, 3)}
        assert floats.isdisjoint(kernels("vnni", 64, 1, 3)) and floats.isdisjoint(kernels("vnni", 128, 2, 3))
    assert floats.isdisjoint(kernels("", 256, 1, 1)) == name.startswith("x86")


def test_convolutions_by_floats_are_a_step_apart(monkeypatch) -> None:
    monkeypatch.setattr("nbconv.passes.dequantise.integer_cost", lambda *_: float("inf"))
    rng = np.random.default_rng(10)
    for _ in range(12):
        op, inputs = random_conv(rng, False)
        if op.type != "QLinearConv":
            continue
        graph, want = graph_of(op, inputs)
        model = Model(graph)
        assert any("requantise" in s.kernel for s in model.plan({"i0": shape_of_x(inputs)}).steps)
        got = model.run({"i0": inputs[0]})["y"]
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


def test_every_implementation_of_integers_is_tried() -> None:
    assert {row.name for row in INTEGER_KERNELS} == {"integer_gemm", "integer_depthwise"}
