"""Values of `nbconv.ort`, how sessions are bound to them and give them, beside onnxruntime's."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nbconv import ort
from tests.test_ort import FEED, SMALL, TWO, X, both, onnxruntime, state


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


def test_sessions_whose_shapes_are_values_are_pickled() -> None:
    session, feed = ort.InferenceSession(nonzero_model()), {"x": np.eye(2, 3, dtype=np.float32)}
    again = pickle.loads(pickle.dumps(session))
    for got, want in zip(again.run(None, feed), session.run(None, feed), strict=True):
        np.testing.assert_array_equal(got, want, strict=True)
