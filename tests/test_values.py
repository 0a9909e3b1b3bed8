"""Inputs and outputs that are no tensors of numbers, that may be left out, or whose shapes are not declared."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nbconv.converters.onnx import read
from nbconv.errors import ModelError
from nbconv.model import Model, load, save
from nbconv.train.optimizers import SGD
from nbconv.train.trainer import Trainer

FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
TEXT = helper.make_tensor_type_proto(TensorProto.STRING, None)
MANY = helper.make_sequence_type_proto(FLOAT)
MAYBE = helper.make_optional_type_proto(FLOAT)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "cache"))


def model(nodes: list, inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any] | None = None, **options):
    """A model's bytes: inputs and outputs by their types, or float32 of a shape."""
    graph = helper.make_graph(nodes, "values", _infos(inputs), _infos(outputs), [
        onnx.numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in (constants or {}).items()
    ])  # fmt: skip
    imports = options.pop("imports", [helper.make_opsetid("", 21)])
    return helper.make_model(graph, opset_imports=imports, ir_version=options.pop("ir_version", 10)).SerializeToString()


def _infos(values: dict[str, Any]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_value_info(n, v)
        if isinstance(v, onnx.TypeProto)
        else helper.make_tensor_value_info(n, TensorProto.FLOAT, v)
        for n, v in values.items()
    ]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(",") if inputs else [], outputs.split(","), **attributes)


