"""Models and training on a GPU, or on the PTX interpreter behind the driver's API: it runs the very kernels that a GPU
would."""

from __future__ import annotations

import copy
import re
import threading

import numpy as np
import onnx.parser
import pytest

import nbconv
from nbconv import models
from nbconv.errors import DeviceError
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from nbconv.train import auto
from nbconv.train.choosing import Choice
from nbconv.train.learner import NonFiniteLoss
from nbconv.train.trainer import Trainer
from tests.cuda.kernels import NO_KERNELS
from tests.cuda.whole import lenet5
from tests.train.models import F32, batch, convolutional, mlp, node

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS or "-")


def on_numpy() -> Graph:
    """Kernels, then an op that only NumPy does, kernels, another such, and results of both."""
    nodes = [
        node("Relu", "x", "a"), node("GatherElements", "a turned", "b", "first", axis=1), node("Sigmoid", "b", "c"),
        node("Mul", "c a", "d"), node("GatherElements", "d turned", "e", "second", axis=1), node("Add", "e b", "y"),
    ]  # fmt: skip
    spec = Spec((3, 40), F32)
    return Graph(nodes, {"x": spec}, {"y": spec, "e": spec}, {"turned": np.tile(np.arange(40)[::-1], (3, 1))})


def close(got, want, bound=1e-5):
    assert got.keys() == want.keys()
    for name, y in want.items():
        assert np.abs(got[name] - y).max() <= bound * max(np.abs(y).max(), 1e-30), name


@pytest.mark.parametrize("graph", [lenet5, convolutional, mlp])
def test_results_are_the_cpus(device, graph):
    authored = graph()
    gpu, cpu = Model(authored, device="cuda"), Model(authored)
    x = np.random.default_rng(1).standard_normal((3, *authored.inputs["x"].shape[1:])).astype(np.float32)
    assert not gpu.plan({"x": x.shape}).numpy_steps()
    first = gpu.run({"x": x})
    close(first, cpu.run({"x": x}))
    for _ in range(2):  # captured, then replayed
        again = gpu.run({"x": x})
        np.testing.assert_array_equal(again["y"], first["y"])
    assert device.replays == 2


def test_tensor_cores_do_the_products(device):
    """Of numbers rounded to 11 bits: near the CPU's results, but not as near as float32's."""
    if device.target.name == "cuda-sm_75":
        pytest.skip("a GPU of compute capability 7.5 has no tensor cores for TF32")
    authored = lenet5()
    x = np.random.default_rng(1).standard_normal((3, 1, 28, 28)).astype(np.float32)
    want = Model(authored).run({"x": x})
    model = Model(authored, device="cuda:tf32")
    got = model.run({"x": x})
    close(got, want, 2e-3)
    assert np.abs(got["y"] - want["y"]).max() > 1e-5 * np.abs(want["y"]).max()
    assert {"conv.conv_tf32", "gemm.gemm_tf32"} <= set(device.launched)
    assert not {"conv.conv", "gemm.gemm"} & set(device.launched)
    copied = copy.copy(model)
    np.testing.assert_array_equal(copied.run({"x": x})["y"], got["y"])
    trainer, beside = (Trainer(Model(authored, device=name), optimizer=nbconv.SGD(lr=0.01)) for name in ("cuda:tf32", "cpu"))
    losses = [[float(t.step(x, np.arange(3))) for _ in range(2)] for t in (trainer, beside)]
    assert np.allclose(*losses, rtol=1e-2) and losses[0] != losses[1]
    assert "conv_grad.conv_grad_weight_tf32" in device.launched


