"""Models whose shapes depend on values: planned as far as shapes are known, run, and planned on."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import nbconv
from nbconv.errors import DataDependentError, ModelError, UnsupportedError
from nbconv.model import Model
from nbconv.runtime.executor import Ready
from nbconv.runtime.planned import PLAN_BYTES
from nbconv.runtime.staged import Stage, Staged
from tests.check import sampler
from tests.test_program import digest
from tests.test_runtime import python

r = sampler(21)

HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
MODELS = {
    "places": """g (float[N, 3, H, W] x) => (float[k, C] picked, int64[4, k] where) {
        w = Constant <value = float[4, 3, 1, 1] {1,2,-1,0.5,-2,1,1,-1,1,2,2,-3}> ()
        one = Constant <value = int64[1] {-1}> ()
        four = Constant <value = int64[2] {-1, 4}> ()
        zero = Constant <value = float[1] {0}> ()
        channel = Constant <value = int64[1] {1}> ()
        y = Conv (x, w)
        best = ReduceMax <keepdims = 1> (y, channel)
        high = Greater (best, zero)
        where = NonZero (high)
        last = Transpose <perm = [0, 2, 3, 1]> (y)
        rows = Reshape (last, four)
        flat = Reshape (high, one)
        picked = Compress <axis = 0> (rows, flat)
    }""",
    "loop": """g (float[1, 4, 6, 5] x, int64 times) => (float[1, 4, 6, 5] y, float[k, 1, 4, 1, 1] means) {
        w = Constant <value = float[4, 4, 1, 1] {1,0,0,0.5,0,1,0.5,0,0,-0.5,1,0,0.5,0,0,-1}> ()
        go = Constant <value = bool {1}> ()
        y, means = Loop (times, go, x) <body = step (int64 i, bool c, float[1, 4, 6, 5] h) =>
            (bool more, float[1, 4, 6, 5] next, float[1, 4, 1, 1] mean) {
            a = Conv (h, w)
            next = Relu (a)
            mean = GlobalAveragePool (next)
            low = Constant <value = float {0.1}> ()
            least = ReduceMax <keepdims = 0> (mean)
            more = Greater (least, low)
        }>
    }""",
    "growing": """g (float[2, 3] x, int64 times) => (float[a, 3] y) {
        go = Constant <value = bool {1}> ()
        y = Loop (times, go, x) <body = step (int64 i, bool c, float[r, 3] h) => (bool more, float[s, 3] next) {
            two = Constant <value = int64 {2}> ()
            zero = Constant <value = int64 {0}> ()
            odd = Mod (i, two)
            even = Equal (odd, zero)
            next = If (even) <then_branch = t () => (float[m, 3] u) { u = Concat <axis = 0> (h, x) },
                              else_branch = e () => (float[n, 3] v) { v = Neg (h) }>
            more = Identity (c)
        }>
    }""",
    "scan": """g (float[3, 2] h0, float[3, 5, 2] xs) => (float[3, 2] h, float[3, 5, 2] ys, float[5, 3] sums) {
        h, ys, sums = Scan (h0, xs) <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            scan_output_axes = [1, 0], scan_output_directions = [1, 0],
            body = step (float[3, 2] a, float[3, 2] b) => (float[3, 2] c, float[3, 2] d, float[3] e) {
            c0 = Add (a, b)
            c = Tanh (c0)
            d = Mul (c, b)
            axis = Constant <value = int64[1] {1}> ()
            e = ReduceSum <keepdims = 0> (c0, axis)
        }>
    }""",
    "sizes": """g (float[1, 3, 4, 5] x, int64[2] hw) => (float[1, 3, h, w] y, float[1, 3, 1, 1] z) {
        none = Constant <value = float[0] {}> ()
        front = Constant <value = int64[2] {1, 3}> ()
        sizes = Concat <axis = 0> (front, hw)
        y = Resize <mode = "linear"> (x, none, none, sizes)
        z = GlobalAveragePool (y)
    }""",
    "boxes": """g (float[1, n, 4] boxes, float[1, 2, n] scores) => (int64[k, 3] kept, float[k, 4] found, float[k] high) {
        most = Constant <value = int64 {4}> ()
        overlap = Constant <value = float {0.4}> ()
        least = Constant <value = float {0.3}> ()
        kept = NonMaxSuppression (boxes, scores, most, overlap, least)
        last = Constant <value = int64 {2}> ()
        one = Constant <value = int64[1] {0}> ()
        box = Gather <axis = 1> (kept, last)
        all = Squeeze (boxes, one)
        found = Gather (all, box)
        high = GatherND (scores, kept)
    }""",
}


def content(name: str) -> bytes:
    model = onnx.parser.parse_model(HEAD + MODELS[name])
    onnx.checker.check_model(model)
    return model.SerializeToString()


def feeds(name: str, k: int) -> dict[str, np.ndarray]:
    match name:
        case "places":
            return {"x": r(1 + k % 2, 3, 4 + k, 5)}
        case "loop" | "growing":
            shape = (1, 4, 6, 5) if name == "loop" else (2, 3)
            return {"x": np.abs(r(*shape)), "times": np.array(k)}
        case "scan":
            return {"h0": r(3, 2), "xs": r(3, 5, 2)}
        case "boxes":  # of the first call none is found
            corner = np.abs(r(1, 9, 2))
            return {"boxes": np.concatenate([corner, corner + 1], 2), "scores": np.abs(r(1, 2, 9)) * np.float32(k) / 9}
    return {"x": r(1, 3, 4, 5), "hw": np.array([3 + k, 9 - k])}


@pytest.mark.parametrize("name", MODELS)
def test_as_onnxruntime_has_it(name: str) -> None:
    """For many inputs; on two threads bit for bit as on one; again after a round through a file, a pickle and a copy."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content(name), providers=["CPUExecutionProvider"])
    model = nbconv.load(content(name))
    others = [
        nbconv.load(nbconv.converters.onnx.write(model.graph)), pickle.loads(pickle.dumps(model)), copy.copy(model),
    ]  # fmt: skip
    names = [port.name for port in model.outputs]
    for k in (0, 1, 2, 5, 1):
        given = feeds(name, k)
        got = model.run(given, threads=1)
        for output, want in zip(names, session.run(names, given), strict=True):
            assert got[output].dtype == want.dtype and got[output].shape == want.shape, output
            np.testing.assert_allclose(got[output], want, rtol=0, atol=1e-5 * np.abs(want).max(initial=1), err_msg=output)
        assert {digest(m.run(given, threads=2)) for m in (model, *others)} == {digest(got)}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "scan"])
