"""Models of half precision, which compute in float32, and of types that are only stored: planned, run, kept and written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import nbconv
from nbconv.converters.onnx import read, write
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.dtypes import ADDED, BITS, added, packed, unpacked
from nbconv.graph.infer import number_of
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.ops.fallback import Fallback
from nbconv.passes.layout import arranged
from nbconv.plan.derive import derive
from nbconv.runtime.staged import Stage, Staged
from tests.check import sampler
from tests.test_control import body, choice
from tests.test_program import load
from tests.test_runtime import python

F16, F32, BF16 = np.dtype(np.float16), np.dtype(np.float32), added("bfloat16")
HALF = pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
SHAPE = (2, 3, 20, 18)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    return Node(lookup(op)(**attributes), tuple(inputs.split(",")), tuple(outputs.split(",")))


def net(dtype: np.dtype, of: np.dtype | None = None) -> Graph:
    """A small net whose values are of this type; its weights are numbers of type ``of``, as far as that goes."""
    r = sampler(8)
    weights = {
        "w1": r(8, 3, 3, 3) * 0.3, "b1": r(8), "scale": r(8), "shift": r(8), "mean": r(8) * 0.1, "var": np.abs(r(8)) + 0.5,
        "w2": r(8, 8, 3, 3) * 0.2, "w3": r(5, 8), "b3": r(5), "low": np.array(-1.5), "high": np.array(4.5),
    }  # fmt: skip
    nodes = [
        node("Conv", "x,w1,b1", "c1", pads=(1, 1, 1, 1), strides=(2, 2)),
        node("BatchNormalization", "c1,scale,shift,mean,var", "n1"), node("Relu", "n1", "r1"),
        node("Conv", "r1,w2", "c2", pads=(1, 1, 1, 1)), node("Add", "c2,r1", "s"), node("Clip", "s,low,high", "k"),
        node("InstanceNormalization", "k,scale,shift", "i"), node("MaxPool", "i", "m", kernel_shape=(2, 2), strides=(2, 2)),
        node("GlobalAveragePool", "m", "g"), node("Flatten", "g", "f"), node("Gemm", "f,w3,b3", "z", transB=1),
        node("Softmax", "z", "y"),
    ]  # fmt: skip
    constants = {n: np.asarray(a).astype(of or dtype).astype(dtype) for n, a in weights.items()}
    return Graph(nodes, {"x": Spec(("n", *SHAPE[1:]), dtype)}, {"y": Spec(("n", 5), dtype), "c2": None}, constants)


def sample(dtype: np.dtype) -> np.ndarray:
    return sampler(9)(*SHAPE).astype(dtype)


def bits(x: np.ndarray) -> bytes:
    return np.ascontiguousarray(x).tobytes()


@HALF
def test_a_net_is_the_float32_one_rounded(dtype: np.dtype) -> None:
    x = sample(dtype)
    half, single = Model(net(dtype), threads=1), Model(net(F32, dtype), threads=1)
    plans = [model.plan({"x": SHAPE}) for model in (half, single)]
    assert not plans[0].numpy_steps()
    kinds = [[step.node.op.type for step in plan.steps] for plan in plans]
    casts = [kind for kind in kinds[0] if kind == "Cast"]
    assert len(casts) == 3 and [kind for kind in kinds[0] if kind != "Cast"] == kinds[1]
    got, want = half.run({"x": x}), single.run({"x": x.astype(F32)})
    for name in ("y", "c2"):
        assert got[name].dtype == dtype
        assert bits(got[name]) == bits(want[name].astype(dtype))
    assert half.run({"x": x}, threads=2)["y"].tobytes() == got["y"].tobytes()


@HALF
def test_any_value_can_be_fetched(dtype: np.dtype) -> None:
    x, names = sample(dtype), ("c1", "n1", "r1", "s", "i", "g", "f", "z")
    half, single = Model(net(dtype), threads=1), Model(net(F32, dtype), threads=1)
    got, want = half.run({"x": x}, names), single.run({"x": x.astype(F32)}, names)
    for name in names:
        assert got[name].dtype == dtype
        assert bits(got[name]) == bits(want[name].astype(dtype)), name
    told = half.plan({"x": SHAPE}).graph.provenance
    assert all(name in told for name in names if name not in ("z",)), told


@HALF
def test_casts_of_the_model_round(dtype: np.dtype) -> None:
    """A sum in half precision that a Cast takes to float32 is not rounded; one that the model casts to half is."""
    nodes = [
        node("Cast", "x", "h", to=number_of(dtype)), node("Add", "h,one", "s"), node("Cast", "s", "wide", to=1),
        node("Mul", "x,x", "sq"), node("CastLike", "sq,one", "l"), node("Cast", "l", "rounded", to=1),
    ]  # fmt: skip
    constants = {"one": np.ones(1, dtype)}
    x = np.linspace(0, 3, 77, dtype=np.float32)
    got = Model(Graph(nodes, {"x": Spec((77,), F32)}, dict.fromkeys(("wide", "rounded", "s")), constants), threads=1).run(
        {"x": x}
    )
    np.testing.assert_array_equal(got["wide"], x.astype(dtype).astype(F32) + 1)
    np.testing.assert_array_equal(got["rounded"], (x * x).astype(dtype).astype(F32))
    assert not np.array_equal(got["wide"], got["s"].astype(F32))


@HALF
def test_integers_come_from_rounded_values(dtype: np.dtype) -> None:
    nodes = [node("Add", "x,x", "s"), node("ArgMax", "s", "k", axis=0, keepdims=0), node("Cast", "s", "n", to=7)]
    nodes += [node("Greater", "s,limit", "b"), node("Mul", "s,third", "t"), node("Cast", "t", "u", to=7)]
    x = np.array([1, 1.5, 1.5, 0.5], dtype)
    constants = {"limit": np.array(3 - 2.0**-12, dtype), "third": np.array(1 / 3, dtype)}
    graph = Graph(nodes, {"x": Spec((4,), dtype)}, dict.fromkeys(("k", "n", "b", "u", "t")), constants)
    got = Model(graph, threads=1).run({"x": x})
    assert got["k"] == 1 and got["n"].tolist() == [2, 3, 3, 1]
    assert got["b"].tolist() == [False] * 4  # the limit is 3 in half precision
    assert got["u"].tolist() == got["t"].astype(np.float64).astype(np.int64).tolist()


@HALF
def test_bodies(dtype: np.dtype) -> None:
    """Branches that compute, chosen while it runs, and before; a loop; and shapes that depend on values of a branch."""
    r = sampler(4)
    w = r(3, 3, 1, 1)

    def graph(kind: np.dtype, known: bool) -> Graph:
        weights = {"w": w.astype(dtype).astype(kind)}
        then = body([node("Conv", "a,w", "h"), node("Relu", "h", "t")], "t")
        other = body([node("Neg", "a", "n"), node("Mul", "n,a", "t")], "t")
        nodes = [node("Mul", "x,x", "a"), choice("c", then, other, "b"), node("ReduceSum", "b", "y", keepdims=0)]
        inputs = {"x": Spec((1, 3, 5, 4), kind)} | ({} if known else {"c": Spec((), np.dtype(np.bool_))})
        return Graph(nodes, inputs, dict.fromkeys(("y", "b")), weights | ({"c": np.array(True)} if known else {}))

    x = r(1, 3, 5, 4).astype(dtype)
    for known in (False, True):
        for c in (True,) if known else (True, False):
            feeds = {} if known else {"c": np.array(c)}
            got = Model(graph(dtype, known), threads=1).run({"x": x, **feeds})
            want = Model(graph(F32, known), threads=1).run({"x": x.astype(F32), **feeds})
            for name in ("y", "b"):
                assert got[name].dtype == dtype
                np.testing.assert_allclose(got[name].astype(F32), want[name], 2e-2 if dtype == BF16 else 2e-3, 1e-6)


@HALF
def test_runs_in_stages(dtype: np.dtype) -> None:
    nodes = [
        node("Conv", "x,w", "a"), node("Greater", "a,zero", "b"), node("NonZero", "b", "where"),
        node("Transpose", "where", "rows", perm=(1, 0)), node("GatherND", "a,rows", "picked"),
        node("ReduceSum", "picked", "total", keepdims=0), node("ReduceMean", "a", "mean", keepdims=0),
    ]  # fmt: skip
    r = sampler(5)
    w, x = (r(4, 3, 1, 1) + 1).astype(dtype), (np.abs(r(1, 3, 40, 40)) + 20).astype(dtype)
    graph = Graph(nodes, {"x": Spec(x.shape, dtype)}, dict.fromkeys(("total", "mean", "rows")), {
        "w": w, "zero": np.zeros(1, dtype)})  # fmt: skip
    model = Model(graph, threads=1)
    got = model.run({"x": x})
    assert isinstance(model._staged, Staged)
    a = np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype(np.float64), x.astype(np.float64))
    assert got["rows"].dtype == np.int64 and len(got["rows"]) == (a > 0).sum()
    for name, value in (("total", a[a > 0].sum()), ("mean", a.mean())):
        assert got[name].dtype == dtype
        if value < 65504 or dtype == BF16:
            np.testing.assert_allclose(got[name].astype(np.float64), value, rtol=1e-2 if dtype == BF16 else 1e-3)


@HALF
def test_a_node_done_alone_has_its_kernel(dtype: np.dtype) -> None:
    """A Resize whose sizes a run computes."""
    nodes = [
        node("Conv", "x,w", "a"), node("Cast", "n", "half", to=7), node("Concat", "front,half", "sizes", axis=0),
        node("Resize", "a,,,sizes", "y", mode="linear"),
    ]  # fmt: skip
    r = sampler(7)
    graph = Graph(nodes, {"x": Spec((1, 3, 8, 8), dtype), "n": Spec((2,), F32)}, dict.fromkeys(("y", "a")), {
        "w": r(4, 3, 1, 1).astype(dtype), "front": np.array([1, 4])})  # fmt: skip
    model, x = Model(graph, threads=1), r(1, 3, 8, 8).astype(dtype)
    got = model.run({"x": x, "n": np.array([13, 11], F32)})
    assert model._staged is not None
    alone = [stage.ready.program for stage in model._staged.kept.values() if isinstance(stage, Stage) and stage.ready]
    assert any(kernel.startswith("resize.") for program in alone for kernel in program.kernels)
    want = lookup("Resize")(mode="linear").reference(got["a"].astype(F32), None, None, np.array([1, 4, 13, 11]))
    assert got["y"].dtype == dtype and got["y"].shape == (1, 4, 13, 11)
    np.testing.assert_allclose(got["y"].astype(F32), want, rtol=2e-2 if dtype == BF16 else 2e-3, atol=1e-2)


FRESH = """
import sys
import numpy as np
import nbconv

