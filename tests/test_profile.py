"""``nbconv profile``: what steps cost, what the roofline allows, and what is written about it."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import nbconv
from nbconv.cli import main
from nbconv.lowering.step import Cost
from nbconv.plan.cost import cost
from nbconv.tools.profiler import KINDS, lives, profile
from nbconv.tools.roofline import Level, Roofline, roofline
from nbconv.tools.timed import bounded


def layer(tmp_path, ci, co, size, kernel, group=1, name="layer", **attributes):
    """A model of one convolution."""
    w = np.random.default_rng(0).standard_normal((co, ci // group, kernel, kernel), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name, group=group, **attributes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [info("x", TensorProto.FLOAT, [1, ci, *size])], [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    path = tmp_path / "layer.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def costs(path, which):
    """The costs of a model's steps of one kind."""
    model = nbconv.load(path.read_bytes())
    plan = model.plan({p.name: tuple(d if isinstance(d, int) else 1 for d in p.shape or ()) for p in model.inputs})
    return [cost(plan, step) for step in plan.steps if step.impl.kind == which]


def test_pointwise_cost(tmp_path):
    (c,) = costs(layer(tmp_path, 32, 48, (9, 7), 1), "pointwise")
    assert (c.flops, c.arithmetic) == (2 * 9 * 7 * 32 * 48,) * 2
    assert (c.reads, c.writes) == (4 * 9 * 7 * 32, 4 * 9 * 7 * 48)
    assert 4 * 32 * 48 <= c.weights <= 4 * (32 * 64 + 64)  # columns are padded, and there is a bias


def test_strided_pointwise_reads_a_part(tmp_path):
    (c,) = costs(layer(tmp_path, 32, 48, (10, 8), 1, strides=[2, 2]), "pointwise")
    assert c.reads == 4 * 5 * 4 * 32


def test_winograd_does_less_than_the_mathematics(tmp_path):
    (c,) = costs(layer(tmp_path, 64, 64, (28, 28), 3, pads=[1] * 4), "winograd")
    assert c.flops == 2 * 28 * 28 * 64 * 64 * 9
    tiles = {4: 49, 2: 196}
    assert c.arithmetic in [2 * (size + 2) ** 2 * n * 64 * 64 for size, n in tiles.items()]


def test_depthwise_cost(tmp_path):
    (c,) = costs(layer(tmp_path, 40, 40, (12, 10), 3, group=40, pads=[1] * 4), "depthwise")
    assert (c.flops, c.reads, c.writes) == (2 * 12 * 10 * 40 * 9, 4 * 12 * 10 * 40, 4 * 12 * 10 * 40)


def test_few_channels_cost(tmp_path):
    (c,) = costs(layer(tmp_path, 3, 16, (20, 22), 3, strides=[2, 2], pads=[1] * 4), "convolution")
    assert c.flops == 2 * 10 * 11 * 16 * 27
    assert c.writes == 4 * 10 * 11 * 16


def test_dense_is_a_product_with_one_row(small):
    (c,) = costs(small, "dense")
    assert c.flops == 2 * 4 * 5


MACHINE = Roofline(1, 100.0, (Level("L1", 1000, 50.0, 40.0), Level("memory", float("inf"), 10.0, 8.0)))


def test_bounds():
    assert bounded(Cost(900, 800, 10, 10, 0), MACHINE, 100) == (8.0, "compute", "L1")
    seconds, limit, level = bounded(Cost(10, 10, 400, 400, 0), MACHINE, 100)
    assert (seconds, limit, level) == (pytest.approx(800 / 40), "L1", "L1")
    seconds, limit, level = bounded(Cost(10, 10, 1500, 500, 0), MACHINE, 100)  # half of it fits into L1
    assert seconds == pytest.approx((1000 / 40 + 1000 / 50 + 1000 / 8 + 1000 / 10) / 2)
    assert (limit, level) == ("memory", "memory")
    seconds, limit, level = bounded(Cost(10, 10, 40, 40, 500), MACHINE, 5000)  # all that a run touches is in memory
    assert (seconds, limit, level) == (pytest.approx(2 + 50), "memory", "L1")


