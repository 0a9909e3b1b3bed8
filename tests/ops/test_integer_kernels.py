"""Kernels on 8-bit integers: over random calls the bits of the operators' references, in one thread and in two, for each
way in which this machine multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.kernels.target import TARGETS, Target, host, runs_here, target
from nbconv.lowering.conv import INTEGER_KERNELS, integer_gemm, integer_winograd
from nbconv.model import Model
from nbconv.ops import Op, integer_conv, lookup
from nbconv.plan.plan import Plan

F32 = np.float32
WAYS = {"": [""], "vnni": ["", "vnni"], "amx": ["", "vnni", "amx"]}[host().dot]
"""How bytes are multiplied here."""
SHORTS = [t._replace(dot="") for t in TARGETS.values() if t.triple.startswith("x86") and runs_here(t)]
"""Machines that run here and have no instruction for products of bytes."""


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


@pytest.fixture(params=SHORTS, ids=[t.name for t in SHORTS])
def filtered(request, monkeypatch) -> Target:
    """Such a machine, where Winograd's filtering does all convolutions of integers."""
    monkeypatch.setattr("nbconv.kernels.target.host", lambda: request.param)
    for rows in ("CONVOLUTIONS", "INTEGER_SUMS"):
        monkeypatch.setattr(integer_conv, rows, (integer_winograd.INTEGER_WINOGRAD,))
    return request.param


def random_filtering(rng: np.random.Generator) -> tuple[Op, list[np.ndarray | None]]:
    """A convolution that Winograd's filtering can do."""
    group, ci, co = int(rng.choice([1, 1, 2])), int(rng.integers(8, 70)), int(rng.integers(8, 70))
    size, pads = rng.integers(3, 19, 2), tuple(int(v) for v in rng.integers(0, 4, 4))
    x_type, w_type, y_type = (eight_bits(rng) for _ in range(3))
    channels = (group * co,) * int(rng.integers(2))
    x, w = numbers(rng, x_type, int(rng.integers(1, 3)), group * ci, *size), numbers(rng, w_type, group * co, ci, 3, 3)
    w_zero = numbers(rng, w_type, *channels)
    if rng.integers(4) == 0:
        return lookup("ConvInteger")(group=group, pads=pads), [x, w, numbers(rng, x_type), w_zero]
    b = rng.integers(-5000, 5000, group * co).astype(np.int32) if rng.integers(2) else None
    y = [np.asarray(np.sqrt(ci) * rng.random() + 0.01, F32), numbers(rng, y_type)]
    inputs = [x, scale(rng), numbers(rng, x_type), w, scale(rng, *channels), w_zero, *y, b]
    return lookup("QLinearConv")(group=group, pads=pads), inputs


def test_filtering_of_integers_has_the_references_bits(filtered) -> None:
    rng = np.random.default_rng(17)
    for _ in range(24):
        check(*random_filtering(rng), "quantised_winograd")


@pytest.mark.parametrize("x,w,w_zero", [(0, 0, 255), (0, 255, 0), (255, 0, 255), (255, 255, 0)])
def test_filtering_of_most_channels_does_not_overflow(filtered, x, w, w_zero) -> None:
    """Of the largest sums that there can be."""
    c, one, zero = integer_winograd.MOST, np.ones((), F32), np.zeros((), np.uint8)
    full = [np.full((1, c, 3, 3), x, np.uint8), one, zero, np.full((8, c, 3, 3), w, np.uint8), one]
    check(lookup("QLinearConv")(), [*full, np.asarray(w_zero, np.uint8), np.asarray(2**23, F32), zero + np.uint8(128), None])
    assert 4 * 9 * 128 * 255 * c < 2**31 <= 4 * 9 * 128 * 255 * (c + 1)


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
    for c in (16, 64, 512):
        assert ("quantised_winograd.winograd" in kernels("", c, 1, 3)) == name.startswith("x86")
        assert "quantised_winograd.winograd" not in kernels("vnni", c, 1, 3)


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
    assert {row.name for row in INTEGER_KERNELS} == {"integer_gemm", "integer_depthwise", "integer_winograd"}
