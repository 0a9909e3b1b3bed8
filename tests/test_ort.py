"""`nbconv.ort` does what onnxruntime does: the same calls to both, side by side."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import warnings
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


def test_providers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = ort.InferenceSession(
            SMALL, None, [("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]
        )
        ort.InferenceSession(SMALL, providers=ort.get_available_providers(), provider_options=[{}])
    assert (session.get_providers(), session.get_provider_options()) == (
        ["CPUExecutionProvider"],
        {"CPUExecutionProvider": {}},
    )
    for make in (ort.InferenceSession, onnxruntime.InferenceSession):
        with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available provider names"):
            session = make(SMALL, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
        assert session.get_providers() == ["CPUExecutionProvider"]
    wrong: Any
    for wrong in (5, [5], [("CPUExecutionProvider", 5)]):
        with pytest.raises(ValueError, match="'providers'"):
            ort.InferenceSession(SMALL, providers=wrong)
    with pytest.raises(ValueError, match="same length"):
        ort.InferenceSession(SMALL, providers=["CPUExecutionProvider"], provider_options=[{}, {}])
    with pytest.warns(UserWarning, match="CUDA"):
        session.set_providers(["CUDAExecutionProvider"])
    assert (ort.get_device(), ort.get_all_providers()) == ("CPU", ["CPUExecutionProvider"])


def public(thing: Any) -> dict[str, Any]:
    found = {name: getattr(thing, name) for name in dir(thing) if not name.startswith("_")}
    return {name: value for name, value in found.items() if not callable(value)}


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions"])
def test_options(name: str) -> None:
    mine, peer = getattr(ort, name)(), getattr(onnxruntime, name)()
    assert {k: str(v) for k, v in vars(mine).items() if not k.startswith("_")} == {
        k: str(v) for k, v in public(peer).items()
    }
    for options in (mine, peer):
        options.log_severity_level = 4
        assert options.log_severity_level == 4
        with pytest.raises(TypeError):
            options.log_severity_level = "4"
        with pytest.raises(AttributeError):
            options.nonsense = 1
        kind = "session" if name == "SessionOptions" else "run"
        getattr(options, f"add_{kind}_config_entry")("key", "value")
        assert getattr(options, f"get_{kind}_config_entry")("key") == "value"
        with pytest.raises(RuntimeError):
            getattr(options, f"get_{kind}_config_entry")("other")
    again = pickle.loads(pickle.dumps(mine))
    assert vars(again) == vars(mine) == vars(copy.copy(mine))


@pytest.mark.parametrize("name", ["GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder"])
def test_enumerations(name: str) -> None:
    mine, peer = getattr(ort, name), getattr(onnxruntime, name)
    assert {k: int(v) for k, v in mine.__members__.items()} == {k: int(v) for k, v in peer.__members__.items()}
    assert [str(v) for v in mine.__members__.values()] == [str(v) for v in peer.__members__.values()]


def test_options_with_an_effect(tmp_path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    options.add_free_dimension_override_by_name("N", 2)
    session = ort.InferenceSession(SMALL, options)
    assert session.get_session_options() is options
    assert session._model.threads == 1
    assert [a.shape for a in (*session.get_inputs(), *session.get_outputs())] == [[2, 3, 9, 7], [2, 5]]
    (want,) = ort.InferenceSession(SMALL).run(None, {"x": X})
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], want)
    with pytest.raises(ort.InvalidArgument):
        session.run(None, {"x": X[:1]})
    peer = onnxruntime.InferenceSession(options.optimized_model_filepath)
    np.testing.assert_allclose(peer.run(None, {"x": X})[0], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ort.Fail, match=r"custom\.so"):
        options.register_custom_ops_library("custom.so")


def test_what_has_no_effect_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbconv.compat.onnxruntime.options._told", set())
    options = ort.SessionOptions()
    options.enable_mem_pattern, options.log_severity_level, options.inter_op_num_threads = False, 3, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with pytest.warns(UserWarning, match="no effect") as told:
        ort.InferenceSession(SMALL, options, disabled_optimizers=["ConstantFolding"])
    said = [str(w.message) for w in told]
    assert len(said) == 3
    for part in ("SessionOptions.enable_mem_pattern = False", "session.intra_op.allow_spinning", "disabled_optimizers"):
        assert sum(part in text and "no effect" in text for text in said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ort.InferenceSession(SMALL, options)


@pytest.mark.parametrize("module", [ort, onnxruntime], ids=["nbconv", "onnxruntime"])
def test_profile(module: Any, tmp_path) -> None:
    options = module.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = module.InferenceSession(SMALL, options, providers=["CPUExecutionProvider"])
    assert session.get_profiling_start_time_ns() > 0
    for _ in range(2):
        session.run(None, {"x": X})
    path = session.end_profiling()
    assert path.startswith(str(tmp_path / "profile_20"))
    with open(path) as file:
        events = json.load(file)
    assert {"cat", "pid", "tid", "dur", "ts", "ph", "name", "args"} <= set(events[0])
    names = [e["name"] for e in events if e["cat"] == "Session"]
    assert names[:2] == ["model_loading_array", "session_initialization"]
    assert names.count("model_run") == 2
    nodes = [e for e in events if e["cat"] == "Node"]
    assert "Conv" in {e["args"]["op_name"] for e in nodes}
    first = next(e for e in nodes if e["args"]["op_name"] == "Conv")
    assert first["dur"] >= 0
    assert (first["args"]["provider"], first["args"]["input_type_shape"][0]) == (
        "CPUExecutionProvider", {"float": [2, 3, 9, 7]}
    )  # fmt: skip
    assert session.end_profiling() == ""
    assert module.InferenceSession(SMALL, providers=["CPUExecutionProvider"]).end_profiling() == ""


def nonzero_model() -> bytes:
    """What is not 0, as indices and as values: neither output's shape is declared."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"]),
        helper.make_node("Transpose", ["at"], ["rows"], perm=[1, 0]),
        helper.make_node("GatherND", ["x", "rows"], ["found"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    infos = [helper.make_tensor_value_info("at", TensorProto.INT64, None), onnx.ValueInfoProto(name="found")]
    graph = helper.make_graph(nodes, "nonzero", [x], infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_outputs_whose_shapes_are_values() -> None:
    mine, peer = both(nonzero_model())
    for got, want in zip(mine.get_outputs(), peer.get_outputs(), strict=True):
        assert (got.name, got.type, got.shape) == (want.name, want.type, want.shape)
    for x in ([[1, 0, 2], [0, 0, 3]], [[0, 0, 0], [0, 0, 0]]):
        feed = {"x": np.array(x, np.float32)}
        for got, want in zip(mine.run(None, feed), peer.run(None, feed), strict=True):
            np.testing.assert_array_equal(got, want, strict=True)
    (found,) = mine.run_with_ort_values(["found"], {"x": ort.OrtValue.ortvalue_from_numpy(np.eye(2, 3, dtype=np.float32))})
    np.testing.assert_array_equal(found.numpy(), np.ones(2, np.float32), strict=True)


def test_devices_and_memory() -> None:
    for module in (ort, onnxruntime):
        device = module.OrtDevice.make("cpu", 0)
        assert (device.device_type(), device.device_id()) == (0, 0)
        memory = module.OrtMemoryInfo("Cpu", module.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, module.OrtMemType.DEFAULT)
        assert memory is not None
    assert (ort.OrtDevice(1, 0, 3).device_id(), ort.OrtDevice.make("cuda", 2).device_id()) == (3, 2)
    with pytest.raises(ValueError, match="abacus"):
        ort.OrtDevice.make("abacus", 0)
    for make in (lambda: ort.SparseTensor.sparse_coo_from_numpy([2], X, X, None), lambda: ort.SparseTensor(None)):
        with pytest.raises(ort.NotImplemented, match="SparseTensor"):
            make()


def test_values_of_sequences() -> None:
    value = ort.OrtValue([np.zeros(2, np.int64), np.ones((1, 2), np.int64)])
    assert (value.is_tensor(), value.is_tensor_sequence(), value.data_type()) == (False, True, "seq(tensor(int64))")
    with pytest.raises(ort.RuntimeException):
        value.numpy()
    shared = ort.OrtValue.from_dlpack(X)
    assert shared.data_ptr() == X.ctypes.data


def test_async() -> None:
    session, done, told = ort.InferenceSession(SMALL), threading.Event(), []

    def callback(*arguments: Any) -> None:
        told.append(arguments)
        if len(told) == 2:
            done.set()

    (want,) = session.run(None, {"x": X})
    session.run_async(["y"], {"x": X}, callback, "mine")
    session.run_async(["y"], {"x": X[0]}, callback, "wrong")
    assert done.wait(60)
    by_data = {data: (results, error) for results, data, error in told}
    np.testing.assert_array_equal(by_data["mine"][0], [want])
    assert by_data["mine"][1] == ""
    assert by_data["wrong"][0] == []
    assert "x" in by_data["wrong"][1]
    with pytest.raises(ValueError):
        session.run_async(None, {}, callback, None)


def test_values() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    for module in (ort, onnxruntime):
        value = module.OrtValue.ortvalue_from_numpy(array)
        found = (value.shape(), value.data_type(), value.element_type(), value.device_name(), value.tensor_size_in_bytes())
        assert found == ([2, 3], "tensor(int32)", 6, "cpu", 24)
        assert (value.is_tensor(), value.has_value(), value.is_sparse_tensor(), value.is_tensor_sequence()) == (1, 1, 0, 0)
        np.testing.assert_array_equal(value.numpy(), array, strict=True)
        for kind in (np.float64, 11):
            empty = module.OrtValue.ortvalue_from_shape_and_type([2, 2], kind)
            assert (empty.shape(), empty.data_type()) == ([2, 2], "tensor(double)")
        empty.update_inplace(np.ones((2, 2)))
        np.testing.assert_array_equal(empty.numpy(), np.ones((2, 2)), strict=True)
    for wrong in (lambda: empty_value().update_inplace(array), lambda: ort.OrtValue.ortvalue_from_numpy(np.array(["a"]))):
        with pytest.raises(ort.InvalidArgument):
            wrong()
    with pytest.raises(ort.InvalidArgument, match="cuda"):
        ort.OrtValue.ortvalue_from_numpy(array, "cuda")
    session = ort.InferenceSession(TWO)
    fed = {name: ort.OrtValue.ortvalue_from_numpy(x) for name, x in FEED.items()}
    for got, want in zip(session.run_with_ort_values(None, fed), session.run(None, fed), strict=True):
        np.testing.assert_array_equal(got.numpy(), want, strict=True)


def empty_value() -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type([2, 2], np.float32)


@pytest.mark.parametrize("module", [ort, onnxruntime], ids=["nbconv", "onnxruntime"])
def test_binding(module: Any) -> None:
    session = module.InferenceSession(TWO, providers=["CPUExecutionProvider"])
    binding, x, y = session.io_binding(), FEED["x"], np.zeros((2, 1, 4), np.float32)
    binding.bind_cpu_input("n", FEED["n"])
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("z")
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(y, x + 1)
    z, again = binding.copy_outputs_to_cpu()
    np.testing.assert_array_equal(z, x.astype(np.int64) + 10, strict=True)
    np.testing.assert_array_equal(again, x + 1)
    target = module.OrtValue.ortvalue_from_shape_and_type([2, 1, 4], np.float32)
    binding.clear_binding_outputs()
    binding.bind_ortvalue_input("x", module.OrtValue.ortvalue_from_numpy(2 * x))
    binding.bind_ortvalue_output("y", target)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), 2 * x + 1)
    assert len(binding.get_outputs()) == 1
    with pytest.raises((RuntimeError, ValueError, state.InvalidArgument)):
        binding.bind_cpu_input("other", x)


def test_logging() -> None:
    logger = logging.getLogger("nbconv")
    before = logger.level
    try:
        ort.set_default_logger_severity(3)
        assert logger.level == logging.ERROR
        with pytest.raises(RuntimeError):
            ort.set_default_logger_severity(9)
    finally:
        logger.setLevel(before)


def test_shapes_that_vary_take_bounded_memory(monkeypatch) -> None:
    monkeypatch.setattr("nbconv.model.PLAN_BYTES", 1 << 18)
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


def test_sessions_with_operators_that_onnx_evaluates_are_pickled() -> None:
    session, feed = ort.InferenceSession(nonzero_model()), {"x": np.eye(2, 3, dtype=np.float32)}
    again = pickle.loads(pickle.dumps(session))
    for got, want in zip(again.run(None, feed), session.run(None, feed), strict=True):
        np.testing.assert_array_equal(got, want, strict=True)


def test_import_is_light() -> None:
    code = "import sys, nbconv.ort; print([m for m in ('onnx', 'numba', 'llvmlite', 'nbconv.ops') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert run.stdout.strip() == "[]"