model = nbconv.load({path!r})
x = np.load({x!r}).view(np.uint16)
dtype = model.inputs[0].dtype
found = model.run({{"x": x.view(dtype)}})
print([(n, a.dtype.name, a.shape, a.tobytes().hex()) for n, a in found.items()])
print(sorted(n for n in sys.modules if n.split(".")[0] in ("onnx", "numba", "llvmlite") or n.startswith("nbconv.passes")))
"""


@HALF
def test_kept_and_found_by_another_process(dtype: np.dtype, tmp_path: Path) -> None:
    model, folder = load(net(dtype), tmp_path)
    x = sample(dtype)
    np.save(tmp_path / "x.npy", x.view(np.uint16))
    want = model.run({"x": x})
    assert [name for name in os.listdir(folder) if name.endswith(".program")]
    told, modules = python(FRESH.format(path=str(tmp_path / "model.onnx"), x=str(tmp_path / "x.npy"))).strip().splitlines()
    assert told == str([(n, a.dtype.name, a.shape, a.tobytes().hex()) for n, a in want.items()])
    assert modules == "[]"


@HALF
def test_a_gpu_computes_in_float32(dtype: np.dtype) -> None:
    """The host converts, a GPU's kernels do the rest."""
    found = []
    for graph in (net(dtype), net(F32, dtype)):
        inputs = {"x": Spec(SHAPE, graph.inputs["x"].dtype)}
        derived = derive(graph, inputs, Weights(), tuple(graph.outputs), gpu=True)
        host = {n for n in derived.graph.nodes if arranged(n, derived.specs, derived.layouts, True) is None}
        assert all(n.op.type == "Cast" for n in host)
        found.append([n.op.type for n in derived.graph.nodes if n not in host])
    assert found[0] == found[1] and len(found[0]) > 6


