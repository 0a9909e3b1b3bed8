"""Winograd's filtering: what a result does not see must not reach it, what is behind may count on signs, and errors are
small."""

from __future__ import annotations

import copy
import pickle
import uuid

import numpy as np
import onnx
import pytest
from onnx import helper

import nbconv
from nbconv.graph import Graph, Node, Spec
from nbconv.lowering.conv import CONVOLUTIONS
from nbconv.model import Model
from nbconv.ops import lookup
from tests.kernels.harness import EPS

F32 = np.dtype(np.float32)
PADS = (1, 1, 1, 1)
SIZES = pytest.mark.parametrize("size", [4, 2])


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("nbconv.ops.convolution.CONVOLUTIONS", [row for row in CONVOLUTIONS if row.name == name])


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray, fed: bool = False, turned: bool = False) -> Model:
    """Of constant weights, or of some that are fed; or a transposed one."""
    op = lookup("ConvTranspose" if turned else "Conv")(pads=PADS)
    graph = Graph([Node(op, ("x", "w", "b"), ("y",))], {"x": Spec(x.shape, F32)}, {"y": None}, {"w": w, "b": b})
    if fed:
        graph = Graph(graph.nodes, {**graph.inputs, "w": Spec(w.shape, F32)}, {"y": None}, {"b": b})
    return Model(graph, threads=2)