def test_the_same_shapes_plan_nothing(name: str) -> None:
    model = nbconv.load(content(name))
    given = feeds(name, 3)
    model.run(given)
    stages = model._staged
    assert isinstance(stages, Staged)
    inner = [stages, *stages.bodies.values()]
    before, kept = [s.planned for s in inner], len(stages.kept)
    assert kept >= 1
    model.run({n: x.copy() for n, x in given.items()})
    assert [s.planned for s in inner] == before and len(stages.kept) == kept


def test_values_that_other_shapes_decide(tmp_path: Path) -> None:
    """A node that waits reads what shapes decide: its own inputs have equal shapes and values, the result is another."""
    text = """g (float[n] a, float[1] first, float[8] x) => (float[k] y, float[m] z) {
        start = Cast <to = 7> (first)
        end = Shape (a)
        y = Slice (x, start, end)
        next = ReduceMax <keepdims = 1> (y)
        again = Cast <to = 7> (next)
        z = Slice (x, again, end)
    }"""
    path, x = tmp_path / "model.onnx", np.arange(8, dtype=np.float32) / 8
    path.write_bytes(onnx.parser.parse_model(HEAD + text).SerializeToString())
    for model in (nbconv.load(path), nbconv.load(path)):
        for n in (3, 5, 3, 7):
            got = model.run({"a": r(n), "first": np.ones(1, np.float32), "x": x})
            np.testing.assert_array_equal(got["y"], x[1:n])
            np.testing.assert_array_equal(got["z"], x[:n])


def test_names_of_room_are_not_the_models() -> None:
    text = """g (float[n] a) => (int64[1, k] y, float[n] z) { y = NonZero (a) room = Neg (a) z = Abs (room) }"""
    proto = onnx.parser.parse_model(HEAD + text)
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = "y#room"
    got = nbconv.load(proto.SerializeToString()).run({"a": np.array([-1, 0, 2], np.float32)})
    np.testing.assert_array_equal(got["y"], [[0, 2]])
    np.testing.assert_array_equal(got["z"], np.array([1, 0, 2], np.float32))


def test_kernels_run_in_all_stages() -> None:
    """A Resize to sizes that an input gives, and what follows it."""
    model = nbconv.load(content("sizes"))
    model.run(feeds("sizes", 2))
    assert model._staged is not None
    ready = [s.ready for s in model._staged.kept.values() if isinstance(s, Stage)]
    kernels = {k for one in ready if isinstance(one, Ready) for k in one.program.kernels}
    assert {k.split(".")[0] for k in kernels} >= {"resize", "reduce"}


