"""Commands with --device: what they do there, what they print of it, and what they say without a GPU."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import nbconv
import nbconv.runtime.cuda
from nbconv.cli import COMMANDS, main
from nbconv.graph import Graph, Spec
from nbconv.kernels.target import target
from nbconv.model import Model
from nbconv.plan.cost import cost
from nbconv.runtime.cuda import driver
from nbconv.tools.profiler import timed
from tests.cuda.kernels import NO_KERNELS
from tests.cuda.test_executor import on_numpy
from tests.cuda.whole import lenet5
from tests.train.models import F32, batch, mlp, node

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS or "-")
WORDS = {
    "run": ("run", "{model}", "{x}", "-o", "{out}"),
    "bench": ("bench", "{model}", "--runs", "2"),
    "profile": ("profile", "{model}", "--trace", "{out}"),
    "finetune": ("finetune", "{model}", "{data}", "-o", "{out}"),
    "check": ("check", "{model}"),
    "compare": ("compare", "{model}"),
}


@pytest.fixture
def files(tmp_path):
    """A model, an input, data to learn, and where something may be written."""
    nbconv.save(Model(lenet5(side=12)), tmp_path / "m.onnx")
    x, y = batch(24, (1, 12, 12))
    np.save(tmp_path / "x.npy", x[:1])
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return {"model": tmp_path / "m.onnx", "x": tmp_path / "x.npy", "data": tmp_path / "d.npz", "out": tmp_path / "out"}


def said(capsys, *words) -> str:
    """What a command that succeeds prints."""
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def about(device) -> str:
    """The device as commands print it."""
    return f"{device.name} ({device.model})"


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize(
    "name, says",
    [("cuda", "'cuda:0' is not available: there is no NVIDIA driver"), ("gpu", "wanted 'cpu', 'cuda', 'cuda:1' or")],
)
def test_without_the_device_there_is_one_line(files, capsys, monkeypatch, command, name, says):
    def missing(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(nbconv.runtime.cuda, "_devices", {})
    monkeypatch.setattr(driver.ctypes, "CDLL", missing)
    monkeypatch.setattr(driver.ctypes, "WinDLL", missing, raising=False)
    code = main([*(word.format(**files) for word in WORDS[command]), "--device", name])
    found = capsys.readouterr()
    assert (code, found.out) == (2, "")
    assert found.err.startswith("nbconv: device ") and found.err.count("\n") == 1
    assert says in found.err
    assert not files["out"].exists()


def test_the_option_is_the_same_everywhere(capsys):
    told = {}
    for command in COMMANDS:
        main([command, "--help"])
        told[command] = re.findall(r"^ +--device NAME +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert {command for command, lines in told.items() if lines} == {*WORDS, "doctor"}
    assert len({line for lines in told.values() for line in lines}) == 1


def test_run(device, files, capsys):
    found = []
    for name in ("cpu", "cuda"):
        said(capsys, "run", files["model"], files["x"], "-o", files["out"], "--device", name)
        with np.load(files["out"]) as outputs:
            found.append(outputs["y"])
    assert device.launched
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * np.abs(found[0]).max()


def test_onnxs_backend(device, files):
    """`prepare` for "CUDA" runs there."""
    import onnx

    from nbconv.compat.onnx_backend import NbconvBackend

    model, x = onnx.load(files["model"]), np.load(files["x"])
    assert NbconvBackend.supports_device("CUDA") and NbconvBackend.is_compatible(model, "CUDA:0")
    device.clear()
    there = NbconvBackend.prepare(model, "CUDA").run([x])[0]
    assert device.launched
    np.testing.assert_allclose(there, NbconvBackend.run_model(model, [x])[0], rtol=1e-4, atol=1e-5)


def test_check_and_compare(device, files, capsys):
    told = said(capsys, "check", files["model"], "--device", "cuda", "--against", "onnxruntime")
    assert f"steps on {about(device)}, outputs are finite, agrees with onnxruntime" in told
    device.clear()
    assert "all 13 values agree with onnxruntime" in said(capsys, "compare", files["model"], "--device", "cuda")
    assert device.launched
    nbconv.save(Model(on_numpy()), files["model"])
    assert "2 of them in NumPy, on the CPU" in said(capsys, "check", files["model"], "--device", "cuda")


def test_bench(device, files, capsys):
    words = ("bench", files["model"], "--runs", 3, "--warmup", 2, "--device", "cuda")
    report = json.loads(said(capsys, *words, "--json", "--batch", "1,2"))
    assert (report["machine"]["gpu"], report["machine"]["target"]) == (about(device), device.target.name)
    assert [(row["batch"], row["threads"], row["nbconv"]["runs"]) for row in report["results"]] == [
        (1, None, 3),
        (2, None, 3),
    ]
    assert len(device.downloads) == 2 * (2 + 3)  # each run brings its result back
    told = said(capsys, *words, "--threads", "1,2")
    assert told.count("nbconv (cuda)") == 1
    assert "--threads has no effect on a GPU" in told
    assert json.loads(said(capsys, *words[:-2], "--json"))["machine"]["gpu"] is None


def test_bench_beside_onnxruntime(device, files, capsys):
    told = said(
        capsys, "bench", files["model"], "--runs", 2, "--threads", "1,2", "--compare", "onnxruntime", "--device", "cuda"
    )
    assert f"nbconv runs on {about(device)}" in told
    assert "onnxruntime runs on the CPU, " in told
    assert re.findall(r"^ +(\d+)  onnxruntime \(cpu\)", told, re.MULTILINE) == ["1", "2"]
    assert not re.search(r"\d  nbconv \(cuda\)", told)
    assert "onnxruntime's median time on the CPU ÷ nbconv's on the GPU" in told


def test_profile(device, files, capsys):
    words = ("profile", files["model"], "--runs", 2, "--device", "cuda")
    report = json.loads(said(capsys, *words, "--json"))
    plan = Model(lenet5(side=12), device="cuda").plan({"x": (1, 1, 12, 12)})
    assert [(s["kernel"], s["units"]) for s in report["steps"]] == [(s.kernel, s.units) for s in plan.steps]
    assert all(s["seconds"] > 0 for s in report["steps"])
    assert (report["target"], report["threads"], report["machine"]["gpu"]) == (plan.target.name, None, about(device))
    assert report["roofline"] is report["share_of_roof"] is None
    assert {s[key] for s in report["steps"] for key in ("bound", "share_of_roof", "limit", "level")} == {None}
    # each step was done in each of two runs that are not counted, two that are, and the whole runs
    assert device.launched == [s.kernel for s in plan.steps] * (len(device.launched) // len(plan.steps))
    assert len(device.launched) // len(plan.steps) == 2 + 3 + 2 + 2
    device.clear()
    told = said(capsys, *words, "--all")
    assert about(device) in told
    assert not re.search(r"roof|limit|thread", told, re.IGNORECASE)
    assert len(re.findall(r"^ +\d+  ", told, re.MULTILINE)) == len(plan.steps)


def test_a_profile_counts_the_bytes_that_the_cpu_copies():
    """A GPU's copies are cut finer."""
    found = []
    for name in ("x86-64", "cuda"):
        plan = Model(lenet5()).plan({"x": (3, 1, 28, 28)}, target=target(name))
        copies = [step for step in plan.steps if step.kernel == "move.copy"]
        found.append([cost(plan, step) for step in copies])
        units = [step.units for step in copies]
    assert found[0] == found[1]
    assert max(units) > 3


