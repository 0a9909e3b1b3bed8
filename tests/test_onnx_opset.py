"""Older opsets are rewritten to mean the same: onnxruntime runs the original, and what nbconv read and wrote again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nbconv.converters.onnx import read, write
from nbconv.errors import ModelError, UnsupportedError

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "cache"))


def model(nodes, opset, inputs, constants=None, outputs=("y",), types=None, shape=None) -> bytes:
    """A model of these nodes; ``inputs`` are declared shapes, outputs have ``shape``, by default none."""
    types = types or {}
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def run(content: bytes, feeds) -> list:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def same(content: bytes, feeds) -> None:
    again = write(read(content))
    for was, now in zip(run(content, feeds), run(again, feeds), strict=True):
        assert was.dtype == now.dtype
        np.testing.assert_array_equal(was, now, strict=True)


def x(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def node(op, *inputs, **attributes):
    return helper.make_node(op, list(inputs) or ["x"], ["y"], "the_node", **attributes)


CASES = {
    "squeeze": (9, node("Squeeze", axes=[0, 2]), (1, 3, 1, 2)),
    "squeeze all": (11, node("Squeeze"), (1, 3, 1)),
    "unsqueeze": (11, node("Unsqueeze", axes=[0, -1]), (3, 2)),
    "reduce sum": (11, node("ReduceSum", axes=[1], keepdims=0), (2, 3, 4)),
    "reduce mean": (13, node("ReduceMean", axes=[-1, 1]), (2, 3, 4)),
    "reduce max": (7, node("ReduceMax"), (2, 3, 4)),
    "reduce l2": (17, node("ReduceL2", axes=[0]), (2, 3)),
    "clip": (7, node("Clip", min=-0.5, max=0.25), (3, 5)),
    "clip one side": (10, node("Clip", min=0.0), (3, 5)),
    "pad": (7, node("Pad", pads=[0, 1, 2, 0], value=2.5), (3, 5)),
    "pad reflect": (10, node("Pad", pads=[0, 1, 2, 0], mode="reflect"), (3, 5)),
    "slice": (7, node("Slice", starts=[1, -2], ends=[1000, -1]), (3, 5)),
    "slice axes": (9, node("Slice", starts=[1], ends=[3], axes=[1]), (3, 5)),
    "softmax": (11, node("Softmax"), (3, 4, 5)),
    "softmax of matrix": (9, node("Softmax"), (3, 5)),
    "softmax with ones": (9, node("Softmax"), (3, 5, 1, 1)),
    "softmax last": (12, node("Softmax", axis=-1), (3, 4, 5)),
    "softmax all": (12, node("Softmax", axis=0), (3, 4, 5)),
    "softmax one": (12, node("Softmax", axis=1), (3, 1, 1)),
    "log softmax": (11, node("LogSoftmax", axis=2), (2, 3, 4, 5)),
    "hardmax": (11, node("Hardmax", axis=1), (2, 3, 4)),
    "upsample nearest": (7, node("Upsample", scales=[1.0, 1.0, 2.0, 3.0]), (1, 2, 3, 4)),
    "upsample nearest named": (7, node("Upsample", scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"), (1, 2, 3, 4)),
    "upsample nearest fraction": (7, node("Upsample", scales=[1.0, 1.0, 1.7, 2.5]), (1, 2, 3, 4)),
    "upsample linear": (8, node("Upsample", scales=[1.0, 1.0, 2.0, 3.0], mode="linear"), (1, 2, 3, 4)),
    "batch mean 18": (18, node("GlobalAveragePool"), (2, 3, 4, 5)),
    "max pool": (8, node("MaxPool", kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 1, 1]), (2, 3, 6, 7)),
    "leaky": (7, node("LeakyRelu", alpha=0.3), (2, 3)),
    "flatten": (9, node("Flatten", axis=2), (2, 3, 4)),
    "lrn": (7, node("LRN", size=3, alpha=0.01, beta=0.5, bias=2.0), (1, 7, 3, 2)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("known", [True, False], ids=["fixed", "dynamic"])
def test_attribute_forms(name, known):
    opset, case, shape = CASES[name]
    declared = list(shape) if known else [f"d{i}" for i in range(len(shape))]
    same(model([case], opset, {"x": declared}), {"x": x(*shape)})


WITH_CONSTANTS = {
    "upsample 9": (9, node("Upsample", "x", "s"), (1, 2, 3, 4), {"s": np.float32([1, 1, 2, 1.5])}),
    "resize 10": (10, node("Resize", "x", "s"), (1, 2, 3, 4), {"s": np.float32([1, 1, 2, 3])}),
    "resize 10 named": (10, node("Resize", "x", "s", mode="nearest"), (1, 2, 3, 4), {"s": np.float32([1, 1, 2, 3])}),
    "resize 10 smaller": (10, node("Resize", "x", "s"), (1, 2, 7, 9), {"s": np.float32([1, 1, 0.6, 0.4])}),
    "resize 10 linear": (10, node("Resize", "x", "s", mode="linear"), (1, 2, 6, 4), {"s": np.float32([1, 1, 0.5, 3])}),
    "resize 11 scales": (
        11,
        node("Resize", "x", "r", "s"),
        (1, 2, 3, 4),
        {"r": np.float32([]), "s": np.float32([1, 1, 2, 3])},
    ),
    "resize 11 sizes": (
        11,
        node("Resize", "x", "r", "s", "n", mode="linear", coordinate_transformation_mode="align_corners"),
        (1, 2, 3, 4),
        {"r": np.float32([]), "s": np.float32([]), "n": np.int64([1, 2, 5, 7])},
    ),
    "resize 13 empty scales": (13, node("Resize", "x", "", "", "n"), (1, 2, 3, 4), {"n": np.int64([1, 2, 6, 8])}),
    "batch normalization 7": (
        7,
        helper.make_node("BatchNormalization", ["x", "a", "b", "m", "v"], ["y"], momentum=0.5, epsilon=1e-3),
        (2, 3, 4),
        {"a": x(3, seed=1), "b": x(3, seed=2), "m": x(3, seed=3), "v": np.abs(x(3, seed=4))},
    ),
    "reshape": (7, node("Reshape", "x", "n"), (2, 3, 4), {"n": np.int64([0, -1])}),
    "matmul": (9, node("MatMul", "x", "w"), (2, 3, 4), {"w": x(4, 5)}),
    "gather": (9, node("Gather", "x", "i", axis=1), (2, 3, 4), {"i": np.int64([2, 0])}),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_input_forms(name):
    opset, case, shape, constants = WITH_CONSTANTS[name]
    same(model([case], opset, {"x": list(shape)}, constants), {"x": x(*shape)})


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split(opset):
    sizes = {"split": [1, 3]} if opset < 13 else {}
    split = helper.make_node("Split", ["x"] if opset < 13 else ["x", "s"], ["y", "z"], axis=1, **sizes)
    same(model([split], opset, {"x": [2, 4]}, {} if opset < 13 else {"s": np.int64([1, 3])}, ("y", "z")), {"x": x(2, 4)})
    more = {} if opset < 18 else {"num_outputs": 2}
    equal = helper.make_node("Split", ["x"], ["y", "z"], axis=1, **more)
    same(model([equal], opset, {"x": [2, 4]}, {}, ("y", "z")), {"x": x(2, 4)})


def test_group_normalization_18():
    case = node("GroupNormalization", "x", "s", "b", num_groups=2)
    scale = {"s": np.float32([1, 2]), "b": np.float32([0.5, -1])}
    content = model([case], 18, {"x": ["N", 6, 4]}, scale, shape=["N", 6, 4])
    was, now = (run(c, {"x": x(2, 6, 4)})[0] for c in (content, write(read(content))))
    np.testing.assert_allclose(now, was, rtol=0, atol=1e-6, strict=True)


def test_deprecated_ops_are_told():
    with pytest.raises(UnsupportedError, match="Upsample is not supported"):
        read(model([node("Upsample", "x", "s")], 11, {"x": [1, 2]}, {"s": np.float32([1, 2])}))


def test_attributes_newer_than_the_inner_opset():
    def cast(**attributes):
        return model([node("Cast", to=TensorProto.INT64, **attributes)], 24, {"x": [2]}, types={"y": TensorProto.INT64})

    assert read(cast(round_mode="up")).nodes[0].op.attributes() == {"to": 7}
    with pytest.raises(UnsupportedError, match="round_mode"):
        read(cast(round_mode="down"))


def test_top_k_9():
    top = helper.make_node("TopK", ["x"], ["y", "i"], k=2, axis=1)
    same(model([top], 9, {"x": [3, 5]}, {}, ("y", "i"), {"i": TensorProto.INT64}), {"x": x(3, 5)})


def test_clip_keeps_the_type_of_x():
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=TensorProto.DOUBLE), node("Relu", "c"), node("Clip", "y", max=0.5)]
    nodes[2].output[0] = "z"
    graph = read(model(nodes, 7, {"x": [2, 3]}, {}, ("z",), {"z": TensorProto.DOUBLE}))
    assert [array.dtype for array in graph.constants.values()] == [np.dtype(np.float64)]


def test_dropout_is_identity():
    drop = helper.make_node("Dropout", ["x"], ["y", "mask"], ratio=0.3)
    for opset in (7, 10):
        same(model([drop], opset, {"x": [2, 3]}), {"x": x(2, 3)})
        with pytest.raises(UnsupportedError, match="mask"):
            read(model([drop], opset, {"x": [2, 3]}, {}, ("y", "mask")))


def test_batch_normalization_with_training_outputs():
    def batch(**attributes):
        return helper.make_node(
            "BatchNormalization", ["x", "a", "a", "a", "a"], ["y", "m", "v", "sm", "sv"], "bn", **attributes
        )

    ones = {"a": np.ones(3, np.float32)}
    graph = read(model([batch()], 9, {"x": [2, 3, 4]}, ones))
    assert graph.nodes[0].outputs == ("y",)
    with pytest.raises(UnsupportedError, match=r"'m' is read.*bn"):
        read(model([batch()], 9, {"x": [2, 3, 4]}, ones, ("y", "m")))
    with pytest.raises(UnsupportedError, match="spatial=0"):
        read(model([batch(spatial=0)], 7, {"x": [2, 3, 4]}, ones))


def test_new_names_do_not_clash():
    nodes = [
        helper.make_node("Squeeze", ["x"], ["x_axes"], "x", axes=[0]),
        helper.make_node("Squeeze", ["x_axes"], ["y"], "x_axes", axes=[0]),
    ]
    same(model(nodes, 11, {"x": [1, 1, 3]}), {"x": x(1, 1, 3)})


B = {"b": x(3, 4, seed=5), "c": x(2, seed=6), "one": np.float32([3])}
LEGACY = {
    "add same": (6, 7, node("Add", "x", "x"), node("Add", "x", "x")),
    "add at the end": (6, 7, node("Add", "x", "b", broadcast=1), node("Add", "x", "b")),
    "sub from axis 0": (6, 11, node("Sub", "x", "c", broadcast=1, axis=0), ("c", (2, 1, 1), node("Sub", "x", "c"))),
    "mul from axis 1": (1, 7, node("Mul", "x", "b", broadcast=1, axis=1, consumed_inputs=[0, 0]), node("Mul", "x", "b")),
    "div by one": (6, 7, node("Div", "x", "one", broadcast=1, axis=0), node("Div", "x", "one")),
    "prelu of channels": (6, 11, node("PRelu", "x", "c3"), ("c3", (3, 1), node("PRelu", "x", "c3"))),
    "prelu of all": (1, 7, node("PRelu", "x", "one", consumed_inputs=[0]), node("PRelu", "x", "one")),
    "greater": (6, 9, node("Greater", "x", "b", broadcast=1), node("Greater", "x", "b")),
    "concat": (1, 7, node("Concat", "x", "x"), node("Concat", "x", "x", axis=1)),
    "reshape": (4, 7, node("Reshape", shape=[0, -1]), node("Reshape", "x", "shape")),
    "pad": (1, 7, node("Pad", paddings=[0, 1, 0, 0, 0, 2], value=1.5), node("Pad", pads=[0, 1, 0, 0, 0, 2], value=1.5)),
    "cast": (5, 9, node("Cast", to="INT32"), node("Cast", to=TensorProto.INT32)),
    "tile": (5, 7, node("Tile", "x", "tiles", "axis"), node("Tile", "x", "repeats")),
    "selu": (5, 7, node("Selu"), node("Selu", alpha=1.6732, gamma=1.0507)),
    "elu": (1, 7, node("Elu", alpha=0.5, consumed_inputs=[0]), node("Elu", alpha=0.5)),
    "clip": (1, 7, node("Clip", min=-0.5, consumed_inputs=[0]), node("Clip", min=-0.5)),
    "split": (1, 13, node("Split", "x", "lengths", axis=1), node("Split", "x", "whole", axis=1)),
    "lp": (1, 7, node("GlobalLpPool", p=1.0), node("GlobalLpPool", p=1)),
    "dropout": (6, 7, node("Dropout", is_test=1), node("Dropout")),
}  # fmt: skip
LEGACY_CONSTANTS = {
    **B, "c3": x(3, seed=8), "shape": np.int64([0, -1]), "tiles": np.float32([2]), "axis": np.float32([1]),
    "repeats": np.int64([1, 2, 1]), "lengths": np.float32([3]), "whole": np.int64([3]),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGACY)
def test_before_opset_7(name):
    """onnxruntime runs no such model: what the text says it means, at an opset that it has."""
    old, new, was, now = LEGACY[name]
    constants = dict(LEGACY_CONSTANTS)
    if isinstance(now, tuple):
        told, shape, now = now
        constants[told] = constants[told].reshape(shape)
    kind = {"Greater": TensorProto.BOOL, "Cast": TensorProto.INT32}.get(was.op_type, TensorProto.FLOAT)

    def of(opset, made, constants):
        used = {n: v for n, v in constants.items() if n in made.input}
        return model([made], opset, {"x": [2, 3, 4]}, used, types={"y": kind})

    (want,) = run(of(new, now, constants), {"x": x(2, 3, 4)})
    (got,) = run(write(read(of(old, was, LEGACY_CONSTANTS))), {"x": x(2, 3, 4)})
    np.testing.assert_allclose(got, want, rtol=1e-6, strict=True)


def test_upsample_1():
    was = model([node("Upsample", height_scale=3.0, width_scale=2.0, mode="bilinear")], 1, {"x": [1, 2, 3, 4]})
    now = model([node("Upsample", scales=[1.0, 1.0, 3.0, 2.0], mode="linear")], 7, {"x": [1, 2, 3, 4]})
    np.testing.assert_array_equal(run(write(read(was)), {"x": x(1, 2, 3, 4)})[0], run(now, {"x": x(1, 2, 3, 4)})[0])


def test_gemm_and_batch_normalization_6():
    weights = {"w": x(3, 5), "c": x(5, seed=1), "s": x(5, seed=2), "v": np.abs(x(5, seed=3))}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "c"], ["g"], broadcast=1),
        helper.make_node("BatchNormalization", ["g", "s", "c", "c", "v"], ["y"], is_test=1),
    ]
    for node_, name in zip(nodes, ("broadcast", "is_test"), strict=True):
        assert [a.name for a in node_.attribute] == [name]
    (got,) = run(write(read(model(nodes, 6, {"x": [2, 3]}, weights))), {"x": x(2, 3)})
    for node_ in nodes:
        del node_.attribute[:]
    (want,) = run(model(nodes, 9, {"x": [2, 3]}, weights), {"x": x(2, 3)})
    np.testing.assert_array_equal(got, want)


def test_what_opsets_before_7_leave_open():
    cases = {
        "axis 2 with 2 dimensions on 3": node("Add", "x", "b", broadcast=1, axis=2),
        "without an axis": helper.make_node("Split", ["x"], ["y"]),
        "'FLOUT' is no element type": node("Cast", to="FLOUT"),
    }
    for told, case in cases.items():
        with pytest.raises(ModelError, match=told):
            read(model([case], 1, {"x": [2, 3, 4]}, B))
    drops = read(model([node("Dropout", ratio=0.25)], 6, {"x": [2, 3]}))
    assert [float(drops.constants[n]) for n in drops.nodes[0].inputs[1:]] == [0.25, 1.0]


def test_opsets_not_yet_known_are_refused():
    content = model([node("Relu")], 999, {"x": [2]})
    with pytest.raises(ModelError, match=r"opset 999; nbconv reads 1 to"):
        read(content)


def test_every_opset_is_read():
    for opset in range(1, onnx.defs.onnx_opset_version() + 1):
        case = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 0, 0, 1])
        graph = read(model([case, node("Relu", "c")], opset, {"x": [1, 2, 5, 4]}, {"w": x(3, 2, 2, 2)}))
        assert [n.op.type for n in graph.nodes] == ["Conv", "Relu"]
        assert graph.nodes[0].op.pads == (1, 0, 0, 1)