def split() -> Graph:
    """Convolutions of few pixels and many channels, with all that their kernels do to results: a residual, activations, a
    factor and a term behind one, channels of a wider value."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", "x w1 b1", "c1", "conv1", pads=(2, 0, 2, 0)), node("Sigmoid", "c1", "s1"), node("Mul", "c1 s1", "a"),
        node("Conv", "a w2 b2", "c2", "conv2", pads=(2, 0, 2, 0)), node("Add", "c2 x", "c3"), node("Relu", "c3", "b"),
        node("Conv", "b w3", "c4", "conv3", pads=(2, 0, 2, 1), group=2), node("Relu", "c4", "r4"), node("Mul", "r4 k", "d"),
        node("Concat", "b d", "y", "concat", axis=1),
    ]  # fmt: skip
    shapes = {"w1": (44, 40, 5, 1), "b1": (44,), "w2": (40, 44, 5, 1), "b2": (40,), "w3": (36, 20, 5, 2), "k": (36, 1, 1)}
    constants = {k: (rng.standard_normal(s) * 0.1).astype(np.float32) for k, s in shapes.items()}
    return Graph(nodes, {"x": Spec(("n", 40, 5, 4), F32)}, {"y": None}, constants)


def test_products_are_split_along_k(device):
    """To the same bits each time, and what the CPU says."""
    gpu, cpu = Model(split(), device="cuda"), Model(split())
    x = np.random.default_rng(1).standard_normal((2, 40, 5, 4)).astype(np.float32)
    kernels = [step.kernel for step in gpu.plan({"x": x.shape}).steps if step.kernel.startswith(("conv.", "gemm."))]
    assert kernels == ["conv.conv", "gemm.finish"] * 3
    first = gpu.run({"x": x})
    close(first, cpu.run({"x": x}))
    np.testing.assert_array_equal(gpu.run({"x": x})["y"], first["y"])


def test_what_crosses_over(device):
    model = Model(lenet5(), device="cuda")
    x = np.zeros((2, 1, 28, 28), np.float32)
    model.run({"x": x})
    device.uploads.clear()
    device.downloads.clear()
    model.run({"x": x})
    assert (device.uploads, device.downloads) == ([x.nbytes], [2 * 10 * 4])
    model.run({"x": np.zeros((3, 1, 28, 28), np.float32)})
    assert max(device.uploads) == 3 * 28 * 28 * 4  # weights are there


def test_steps_on_the_cpu_are_placed_and_fed(device):
    gpu, cpu = Model(on_numpy(), device="cuda"), Model(on_numpy())
    plan = gpu.plan({"x": (3, 40)})
    assert [n.name for n in plan.numpy_steps()] == ["first", "second"]
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((3, 40)).astype(np.float32)
        device.uploads.clear()
        device.downloads.clear()
        close(gpu.run({"x": x}), cpu.run({"x": x}))
        # x, b and e go over; a and d come back, and y; e is there already, b is not copied twice
        assert device.uploads == [480] * 3
        assert device.downloads == [480] * 3
    assert device.replays > 0


def test_a_result_that_is_an_input_or_a_constant(device):
    nodes = [
        node("Identity", "x", "same"),
        node("Identity", "k", "fixed"),
        node("Relu", "x", "y"),
        node("Identity", "y", "z"),
    ]
    outputs = {n: Spec(("n", 4), F32) for n in ("same", "y", "z")} | {"fixed": Spec((1, 4), F32)}
    graph = Graph(nodes, {"x": Spec(("n", 4), F32)}, outputs, {"k": np.arange(4, dtype=np.float32)[None]})
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    close(Model(graph, device="cuda").run({"x": x}), Model(graph).run({"x": x}))


def test_shapes_vary_and_results_may_be_given(device):
    gpu, cpu = Model(convolutional(), device="cuda"), Model(convolutional())
    for n in (2, 5, 1, 5, 2):
        x = np.random.default_rng(n).standard_normal((n, 2, 7, 9)).astype(np.float32)
        out = np.empty((n, 3), np.float32)
        assert gpu.run({"x": x}, out={"y": out})["y"] is out
        close({"y": out}, cpu.run({"x": x}))
    assert gpu._arenas._free  # one block for all
    assert len(gpu._arenas._free) == 1


def test_inner_values_and_uneven_inputs(device):
    gpu, cpu = Model(lenet5(), device="cuda"), Model(lenet5())
    x = np.random.default_rng(0).standard_normal((28, 28, 1, 2)).astype(np.float32).T
    close(gpu.run({"x": x}, ["r1", "p2"]), cpu.run({"x": x}, ["r1", "p2"]))


def test_runs_at_once(device):
    gpu, cpu = Model(convolutional(), device="cuda"), Model(convolutional())
    found: dict[int, float] = {}

    def work(n: int) -> None:
        x = np.random.default_rng(n).standard_normal((n % 2 + 1, 2, 7, 9)).astype(np.float32)
        found[n] = max(np.abs(gpu(x) - cpu(x)).max() for _ in range(3))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert max(found.values()) < 1e-5


def test_too_little_memory_is_told(device, monkeypatch):
    def full(nbytes):
        raise DeviceError("device 'cuda:0' has too little memory")

    model = Model(mlp(), device="cuda")
    model(np.zeros((1, 1, 4, 4), np.float32))
    monkeypatch.setattr(device, "alloc", full)
    with pytest.raises(DeviceError, match="too little memory"):
        model(np.zeros((500, 1, 4, 4), np.float32))
    monkeypatch.undo()
    model(np.zeros((500, 1, 4, 4), np.float32))


def test_kept_programs_run(device, tmp_path):
    path = tmp_path / "m.onnx"
    nbconv.save(Model(convolutional()), path)
    x = np.random.default_rng(0).standard_normal((2, 2, 7, 9)).astype(np.float32)
    want = nbconv.load(path).run({"x": x})
    for _ in range(2):  # the second finds the first one's program
        model = nbconv.load(path, device="cuda")
        assert model.device == "cuda"
        close(model.run({"x": x}), want)
    assert model._graph is None


# training


@pytest.mark.parametrize(
    "optimizer", [nbconv.SGD(lr=0.05, momentum=0.9), nbconv.Adam(lr=0.003)], ids=lambda o: type(o).__name__
)
def test_lenet5_learns_as_on_the_cpu(device, optimizer):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 1, 28, 28)).astype(np.float32), np.arange(6)
    cpu, gpu = (Trainer(Model(lenet5(), device=d), optimizer=optimizer) for d in ("cpu", "cuda"))
    for _ in range(3):
        assert gpu.step(x, y) == pytest.approx(cpu.step(x, y), abs=1e-4)
    for name, value in cpu.state.items():
        assert np.abs(gpu.state[name] - value).max() < 1e-4, name


def test_a_step_moves_the_batch_and_the_loss_only(device):
    x, y = batch()
    trainer = Trainer(Model(mlp(), device="cuda"), optimizer=nbconv.SGD(lr=0.1, momentum=0.9))
    for _ in range(2):
        trainer.step(x, y)
    device.uploads.clear()
    device.downloads.clear()
    trainer.step(x, y)
    assert sorted(device.uploads) == [4, y.nbytes, x.nbytes]
    assert device.downloads == [4]


def test_running_statistics_dropout_and_other_shapes(device):
    """Batch normalisation's statistics are no optimizer's: they are copied within the device."""
    x, y = batch(6, (2, 7, 9))
    cpu, gpu = (Trainer(Model(convolutional(), device=d), optimizer=nbconv.SGD(lr=0.05)) for d in ("cpu", "cuda"))
    for n in (6, 4, 6):
        assert gpu.step(x[:n], y[:n]) == pytest.approx(cpu.step(x[:n], y[:n]), abs=1e-4)
    assert np.abs(cpu.state["mean"] - gpu.state["mean"]).max() < 1e-5
    assert np.abs(cpu.state["mean"] - convolutional().constants["mean"]).max() > 1e-3
    np.testing.assert_allclose(gpu.predict(x), cpu.predict(x), atol=1e-4)
    assert gpu.evaluate((x, y))["loss"] == pytest.approx(cpu.evaluate((x, y))["loss"], abs=1e-4)
    gpu.commit()
    np.testing.assert_allclose(gpu.model(x), cpu.predict(x), atol=1e-4)


def test_biases_and_some_channels(device):
    """What only processors have kernels for, masks and gradients of some channels, is done whole."""
    x, y = batch(6, (2, 7, 9))
    choice = Choice(("w1", "b1", "w3", "b3"), {"w1": (0, 3, 4), "w3": (1,)}, (), 0)
    before = convolutional().constants
    for rows in (False, True):
        cpu, gpu = (Trainer(Model(convolutional(), device=d), trainable="bias") for d in ("cpu", "cuda"))
        for trainer in (cpu, gpu):
            if rows:
                auto.adopt(trainer, choice)
        for _ in range(2):
            assert gpu.step(x, y) == pytest.approx(cpu.step(x, y), abs=1e-4)
        for name, value in cpu.state.items():
            np.testing.assert_allclose(gpu.state[name], value, atol=1e-5)
        changed = (gpu.state["w3"] != before["w3"]).any(axis=(1, 2, 3))
        assert changed.tolist() == ([False, True, False] if rows else [True] * 3)


def test_state_that_was_written_to_goes_back(device, tmp_path):
    x, y = batch()
    trainer = Trainer(Model(mlp(), device="cuda"))
    trainer.step(x, y)
    trainer.save_checkpoint(tmp_path / "c")
    second = trainer.step(x, y)
    trainer.step(x, y)
    trainer.load_checkpoint(tmp_path / "c")
    assert trainer.step(x, y) == second
    trainer.state["w2"][...] = 0
    trainer.state["b2"][...] = 0
    trainer.forget()
    assert trainer.step(x, y) == pytest.approx(np.log(3), abs=1e-6)


def test_steps_that_fail_or_are_cut_change_what_they_should(device):
    x, y = batch()
    whole, cut = (Trainer(Model(mlp(), device="cuda")) for _ in range(2))
    before = {n: a.copy() for n, a in whole.state.items()}
    with pytest.raises(NonFiniteLoss):
        whole.step(np.full_like(x, np.inf), y)
    for name, value in whole.state.items():
        np.testing.assert_array_equal(value, before[name])
    want, calls, found = whole.step(x, y), 0, None
    while found is None:
        found, calls = cut.step(x, y, budget_ms=1e-3), calls + 1
    assert calls > 3
    assert found == want
    for name, value in whole.state.items():
        np.testing.assert_array_equal(value, cut.state[name])


def test_efficientnet_lite0_at_64_pixels(device):
    graph = nbconv.load(models.path("efficientnet_lite0")).graph
    inputs = {n: Spec(("N", 3, 64, 64), s.dtype) for n, s in graph.inputs.items()}
    graph = Graph(graph.nodes, inputs, dict.fromkeys(graph.outputs), graph.constants, graph.name)
    x = {n: np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32) for n in inputs}
    model = Model(graph, device="cuda")
    assert not model.plan({n: a.shape for n, a in x.items()}).numpy_steps()
    close(model.run(x), Model(graph).run(x), 1e-4)


def test_doctor_lists_what_the_cpu_does(device, tmp_path, capsys):
    from nbconv.cli import main

    path = str(tmp_path / "m.onnx")
    nbconv.save(Model(on_numpy()), path)
    assert main(["doctor", path, "--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "runs on cuda in 6 steps, 2 of them on the CPU, in NumPy; 6 values (2.8 KiB) copied" in said
    assert re.search(r"GatherElements +2 +NumPy +960 B +float32\(3, 40\) +no kernel yet +first, second", said)
    nbconv.save(Model(mlp()), path)
    main(["doctor", path, "--shape", "x=2,1,4,4", "--device", "cuda"])
    assert "all on kernels; 2 values (152 B) copied" in capsys.readouterr().out


def test_sizes_that_kernels_do_not_count_to_are_refused(device):
    """Before anything is launched: indices of 32 bits would come back around."""
    from nbconv.errors import ModelError
    from nbconv.runtime.cuda.device import Uploads
    from nbconv.runtime.cuda.program import DeviceProgram

    graph = Graph([node("Relu", "x", "y", "relu")], {"x": Spec((40,), np.dtype(np.float32))}, {"y": None}, {})
    plan = Model(graph, device="cuda").plan({"x": (40,)})
    DeviceProgram(plan.program, device, [], Uploads(device), plan.inputs, plan=plan)
    plan.program.table[0, 2] = 1 << 31
    with pytest.raises(ModelError, match=r"step 0 \(activation.clip\) has a size of 2\^31 or more"):
        DeviceProgram(plan.program, device, [], Uploads(device), plan.inputs, plan=plan)
    assert not device.launched


def test_shapes_that_depend_on_values(device):
    """A run in stages: kernels of the GPU before and behind the node that is waited for."""
    nodes = [node("Relu", "x", "a"), node("NonZero", "a", "at"), node("Cast", "at", "b", to=1), node("Neg", "b", "y")]
    graph = Graph(nodes, {"x": Spec((3, 4), F32)}, {"y": Spec((2, "n"), F32), "a": Spec((3, 4), F32)}, {})
    model, x = Model(graph, device="cuda"), np.zeros((3, 4), np.float32)
    for places in ([(0, 1), (2, 3)], [(1, 2)], [(0, 1), (2, 3)]):
        x[:] = -1
        for place in places:
            x[place] = 5
        found = model.run({"x": x})
        np.testing.assert_array_equal(found["y"], -np.transpose(places))
        np.testing.assert_array_equal(found["a"], np.maximum(x, 0))


def test_nodes_with_bodies(device):
    """A GPU's plan holds no programs: an If of equal branches and a Loop are done between plans, by kernels in their
    bodies."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[3, 4] x, bool c) => (float[3, 4] y, float[2, 3, 4] rows) {
        a = Relu (x)
        b = If (c) <then_branch = t () => (float[3, 4] u) { u = Neg (a) },
                    else_branch = e () => (float[3, 4] v) { v = Exp (a) }>
        two = Constant <value = int64 {2}> ()
        y, rows = Loop (two, , b) <body = step (int64 i, bool d, float[3, 4] h) =>
            (bool more, float[3, 4] next, float[3, 4] row) { more = Identity (d) next = Add (h, x) row = Sigmoid (next) }>
    }"""
    content = onnx.parser.parse_model(text).SerializeToString()
    gpu, cpu, x = nbconv.load(content, device="cuda"), nbconv.load(content), np.random.default_rng(4).random((3, 4), F32)
    for c in (True, False, True):
        given = {"x": x - np.float32(0.5), "c": np.array(c)}
        close(gpu.run(given), cpu.run(given))
    assert gpu._staged is not None and len(gpu._staged.bodies) == 3 and cpu._staged is None