def test_profiles_of_steps_on_the_cpu(device, files, capsys):
    nbconv.save(Model(on_numpy()), files["model"])
    words = ("profile", files["model"], "--runs", 2, "--device", "cuda", "--json", "--trace", files["out"])
    report = json.loads(said(capsys, *words))
    assert [s["name"] for s in report["steps"] if s["kind"] == "numpy"] == ["first", "second"]
    spans = [e for e in json.loads(files["out"].read_text("utf-8"))["traceEvents"] if e["ph"] == "X"]
    assert [e["name"] for e in spans] == [s["name"] for s in report["steps"]]
    assert not any(key in e["args"] for e in spans for key in ("share of the roof", "limit"))


def test_a_profiles_page_has_no_roofline(device, files, capsys):
    said(capsys, "profile", files["model"], "--runs", 1, "--device", "cuda", "--html", files["out"])
    (data,) = re.findall(r'id="data">(.*?)</script>', files["out"].read_text("utf-8"), re.DOTALL)
    report = json.loads(data)
    assert (report["roofline"], report["machine"]["gpu"]) == (None, about(device))


def test_finetune(device, files, capsys):
    """What is learnt on the device is what the CPU learns."""
    nbconv.save(Model(mlp(classes=5)), files["model"])
    x, y = batch(24)
    np.savez(files["data"], x=x, y=y)
    learnt = []
    for name in ("cpu", "cuda"):
        device.clear()
        told = said(
            capsys, "finetune", files["model"], files["data"], "-o", files["out"], "--layers", "all", "--epochs", 2,
            "--batch", 6, "--lr", 0.01, "--mean", 0, "--std", 1, "--held-out", 0.25, "--device", name,
        )  # fmt: skip
        assert f"written: {files['out']}" in told
        assert bool(device.launched) == (name == "cuda")
        learnt.append(nbconv.load(files["out"]))
    cpu, gpu = (model.graph.constants for model in learnt)
    assert cpu.keys() == gpu.keys()
    for name, value in cpu.items():
        assert np.abs(gpu[name] - value).max() < 1e-4, name
    assert np.abs(gpu["w1"] - mlp().constants["w1"]).max() > 1e-2
    assert learnt[1](x).shape == (24, 3)
    np.testing.assert_allclose(learnt[1](x), learnt[0](x), atol=1e-4)