def test_results_that_need_no_stages_have_a_plan() -> None:
    """Whether a run is staged is decided by its shapes and results, in whichever order they come."""
    model = Model(nbconv.load(content("places")).graph)
    given = feeds("places", 1)
    want = model.run(given, ["y"])["y"]
    assert model._staged is None
    model.run(given)
    for k in (1, 2):
        model.run(feeds("places", k), ["best"])
    np.testing.assert_array_equal(model.run(given, ["y"])["y"], want)
    assert model._staged is not None
    staged = [key[1] for key, ready in model._plans.items() if not isinstance(ready, Ready)]
    assert staged == [("picked", "where")] and len(model._plans) == 4


KEPT = {
    **MODELS,
    "constant": """g (float[2, 3] x) => (int64[2, k] where, float[2] same)
        <float[2] same = {3, 4}, float[2, 3] w = {1,1,2,2,3,3}> {
        y = Mul (x, w)
        where = NonZero (y)
    }""",
    "branches": """g (float[2, 3] x, bool c) => (float[a, b] y) <float[3, 3] w = {1,2,3,4,5,6,7,8,9}> {
        y = If (c) <then_branch = t () => (float[2, 3] u) { u = MatMul (x, w) },
                    else_branch = e () => (float[3, 2] v) { s = MatMul (x, w) v = Transpose <perm = [1, 0]> (s) }>
    }""",
}  # fmt: skip
ABSENT = ("onnx", "numba", "nbconv.passes", "nbconv.passes.partition", "nbconv.plan.plan", "nbconv.ops.conv")


def inputs_of(name: str) -> list[dict[str, np.ndarray]]:
    if name == "constant":
        return [{"x": np.array([[0, 1, 2], [0, 0, 3]], np.float32)}]
    if name == "branches":
        return [{"x": r(2, 3), "c": np.array(c)} for c in (True, False)]
    return [feeds(name, k) for k in (1, 2, 3)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, np.ndarray]], list[str]]]:
    """Of each model: its file, inputs, digests of what comes of them; all that can be is kept of them."""
    folder, found = tmp_path_factory.mktemp("kept"), {}
    for name, text in KEPT.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(onnx.parser.parse_model(HEAD + text).SerializeToString())
        model, given = nbconv.load(path), inputs_of(name)
        found[name] = path, given, [digest(model.run(one)) for one in given]
    return found


def test_a_fresh_process_plans_nothing(kept) -> None:
    """It gives equal bits without onnx, the graph, passes and plans; and what it has not seen, it plans on."""
    code = "import sys, hashlib\nimport numpy as np\nimport nbconv\nmodels = []\n"
    for name, (path, given, _) in kept.items():
        for i, one in enumerate(given):
            np.savez(path.with_suffix(f".{i}.npz"), **one)
        code += textwrap.dedent(f"""
        models.append(nbconv.load({str(path)!r}))
        for i in range({len(given)}):
            found = models[-1].run(dict(np.load({str(path.with_suffix(""))!r} + f".{{i}}.npz")))
            parts = (repr((n, a.shape, a.dtype.str)).encode() + a.tobytes() for n, a in found.items())
            print({name!r}, hashlib.sha256(b"".join(parts)).hexdigest())
        """)
    code += textwrap.dedent(f"""
    print([n for n in {ABSENT!r} if n in sys.modules], [m.name for m in models if m._graph is not None])
    x = np.ones((1, 3, 9, 5), np.float32)
    print(models[0].run({{"x": x}})["where"].shape)
    """)
    *got, heavy, shape = python(code).splitlines()
    assert got == [f"{name} {want}" for name, (_, _, digests) in kept.items() for want in digests]
    assert heavy == "[] []"
    assert shape == str(nbconv.load(kept["places"][0]).run({"x": np.ones((1, 3, 9, 5), np.float32)})["where"].shape)


def test_files_of_stages_that_are_damaged_are_no_files(kept) -> None:
    """Whatever is missing, changed, or not what it should be: the run is planned, with equal bits."""
    path, given, want = kept["growing"]
    cache = nbconv.load(path)._plan_cache
    assert cache is not None and cache._folder is not None
    notes = sorted(Path(cache._folder).glob("*.stage"))
    assert notes
    before = {note: note.read_bytes() for note in notes}

    def check() -> None:
        assert [digest(nbconv.load(path).run(one)) for one in given] == want

    for change in (
        lambda kept: {"passed": 3}, lambda kept: {"waiting": [3]}, lambda kept: {"known": {"x": 3}},
        lambda kept: {"waiting": [{**w, "family": "os", "type": "system"} for w in kept["waiting"]]},
        lambda kept: {"waiting": [{**w, "inputs": [7]} for w in kept["waiting"]]}, lambda kept: {"program": False},
        lambda kept: {"program": True}, lambda kept: {"waiting": [{**w, "ports": {}} for w in kept["waiting"]]},
        lambda kept: {"passed": None},
    ):  # fmt: skip
        for note, content in before.items():
            now = json.loads(content.partition(b"\n")[2])
            body = json.dumps({**now, **change(now)} if isinstance(now, dict) else now).encode()
            note.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        check()
    for note, content in before.items():
        note.write_bytes(content[:-3] + b"xx}")
    check()
    for note in notes:
        note.unlink()
    check()