def test_roofline_is_measured_once():
    found = roofline(1)
    assert roofline(1) is found
    sizes = [level.size for level in found.levels]
    assert sizes == sorted(sizes)
    assert sizes[-1] == float("inf")
    assert found.flops > 0
    assert all(level.read > 0 and level.copy > 0 for level in found.levels)
    json.dumps(found.as_json(), allow_nan=False)


def test_profile_of_a_model(small):
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 7), np.float32)
    model = nbconv.load(small)
    found = profile(model, {"x": x}, threads=2, runs=3)
    assert [s.number for s in found.steps] == list(range(len(found.plan.steps)))
    assert {s.kind for s in found.steps} <= set(KINDS)
    assert all(s.seconds > 0 and s.bound >= 0 for s in found.steps)
    assert found.total == pytest.approx(sum(s.seconds for s in found.steps))


def test_lives_do_not_overlap(tmp_path):
    from tests.models import asset

    model = nbconv.load(asset("mtcnn_pnet.onnx"))
    plan = model.plan({p.name: (1, 3, 64, 48) for p in model.inputs})
    found = lives(plan)
    assert found
    for i, a in enumerate(found):
        assert 0 <= a.begin <= a.end < len(plan.steps)
        assert a.offset + a.nbytes <= plan.arena
        for b in found[:i]:
            apart = a.end < b.begin or b.end < a.begin
            assert apart or a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset


def run(capsys, *words):
    code = main(["profile", *map(str, words), "--runs", "2"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table(small, capsys):
    code, out, _ = run(capsys, small, "--all")
    assert code == 0
    assert "measured roofline" in out
    assert "relu1" in out
    assert "gemm1" in out


def test_json(small, capsys):
    code, out, _ = run(capsys, small, "--json", "--threads", "1")
    report = json.loads(out)
    assert code == 0
    assert sum(s["share"] for s in report["steps"]) == pytest.approx(1)
    assert sum(k["seconds"] for k in report["kinds"].values()) == pytest.approx(report["sum_of_steps"])
    assert sum(k["steps"] for k in report["kinds"].values()) == len(report["steps"])
    assert report["steps"][-1]["implementation"] == "packed_gemm"
    assert report["flops"] == sum(s["flops"] for s in report["steps"]) >= 2 * 4 * 5 * 7 * 18 + 2 * 4 * 5


def test_numpy_steps_are_there(tmp_path, capsys):
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["r"], "relu"), helper.make_node("ArgMax", ["r"], ["y"], "best", axis=1)]
    ends = [info("x", TensorProto.FLOAT, [2, 64])], [info("y", TensorProto.INT64, [2, 1])]
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opset, ir_version=8)
    path = tmp_path / "best.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(nbconv.load(path).plan({"x": (2, 64)}).numpy_steps()) == 1
    _, out, _ = run(capsys, path, "--json")
    steps = {s["name"]: s for s in json.loads(out)["steps"]}
    assert (steps["best"]["kind"], steps["best"]["kernel"]) == ("numpy", "numpy")
    assert (steps["best"]["reads"], steps["best"]["writes"]) == (512, 16)
    assert steps["relu"]["kind"] == "other" and steps["relu"]["implementation"] is None


def test_trace(small, tmp_path, capsys):
    code, _, _ = run(capsys, small, "--trace", tmp_path / "trace.json")
    assert code == 0
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X", "C"}
    assert all({"name", "ph", "pid", "tid"} <= e.keys() for e in events)
    spans = [e for e in events if e["ph"] == "X"]
    assert any(e["name"] == "gemm1" for e in spans)
    for before, after in pairwise(spans):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"], abs=0.01)
    assert all(e["args"]["bytes in use"] >= 0 for e in events if e["ph"] == "C")