def test_operations_of_a_profile_are_those_of_the_mathematics():
    """However products are made: in parts, or of transformed tiles."""

    def layer(ci: int, co: int, n: int, side: int, k: int, **more) -> Model:
        w = np.zeros((co, ci // more.get("group", 1), k, k), np.float32)
        nodes = [node("Conv", "x w", "y", pads=(k // 2,) * 4, **more)]
        return Model(Graph(nodes, {"x": Spec((n, ci, side, side), F32)}, {"y": None}, {"w": w}))

    for model, kernels in (
        (layer(1024, 256, 1, 14, 1), {"conv.conv", "gemm.finish"}),
        (layer(64, 64, 8, 56, 3), {"winograd.transform_input", "gemm.gemm", "winograd.transform_output"}),
        (layer(128, 128, 32, 28, 3, group=2), {"winograd.transform_input", "gemm.gemm", "winograd.transform_output"}),
    ):
        found = []
        for goal in (target("cuda"), target("x86-64")):
            plan = model.plan({"x": model.graph.inputs["x"].shape}, target=goal)
            found.append(sum(cost(plan, step).flops for step in plan.steps))
            if goal.gpu:
                found_steps = timed(plan, None, np.ones(len(plan.steps)))
                assert kernels <= {step.step.kernel for step in found_steps}
                wanted = "winograd" if "gemm.gemm" in kernels else "pointwise"
                assert {t.kind for t in found_steps if t.step.kernel in kernels} == {wanted}
        assert found[0] == found[1] > 0


def test_one_model_that_does_not_fit_does_not_end_a_check(device, files, capsys, monkeypatch):
    def alloc(nbytes: int) -> int:
        raise nbconv.DeviceError("too little memory")

    monkeypatch.setattr(device, "alloc", alloc)
    assert main(["check", str(files["model"]), str(files["model"]), "--device", "cuda"]) == 1
    assert capsys.readouterr().out.count("fails: too little memory") == 2


def test_tf32_is_not_held_to_float32(device, files, capsys):
    """The peer computes in float32."""
    pytest.importorskip("onnxruntime")
    for command in ("check", "compare"):
        against = ["--against", "onnxruntime"] if command == "check" else []
        words = [command, str(files["model"]), *against, "--device", "cuda:tf32"]
        assert main(words) == 0
        assert main([*words, "--tolerance", "1e-6"]) == 1
    capsys.readouterr()
