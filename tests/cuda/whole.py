"""Whole models on a device, held to the CPU or to themselves. AssertionErrors say what is wrong; "cuda" is the device."""

from __future__ import annotations

import gc
import time

import numpy as np

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from nbconv.train.trainer import Trainer
from tests.cuda.devices import Counted
from tests.train.models import F32, node


def lenet5(seed: int = 0, side: int = 28) -> Graph:
    """(n, 1, side, side) to (n, 10), as LeCun et al. drew it in 1998, with Relu."""
    rng = np.random.default_rng(seed)
    nodes = [
        node("Conv", "x w1 b1", "c1", "conv1", pads=(2, 2, 2, 2)), node("Relu", "c1", "r1"),
        node("MaxPool", "r1", "p1", kernel_shape=(2, 2), strides=(2, 2)),
        node("Conv", "p1 w2 b2", "c2", "conv2"), node("Relu", "c2", "r2"),
        node("AveragePool", "r2", "p2", kernel_shape=(2, 2), strides=(2, 2)), node("Flatten", "p2", "f"),
        node("Gemm", "f w3 b3", "g3", "fc1", transB=1), node("Relu", "g3", "r3"),
        node("Gemm", "r3 w4 b4", "g4", "fc2", transB=1), node("Relu", "g4", "r4"),
        node("Gemm", "r4 w5 b5", "y", "fc3", transB=1),
    ]  # fmt: skip
    flat = 16 * ((side // 2 - 4) // 2) ** 2
    shapes = {"1": (6, 1, 5, 5), "2": (16, 6, 5, 5), "3": (120, flat), "4": (84, 120), "5": (10, 84)}
    constants = {f"w{k}": rng.standard_normal(s) * np.sqrt(2 / np.prod(s[1:])) for k, s in shapes.items()}
    constants |= {f"b{k}": rng.standard_normal(s[0]) * 0.1 for k, s in shapes.items()}
    return Graph(
        nodes, {"x": Spec(("n", 1, side, side), F32)}, {"y": Spec(("n", 10), F32)},
        {k: v.astype(np.float32) for k, v in constants.items()},
    )  # fmt: skip


def at_side(graph: Graph, side: int) -> Graph:
    """A model of pictures, for pictures of another size."""
    inputs = {n: Spec(("n", s.shape[1], side, side), s.dtype) for n, s in graph.inputs.items()}
    return Graph(graph.nodes, inputs, dict.fromkeys(graph.outputs), graph.constants, graph.name)


def compared(name: str, graph: Graph, side: int, bound: float) -> None:
    """Run a model on the device and the CPU. AssertionError where they differ."""
    x = {
        n: np.random.default_rng(0).standard_normal((1, s.shape[1], side, side)).astype(np.float32)
        for n, s in graph.inputs.items()
    }
    start = time.perf_counter()
    got, want = Model(graph, device="cuda").run(x), Model(graph).run(x)
    worst = max(float(np.abs(got[n] - w).max() / np.abs(w).max()) for n, w in want.items())
    print(f"{name} at {side}x{side}: differs by {worst:.1e} from the CPU, {time.perf_counter() - start:.0f} s", flush=True)
    assert worst <= bound


def trained(graph: Graph, side: int, steps: int = 3) -> None:
    """Train on the device and the CPU. AssertionError where losses differ by more than 1e-4."""
    x, y = np.random.default_rng(0).standard_normal((2, 1, side, side)).astype(np.float32), np.arange(2)
    cpu, gpu = (Trainer(Model(graph, device=d), optimizer=nbconv.SGD(lr=0.05, momentum=0.9)) for d in ("cpu", "cuda"))
    start = time.perf_counter()
    losses = [(gpu.step(x, y), cpu.step(x, y)) for _ in range(steps)]
    said = ", ".join(f"{a:.6f} and {b:.6f}" for a, b in losses)
    print(f"LeNet-5 at {side}x{side}, {steps} steps: losses {said}, {time.perf_counter() - start:.0f} s", flush=True)
    assert all(abs(a - b) <= 1e-4 for a, b in losses)


def repeated(graph: Graph, side: int) -> None:
    """Run a model and train it, twice. AssertionError where one bit differs."""
    rng = np.random.default_rng(0)
    x = {n: rng.standard_normal((2, s.shape[1], side, side)).astype(np.float32) for n, s in graph.inputs.items()}
    first, second = (Model(graph, device="cuda") for _ in range(2))
    want = first.run(x)
    for model in (first, second, first):  # put on the stream piece by piece, and as a graph
        for name, y in model.run(x).items():
            np.testing.assert_array_equal(y, want[name])
    states, losses = [], []
    for _ in range(2):
        trainer = Trainer(Model(graph, device="cuda"), optimizer=nbconv.Adam(lr=1e-3))
        losses.append([trainer.step(x, np.arange(2)) for _ in range(3)])
        states.append({name: value.copy() for name, value in trainer.state.items()})
    assert losses[0] == losses[1]
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], name)


def steady(graph: Graph, side: int, samples: int, device: Counted) -> None:
    """Run batches of one sample, then of one and of two, and so on. AssertionError where other memory is held than weights
    and one block as large as the largest run wants, or where the driver has less left after two more rounds."""
    x = {
        n: np.random.default_rng(0).standard_normal((samples, s.shape[1], side, side)).astype(np.float32)
        for n, s in graph.inputs.items()
    }
    gc.collect()  # what other tests left on the device
    model, found = Model(graph, device="cuda"), {}

    def go(most: int) -> None:
        for n in range(1, most + 1):
            for y in model.run({name: array[:n] for name, array in x.items()}).values():
                assert found.setdefault((n, y.shape), y.tobytes()) == y.tobytes()

    def weights() -> int:
        (block,) = model._arenas._free
        return sum(device.held.values()) - len(block)

    go(1)
    want = weights()
    for most in range(2, samples + 1):
        go(most)
        assert weights() == want
    left = device.memory()[0]
    for _ in range(2):
        go(samples)
    assert weights() == want
    assert left - device.memory()[0] < want