def test_html_needs_nothing_else(tmp_path, capsys):
    nasty = "</script><img src=x onerror=alert(1)>\u2028{{data}}"
    path = layer(tmp_path, 3, 4, (8, 8), 3, name=nasty)
    page = tmp_path / "page.html"
    code, _, _ = run(capsys, path, "--html", page)
    assert code == 0
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)|<link|<img|<iframe|\s(src|href)=[^x]", text)
    assert text.count("<script") == text.count("</script>") == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    report = json.loads(data)
    assert nasty in [s["name"] for s in report["steps"]]
    assert all({"name", "at", "bytes", "begin", "end"} == v.keys() for v in report["values"])
    assert "{{title}}" not in text


def test_files_are_whole_or_not_there(small, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    for words in (["--html", tmp_path / "none" / "page.html"], ["--trace", folder]):
        code, out, err = run(capsys, small, *words)
        assert (code, out) == (2, "")
        assert err.startswith("nbconv: ")
        assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "small.onnx"]


def test_bad_model(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "missing.onnx", "--html", tmp_path / "page.html")
    assert code == 2
    assert "missing.onnx" in err
    assert not list(tmp_path.iterdir())


def test_a_plan_without_steps(tmp_path):
    path = tmp_path / "nothing.onnx"
    text = '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = Identity (x) }'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    found = profile(nbconv.load(path), {"x": np.ones(2, np.float32)}, threads=1, runs=2)
    assert found.steps == [] and found.seconds > 0


STAGED = """<ir_version: 10, opset_import: ["": 21]>
g (float[1, 3, 8, 8] x, int64 times) => (float[k] y, float[n, 4, 8, 8] rows) {
    w = Constant <value = float[4, 3, 1, 1] {1,2,-1,0.5,-2,1,1,-1,1,2,2,-3}> ()
    zero = Constant <value = float {0}> ()
    a = Conv (x, w)
    high = Greater (a, zero)
    [found] where = NonZero (high)
    places = Transpose <perm = [1, 0]> (where)
    [picked] y = GatherND (a, places)
    four = Constant <value = int64[4] {1, 4, 8, 8}> ()
    go = Constant <value = bool {1}> ()
    last, r = Loop (times, go, a) <body = step (int64 i, bool c, float[a, 4, 8, 8] h) =>
        (bool more, float[b, 4, 8, 8] next, float[1, 4, 8, 8] row) {
        more = Identity (c)
        row = Tanh (a)
        next = Concat <axis = 0> (h, row)
    }>
    rows = Sigmoid (last)
}"""


def test_stages_are_added_up(tmp_path, capsys):
    """Steps of all plans, and what is done between them; of a loop's body as often as it runs."""
    path = tmp_path / "staged.onnx"
    path.write_bytes(onnx.parser.parse_model(STAGED).SerializeToString())
    model = nbconv.load(path)
    found = profile(model, {"x": np.ones((1, 3, 8, 8), np.float32), "times": np.array(5)}, threads=1, runs=3)
    assert found.staged and len(found.plans) >= 3
    by = {s.name: s for s in found.steps}
    assert by["found"].kind == "numpy" and by["found"].calls == 1
    (tanh,) = (s for s in found.steps if "Tanh" in repr(s.step.node.op))
    assert tanh.calls == 5 and tanh.cost.writes == 5 * 4 * 4 * 8 * 8
    assert by["rows"].shape == (6, 4, 8, 8) and all(s.seconds > 0 for s in found.steps)
    assert [s.number for s in found.steps] == list(range(len(found.steps)))
    assert main(["profile", str(path), "--value", "times=2", "--runs", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["stages"] >= 3 and {s["calls"] for s in report["steps"]} == {1, 2}
    assert main(["profile", str(path), "--runs", "1"]) == 0
    assert "values decide shapes" in capsys.readouterr().out
    assert main(["profile", str(path), "--html", str(tmp_path / "p.html")]) != 0
    assert "several plans" in capsys.readouterr().err
