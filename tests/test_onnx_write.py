"""Writing: onnx.checker accepts it, onnxruntime computes the same, and files are whole or not there."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import helper

from nbconv.converters import exporter
from nbconv.converters.onnx import read, save, write
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import REGISTRY, Op
from nbconv.ops import lookup
from tests import models
from tests.test_onnx_opset import run

F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "cache"))


def graph_of(op: Op, inputs: dict, outputs: dict, constants=None) -> Graph:
    constants = constants or {}
    return Graph([Node(op, (*inputs, *constants), tuple(outputs), "the_node")], inputs, outputs, constants)


def same(content: bytes, again: bytes, *shapes, rtol=0.0) -> None:
    """Equal outputs; within ``rtol`` of the largest where onnxruntime rounds otherwise at another opset."""
    for seed, shape in enumerate(shapes):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        name = onnx.ModelProto.FromString(content).graph.input[-1].name
        for was, now in zip(run(content, {name: x}), run(again, {name: x}), strict=True):
            np.testing.assert_allclose(now, was, rtol=0, atol=rtol * abs(was).max(), strict=True)


def test_small_model():
    model = models.small_model()
    model.metadata_props.add(key="author", value="nobody")
    model.producer_version, model.domain, model.model_version, model.doc_string = "2", "org.tests", -7, "a model"
    model.graph.doc_string = "a graph"
    read(model.SerializeToString())
    content = write(read(model.SerializeToString()))  # from the structure cache
    again = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(again, full_check=True)
    assert (again.producer_name, again.ir_version, again.opset_import[0].version) == ("tests", 10, 21)
    for field in ("producer_version", "domain", "model_version", "doc_string"):
        assert getattr(again, field) == getattr(model, field)
    assert (again.graph.name, again.graph.doc_string) == ("small", "a graph")
    assert [(p.key, p.value) for p in again.metadata_props] == [("author", "nobody")]
    assert again.graph.input[0] == model.graph.input[0]
    assert again.graph.output[0] == model.graph.output[0]
    assert [n.name for n in again.graph.node] == [n.name for n in model.graph.node]
    same(model.SerializeToString(), content, (1, 3, 9, 7), (4, 3, 9, 7))


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "densenet121"])
def test_light_models(name):
    content = models.light_model(name, softmax=name != "shufflenet")
    same(content, write(read(content)), (2, 3, 224, 224), rtol=1e-5)


@pytest.mark.parametrize(("name", "shape"), [("det", (1, 3, 64, 96)), ("cls", (2, 3, 48, 192)), ("rec", (2, 3, 48, 160))])
def test_rapidocr(name, shape):
    path = models.rapidocr(name)
    same(path.read_bytes(), write(read(path)), shape, rtol=1e-5)


def test_writing_is_stable():
    once = write(read(models.rapidocr("rec")))
    assert write(read(once)) == once


def test_attributes_of_each_kind():
    conv = lookup("Conv")(pads=(1, 0, 1, 1), strides=(2, 1), group=1, auto_pad="NOTSET")
    x, w = Spec(("N", 2, None, 5), F32), np.ones((3, 2, 2, 2), np.float32)
    model = onnx.ModelProto.FromString(write(graph_of(conv, {"x": x}, {"y": None}, {"w": w})))
    got = {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    assert got == {"pads": [1, 0, 1, 1], "strides": [2, 1]}
    assert [d.WhichOneof("value") for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "dim_param", "dim_value", None, "dim_value",
    ]  # fmt: skip
    assert len(model.graph.output[0].type.tensor_type.shape.dim) == 4  # inferred
    leaky = onnx.ModelProto.FromString(write(graph_of(lookup("LeakyRelu")(alpha=0.3), {"x": x}, {"y": None})))
    assert leaky.graph.node[0].attribute[0].f == np.float32(0.3)


def test_ops_of_ours_are_refused(monkeypatch):
    monkeypatch.setitem(REGISTRY, ("nbconv", "Ours"), Op)  # gone after the test

    class Ours(Op):
        domain = "nbconv"

    monkeypatch.delitem(REGISTRY, ("nbconv", "Ours"))
    with pytest.raises(ModelError, match=r"the_node \(Ours\).*nbconv"):
        write(graph_of(Ours(), {"x": Spec((1,), F32)}, {"y": Spec((1,), F32)}))


def test_an_invalid_graph_is_refused():
    wrong = graph_of(lookup("Relu")(), {"x": Spec((2, 3), F32)}, {"y": Spec((7, 7), F32)})
    with pytest.raises(ModelError, match="no valid ONNX model"):
        write(wrong)


def test_save_replaces_a_file_that_is_mapped(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(models.small_model(), path)
    graph = read(path)
    w = np.array(graph.constants["w"])
    save(graph, path)  # the constants view the old file
    np.testing.assert_array_equal(graph.constants["w"], w)
    np.testing.assert_array_equal(read(path).constants["w"], w)
    onnx.checker.check_model(str(path), full_check=True)
    assert sorted(os.listdir(tmp_path)) in (["m.onnx"], ["cache", "m.onnx"])


def test_large_weights_go_beside(tmp_path):
    model = models.small_model()
    path = tmp_path / "big.onnx"
    exporter.save(read(model.SerializeToString()), path, limit=100)
    onnx.checker.check_model(str(path), full_check=True)
    (weights,) = tmp_path.glob("big-*.data")
    assert weights.stat().st_size == 4 * (4 * 3 * 3 * 2 + 4 + 4 * 5 + 5)
    again = read(path)
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(again.constants[tensor.name], onnx.numpy_helper.to_array(tensor), strict=True)
    with pytest.raises(ModelError, match="save the model to a path"):
        exporter.write(again, limit=100)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("limit", [exporter.LIMIT, 100])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, failing, limit):
    graph = read(models.small_model().SerializeToString())
    path = tmp_path / "out" / "m.onnx"
    path.parent.mkdir()
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(exporter.os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        exporter.save(graph, path, limit)
    assert os.listdir(path.parent) == ["m.onnx"]
    assert path.read_bytes() == b"old"


def test_a_graph_that_cannot_be_written_leaves_nothing(tmp_path):
    wrong = graph_of(lookup("Relu")(), {"x": Spec((2, 3), F32)}, {"y": Spec((7, 7), F32)})
    with pytest.raises(ModelError):
        save(wrong, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []
