"""Providers, options, profiles and logs of `nbconv.ort`, beside onnxruntime's."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from nbconv import ort
from tests.test_ort import SMALL, X, onnxruntime


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
    for make in (ort.InferenceSession, onnxruntime.InferenceSession):
        for wrong in (3, "fast", [1]):
            with pytest.raises(TypeError):
                make(SMALL, wrong)
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
        assert sum(part in text and "has no effect: " in text for text in said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ort.InferenceSession(SMALL, options)
        options.add_session_config_entry("session.intra_op.allow_spinning", "maybe")
        ort.InferenceSession(SMALL, options)


def test_every_option_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set to anything else than its default an attribute has an effect, is true of nbconv, or is warned of by name."""
    others = {bool: lambda v: not v, int: lambda v: 7, str: lambda v: "other"}
    effective = {
        "enable_profiling", "intra_op_num_threads", "logid", "only_execute_path_to_fetches", "optimized_model_filepath",
        "profile_file_prefix", "terminate", "use_deterministic_compute",
    }  # fmt: skip
    for kind in (ort.SessionOptions, ort.RunOptions):
        for name, default in kind._defaults.items():
            monkeypatch.setattr("nbconv.compat.onnxruntime.options._told", set())
            options, choices = kind(), type(default)
            other = others[choices] if choices in others else lambda v: next(c for c in type(v) if c != v)
            setattr(options, name, other(default))
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                options._tell()
            said = [str(w.message) for w in told]
            assert len(said) == (name not in effective), name
            assert all(f"{kind.__name__}.{name} = " in text and "has no effect: " in text for text in said)


def test_entries_that_ask_for_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbconv.compat.onnxruntime.options._told", set())
    options = ort.SessionOptions()
    for key, value in (
        ("session.set_denormal_as_zero", "0"), ("session.intra_op.allow_spinning", "1"), ("session.disable_prepacking", "0"),
        ("session.load_model_format", "ONNX"), ("optimization.enable_gelu_approximation", "0"),
    ):  # fmt: skip
        options.add_session_config_entry(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ort.InferenceSession(SMALL, options)
    options.add_session_config_entry("optimization.enable_gelu_approximation", "1")
    options.add_session_config_entry("nonsense", "1")
    with pytest.warns(UserWarning, match="no effect") as told:
        ort.InferenceSession(SMALL, options)
    first, second = (str(w.message) for w in told)
    assert "'optimization.enable_gelu_approximation' of SessionOptions = '1'" in first and "Gelu" in first
    assert "'nonsense'" in second and "no such entry" in second


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_as_zero(threads: int) -> None:
    """ "1" flushes, all else keeps; without the entry they are flushed. onnxruntime is not asked: it sets the mode of the
    calling thread, for good, and only in a process's first session."""
    node = onnx.helper.make_node("Mul", ["x", "w"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n"]) for n in "xy"]
    w = onnx.numpy_helper.from_array(np.array(1e-39, np.float32), "w")
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:], [w])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for value, wanted in (("1", False), ("0", True), ("yes", True), (None, False), ("0", True)):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        if value is not None:
            options.add_session_config_entry("session.set_denormal_as_zero", value)
        session = ort.InferenceSession(model.SerializeToString(), options)
        assert session.run(None, {"x": np.ones(5, np.float32)})[0].any() == wanted, value
        options.add_free_dimension_override_by_name("n", 3)
        session = ort.InferenceSession(model.SerializeToString(), options)
        assert session.run(None, {"x": np.ones(3, np.float32)})[0].any() == wanted


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