def sums(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The convolution in float64, term by term: BLAS may not know 0 · infinity."""
    n, _, h, width = x.shape
    wide = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    y = np.zeros((n, len(w), h, width)) + b[:, None, None]
    with np.errstate(all="ignore"):
        for ky, kx in np.ndindex(3, 3):
            seen = wide[:, None, :, ky : ky + h, kx : kx + width]
            y += (seen * w[None, :, :, ky, kx, None, None].astype(np.float64)).sum(2)
    return y


CELLS = {"one": 1e6, "inf": np.inf, "-inf": -np.inf, "nan": np.nan, "largest": 1e36, "sentinel": -9999.0, "all kinds": None}


@SIZES
@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("case", range(4))
def test_a_cell_reaches_those_results_alone_that_see_it(monkeypatch, size: int, cells: str, case: int) -> None:
    """One cell or a whole corner, of one channel or all, among others, among zeros, or where all is small. Results that see
    what is not finite are what sums of it are, the others as near as ever."""
    only(monkeypatch, f"winograd_{size}")
    rng = np.random.default_rng(10 * size + case)
    ci, co, h, width = (int(rng.integers(*of)) for of in ((16, 40), (12, 40), (3, 14), (3, 14)))
    x = rng.standard_normal((2, ci, h, width), np.float32) * (case != 1)
    w = rng.standard_normal((co, ci, 3, 3), np.float32) / np.float32(3 * ci**0.5)
    w[rng.random(w.shape) < 0.2] = 0
    scale = np.float32(1e-5 if case == 3 else 1)
    x, b = x * scale, rng.standard_normal(co).astype(np.float32) * scale
    i, j = int(rng.integers(h)), int(rng.integers(width))
    hot = np.zeros((h, width), bool)
    hot[(slice(0, i + 1), slice(0, j + 1)) if case == 2 else (i, j)] = True
    channels = slice(None) if case == 2 else slice(3, 4)
    value = CELLS[cells]
    if value is None:
        drawn = rng.choice(np.array([np.inf, -np.inf, np.nan, 1e7, 1], np.float32), x[0, channels].shape)
        x[0, channels] = np.where(hot, drawn, x[0, channels])
    else:
        x[0, channels] = np.where(hot, np.float32(value) * scale, x[0, channels])
    wanted = sums(x, w, b)
    model = convolution(x, w, b)
    got = model.run({"x": x})["y"]
    assert got.tobytes() == model.run({"x": x}, threads=1)["y"].tobytes()
    assert got[:1].tobytes() == convolution(x[:1], w, b).run({"x": x[:1]})["y"].tobytes(), "blocks of tiles matter"
    with np.errstate(over="ignore"):
        single = wanted.astype(np.float32)
    np.testing.assert_array_equal(got[~np.isfinite(single)], single[~np.isfinite(single)])
    largest = np.broadcast_to(np.abs(w).max((2, 3), keepdims=True), w.shape)  # what a filter's transforms are rounded by
    terms = sums(np.abs(np.where(np.isfinite(x), x, 0)), largest, np.abs(b))
    most = sums(np.abs(np.where(np.abs(x) < 64 * scale, x, 0)), largest, np.abs(b)).max()
    bound = 8 * EPS * np.maximum(terms, most)
    finite = np.isfinite(single)
    error = np.abs(got[finite] - wanted[finite])
    assert (error <= bound[finite]).all(), f"{error.max():.3g}"


@SIZES
def test_large_images_are_not_uneven(monkeypatch, size: int) -> None:
    """All of one magnitude, whatever it is, with zeros around: the bits are those of the smaller image, scaled."""
    only(monkeypatch, f"winograd_{size}")
    rng = np.random.default_rng(size)
    x, w = rng.standard_normal((1, 20, 9, 11), np.float32), rng.standard_normal((18, 20, 3, 3), np.float32)
    b = np.zeros(18, np.float32)
    model = convolution(x, w, b)
    got, large = (model.run({"x": x * np.float32(k)})["y"] for k in (1, 2.0**20))
    np.testing.assert_array_equal(large, got * np.float32(2.0**20))


@SIZES
@pytest.mark.parametrize("turned", [False, True])
def test_weights_that_vary_and_transposed_ones_do_so_too(monkeypatch, size: int, turned: bool) -> None:
    only(monkeypatch, f"winograd_{size}")
    rng = np.random.default_rng(size)
    x, w = rng.standard_normal((1, 20, 9, 11), np.float32), rng.standard_normal((18, 20, 3, 3), np.float32)
    w[:, :, 1, 1] = 0
    b = rng.standard_normal(18).astype(np.float32)
    x[0, 5, 4, 6] = np.inf
    given = np.ascontiguousarray(w.swapaxes(0, 1)[..., ::-1, ::-1]) if turned else w
    got = convolution(x, given, b, fed=True, turned=turned).run({"x": x, "w": given})["y"]
    wanted = sums(x, w, b)
    finite = np.isfinite(wanted)
    assert np.isnan(wanted[..., 4, 6]).all() and finite.sum() == wanted.size - 9 * 18
    np.testing.assert_array_equal(got[~finite], wanted[~finite])
    np.testing.assert_allclose(got[finite], wanted[finite], rtol=0, atol=2e-5 * np.abs(wanted[finite]).max())


@SIZES
def test_the_gradient_by_the_input_keeps_to_its_window(monkeypatch, size: int) -> None:
    only(monkeypatch, f"winograd_{size}")
    rng = np.random.default_rng(size)
    dy, w = rng.standard_normal((1, 18, 9, 8), np.float32), rng.standard_normal((18, 20, 3, 3), np.float32)
    dy[0, 3, 4, 4] = 1e7
    op = lookup("ConvGradInput", "nbconv")(kernel_shape=(3, 3), pads=PADS, size=(9, 8))
    graph = Graph([Node(op, ("dy", "w"), ("dx",))], {"dy": Spec(dy.shape, F32), "w": Spec(w.shape, F32)}, {"dx": None}, {})
    model = Model(graph)
    assert {s.kernel for s in model.plan({"dy": dy.shape, "w": w.shape}).steps} >= {"winograd.winograd"}
    got = model.run({"dy": dy, "w": w})["dx"]
    wanted = sums(dy, w.swapaxes(0, 1)[..., ::-1, ::-1], np.zeros(20))
    away = np.ones((9, 8), bool)
    away[3:6, 3:6] = False
    np.testing.assert_allclose(got[..., away], wanted[..., away], rtol=0, atol=1e-4)


def test_tiles_of_4_lose_little_beside_the_sum(monkeypatch) -> None:
    """Less than 3 times the error that the sum itself has; the points ±1 and ±2 would lose more."""
    rng = np.random.default_rng(1)
    x = np.maximum(rng.standard_normal((1, 48, 24, 24), np.float32), 0)
    w, b = rng.standard_normal((32, 48, 3, 3), np.float32) / 20, np.zeros(32, np.float32)
    wanted, errors = sums(x, w, b), {}
    for name in ("indirect_gemm", "winograd_4"):
        only(monkeypatch, name)
        errors[name] = np.square(convolution(x, w, b).run({"x": x})["y"] - wanted).mean() ** 0.5
    assert errors["winograd_4"] < 3 * errors["indirect_gemm"]


# Signs


def chain(rng: np.random.Generator, w: np.ndarray, ends: str, middle: int) -> Graph:
    """x² through a convolution, and what keeps signs, to an operator."""
    inner = [
        [],
        [Node(lookup("MaxPool")(kernel_shape=(1, 1)), ("c",), ("d",))],
        [Node(lookup("Relu")(), ("c",), ("r",)), Node(lookup("GlobalAveragePool")(), ("r",), ("d",))],
        [Node(lookup("Reshape")(), ("c", "flat"), ("d",))],
        [Node(lookup("Add")(), ("c", "q"), ("d",))],
    ][middle]
    last = inner[-1].outputs[0] if inner else "c"
    two = ends in ("Div", "Greater", "Pow")
    reads = ("one", last) if ends == "Div" else (last, "one") if two else (last,)
    nodes = [
        Node(lookup("Mul")(), ("x", "x"), ("q",)),
        Node(lookup("Conv")(pads=PADS), ("q", "w"), ("c",)),
        *inner,
        Node(lookup(ends)(), reads, ("y",)),
    ]
    constants = {"w": w, "one": np.float32(0.5), "flat": np.array([1, -1])}
    return Graph(nodes, {"x": Spec((1, w.shape[1], 16, 16), F32)}, {"y": None}, constants)


def filtered(model: Model, shape: tuple[int, ...]) -> bool:
    return any(step.kernel == "winograd.winograd" for step in model.plan({"x": shape}).steps)


@pytest.mark.parametrize("ends", ["Sqrt", "Log", "Pow", "Div", "Greater", "Reciprocal"])
def test_sums_of_what_is_not_negative_are_not_where_a_sign_matters(ends: str) -> None:
    """Images that are zero but for few cells, whose sums Winograd's filtering makes negative."""
    rng = np.random.default_rng(len(ends))
    for middle in range(5):
        w = np.abs(rng.standard_normal((32, 32, 3, 3), np.float32))
        x = rng.standard_normal((1, 32, 16, 16), np.float32) * (rng.random((1, 1, 16, 16)) < 0.05)
        graph = chain(rng, w, ends, middle)
        model = Model(graph)
        assert not filtered(model, x.shape)
        with np.errstate(all="ignore"):
            assert not np.isnan(model.run({"x": x})["y"]).any()
        assert np.min(model.run({"x": x}, ["c"])["c"]) < 0 or middle, "this test shows nothing"
        w[3, 4, 1, 0] = -0.1
        assert filtered(Model(graph.derive(graph.nodes, {**graph.constants, "w": w})), x.shape), "negative weights"


def test_sums_whose_sign_does_not_matter_are_filtered() -> None:
    rng = np.random.default_rng(0)
    w = np.abs(rng.standard_normal((32, 32, 3, 3), np.float32))
    for ends in ("Relu", "Sigmoid", "Exp"):
        assert filtered(Model(chain(rng, w, ends, 0)), (1, 32, 16, 16))


# exact=True


def test_exact_models_sum(monkeypatch) -> None:
    """Their programs are kept apart, copies are exact, too, and so is the session of onnxruntime's interface."""
    rng = np.random.default_rng(1)
    w = 0.1 * rng.standard_normal((32, 32, 3, 3), np.float32)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 32, 16, 16]) for name in "xy"]
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    graph = helper.make_graph(nodes, str(uuid.uuid4()), ends[:1], ends[1:], [onnx.numpy_helper.from_array(w, "w")])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    x = rng.standard_normal((1, 32, 16, 16), np.float32)
    usual, exact = nbconv.load(data), nbconv.load(data, exact=True)
    assert filtered(usual, x.shape) and not filtered(exact, x.shape)
    fast, slow = (model.run({"x": x})["y"].tobytes() for model in (usual, exact))
    assert fast != slow
    for model in (copy.copy(exact), copy.deepcopy(exact), pickle.loads(pickle.dumps(exact)), nbconv.load(data, exact=True)):
        assert model.run({"x": x})["y"].tobytes() == slow
    assert nbconv.load(data).run({"x": x})["y"].tobytes() == fast
    from nbconv import ort

    options = ort.SessionOptions()
    options.add_session_config_entry("nbconv.exact", "1")
    assert ort.InferenceSession(data, options).run(None, {"x": x})[0].tobytes() == slow
    assert ort.InferenceSession(data).run(None, {"x": x})[0].tobytes() == fast


def test_training_of_exact_models_sums() -> None:
    rng = np.random.default_rng(2)
    constants = {"w": 0.1 * rng.standard_normal((32, 32, 3, 3), np.float32), "v": rng.standard_normal((3, 32), np.float32)}
    nodes = [
        Node(lookup("Conv")(pads=PADS), ("x", "w"), ("c",)),
        Node(lookup("Conv")(pads=PADS), ("c", "w2"), ("d",)),
        Node(lookup("GlobalAveragePool")(), ("d",), ("p",)),
        Node(lookup("Flatten")(), ("p",), ("f",)),
        Node(lookup("Gemm")(transB=1), ("f", "v"), ("y",)),
    ]
    graph = Graph(nodes, {"x": Spec((None, 32, 16, 16), F32)}, {"y": None}, {**constants, "w2": constants["w"] + 1})
    x = rng.standard_normal((2, 32, 16, 16), np.float32)
    for exact in (False, True):
        trainer = nbconv.Trainer(Model(graph, exact=exact), optimizer=nbconv.SGD(lr=1e-3))
        trainer.step(x, np.array([0, 2]))
        plan = next(iter(trainer._works.values())).step.plan
        assert any(step.impl.kind == "winograd" for step in plan.steps) is not exact
