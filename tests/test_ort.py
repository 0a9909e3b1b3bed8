"""`nbconv.ort` does what onnxruntime does: the same calls to both, side by side."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import nbconv
from nbconv import ort
from nbconv.errors import ModelError, UnsupportedError
from tests import models

onnxruntime: Any = pytest.importorskip("onnxruntime")
state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")


def told_model() -> onnx.ModelProto:
    """The small model, with all that a file can say of itself."""
    model = models.small_model()
    model.producer_version, model.domain, model.model_version, model.doc_string = "2.1", "org.tests", 7, "a model"
    model.graph.doc_string = "a graph"
    model.metadata_props.add(key="classes", value="a\nb")
    return model


def two_model() -> onnx.ModelProto:
    """Two inputs, two outputs (one of them of no declared shape), an integer and a float: y = x + 1, z = int(x) + n."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["y"]),
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Add", ["i", "n"], ["z"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", None, 4]),
        helper.make_tensor_value_info("n", TensorProto.INT64, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", None, 4]),
        helper.make_tensor_value_info("z", TensorProto.INT64, None),
    ]
    one = onnx.numpy_helper.from_array(np.array(1, np.float32), "one")
    graph = helper.make_graph(nodes, "two", inputs, outputs, [one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SMALL, TWO = told_model().SerializeToString(), two_model().SerializeToString()
X = np.random.default_rng(1).standard_normal((2, 3, 9, 7), np.float32)
FEED = {"x": np.array([[[1, 2, 3, 4]], [[-5, 6, 7, 8.5]]], np.float32), "n": np.array([10])}


def both(model: bytes) -> tuple[Any, Any]:
    return ort.InferenceSession(model), onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_results() -> None:
    mine, peer = both(SMALL)
    for names in (None, [], ["y"], ["y", "y"], ("y",)):
        got, want = mine.run(names, {"x": X}), peer.run(names, {"x": X})
        assert type(got) is list
        assert len(got) == len(want)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    mine, peer = both(TWO)
    for names in (None, ["z"], ["z", "y"]):
        for got, want in zip(mine.run(names, FEED), peer.run(names, FEED), strict=True):
            np.testing.assert_array_equal(got, want, strict=True)
    listed = {"x": FEED["x"].tolist(), "n": [10]}
    for got, want in zip(mine.run(None, listed), peer.run(None, listed), strict=True):
        np.testing.assert_array_equal(got, want, strict=True)


@pytest.mark.parametrize("model", [SMALL, TWO, *(models.rapidocr(n).read_bytes() for n in models.RAPIDOCR)], ids=len)
def test_ports(model: bytes) -> None:
    mine, peer = both(model)
    pairs = (
        *zip(mine.get_inputs(), peer.get_inputs(), strict=True),
        *zip(mine.get_outputs(), peer.get_outputs(), strict=True),
    )
    for got, want in pairs:
        assert (got.name, got.type) == (want.name, want.type)
        if got.name != "z":  # of which the model does not tell the shape
            assert got.shape == [None if d == "?" else d for d in want.shape]
    assert mine.get_overridable_initializers() == peer.get_overridable_initializers() == []


def test_output_that_is_not_declared() -> None:
    (_, z), info = (
        ort.InferenceSession(TWO).get_outputs(),
        "NodeArg(name='z', type='tensor(int64)', shape=[None, None, None])",
    )
    assert repr(z) == info
    fixed = two_model()
    for dim in fixed.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_value = 4
    assert ort.InferenceSession(fixed.SerializeToString()).get_outputs()[1].shape == [4, 4, 4]


@pytest.mark.parametrize("model", [SMALL, TWO, models.rapidocr("rec").read_bytes()], ids=len)
def test_metadata(model: bytes, tmp_path) -> None:
    mine, peer = both(model)
    nbconv.save(nbconv.load(model), tmp_path / "again.onnx")
    saved = ort.InferenceSession(tmp_path / "again.onnx")
    want = peer.get_modelmeta()
    for session in (mine, saved):
        got = session.get_modelmeta()
        fields = ["graph_name", "domain", "description", "graph_description", "version", "custom_metadata_map"]
        if want.producer_name or session is mine:
            fields.append("producer_name")
        for field in fields:
            assert getattr(got, field) == getattr(want, field), field


FED = {
    "missing": {},
    "wrong name": {"z": X},
    "a name too many": {"x": X, "z": X},
    "rank": {"x": X[0]},
    "size": {"x": X[:, :2]},
    "double": {"x": X.astype(np.float64)},
    "integer": {"x": X.astype(np.uint8)},
}


@pytest.mark.parametrize("feed", FED.values(), ids=FED)
def test_wrong_inputs(feed: dict) -> None:
    """The same exception, with the same words (ours may say more)."""
    mine, peer = both(SMALL)
    with pytest.raises((state.InvalidArgument, ValueError)) as told:
        peer.run(None, feed)
    kind = ort.InvalidArgument if isinstance(told.value, state.InvalidArgument) else ValueError
    with pytest.raises(kind) as caught:
        mine.run(None, feed)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(str(told.value))


def test_other_wrong_arguments() -> None:
    session = ort.InferenceSession(SMALL)
    for names, feed in ((["q"], {"x": X}), (["conv"], {"x": X}), (None, {"x": None}), (None, {"x": "text"}), (None, [X])):
        with pytest.raises(ort.InvalidArgument):
            session.run(names, feed)
    for names, options in (("y", None), (None, 5)):
        with pytest.raises(TypeError):
            session.run(names, {"x": X}, options)
    options = ort.RunOptions()
    assert session.run(None, {"x": X}, options)[0].shape == (2, 5)
    options.terminate = True
    with pytest.raises(ort.Fail, match="terminate"):
        session.run(None, {"x": X}, options)


def test_what_does_not_fit_a_node() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"], "the_sum")
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in "aby"]
    model = helper.make_model(
        helper.make_graph([node], "g", infos[:2], infos[2:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    with pytest.raises(ort.Fail, match="the_sum"):
        ort.InferenceSession(model.SerializeToString()).run(
            None, {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
        )


def test_models_that_cannot_be_loaded(tmp_path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    absent = tmp_path / "absent.onnx"
    cases = [(str(absent), "NoSuchFile"), (str(path), "InvalidProtobuf"), (b"nonsense", "InvalidProtobuf")]
    for source, name in cases:
        with pytest.raises(getattr(state, name)):
            onnxruntime.InferenceSession(source)
        with pytest.raises(getattr(ort, name)):
            ort.InferenceSession(source)
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        ort.InferenceSession(absent)
    cycle = models.small_model()
    cycle.graph.node[0].input[0] = "act"
    with pytest.raises(ort.InvalidGraph, match="cycle"):
        ort.InferenceSession(cycle.SerializeToString())
    lacking = models.small_model()
    lacking.graph.node[1].op_type = "Nonsense"
    with pytest.raises(ort.NotImplemented, match="Nonsense") as caught:
        ort.InferenceSession(lacking.SerializeToString())
    assert isinstance(caught.value, UnsupportedError)
    for source in (5, None, [SMALL]):
        with pytest.raises(TypeError):
            ort.InferenceSession(source)  # pyright: ignore[reportArgumentType]


def test_exceptions_where_onnxruntime_has_them() -> None:
    from nbconv.ort.capi import _pybind_state as C  # pyright: ignore[reportMissingImports]
    from nbconv.ort.capi import onnxruntime_inference_collection as collection  # pyright: ignore[reportMissingImports]
    from nbconv.ort.capi.onnxruntime_pybind11_state import InvalidArgument  # pyright: ignore[reportMissingImports]

    assert InvalidArgument is ort.InvalidArgument is ort.capi.onnxruntime_pybind11_state.InvalidArgument is C.InvalidArgument
    assert collection.InferenceSession is ort.InferenceSession
    for name in (
        "Fail", "InvalidArgument", "NoSuchFile", "NoModel", "EngineError", "RuntimeException", "InvalidProtobuf",
        "ModelLoaded", "NotImplemented", "InvalidGraph", "EPFail",
    ):  # fmt: skip
        assert issubclass(getattr(state, name), Exception)
        assert issubclass(getattr(C, name), ModelError)
    again = pickle.loads(pickle.dumps(ort.InvalidArgument("a text")))
    assert (type(again), str(again)) == (ort.InvalidArgument, "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : a text")


INSTALLED = """
import sys
import nbconv.ort

nbconv.ort.install()
import onnxruntime
import onnxruntime as rt
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, InvalidArgument, InvalidProtobuf, NoSuchFile
import onnxruntime.capi.onnxruntime_pybind11_state as state

assert onnxruntime is nbconv.ort and onnxruntime.capi is sys.modules["onnxruntime.capi"]
assert InferenceSession is onnxruntime.InferenceSession is C.InferenceSession
assert state.InvalidArgument is InvalidArgument is nbconv.ort.InvalidArgument
try:
    onnxruntime.InferenceSession("absent.onnx")
except NoSuchFile as error:
    assert "absent.onnx" in str(error)
onnxruntime.preload_dlls()
print([m for m in ("onnx", "numba", "nbconv.ops") if m in sys.modules], onnxruntime.get_available_providers())
try:
    import onnxruntime.quantization
except ImportError as error:
    print(error)
"""


def test_installed_under_onnxruntimes_name() -> None:
    run = subprocess.run([sys.executable, "-c", INSTALLED], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "[] ['CPUExecutionProvider']", "No module named 'onnxruntime.quantization'"
    ]  # fmt: skip


def test_installed_late() -> None:
    code = "import onnxruntime as was, nbconv.ort; nbconv.ort.install(); import onnxruntime as now; "
    code += (
        "import onnxruntime.capi.onnxruntime_pybind11_state as s; print(now is nbconv.ort, was is now, s.Fail is now.Fail)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert run.stdout.strip() == "True False True"
    assert "onnxruntime was imported before" in run.stderr


def test_shapes_that_vary_take_bounded_memory(monkeypatch) -> None:
    monkeypatch.setattr("nbconv.runtime.planned.PLAN_BYTES", 1 << 18)
    session = ort.InferenceSession(str(models.rapidocr("det")), providers=["CPUExecutionProvider"])
    for width in range(320, 640, 32):
        (y,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 320, width), np.float32)})
        assert y.shape == (1, 1, 320, width)
    assert len(session._model._plans) < 5
    assert len(session._model._arenas._free) == 1  # what the largest needed, shared by all


def test_sessions_are_pickled() -> None:
    session = ort.InferenceSession(SMALL)
    again = pickle.loads(pickle.dumps(session))
    np.testing.assert_array_equal(again.run(None, {"x": X}), session.run(None, {"x": X}))


def test_import_is_light() -> None:
    code = "import sys, nbconv.ort; print([m for m in ('onnx', 'numba', 'llvmlite', 'nbconv.ops') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert run.stdout.strip() == "[]"
