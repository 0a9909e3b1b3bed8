"""onnx's own backend tests through `nbconv.backend`: what its authors wrote down, against the kernels."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import nbconv.backend
from nbconv.errors import ModelError, UnsupportedError
from tests import conformance, models


@pytest.mark.parametrize("case", [case for case in conformance.cases() if not conformance.skipped(case.name)], ids=str)
def test_onnx(case: conformance.Case, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))  # where the runner writes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.run()


@pytest.mark.parametrize("case", [case for case in conformance.cases() if conformance.skipped(case.name)], ids=str)
def test_skips_are_needed(case: conformance.Case, tmp_path, monkeypatch) -> None:
    """What passes should not be skipped."""
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))
    assert conformance.outcome(case).result != "passed"


def test_every_pattern_skips_something() -> None:
    names = [case.name for case in conformance.cases()]
    assert not [pattern for pattern in conformance.SKIPPED if not any(re.search(pattern, name) for name in names)]


def test_counts() -> None:
    """Every test is counted once in each table."""
    found = [conformance.Outcome(case, "passed", "") for case in conformance.cases()]
    counts = conformance.counted(found)
    assert counts["part"]["all"][1] > 2000
    assert 1000 < counts["part"]["CNN"][1] < counts["part"]["all"][1]
    for table in ("kind", "family"):
        assert sum(total for _, total in counts[table].values()) == len(found)
    heads = [table[0].split("|")[1].strip() for table in conformance.tables(found)]
    assert heads == ["part", "kind of test", "family of operators", "test"]


RNG = np.random.default_rng(3)


def conv(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], **attributes)


def test_run_node() -> None:
    x, w = RNG.standard_normal((1, 2, 5, 4), np.float32), RNG.standard_normal((3, 2, 1, 1), np.float32)
    want = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0])
    for inputs in ([x, w], (x, w), {"x": x, "w": w}):
        (y,) = nbconv.backend.run_node(conv(), inputs)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    got = nbconv.backend.run_node(conv(), [x, w], "CPU", outputs_info=[(np.float32, (1, 3, 5, 4))])
    np.testing.assert_allclose(got["y"], want, rtol=1e-5, atol=1e-6)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_run_node_at_an_opset() -> None:
    """Softmax-11 flattened its input from the axis on (ONNX's text), Softmax-13 does not."""
    x = np.zeros((2, 3, 4), np.float32)
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    old: tuple[dict[str, Any], ...] = (
        {"opset_version": 11},
        {"opset_imports": {"": 11}},
        {"opset_imports": [helper.make_opsetid("", 11)]},
    )
    for options in old:
        np.testing.assert_allclose(nbconv.backend.run_node(node, [x], **options)[0], np.full_like(x, 1 / 12), rtol=1e-6)
    np.testing.assert_allclose(nbconv.backend.run_node(node, x)[0], np.full_like(x, 1 / 3), rtol=1e-6)


def test_run_node_without_optional_inputs() -> None:
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    (y,) = nbconv.backend.run_node(node, [np.array([-5, 1, 7], np.float32), np.float32(3)])
    np.testing.assert_array_equal(y, np.array([-5, 1, 3], np.float32))


def test_inputs_that_decide_shapes() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    x = np.arange(60, dtype=np.float32).reshape(3, 20)
    for shape in ([4, 15], [-1, 2]):
        (y,) = nbconv.backend.run_node(node, [x, np.array(shape)])
        np.testing.assert_array_equal(y, x.reshape(shape))
    with pytest.raises(ModelError, match="Reshape"):
        nbconv.backend.run_node(node, [x, np.array([7, 7])])


def test_prepare() -> None:
    model = models.small_model()
    onnxruntime = pytest.importorskip("onnxruntime")
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rep = nbconv.backend.prepare(model, "CPU:0", rtol=1, threads=1)
    assert rep.model.threads == 1
    for n in (1, 3):
        x = RNG.standard_normal((n, 3, 9, 7), np.float32)
        (want,) = peer.run(None, {"x": x})
        for got in (rep.run(x), rep.run([x]), rep.run({"x": x}), nbconv.backend.run_model(model, [x])):
            np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(got.y, got["y"])  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue, reportArgumentType]


def test_what_is_wrong() -> None:
    rep = nbconv.backend.prepare(models.small_model())
    x = np.zeros((1, 3, 9, 7), np.float32)
    for inputs, match in (([x, x], "2 arrays"), ([], "0 arrays"), ({"z": x}, "'z'"), ([x[0]], "4 dimensions")):
        with pytest.raises(ValueError, match=match):
            rep.run(inputs)
    with pytest.raises(ValueError, match="2 arrays"):
        nbconv.backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x, x])
    with pytest.raises(ModelError, match="Conv"):
        nbconv.backend.run_node(conv(nonsense=1), [x, x])
    with pytest.raises(UnsupportedError, match=r"operator com\.example\.Relu is not supported"):
        nbconv.backend.run_node(helper.make_node("Relu", ["x"], ["y"], domain="com.example"), [x])
    with pytest.raises(ValueError, match="CUDA"):
        nbconv.backend.prepare(models.small_model(), "CUDA")


def test_what_is_supported() -> None:
    supports = nbconv.backend.supports_device
    assert [supports(d) for d in ("CPU", "CPU:0", "CUDA", "CUDA:1", "nonsense", "")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    model = models.small_model()
    assert nbconv.backend.is_compatible(model)
    assert not nbconv.backend.is_compatible(model, "CUDA")
    assert nbconv.backend.is_opset_supported(model) == (True, "")
    model.opset_import[0].version = 999
    assert not nbconv.backend.is_compatible(model)
    told = nbconv.backend.is_opset_supported(model)
    assert not told[0]
    assert "opset 999" in told[1]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    node = helper.make_node("Relu", ["x"], ["y"], domain="com.example")
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    other = helper.make_model(
        helper.make_graph([node], "g", [value], [out]), opset_imports=[helper.make_opsetid("com.example", 1)]
    )
    assert not nbconv.backend.is_compatible(other)
    assert "com.example" in nbconv.backend.is_opset_supported(other)[1]