def f32(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


SCALED = [node("Mul", "x,gain", "s"), node("Relu", "s", "y")]
X = np.array([[-1.0, 2.0]], np.float32)


def scaled(ir_version: int = 10) -> bytes:
    return model(SCALED, {"x": ["n", 2], "gain": [2]}, {"y": ["n", 2]}, {"gain": [1, 3]}, ir_version=ir_version)


@pytest.mark.parametrize("run", [0, 1], ids=["cold", "warm"])
def test_an_initializer_that_is_an_input_may_be_fed(tmp_path, run) -> None:
    (tmp_path / "m.onnx").write_bytes(scaled())
    for _ in range(run + 1):
        m = load(tmp_path / "m.onnx")
        assert [p.name for p in m.inputs] == ["x"]
        assert [(p.name, p.shape) for p in m.optional_inputs] == [("gain", (2,))]
        for _ in range(2):
            np.testing.assert_array_equal(m.run({"x": X})["y"], [[0, 6]])
            np.testing.assert_array_equal(m.run({"x": X, "gain": f32([-2, 5])})["y"], [[2, 10]])
        np.testing.assert_array_equal(m.run({"x": X, "gain": f32([-1, 0])}, ["s"])["s"], [[1, 0]])
    with pytest.raises(ValueError, match="'gain' has shape"):
        m.run({"x": X, "gain": f32([1])})


def test_what_is_not_fed_is_planned_as_a_constant() -> None:
    m = load(scaled())
    assert set(m.plan({"x": (1, 2)}).inputs) == {"x"}
    assert set(m.plan({"x": (1, 2), "gain": (2,)}).inputs) == {"x", "gain"}


def test_before_ir_4_initializers_are_constants() -> None:
    m = load(scaled(3))
    assert not m.optional_inputs
    with pytest.raises(ValueError, match="no input 'gain'"):
        m.run({"x": X, "gain": f32([1, 1])})


def test_optional_inputs_are_saved(tmp_path) -> None:
    m = load(scaled())
    for write in (Model.save, save):
        write(m, tmp_path / "again.onnx")
        again = load(tmp_path / "again.onnx")
        assert again.optional_inputs == m.optional_inputs
        np.testing.assert_array_equal(again.run({"x": X, "gain": f32([-2, 5])})["y"], [[2, 10]])


def test_inputs_and_outputs_without_a_rank(tmp_path) -> None:
    content = model([node("Relu", "x", "r"), node("Squeeze", "r", "y")], {"x": FLOAT}, {"y": FLOAT})
    m = load(content)
    assert m.inputs[0].shape is None
    for _ in range(2):
        for shape in ((2,), (1, 3), (2, 1, 2)):
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            np.testing.assert_array_equal(m.run({"x": x})["y"], np.maximum(x, 0).squeeze())
        for write in (Model.save, save):
            write(m, tmp_path / "again.onnx")
            m = load(tmp_path / "again.onnx")
            assert m.inputs[0].shape is None


def test_what_has_no_declared_shape_trains_and_is_saved(tmp_path) -> None:
    weights = {"w": np.eye(3), "b": np.zeros(3)}
    content = model([node("Relu", "x", "r"), node("Gemm", "r,w,b", "y")], {"x": ["n", 3]}, {"y": FLOAT}, weights)
    trainer = Trainer(load(content), optimizer=SGD(0.1))
    x = np.random.default_rng(2).standard_normal((8, 3)).astype(np.float32)
    trainer.step(x, np.arange(8) % 3)
    trainer.save(tmp_path / "trained.onnx")
    trained = load(tmp_path / "trained.onnx")
    trainer.commit()
    assert trained.outputs[0].shape == ("n", 3)
    np.testing.assert_allclose(trained.run({"x": x})["y"], trainer.model.run({"x": x})["y"], rtol=1e-6)


def test_shapes_that_onnx_infers_are_written(tmp_path) -> None:
    m = load(model([node("Relu", "x", "y")], {"x": ["n", 3]}, {"y": FLOAT}))
    m.save(tmp_path / "again.onnx")
    (y,) = onnx.load(tmp_path / "again.onnx").graph.output
    assert [d.dim_param or d.dim_value for d in y.type.tensor_type.shape.dim] == ["n", 3]


def test_strings() -> None:
    nodes = [node("StringConcat", "a,b", "ab"), node("Equal", "ab,want", "same"), node("Not", "same", "y")]
    m = load(model([node("Constant", "", "want", value_strings=["xy", "no"]), *nodes], {"a": TEXT, "b": TEXT}, {
        "ab": TEXT, "y": helper.make_tensor_type_proto(TensorProto.BOOL, None)
    }))  # fmt: skip
    for a in (np.array(["x", "n"], object), np.array(["x", "n"]), ["x", "n"], np.array([b"x", b"n"])):
        found = m.run({"a": a, "b": np.array(["y", "ä"], object)})
        assert found["ab"].tolist() == ["xy", "nä"]
        assert found["y"].tolist() == [False, True]
    with pytest.raises(ValueError, match="'a' is float32, wanted object"):
        m.run({"a": f32([1]), "b": ["y"]})


def test_strings_in_a_body() -> None:
    words = [node("Constant", "", "w", value_strings=["a"]), node("Constant", "", "v", value_strings=["a"])]
    then = helper.make_graph([*words, node("Equal", "w,v", "t")], "then", [], [
        helper.make_value_info("t", helper.make_tensor_type_proto(TensorProto.BOOL, [1]))
    ])  # fmt: skip
    other = helper.make_graph([node("Not", "c", "n"), node("Unsqueeze", "n,zero", "e")], "else", [], [
        helper.make_value_info("e", helper.make_tensor_type_proto(TensorProto.BOOL, [1]))
    ])  # fmt: skip
    choice = node("If", "c", "y", then_branch=then, else_branch=other)
    whole = {n: helper.make_tensor_type_proto(TensorProto.BOOL, s) for n, s in (("c", []), ("y", [1]))}
    zero = node("Constant", "", "zero", value_ints=[0])
    m = load(model([zero, choice], {"c": whole["c"]}, {"y": whole["y"]}))
    for c in (True, False):
        assert m.run({"c": np.array(c)})["y"].tolist() == [True]


@pytest.mark.parametrize("run", [0, 1], ids=["cold", "warm"])
def test_sequences(tmp_path, run) -> None:
    body = helper.make_graph([node("Mul", "e,x", "p")], "body", _infos({"e": [2]}), _infos({"p": [2]}))
    nodes = [node("SequenceMap", "s", "m", body=body), node("ConcatFromSequence", "m", "c", axis=0), node("Relu", "c", "y")]
    (tmp_path / "m.onnx").write_bytes(model(nodes, {"s": MANY, "x": [2]}, {"m": MANY, "y": [4]}))
    for _ in range(run + 1):
        m = load(tmp_path / "m.onnx")
        assert m.inputs[0].type == m.outputs[0].type == "seq(tensor(float))"
        found = m.run({"s": [f32([1, -2]), f32([3, 4])], "x": f32([10, 100])})
        assert [v.tolist() for v in found["m"]] == [[10, -200], [30, 400]]
        assert found["y"].tolist() == [10, 0, 30, 400]
    with pytest.raises(ValueError, match="'s' is ndarray, wanted a list"):
        m.run({"s": X, "x": X[0]})


def test_optional_values() -> None:
    then = helper.make_graph([node("OptionalGetElement", "o", "g")], "then", [], _infos({"g": [2]}))
    other = helper.make_graph([node("Neg", "x", "n")], "else", [], _infos({"n": [2]}))
    nodes = [node("OptionalHasElement", "o", "has"), node("If", "has", "i", then_branch=then, else_branch=other)]
    m = load(model([*nodes, node("Abs", "i", "y")], {"o": MAYBE, "x": [2]}, {"i": [2], "y": [2]}))
    x = f32([1, 2])
    for feeds, want in (({"x": x}, -x), ({"x": x, "o": None}, -x), ({"x": x, "o": 3 * x}, 3 * x)):
        found = m.run(feeds)
        np.testing.assert_array_equal(found["i"], want)
        np.testing.assert_array_equal(found["y"], abs(want))
    get = load(model([node("OptionalGetElement", "o", "y")], {"o": MAYBE}, {"y": [2]}))
    with pytest.raises(ModelError, match=r"y \(OptionalGetElement\): there is no value"):
        get.run({})


def test_what_is_no_tensor_is_saved(tmp_path) -> None:
    nodes = [node("Optional", "", "o", type=MANY), node("OptionalHasElement", "o", "y"), node("Identity", "s", "t")]
    kinds = {"y": helper.make_tensor_type_proto(TensorProto.BOOL, []), "t": MANY}
    m = load(model(nodes, {"s": MANY}, kinds))
    save(m, tmp_path / "again.onnx")
    again = load(tmp_path / "again.onnx")
    assert (again.inputs, again.outputs) == (m.inputs, m.outputs)
    found = again.run({"s": [X]})
    assert not found["y"]
    np.testing.assert_array_equal(found["t"][0], X)


def test_other_domains_of_onnx() -> None:
    encode = helper.make_node(
        "LabelEncoder",
        ["a"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=["cat", "dog"],
        values_int64s=[3, 5],
        default_int64=-1,
    )
    whole = helper.make_tensor_type_proto(TensorProto.INT64, [None])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)]
    m = load(model([encode], {"a": TEXT}, {"y": whole}, imports=imports))
    for again in (m, pickle.loads(pickle.dumps(m))):
        assert again.run({"a": ["dog", "cat", "cow"]})["y"].tolist() == [5, 3, -1]