def test_memory_of_plans_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbconv.runtime.planned.PLAN_BYTES", 200_000)
    model = nbconv.load(content("places"))
    for k in range(40):
        model.run({"x": r(1, 3, 4 + k, 5)})
    assert model._staged is not None
    kept = model._staged.kept
    assert 0 < kept.nbytes <= 200_000 < PLAN_BYTES
    assert kept.nbytes == sum(s.nbytes if isinstance(s, Stage) else 512 for s in kept.values())


def test_results_are_the_callers_own() -> None:
    """Given arrays are filled, and refused where they do not fit; inputs and constants handed on are copies."""
    model = nbconv.load(content("growing"))
    x = r(2, 3)
    for times, rows in ((0, 2), (1, 4), (3, 6)):
        given = {"x": x, "times": np.array(times)}
        out = np.empty((rows, 3), np.float32)
        got = model.run(given, out={"y": out})
        assert got["y"] is out
        want = model.run(given)["y"]
        np.testing.assert_array_equal(out, want)
        want[:] = 7
        assert not (x == 7).any()
        with pytest.raises(ValueError, match=rf"out\['y'\] is float32\[9, 3\], wanted float32\({rows}, 3\)"):
            model.run(given, out={"y": np.empty((9, 3), np.float32)})
    with pytest.raises(ValueError, match=r"out\['y'\] shares memory"):
        model.run({"x": x, "times": np.array(0)}, out={"y": x})
    with pytest.raises(ValueError, match="out names 'z'"):
        model.run({"x": x, "times": np.array(0)}, out={"z": x})


def test_any_value_can_be_fetched() -> None:
    model = nbconv.load(content("places"))
    x = r(1, 3, 4, 5)
    found = model.run({"x": x}, ["rows", "picked", "y"])
    assert found["rows"].shape == (20, 4) and found["y"].shape == (1, 4, 4, 5)
    np.testing.assert_array_equal(found["picked"], model.run({"x": x})["picked"])
    with pytest.raises(ValueError, match="no value 'nothing'"):
        model.run({"x": x}, ["nothing"])


def test_a_plan_of_it_says_why_there_is_none() -> None:
    model = nbconv.load(content("places"))
    with pytest.raises(DataDependentError, match=r"where \(NonZero\): x is computed while running"):
        model.plan({"x": (1, 3, 4, 5)})


def test_it_cannot_be_trained() -> None:
    trainer = nbconv.Trainer(nbconv.load(parsed_product()))
    with pytest.raises(UnsupportedError, match=r"where \(NonZero\): .* cannot be trained"):
        trainer.step(np.eye(3, dtype=np.float32), np.zeros(3, np.int64))


def parsed_product() -> bytes:
    """A product of weights with the places of what is not zero."""
    text = """g (float[n, 3] x) => (float[a, b] y) <float[2, 2] w = {1, 2, 3, 4}> {
        [where] places = NonZero (x)
        turned = Transpose (places)
        f = Cast <to = 1> (turned)
        y = MatMul (f, w)
    }"""
    return onnx.parser.parse_model(HEAD + text).SerializeToString()


def broken(name: str, old: str, new: str) -> Any:
    return nbconv.load(onnx.parser.parse_model(HEAD + MODELS[name].replace(old, new)).SerializeToString())


def test_errors_name_the_node() -> None:
    with pytest.raises(ModelError, match=r"next \(If\).*Concat|u \(Concat\)"):
        broken("growing", "Concat <axis = 0> (h, x)", "Concat <axis = 7> (h, x)").run(feeds("growing", 2))
    with pytest.raises(ModelError, match=r"y \(Resize\)"):
        broken("sizes", "{1, 3}", "{1, -3}").run(feeds("sizes", 2))
    with pytest.raises(ModelError, match=r"h \(Scan\): scan_input_axes has 2 entries for 1 values"):
        broken("scan", "scan_input_axes = [1]", "scan_input_axes = [1, 0]").run(feeds("scan", 2))
