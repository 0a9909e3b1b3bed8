"""The command line: its frame and the commands that look at models; exit codes, JSON, bad files in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from nbconv.cli import COMMANDS, main


def save(path, nodes, inputs, outputs, opset=17):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info(*i) for i in inputs], [info(*o) for o in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def unsupported(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "fine"),
        helper.make_node("Mystery", ["a"], ["b"], "first", domain="com.example"),
        helper.make_node("Riddle", ["x"], ["c"], "second", domain="com.example"),
    ]
    outputs = [("b", TensorProto.INT64, None), ("c", TensorProto.FLOAT, None)]
    return save(tmp_path / "odd.onnx", nodes, [("x", TensorProto.FLOAT, [3, 3])], outputs)


def one_line(err: str) -> str:
    assert err.startswith("nbconv: ")
    assert err.count("\n") == 1
    return err


# The frame


def test_overview(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    assert cli()[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help(cli, name):
    code, out, _ = cli(name, "--help")
    assert code == 0
    assert out.startswith(f"usage: nbconv {name}")
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize(
    "words, says",
    [
        (["inspct"], "did you mean inspect"),
        (["inspect"], "required: model"),
        (["--wrong"], "--wrong"),
        (["bench", "m.onnx", "--threads", "0"], "positive integer"),
        (["bench", "m.onnx", "--runs", "x"], "positive integer"),
        (["run", "m.onnx", "--size", "224"], "height x width"),
        (["kernels"], "ACTION"),
    ],
)
def test_usage(cli, words, says):
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert says in one_line(err)


@pytest.mark.parametrize("command", ["inspect", "check", "doctor", "run", "bench", "compare"])
@pytest.mark.parametrize("kind", ["missing", "folder", "text", "cut"])
def test_bad_model(cli, tmp_path, small, command, kind):
    path = tmp_path / "bad.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("this is no model\n" * 9)
    elif kind == "cut":
        path.write_bytes(small.read_bytes()[:-200])
    code, out, err = cli(command, path)
    if command == "check" and kind != "missing":
        assert code == 1
        assert out.count("\n") == 1
        assert "fails" in out
    else:
        assert code == 2
        assert "bad.onnx" in one_line(err)


def test_debug_gives_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["inspect", str(tmp_path / "none.onnx"), "--debug"])


def test_interrupt(monkeypatch, small):
    from nbconv.commands import inspect

    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", stop)
    assert main(["inspect", str(small)]) == 130


def test_internal_error_is_one_line(monkeypatch, small, cli):
    from nbconv.commands import inspect

    monkeypatch.setattr(inspect, "run", lambda args: {}["lost"])
    code, _, err = cli("inspect", small)
    assert code == 2
    assert "--debug" in one_line(err)


def module(*words, **options):
    env = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "nbconv", *map(str, words)], capture_output=True, text=True, env=env, **options
    )


def test_module_and_reader_that_leaves(small):
    command = f"{sys.executable} -m nbconv inspect {small} --json | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_no_colour_and_ascii(small):
    done = module("inspect", small, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


def test_overview_imports_nothing_heavy():
    code = (
        "import sys; from nbconv.cli import main; main(['--help']); "
        "print({m.partition('.')[0] for m in sys.modules} & {'numba', 'llvmlite', 'onnx', 'PIL', 'onnxruntime'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


# inspect


def test_inspect(cli, small):
    code, out, _ = cli("inspect", small)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    conv = next(line for line in out.splitlines() if line.startswith("conv1"))
    assert conv.split() == ["conv1", "Conv", "1×4×5×7", "76", "5.04", "k", "560", "B"]


def test_inspect_json(cli, small):
    code, out, _ = cli("inspect", small, "--shape", "2,3,9,7", "--json", "--stage", "plan")
    found = json.loads(out)
    assert code == 0
    # Conv 3x2 over 3 channels to 4x5x7; GlobalAveragePool and Relu one each; Gemm 4 to 5
    assert {n["name"]: n["flops"] for n in found["nodes"]} == {
        "conv1": 2 * 2 * 4 * 5 * 7 * 18, "relu1": 280, "pool1": 280, "flatten1": 0, "gemm1": 2 * 2 * 4 * 5,
    }  # fmt: skip
    assert found["totals"]["parameters"] == 72 + 4 + 20 + 5
    assert found["totals"]["weights"] == 4 * (72 + 4 + 20 + 5)
    assert found["inputs"] == [{"name": "x", "declared": ["N", 3, 9, 7], "shape": [2, 3, 9, 7], "dtype": "float32"}]
    values = found["plan"]["values"]
    assert set(values) == {"conv", "act", "pool", "flat", "y"}
    assert "fused into act" in values["conv"]
    step = next(s for s in found["plan"]["steps"] if s["value"].startswith("act"))
    assert step["ops"] == ["Conv", "Relu"] and step["implementation"] == "small_channels"
    last = found["plan"]["steps"][-1]
    assert (last["ops"], last["implementation"], last["kernel"]) == (["Gemm"], "packed_gemm", "gemm.gemm")
    assert step["bytes"] == 280 * 4


def test_inspect_plan(cli, small):
    code, out, _ = cli("inspect", small, "--stage", "plan")
    assert code == 0
    table = out[out.index(" OP ") : out.rindex("output  y: ")]
    steps = [line.split() for line in table.splitlines()[1:]]
    assert list(dict.fromkeys(words[1] for words in steps)) == ["Conv+Relu", "GlobalAveragePool", "Gemm"]
    assert steps[-1][1:] == ["Gemm", "packed_gemm", "gemm", "1×4", "4×5", "1×5", "20", "B", "gemm1"]
    assert "fused into act" in out and "WHERE IT WENT" in out


def test_inspect_optimised(cli, small):
    code, out, _ = cli("inspect", small, "--stage", "optimised")
    assert code == 0
    node = next(line for line in out.splitlines() if line.startswith("%0"))
    assert node.split()[:6] == ["%0", "Conv+Relu", "x,", "[4×3×3×2],", "[4]", "1×4×5×7"]
    assert "fused into act" in out and "step" not in out
    found = json.loads(cli("inspect", small, "--stage", "optimised", "--json")[1])
    assert "plan" not in found
    assert found["optimised"]["nodes"][0]["op"] == "Conv+Relu"
    assert found["optimised"]["values"]["conv"] == "fused into act"


@pytest.mark.parametrize(
    "shape, says",
    [
        ("1,3,9", "4 positive numbers"),
        ("z=1,3,9,7", "no input 'z'"),
        ("1,4,9,7", "fixed"),
        ("1,3,9,a", "whole numbers"),
        ("0,3,9,7", "positive"),
    ],
)
def test_wrong_shape(cli, small, shape, says):
    code, _, err = cli("inspect", small, "--shape", shape)
    assert code == 2
    assert says in one_line(err)


def test_dynamic_sizes(cli, tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"], "r")]
    image = save(
        tmp_path / "i.onnx", nodes, [("x", TensorProto.FLOAT, ["N", 3, "H", "W"])], [("y", TensorProto.FLOAT, None)]
    )
    found = json.loads(cli("inspect", image, "--json")[1])
    assert found["inputs"][0]["shape"] == [1, 3, 224, 224]
    assert "224" in found["notes"][0]
    table = save(tmp_path / "t.onnx", nodes, [("x", TensorProto.FLOAT, ["N", "T"])], [("y", TensorProto.FLOAT, None)])
    code, _, err = cli("inspect", table)
    assert code == 2
    assert "--shape x=1,N" in one_line(err)
    assert cli("inspect", table, "--shape", "1,5")[0] == 0


# check, doctor


def test_check(cli, small, unsupported, tmp_path):
    code, out, _ = cli("check", small, "--against", "onnxruntime")
    assert code == 0
    assert "ok" in out
    assert "agrees" in out
    code, out, _ = cli("check", small, unsupported)
    assert code == 1
    assert [line.split(": ")[1] for line in out.splitlines()] == ["ok", "fails"]


def test_check_finds_what_is_not_finite(cli, tmp_path):
    nodes = [helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["x", "zero"], ["y"])]
    path = save(tmp_path / "nan.onnx", nodes, [("x", TensorProto.FLOAT, [4])], [("y", TensorProto.FLOAT, [4])])
    code, out, _ = cli("check", path)
    assert code == 1
    assert "4 of 4 values are not finite" in out


def test_doctor_lists_everything(cli, unsupported):
    code, out, _ = cli("doctor", unsupported)
    assert code == 1
    assert "first" in out
    assert "second" in out
    found = json.loads(cli("doctor", unsupported, "--json")[1])
    assert [(p["node"], p["op"]) for p in found["problems"]] == [("first", "Mystery"), ("second", "Riddle")]


def test_doctor_on_a_good_model(cli, small):
    code, out, _ = cli("doctor", small, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["problems"], found["numpy_steps"]) == ([], [])
    assert found["steps"] > 0
    assert found["environment"]["versions"]["numpy"] == np.__version__


def test_doctor_lists_numpy_steps(cli, tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["a"], "r"), helper.make_node("Sin", ["a"], ["y"], "wave")]
    path = save(tmp_path / "sin.onnx", nodes, [("x", TensorProto.DOUBLE, [4])], [("y", TensorProto.DOUBLE, [4])])
    code, out, _ = cli("doctor", path, "--json")
    assert code == 0
    assert [s["node"] for s in json.loads(out)["numpy_steps"]] == ["r", "wave"]
    assert "in NumPy" in cli("doctor", path)[1]


def test_doctor_of_the_machine(cli, monkeypatch, tmp_path):
    code, out, _ = cli("doctor")
    assert code == 0
    assert "kernel cache" in out
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    monkeypatch.setenv("NBCONV_CACHE", str(shared))
    assert json.loads(cli("doctor", "--json")[1])["environment"]["cache"]["usable"] is False