@pytest.mark.parametrize("values", [np.array([[4, 2]], np.int64), np.array(["no", "yes"], object)])
def test_tensors_as_attributes_of_what_onnx_evaluates(values: np.ndarray) -> None:
    """LabelEncoder takes its values as a tensor from version 4 on: numbers, or strings."""
    text = values.dtype == object
    kind = TensorProto.STRING if text else TensorProto.INT64
    flat: Any = [s.encode() for s in values] if text else values.reshape(-1)
    held = helper.make_tensor("v", kind, [2], flat)
    codes: Any = [7, 9]
    keys = helper.make_tensor("k", TensorProto.INT64, [2], codes)
    none: Any = [b"?"] if text else [0]
    rest = helper.make_tensor("d", kind, [1], none)
    encode = helper.make_node(
        "LabelEncoder", ["a"], ["y"], domain="ai.onnx.ml", keys_tensor=keys, values_tensor=held, default_tensor=rest
    )
    whole = helper.make_tensor_type_proto(TensorProto.INT64, [None])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)]
    made = TEXT if text else helper.make_tensor_type_proto(kind, [None])
    m = load(model([encode], {"a": whole}, {"y": made}, imports=imports))
    for again in (m, pickle.loads(pickle.dumps(m))):
        found = again.run({"a": np.array([9, 7, 1])})["y"].tolist()
        assert found == (["yes", "no", "?"] if text else [2, 4, 0])


def test_before_ir_3_the_opset_is_1() -> None:
    """Models of that time had no opset_import."""
    nodes = [node("Reshape", "x", "r", shape=[4]), node("Concat", "x,x", "c"), node("Relu", "r", "y", consumed_inputs=[0])]
    content = onnx.ModelProto.FromString(model(nodes, {"x": [2, 2]}, {"c": [2, 4], "y": [4]}, ir_version=2))
    del content.opset_import[:]
    x = f32([[1, -2], [3, -4]])
    found = load(content.SerializeToString()).run({"x": x})
    np.testing.assert_array_equal(found["c"], np.concatenate([x, x], 1))
    np.testing.assert_array_equal(found["y"], [1, 0, 3, 0])
    assert [n.op.type for n in read(content.SerializeToString()).nodes] == ["Reshape", "Concat", "Relu"]