STORED = [added(name) for name in ADDED.values()]


def values(dtype: np.dtype, size: int) -> np.ndarray:
    """Every number of the type, again and again."""
    width = BITS.get(dtype.name, 8 * dtype.itemsize)
    words = np.arange(size) * (1 if width < 16 else 523) % (1 << width)
    raw = np.ascontiguousarray(words.astype(np.uint16 if width == 16 else np.uint8))
    return unpacked(np.frombuffer(packed(raw.view(dtype)), np.uint8), dtype, size) if width < 8 else raw.view(dtype)


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_stored_types_are_read_and_written(dtype: np.dtype, size: int, tmp_path: Path) -> None:
    """As onnx has them, in each way to hold them; an initializer, an input and an output each."""
    w = values(dtype, size)
    nodes = [node("Identity", "x", "c"), node("Identity", "w", "v"), node("Cast", "w", "y", to=1)]
    nodes.append(node("Cast", "y", "back", to=number_of(dtype), saturate=0))
    graph = Graph(nodes, {"x": Spec((2,), dtype)}, {"c": Spec((2,), dtype), **dict.fromkeys(("v", "y", "back"))}, {"w": w})
    content = write(graph)
    proto = onnx.load_from_string(content)
    held = proto.graph.initializer[0]
    assert bits(onnx.numpy_helper.to_array(held)) == bits(w)
    typed = onnx.helper.make_tensor("w", held.data_type, [size], w.astype(F32))
    again = onnx.ModelProto.FromString(content)
    again.graph.initializer[0].CopyFrom(typed)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    for name, source in (("raw", content), ("typed", again.SerializeToString()), ("file", tmp_path / "m.onnx")):
        found = read(source)
        if name != "typed":  # whose numbers onnx makes from float32, without NaN's bits
            assert bits(found.constants["w"]) == bits(w), name
        x = values(dtype, 5)[3:]
        got = Model(found, threads=1).run({"x": x})
        assert got["c"].dtype == got["v"].dtype == dtype
        assert (bits(got["c"]), bits(got["v"])) == (bits(x), bits(found.constants["w"]))
        np.testing.assert_array_equal(got["y"], got["v"].astype(F32))
        np.testing.assert_array_equal(got["back"].astype(F32), got["y"])


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_stored_types_are_moved(dtype: np.dtype, tmp_path: Path) -> None:
    """By ops that move, in NumPy; kept in a file, too."""
    x = values(dtype, 24).reshape(2, 3, 4)
    nodes = [
        node("Transpose", "x", "t", perm=(2, 0, 1)), node("Reshape", "t,shape", "r"), node("Unsqueeze", "r,axis", "u"),
        node("Shape", "u", "n"), node("Identity", "u", "i"), node("Flatten", "i", "f"), node("Squeeze", "i,axis", "q"),
    ]  # fmt: skip
    constants = {"shape": np.array([4, -1]), "axis": np.array([0])}
    graph = Graph(nodes, {"x": Spec(x.shape, dtype)}, dict.fromkeys(("f", "n", "q")), constants)
    model, folder = load(graph, tmp_path)
    t = x.transpose(2, 0, 1).reshape(4, -1)
    for _ in range(2):
        got = model.run({"x": x})
        assert got["q"].dtype == got["f"].dtype == dtype and got["n"].tolist() == [1, *t.shape]
        assert (bits(got["q"]), bits(got["f"])) == (bits(t), bits(t))
        assert any(name.endswith(".program") for name in os.listdir(folder))
        model = nbconv.load(tmp_path / "model.onnx")
    shutil.rmtree(folder)
    nodes = [
        node("Concat", "x,x", "c", axis=1), node("Slice", "c,start,end,ones", "s"), node("Gather", "s,rows", "g", axis=2),
        node("Split", "g", "a,b", axis=2, num_outputs=2), node("Expand", "a,wide", "y"), node("Where", "m,y,y", "z"),
    ]  # fmt: skip
    constants = {
        "start": np.array([1]), "end": np.array([6]), "ones": np.array([1]), "rows": np.array([2, 0, 3, 3]),
        "wide": np.array([3, 2, 5, 2]), "m": np.array([True]),
    }  # fmt: skip
    got = Model(Graph(nodes, {"x": Spec(x.shape, dtype)}, dict.fromkeys(("z", "b")), constants), threads=1).run({"x": x})
    g = np.concatenate([x, x], 1)[:, 1:6][:, :, [2, 0, 3, 3]]
    assert (bits(got["b"]), bits(got["z"])) == (bits(g[:, :, 2:]), bits(np.broadcast_to(g[:, :, :2], (3, 2, 5, 2))))


