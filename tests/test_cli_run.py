"""The commands that run, time and compare models, and those that keep kernels: on real and small models."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from nbconv.commands import bench
from tests.models import asset, rapidocr
from tests.test_cli import one_line, save


@pytest.fixture(scope="session")
def classifier():
    path = asset("efficientnet_lite0.onnx")
    if not path.exists():
        pytest.skip("the bundled model is not there")
    return path


# run


def test_run_array(cli, small, tmp_path):
    x = np.random.default_rng(1).standard_normal((1, 3, 9, 7), np.float32)
    np.save(tmp_path / "x.npy", x)
    code, out, _ = cli("run", small, tmp_path / "x.npy", "-o", tmp_path / "y.npz", "--top-k", 2)
    assert code == 0
    assert len(out.splitlines()) == 3
    import onnxruntime

    want = onnxruntime.InferenceSession(small.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with np.load(tmp_path / "y.npz") as saved:
        assert list(saved.files) == ["y"]
        np.testing.assert_allclose(saved["y"], want, atol=1e-4 * np.abs(want).max())
    assert int(out.split()[1]) == int(want.argmax())


def test_run_picture_and_labels(cli, small, tmp_path):
    Image.new("RGB", (20, 30), "red").save(tmp_path / "red.png")
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(5)))
    code, out, _ = cli("run", small, tmp_path / "red.png", "--labels", tmp_path / "names.txt", "--softmax")
    assert code == 0
    assert "class 3" in out
    assert abs(sum(float(line.split()[0]) for line in out.splitlines()) - 1) < 1e-3
    (tmp_path / "names.txt").write_text("one\n")
    code, _, err = cli("run", small, tmp_path / "red.png", "--labels", tmp_path / "names.txt")
    assert code == 2
    assert "1 lines, the model 5" in one_line(err)


def test_run_several_inputs(cli, tmp_path):
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    sizes = [("a", TensorProto.FLOAT, [2]), ("b", TensorProto.FLOAT, [2])]
    path = save(tmp_path / "sub.onnx", nodes, sizes, [("y", TensorProto.FLOAT, [2])])
    np.savez(tmp_path / "in.npz", a=np.float32([5, 6]), b=np.float32([1, 4]))
    out = tmp_path / "out.npz"
    code, _, _ = cli("run", path, "--input", f"a={tmp_path / 'in.npz'}", "--input", f"b={tmp_path / 'in.npz'}", "-o", out)
    assert code == 0
    with np.load(out) as saved:
        np.testing.assert_array_equal(saved["y"], [4, 2])
    code, _, err = cli("run", path, tmp_path / "in.npz")
    assert code == 2
    assert "--input NAME=FILE" in one_line(err)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["bad.png", "bad.npy", "bad.npz"])
def test_run_bad_input_file(cli, small, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    code, out, err = cli("run", small, tmp_path / name, "-o", tmp_path / "y.npz")
    assert (code, out) == (2, "")
    assert name in one_line(err)
    assert not (tmp_path / "y.npz").exists()


def test_run_pickle_is_not_loaded(cli, small, tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}]), allow_pickle=True)
    code, _, err = cli("run", small, tmp_path / "p.npy")
    assert code == 2
    assert "p.npy" in one_line(err)


def test_run_wrong_array(cli, small, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 9, 8), np.float32))
    code, _, err = cli("run", small, tmp_path / "x.npy")
    assert code == 2
    assert "[1, 3, 9, 8]" in one_line(err)


def test_run_result_folder_is_missing(cli, small, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 9, 7), np.float32))
    code, _, err = cli("run", small, tmp_path / "x.npy", "-o", tmp_path / "none" / "y.npz")
    assert code == 2
    assert "y.npz: No such file" in one_line(err)


def test_run_classifier(cli, classifier):
    words = ["--mean", 127, "--std", 128, "--labels", asset("imagenet_classes.txt"), "--softmax"]
    code, out, _ = cli("run", classifier, asset("chelsea.png"), *words)
    assert code == 0
    first = out.splitlines()[0]
    assert "Egyptian cat" in first
    assert abs(float(first.split()[0]) - 0.385) < 0.01


# bench, compare


def test_statistics():
    found = bench.statistics([i / 100 for i in range(101)], batch=2)
    assert (found["runs"], found["min"]) == (101, 0)
    assert [round(found[k], 9) for k in ("p50", "p90", "p99")] == [0.5, 0.9, 0.99]
    assert found["images_per_second"] == 4


def test_measure_takes_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = bench.measure(calls, warmup=2, runs=4, seconds=0)
    assert {k: len(v) for k, v in times.items()} == {"a": 4, "b": 4}
    assert order == ["a"] * 2 + ["b"] * 2 + ["a"] * 5 + ["b"] * 5


def test_bench(cli, small):
    words = ["bench", small, "--threads", "1,2", "--batch", "1,3", "--runs", 5]
    code, out, _ = cli(*words, "--compare", "onnxruntime", "--json")
    found = json.loads(out)
    assert code == 0
    assert [(r["batch"], r["threads"]) for r in found["results"]] == [(1, 1), (3, 1), (1, 2), (3, 2)]
    for row in found["results"]:
        assert row["nbconv"]["runs"] == row["onnxruntime"]["runs"] == 5
        assert row["nbconv"]["min"] <= row["nbconv"]["p50"] <= row["nbconv"]["p99"]
        assert row["speedup"] == row["onnxruntime"]["p50"] / row["nbconv"]["p50"]
    code, out, _ = cli(*words)
    assert code == 0
    assert "P50" in out


def test_compare(cli, small):
    code, out, _ = cli("compare", small)
    assert code == 0
    assert "all 6 values agree" in out
    code, out, _ = cli("compare", small, "--tolerance", 0, "--json")
    found = json.loads(out)
    assert [v["value"] for v in found["values"]] == ["conv", "act", "pool", "flat", "y", "y (fused)"]
    assert code == (0 if all(v["difference"] == 0 for v in found["values"]) else 1)


def test_compare_with_data_beside_the_model(cli, small, tmp_path):
    model = onnx.load(small)
    for tensor in model.graph.initializer:
        (tmp_path / f"{tensor.name}.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{tensor.name}.bin")
    (tmp_path / "beside.onnx").write_bytes(model.SerializeToString())
    assert cli("compare", tmp_path / "beside.onnx")[0] == 0


def test_compare_names_the_first_node(cli, small, monkeypatch):
    from nbconv.commands import compare

    honest = compare.every_value

    def spoilt(*args):
        wanted, peer = honest(*args)
        peer["act"] = peer["act"] + np.float32(1)
        return wanted, peer

    monkeypatch.setattr(compare, "every_value", spoilt)
    code, out, _ = cli("compare", small)
    assert code == 1
    assert "first: relu1 (Relu) makes act" in out


def test_compare_without_onnxruntime(cli, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = cli("compare", small)
    assert code == 2
    assert "pip install nbconv[bench]" in one_line(err)


def test_real_models(cli):
    code, out, _ = cli("doctor", rapidocr("det"), "--json")
    assert code == 0
    assert json.loads(out)["numpy_steps"] == []
    code, out, _ = cli("check", rapidocr("cls"), "--shape", "1,3,48,192", "--against", "onnxruntime")
    assert code == 0
    code, out, _ = cli("inspect", rapidocr("rec"), "--shape", "1,3,48,160")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100


# kernels, cache


def test_kernels(cli, tmp_path):
    code, out, _ = cli("kernels", "list")
    assert code == 0
    assert "x86-64-v3" in out
    assert "conv" in out
    code, out, _ = cli("kernels", "build", "--family", "loop", "--target", "aarch64", "--into", tmp_path / "k")
    assert code == 0
    assert sorted(p.suffix for p in (tmp_path / "k" / "aarch64").iterdir()) == [
        ".json",
        ".so" if sys.platform == "linux" else ".o",
    ]
    code, _, err = cli("kernels", "build", "--family", "none")
    assert code == 2
    assert "there is no family 'none'" in one_line(err)
    code, _, err = cli("kernels", "build", "--target", "z80")
    assert code == 2
    assert "z80" in one_line(err)


def test_kernels_show(cli):
    code, out, _ = cli("kernels", "show", "loop", "--target", "x86-64-v3")
    assert code == 0
    assert "run:" in out
    assert cli("kernels", "show", "none")[0] == 2


def test_cache(cli, small, tmp_path, monkeypatch):
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "cache"))
    assert cli("inspect", small)[0] == 0
    mine = tmp_path / "cache" / "onnx" / "mine.txt"
    mine.write_text("kept")
    code, out, _ = cli("cache", "--json")
    assert code == 0
    assert len(json.loads(out)["models"]) == 2
    code, out, _ = cli("cache", "--clear")
    assert code == 0
    assert "removed 1 file" in out
    assert [p.name for p in mine.parent.iterdir()] == ["mine.txt"]
    assert cli("cache")[0] == 0
