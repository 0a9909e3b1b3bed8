"""Reading real models: what the graph holds, where the weights lie, functions, external data, the structure cache."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import TensorProto, helper

from nbconv.converters import onnx as converter
from nbconv.converters import structure
from nbconv.converters.onnx import read, survey
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from tests import models


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def assert_same(graph, other) -> None:
    assert [repr(n) for n in graph.nodes] == [repr(n) for n in other.nodes]
    assert [n.name for n in graph.nodes] == [n.name for n in other.nodes]
    assert (graph.inputs, graph.outputs, graph.name, graph.metadata) == (
        other.inputs,
        other.outputs,
        other.name,
        other.metadata,
    )
    assert list(graph.constants) == list(other.constants)
    for name, array in graph.constants.items():
        np.testing.assert_array_equal(array, other.constants[name], strict=True)


def test_small_model(tmp_path):
    model = models.small_model()
    model.metadata_props.add(key="author", value="nobody")
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    for graph in (read(path), read(str(path)), read(path.read_bytes())):
        assert [n.op.type for n in graph.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
        assert [n.name for n in graph.nodes] == ["conv1", "relu1", "pool1", "flatten1", "gemm1"]
        assert graph.nodes[0].op.attributes() == {"pads": (1, 0, 1, 1), "strides": (2, 1)}
        assert graph.inputs == {"x": Spec(("N", 3, 9, 7), np.dtype(np.float32))}
        assert graph.outputs == {"y": Spec(("N", 5), np.dtype(np.float32))}
        assert graph.metadata == {"author": "nobody"}
        for name, array in arrays(model).items():
            np.testing.assert_array_equal(graph.constants[name], array, strict=True)
            assert not graph.constants[name].flags.writeable


def test_weights_stay_in_the_mapped_file(tmp_path):
    path = tmp_path / "small.onnx"
    onnx.save(models.small_model(), path)
    for _ in range(2):  # cold, then from the cache
        base = read(path).constants["w"]
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert type(base).__name__ in ("mmap", "memoryview")


@pytest.mark.parametrize("name", ["det", "cls", "rec"])
def test_rapidocr_constants(name):
    path = models.rapidocr(name)
    model = onnx.load(path)
    want = {n.output[0]: onnx.numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"}
    graph = read(path)
    shared = set(want) & set(graph.constants)
    assert len(shared) > 0.9 * len(want)
    for key in shared:
        np.testing.assert_array_equal(graph.constants[key], want[key], strict=True)
    assert survey(path) == []


def test_light_models_are_read_whole():
    for name in ("squeezenet", "shufflenet"):
        content = models.light_model(name, softmax=False)
        graph = read(content)
        assert next(iter(graph.inputs.values())).shape == ("N", 3, 224, 224)
        for key, array in arrays(onnx.ModelProto.FromString(content)).items():
            np.testing.assert_array_equal(graph.constants[key], array, strict=True)


def test_initializers_that_are_inputs_are_constants():
    model = models.small_model()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph = read(model.SerializeToString())
    assert list(graph.inputs) == ["x"]
    assert set(graph.constants) == {"w", "b", "fc", "fc_b"}


def test_nodes_out_of_order_are_sorted():
    model = models.small_model()
    nodes = list(model.graph.node)[::-1]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    assert [n.name for n in read(model.SerializeToString()).nodes] == ["conv1", "relu1", "pool1", "flatten1", "gemm1"]


TYPES = {
    TensorProto.FLOAT: [1.5, -2, 0], TensorProto.DOUBLE: [1.5, -2, 0], TensorProto.FLOAT16: [1.5, -2, 0],
    TensorProto.INT64: [1 << 40, -2, 0], TensorProto.INT32: [1 << 20, -2, 0], TensorProto.INT16: [300, -2, 0],
    TensorProto.INT8: [100, -2, 0], TensorProto.UINT8: [200, 2, 0], TensorProto.UINT16: [60000, 2, 0],
    TensorProto.UINT32: [1 << 31, 2, 0], TensorProto.UINT64: [1 << 63, 2, 0], TensorProto.BOOL: [True, False, True],
}  # fmt: skip


@pytest.mark.parametrize("number", TYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("count", [1, 64], ids=["small", "large"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_constants_of_every_type(number, count, raw):
    values = np.array(TYPES[number] * count, helper.tensor_dtype_to_np_dtype(number)).reshape(count, 3)
    if raw:
        tensor = onnx.numpy_helper.from_array(values, "c")
    else:
        flat = values.ravel()
        tensor = helper.make_tensor("c", number, values.shape, flat.tolist())
        assert not tensor.HasField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["a"], value=tensor), helper.make_node("Identity", ["a"], ["y"])],
        "types", [], [helper.make_tensor_value_info("y", number, values.shape)],
    )  # fmt: skip
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    for _ in range(2):
        np.testing.assert_array_equal(read(content).constants["a"], values, strict=True)


def test_functions_are_inlined():
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Sigmoid", ["b"], ["c"])]
    function = helper.make_function("mine", "ReluSigmoid", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    model = models.small_model()
    model.graph.node[1].CopyFrom(helper.make_node("ReluSigmoid", ["conv"], ["act"], domain="mine"))
    model.functions.append(function)
    model.opset_import.add(domain="mine", version=1)
    assert [n.op.type for n in read(model.SerializeToString()).nodes][:4] == ["Conv", "Relu", "Sigmoid", "GlobalAveragePool"]


def test_all_that_is_lacking_is_told_at_once():
    model = models.small_model()
    values, indices = (helper.make_tensor(n, k, [1], [1]) for n, k in (("v", TensorProto.FLOAT), ("i", TensorProto.INT64)))
    sparse = helper.make_sparse_tensor(values, indices, [3])
    model.graph.node.extend([
        helper.make_node("Mystery", ["y"], ["m1"], "first", domain="com.example"),
        helper.make_node("Mystery", ["y"], ["m2"], "second", domain="com.example"),
        helper.make_node("NoSuchOp", ["y"], ["m3"]),
        helper.make_node("Gradient", ["y"], ["m4"], "slope", domain="ai.onnx.preview.training", xs=["x"], y="y"),
        helper.make_node("Constant", [], ["m5"], sparse_value=sparse),
    ])  # fmt: skip
    model.graph.initializer.append(helper.make_tensor("turn", TensorProto.COMPLEX64, [1], [1j]))
    model.graph.input.append(helper.make_sparse_tensor_value_info("few", 1, [1]))
    model.opset_import.add(domain="ai.onnx.preview.training", version=1)
    content = model.SerializeToString()
    found = {(p.node, p.op) for p in survey(content)}
    assert found == {
        ("first", "Mystery"), ("second", "Mystery"), ("m3", "NoSuchOp"), ("slope", "Gradient"), ("m5", "Constant"),
        ("turn", "initializer"), ("few", "input"),
    }  # fmt: skip
    with pytest.raises(UnsupportedError) as error:
        read(content)
    for word in (
        "com.example.Mystery",
        "first, second",
        "NoSuchOp",
        "m3",
        "Gradient",
        "m5",
        "complex64",
        "turn",
        "sparse",
        "few",
    ):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_external_data(tmp_path):
    model = models.small_model()
    want = arrays(model)
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for _ in range(2):
        graph = read(tmp_path / "big.onnx")
        for name, array in want.items():
            np.testing.assert_array_equal(graph.constants[name], array, strict=True)
    with pytest.raises(ModelError, match=r"w: its data is in the file 'weights.bin', but a model given as bytes"):
        read((tmp_path / "big.onnx").read_bytes())
    os.truncate(tmp_path / "weights.bin", 10)
    with pytest.raises(ModelError, match=r"reach outside 'weights\.bin', which has 10 bytes"):
        read(tmp_path / "big.onnx")


def test_a_warm_read_is_the_same_without_onnx(cache, tmp_path):
    path = models.rapidocr("rec")
    cold = read(path)
    (entry,) = (cache / "onnx").glob("*.json")
    assert_same(read(path), cold)
    (tmp_path / "cold.pickle").write_bytes(pickle.dumps([repr(n) for n in cold.nodes]))
    code = (
        "import sys, pickle; from nbconv.converters.onnx import read; g = read(sys.argv[1]);"
        "assert [repr(n) for n in g.nodes] == pickle.load(open(sys.argv[2], 'rb'));"
        "assert not {'onnx', 'google.protobuf', 'numba', 'llvmlite'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "cold.pickle"], check=True, env={**os.environ})
    assert list((cache / "onnx").iterdir()) == [entry]


def test_a_bad_cache_entry_is_read_anew(cache):
    import hashlib

    content = models.small_model().SerializeToString()
    cold = read(content)
    (entry,) = (cache / "onnx").glob("*.json")
    good = entry.read_bytes()
    body = json.loads(good.partition(b"\n")[2])

    def signed(change) -> bytes:
        value = json.loads(json.dumps(body))
        change(value)
        text = json.dumps(value).encode()
        return hashlib.sha256(text).hexdigest().encode() + b"\n" + text

    def offset(value):
        next(c for c in value["constants"] if c[3] == "file")[5] = 10**12

    wrong = [
        b"", b"garbage", good[:-5], good.replace(b"conv1", b"conv2"), b"\xff" * 100,
        signed(offset),
        signed(lambda v: v.pop("nodes")),
        signed(lambda v: v["nodes"].clear()),
        signed(lambda v: v["nodes"][0].__setitem__(0, "NoSuchOp")),
        signed(lambda v: v["nodes"][0][5].__setitem__("pads", "text")),
        signed(lambda v: v["constants"][0].__setitem__(2, [-1])),
        signed(lambda v: v["constants"][0].__setitem__(1, "object")),
        signed(lambda v: v["inputs"].append([1, "float32", []])),
        signed(lambda v: v.__setitem__("constants", 7)),
    ]  # fmt: skip
    for bad in wrong:
        entry.write_bytes(bad)
        assert_same(read(content), cold)
        assert entry.read_bytes() == good, bad[:100]


def test_an_unusable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "file"))
    assert len(read(models.small_model().SerializeToString()).nodes) == 5


def test_the_cache_is_bounded(cache, monkeypatch):
    monkeypatch.setattr(structure, "MOST_ENTRIES", 3)
    for opset in range(8, 14):
        assert read(models.small_model(opset).SerializeToString()).nodes
    assert len(list((cache / "onnx").iterdir())) == 3


def test_the_key_follows_content(tmp_path):
    one, two = models.small_model(), models.small_model()
    two.graph.node[0].attribute[0].ints[0] = 0
    for model in (one, two, one):
        path = tmp_path / "same name.onnx"
        onnx.save(model, path)
        pads = tuple(model.graph.node[0].attribute[0].ints)
        assert converter.read(path).nodes[0].op.pads == pads