def test_what_does_not_fit() -> None:
    with pytest.raises(ModelError, match="x is float8_e4m3fn, wanted floating point"):
        lookup("Sigmoid")().infer(Spec((3,), added("float8_e4m3fn")))
    with pytest.raises(ModelError, match="int4"):
        lookup("Add")().infer(*[Spec((3,), added("int4"))] * 2)
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, [5], b"\x01\x02\x03", raw=True)
    tensor.raw_data = b"\x01\x02"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT4, [5])], [tensor],
    )  # fmt: skip
    content = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]).SerializeToString()
    with pytest.raises(ModelError, match=r"int4\[5\] wants 3 bytes, it has 2 bytes of raw_data"):
        read(content)


@HALF
def test_an_operator_of_onnxs_reference_computes_in_float32(dtype: np.dtype) -> None:
    """In NumPy, which has Fourier transforms of float32 and none of bfloat16."""
    x = (sampler(6)(3, 8, 1) * 5).astype(dtype)
    graph = Graph([node("DFT", "x", "d")], {"x": Spec(x.shape, dtype)}, {"d": None}, {})
    assert isinstance(graph.nodes[0].op, Fallback)
    got = Model(graph, threads=1).run({"x": x})["d"]
    assert got.dtype == dtype
    want = np.fft.fft(x[..., 0].astype(F32))
    assert bits(got) == bits(np.stack([want.real, want.imag], -1).astype(dtype))


@HALF
def test_floats_are_cast_to_what_the_model_wants(dtype: np.dtype, tmp_path: Path) -> None:
    x = sample(dtype)
    model = Model(net(dtype), threads=1)
    want = bits(model.run({"x": x})["y"])
    np.save(tmp_path / "x.npy", x)  # of which NumPy knows no more than the size, if it is bfloat16
    for given in (x.astype(F32), x.astype(np.float64), np.load(tmp_path / "x.npy")):
        assert bits(model.run({"x": given})["y"]) == want
    with pytest.raises(ValueError, match=f"input 'x' is int32, wanted {dtype}"):
        model.run({"x": x.astype(np.int32)})
