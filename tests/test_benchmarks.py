"""The benchmarks run and say what they should; their figures are not looked at."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import onnx
import pytest

from benchmarks import fit, latency, memory, micro, models, picture, quantised, startup, zoo

MISSING = [name for name in ("openvino", "onnxruntime", "rapidocr_onnxruntime") if importlib.util.find_spec(name) is None]
needs_peers = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
needs_rapidocr = pytest.mark.skipif("rapidocr_onnxruntime" in MISSING, reason="rapidocr-onnxruntime is not installed")
needs_onnxruntime = pytest.mark.skipif("onnxruntime" in MISSING, reason="onnxruntime is not installed")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def test_the_detector_is_a_valid_model_of_64_convolutions():
    model = models.detector(64)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 64
    (shape,) = [[d.dim_value for d in out.type.tensor_type.shape.dim] for out in model.graph.output]
    assert shape == [1, 84, 8 * 8 + 4 * 4 + 2 * 2]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    assert [d.dim_value for d in inferred.type.tensor_type.shape.dim] == shape


def test_there_are_eleven_models():
    assert len(models.SHAPES) == 11


@pytest.mark.parametrize(
    ("benchmark", "option"),
    [
        (latency, "--models"), (latency, "--engines"), (memory, "--models"), (micro, "--kinds"), (quantised, "--nets"),
        (quantised, "--forms"), (zoo, "--nets"), (zoo, "--exporters"),
    ],
)  # fmt: skip
def test_unknown_names_are_told_those_that_there_are(benchmark, option, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([option, "nosuch"])
    assert f"argument {option}: 'nosuch': choose from " in capsys.readouterr().err


@needs_peers
def test_latency(capsys):
    words = ["--models", "ppocr_cls", "--rounds", "1", "--seconds", "0", "-t", "1", "--json"]
    assert latency.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["models"]
    engines = {"nbconv", "onnxruntime", "openvino"}
    assert engines <= set(row["seconds"]) == set(report["versions"]) - {"numpy"} <= {*engines, "MNN"}
    best = min(seconds for name, seconds in row["seconds"].items() if name != "nbconv")
    assert row["best_peer"] == report["geomean"]["best_peer"] == pytest.approx(best / row["seconds"]["nbconv"])
    assert row["problems"] == []


@needs_peers
def test_latency_writes_a_file_that_a_picture_is_made_of(tmp_path, capsys):
    file, drawn = tmp_path / "latency.json", tmp_path / "latency.svg"
    words = ["--models", "ppocr_cls", "--engines", "nbconv,onnxruntime", "--rounds", "1", "--seconds", "0"]
    assert latency.main([*words, "--json", str(file), "--note", "a test"]) == 0
    report = json.loads(file.read_text())
    assert (report["threads"], report["rounds"], report["note"]) == (1, 1, "a test")
    assert "ppocr_cls" in capsys.readouterr().out
    assert picture.main([str(file), "-o", str(drawn)]) == 0
    assert picture.milliseconds(report["models"][0]["seconds"]["nbconv"]) in drawn.read_text()


def test_rows_of_the_picture():
    models = [
        {"name": "a", "seconds": {"onnxruntime": 0.4, "nbconv": 0.1}},
        {"name": "b", "seconds": {"onnxruntime": 0.02, "nbconv": 0.02}},
    ]
    first, second, mean = picture.rows({"models": models})
    assert first == ("a", {"nbconv": 1.0, "onnxruntime": 4.0}, {"nbconv": "100.0 ms", "onnxruntime": "400.0 ms"})
    assert (second[0], second[1]["onnxruntime"]) == ("b", 1.0)
    assert mean[0] == "geometric mean"
    assert mean[1]["onnxruntime"] == pytest.approx(2.0)
    assert mean[2]["onnxruntime"] == "2.00 ×"


def test_difference():
    a, b = np.array([1.0, -4.0]), np.array([1.0, -4.1])
    assert latency.difference([a, a], [a, b]) == pytest.approx(0.1 / 4.1)
    assert latency.difference([a], [a]) == 0
    assert latency.difference([a], [np.array([1.0, np.nan])]) == float("inf")
    assert latency.difference([a], [a.reshape(2, 1)]) == float("inf")


def test_geomean():
    assert latency.geomean([2.0, 8.0]) == pytest.approx(4.0)
    assert latency.geomean([]) is None


@needs_rapidocr
def test_micro(capsys):
    assert micro.main(["--models", "ppocr_cls", "--seconds", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    kinds = {row["kind"] for row in report["layers"]}
    assert {"pointwise", "depthwise", "dense"} <= kinds <= set(micro.MEASURED)
    assert sum(g["layers"] for g in report["summary"].values()) == sum(row["count"] for row in report["layers"])
    for row in report["layers"]:
        assert row["share_of_roof"] == pytest.approx(row["bound"] / row["seconds"])


@needs_rapidocr
@needs_onnxruntime
@needs_proc
def test_memory(capsys):
    assert memory.main(["--models", "ppocr_cls", "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["models"]
    assert row["ratio"] == pytest.approx(row["peak"]["nbconv"] / row["peak"]["onnxruntime"])
    assert report["geomean"] == pytest.approx(row["ratio"])
    assert report["python_and_numpy"] < row["peak"]["onnxruntime"]


@needs_onnxruntime
def test_startup(capsys):
    assert startup.main(["--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["sides"]) == {"nbconv", "onnxruntime", "numpy alone"}
    assert report["unwanted"] == []
    assert "nbconv" in report["modules"]


@needs_torch
def test_fit(capsys):
    words = ["--cases", "mobilenet_v2", "--pictures", "4", "--batch", "2", "--rounds", "1", "--json"]
    assert fit.main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert set(row["seconds"]) == set(row["first"]) == {"nbconv", "torch", "torch, cached"}
    assert row["losses"]["torch"] == pytest.approx(row["losses"]["torch, cached"], rel=1e-4)
    assert row["losses"]["nbconv"] == pytest.approx(row["losses"]["torch"], rel=1e-4)


@needs_torch
@pytest.mark.parametrize("dynamo", [False, True])
def test_agreement(dynamo):
    from benchmarks import agreement

    found = agreement.row("lenet5", 0.01, 0, 1, dynamo, silu=True)
    assert len(found) == 7
    assert max(found) < 1e-5


def test_the_zoo_has_each_network_once():
    assert (
        len(zoo.SOURCES)
        == sum(map(len, zoo.NETS.values()))
        == len(set(zoo.names()) - {n + ".one" for n in zoo.REPARAMETERISED})
    )
    assert {zoo.Export(name, "legacy").net for name in zoo.names()} == set(zoo.SOURCES) >= set(zoo.SHAPES)
    assert zoo.exports(["resnet18", "PP-OCRv6_det_small"], ["legacy", "dynamo"]) == [
        ("resnet18", "legacy"), ("resnet18", "dynamo"), ("PP-OCRv6_det_small", "file"),
    ]  # fmt: skip


def test_the_zoo_counts_errors_of_the_largest():
    right = [np.array([2.0, -8.0]), np.array([1.0])]
    assert zoo.worst([np.array([2.0, -8.5]), np.array([1.0])], right) == 0.5 / 8
    assert zoo.worst([np.array([2.0, np.nan]), np.array([1.0])], right) == float("inf")
    assert zoo.worst([np.array([[2.0, -8.0]]), np.array([1.0])], right) == float("inf")


@needs_onnxruntime
def test_a_network_of_the_zoo(tmp_path, capsys):
    """One that is exported already, in the place of crepe_tiny."""
    w = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    nodes = [onnx.helper.make_node("Unsqueeze", ["x", "axis"], ["u"]), onnx.helper.make_node("Conv", ["u", "w"], ["y"])]
    made = [onnx.numpy_helper.from_array(w[:, None], "w"), onnx.numpy_helper.from_array(np.array([1]), "axis")]
    x = onnx.helper.make_tensor_value_info("x", 1, [1, 1024])
    y = onnx.helper.make_tensor_value_info("y", 1, [1, 3, 1021])
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], made)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "crepe_tiny.legacy17.onnx")
    seen = np.lib.stride_tricks.sliding_window_view(zoo.feeds_of({"x": (1, 1024)})["x"][0].astype(np.float64), 4)
    np.savez(tmp_path / "crepe_tiny.legacy17.npz", (w.astype(np.float64) @ seen.T)[None])
    words = ["--nets", "crepe_tiny", "--exporters", "legacy", "--rounds", "1", "--seconds", "0", "--keep", str(tmp_path)]
    assert zoo.main([*words, "--json", str(tmp_path / "zoo.json")]) == 0
    (row,) = json.loads((tmp_path / "zoo.json").read_text())["rows"]
    assert max(row["errors"].values()) < 1e-6 and row["numpy"] == [] and "problem" not in row
    assert row["ratio"] == pytest.approx(row["ms"][1] / row["ms"][0])
    assert "crepe_tiny" in capsys.readouterr().out
