"""The backward part in segments: the same step, whatever is kept, computed again and done in parts."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.passes.segments import AGAIN, EVER, Choice, Segments
from nbconv.train import building
from nbconv.train.goals import by_goal
from nbconv.train.memory.planned import Way, Ways
from nbconv.train.memory.policy import MIB, MemoryPolicy, TooLarge
from nbconv.train.recipe import LABELS
from nbconv.train.updates import hyper_values
from tests.train.models import F32, batch, model, node
from tests.train.test_memory_policy import SHAPE, deep, used


def unet(channels: int = 12, classes: int = 3, size: tuple[int, int] = (24, 20)) -> Graph:
    """(n, 3, h, w) to (n, classes, h, w): two levels down and up, batch normalisation, skips."""
    rng = np.random.default_rng(4)
    nodes, constants = [], {}

    def norm(name: str, x: str, c: int) -> str:
        for key, value in (("s", 1.0), ("b", 0.1), ("m", 0.0), ("v", 1.0)):
            constants[f"{name}.{key}"] = np.full(c, value)
        vectors = " ".join(f"{name}.{key}" for key in "sbmv")
        nodes.append(node("BatchNormalization", f"{x} {vectors}", f"{name}.n", f"{name}.bn"))
        nodes.append(node("Relu", f"{name}.n", f"{name}.r", f"{name}.relu"))
        return f"{name}.r"

    def conv(name: str, x: str, ci: int, co: int) -> str:
        constants[f"{name}.w"] = rng.standard_normal((co, ci, 3, 3)) * (2 / (9 * ci)) ** 0.5
        nodes.append(node("Conv", f"{x} {name}.w", f"{name}.c", name, pads=(1, 1, 1, 1)))
        return norm(name, f"{name}.c", co)

    c = channels
    first = conv("d0", "x", 3, c)
    nodes.append(node("MaxPool", first, "p0", "p0", kernel_shape=(2, 2), strides=(2, 2)))
    second = conv("d1", "p0", c, 2 * c)
    nodes.append(node("MaxPool", second, "p1", "p1", kernel_shape=(2, 2), strides=(2, 2)))
    x = conv("d2", "p1", 2 * c, 4 * c)
    for i, (skip, co) in enumerate(((second, 2 * c), (first, c))):
        constants[f"t{i}.w"] = rng.standard_normal((2 * co, co, 2, 2)) * (1 / (2 * co)) ** 0.5
        constants[f"t{i}.b"] = np.zeros(co)
        nodes.append(node("ConvTranspose", f"{x} t{i}.w t{i}.b", f"t{i}", f"t{i}", strides=(2, 2)))
        nodes.append(node("Concat", f"{skip} t{i}", f"cat{i}", f"cat{i}", axis=1))
        x = conv(f"u{i}", f"cat{i}", 2 * co, co)
    constants |= {"last.w": rng.standard_normal((classes, c, 1, 1)) * 0.3, "last.b": np.zeros(classes)}
    nodes.append(node("Conv", f"{x} last.w last.b", "y", "last"))
    arrays = {k: v.astype(np.float32) for k, v in constants.items()}
    return Graph(nodes, {"x": Spec(("n", 3, *size), F32)}, {"y": Spec(("n", classes, *size), F32)}, arrays)


def resnet(channels: int = 16, size: tuple[int, int] = (25, 21)) -> Graph:
    """(n, 3, h, w) to (n, 3): a strided stem with a pool, a residual block, one with a strided shortcut, a head."""
    rng = np.random.default_rng(5)
    nodes, constants = [], {}

    def conv(name: str, x: str, ci: int, co: int, kernel: int = 3, stride: int = 1, act: bool = True) -> str:
        constants[f"{name}.w"] = rng.standard_normal((co, ci, kernel, kernel)) * (2 / (kernel**2 * ci)) ** 0.5
        pads = (kernel // 2,) * 4
        nodes.append(node("Conv", f"{x} {name}.w", f"{name}.c", name, pads=pads, strides=(stride, stride)))
        for key, value in (("s", 1.0), ("b", 0.1), ("m", 0.0), ("v", 1.0)):
            constants[f"{name}.{key}"] = np.full(co, value)
        vectors = " ".join(f"{name}.{key}" for key in "sbmv")
        nodes.append(node("BatchNormalization", f"{name}.c {vectors}", f"{name}.n", f"{name}.bn"))
        if not act:
            return f"{name}.n"
        nodes.append(node("Relu", f"{name}.n", f"{name}.r", f"{name}.relu"))
        return f"{name}.r"

    def block(name: str, x: str, ci: int, co: int, stride: int) -> str:
        main = conv(f"{name}b", conv(f"{name}a", x, ci, co, 3, stride), co, co, act=False)
        skip = x if stride == 1 else conv(f"{name}s", x, ci, co, 1, stride, act=False)
        nodes.append(node("Add", f"{main} {skip}", name, f"{name}.add"))
        nodes.append(node("Relu", name, f"{name}.r", f"{name}.act"))
        return f"{name}.r"

    c = channels
    stem = conv("stem", "x", 3, c, 7, 2)
    nodes.append(node("MaxPool", stem, "pool", "pool", kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    x = block("two", block("one", "pool", c, c, 1), c, 2 * c, 2)
    nodes += [
        node("GlobalAveragePool", x, "g", "g"), node("Flatten", "g", "f", "f"),
        node("Gemm", "f head.w head.b", "y", "head", transB=1),
    ]  # fmt: skip
    constants |= {"head.w": rng.standard_normal((3, 2 * c)) * 0.1, "head.b": np.zeros(3)}
    arrays = {k: v.astype(np.float32) for k, v in constants.items()}
    return Graph(nodes, {"x": Spec(("n", 3, *size), F32)}, {"y": Spec(("n", 3), F32)}, arrays)


def pixels(n: int, size: tuple[int, int] = (24, 20)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    return rng.standard_normal((n, 3, *size), np.float32), rng.integers(0, 3, (n, *size))


CASES: dict[str, tuple[Graph, tuple[np.ndarray, np.ndarray]]] = {
    "deep": (deep(True), batch(8, SHAPE)), "plain": (deep(False), batch(8, SHAPE)), "unet": (unet(), pixels(6)),
    "resnet": (resnet(), batch(8, (3, 25, 21))),
}  # fmt: skip


def some(segments: Segments, usual: Choice, seed: int, cut: bool = True) -> Choice:
    """A random choice."""
    rng = np.random.default_rng(seed)
    held, parts = dict(usual.held), {}
    last = len(segments.segments)
    for i, nodes in enumerate(segments.whole.nodes):
        y = nodes.outputs[0]
        if y in held or not segments.able(y) or rng.random() < 0.4:
            continue
        a, b = sorted(int(v) for v in rng.integers(0, last + 1, 2))
        held[y] = ((0, 0), AGAIN, (a, a), (a, b), (a, EVER))[rng.integers(5)] if i < segments.forward else AGAIN
    for number in range(last if cut else 0):
        fits = [k for k in (1, 2, 3, 4, 8) if segments.count % k == 0]
        parts[number] = int(rng.choice(fits))
    return Choice(held, parts)


def forced(monkeypatch: pytest.MonkeyPatch, seed: int, cut: bool = True) -> None:
    """Steps are made with a random choice from here on."""

    def fastest(ways: Ways, nbytes: float) -> Iterator[Way]:
        search = ways.search
        yield ways.segmented(search.found(some(search.segments, search.usual(), seed, cut), math.inf))

    monkeypatch.setattr(Ways, "fastest", fastest)


def steps(graph: Graph, data: tuple[np.ndarray, np.ndarray], **options: Any):
    """Losses of three steps, the state after the first of them (later ones start from other bits), the trainer."""
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.05, momentum=0.9), **options)
    losses = [trainer.step(*data)]
    state = {name: value.copy() for name, value in trainer.state.items()}
    return [*losses, trainer.step(*data), trainer.step(*data)], state, trainer


def plan(trainer: nbconv.Trainer) -> int:
    """How many steps of kernels its plan has."""
    return len(next(iter(trainer._works.values())).step.plan.steps)


def near(found: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for key, value in want.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=key)


def same(found: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for key, value in want.items():
        np.testing.assert_array_equal(found[key], value, key)


@pytest.mark.parametrize("name", CASES)
def test_any_choice_gives_the_same_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = CASES[name]
    losses, usual, _ = steps(graph, data)
    for seed in range(4):
        with monkeypatch.context() as patch:
            forced(patch, seed)
            found, state, trainer = steps(graph, data, memory_mb=1000)
            again, _, two = steps(graph, data, memory_mb=1000, threads=2)
        assert found[0] == losses[0]  # the forward part is untouched
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        near(state, usual)
        assert again == found
        same(two.state, trainer.state)


@pytest.mark.parametrize("name", CASES)
def test_in_whole_stages_the_bits_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = CASES[name]
    losses, _, usual = steps(graph, data)
    forced(monkeypatch, 7, cut=False)
    found, _, trainer = steps(graph, data, memory_mb=1000)
    assert found == losses
    same(trainer.state, usual.state)  # running statistics too: they were updated once


def exact(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All values, by the references in float64."""

    def wide(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64) if a.dtype == np.float32 else a

    values = {k: wide(np.asarray(v)) for k, v in {**graph.constants, **feeds}.items()}
    for n in graph.nodes:
        made = n.op.reference(*(values[i] if i else None for i in n.inputs))
        made = made if isinstance(made, tuple) else (made,)
        values.update({name: v for name, v in zip(n.outputs, made, strict=False) if name})
    return values


@pytest.mark.parametrize("name", CASES)
def test_in_float64_it_is_the_same_step(name: str) -> None:
    """What is rewritten is the same function: in double precision new weights differ by its rounding alone."""
    graph, (x, y) = CASES[name]
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.05, momentum=0.9))
    specs = {"x": Spec(x.shape, F32)}
    arguments = trainer.recipe, specs, {LABELS: Spec(y.shape, np.dtype(np.int64))}, trainer.state
    feeds = {"x": x, LABELS: y, **trainer.state, **hyper_values(trainer.recipe, 0.05, 1)}
    built = building.build(*arguments)
    want = exact(built.graph, feeds)
    for seed in range(3):
        ways = Ways(*arguments, micro_batch_norm=False)
        choice = some(ways.search.segments, ways.search.usual(), seed)
        staged = ways.segmented(ways.search.found(choice, math.inf)).built
        assert len(staged.graph.nodes) > len(built.graph.nodes)
        found = exact(staged.graph, feeds)
        for state, value in built.updates.items():
            size = np.abs(want[value]).max()
            np.testing.assert_allclose(found[staged.updates[state]], want[value], rtol=0, atol=1e-12 * size, err_msg=state)


@pytest.mark.parametrize(
    ("graph", "data"),
    [(deep(True, 3, 72), batch(2, SHAPE)), (unet(40), pixels(2)), (resnet(80), batch(3, (3, 25, 21)))],
    ids=["deep", "unet", "resnet"],
)
def test_weights_and_sums_some_columns_at_a_time(graph: Graph, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for policy in (MemoryPolicy(), MemoryPolicy(scratch_limit=1.0)):
        monkeypatch.setattr(Ways, "fastest", lambda ways, _, policy=policy: [ways.usual._replace(policy=policy)])
        found[policy] = steps(graph, data, memory_mb=1000)
    (losses, usual, whole), (pieced, state, pieces) = found.values()
    assert plan(pieces) > plan(whole)
    np.testing.assert_allclose(pieced, losses, rtol=1e-5)
    near(state, usual)


LARGE = {
    "unet": (unet(16, size=(96, 80)), pixels(6, (96, 80)), 0.6),
    "resnet": (resnet(32, (170, 130)), batch(12, (3, 170, 130)), 0.5),
}


@pytest.mark.parametrize("name", LARGE)
def test_less_memory_with_batch_statistics(name: str) -> None:
    graph, data, share = LARGE[name]
    losses, usual, trainer = steps(graph, data)
    limit = share * used(trainer)
    found, state, frugal = steps(graph, data, memory_mb=limit)
    assert used(frugal) <= limit
    assert frugal.forecast()["micro_batches"] == 1
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    near(state, usual)
    again, _, two = steps(graph, data, memory_mb=limit, threads=2)
    assert again == found
    same(two.state, frugal.state)


SMALL: dict[str, tuple[Graph, tuple[np.ndarray, np.ndarray], dict[str, Any]]] = {
    "unet": (unet(8, size=(48, 40)), pixels(4, (48, 40)), {}),
    "plain in parts": (*CASES["plain"], {}),
}  # fmt: skip


def plans(graph: Graph, data: tuple[np.ndarray, np.ndarray], memory_mb: float | None, **options: Any) -> float:
    """Bytes of a step that may take so much; TooLarge where there is none."""
    trainer = nbconv.Trainer(model(graph), memory_mb=memory_mb, **options)
    feeds, targets = trainer._inputs(data[0]), by_goal(trainer.goals, data[1])
    return trainer._work(feeds, targets, trainer.recipe.graph).step.memory


@pytest.mark.parametrize("name", SMALL)
def test_the_least_that_is_said_is_the_least_that_is_accepted(name: str) -> None:
    graph, data, options = SMALL[name]
    usual = plans(graph, data, None, **options)
    with pytest.raises(TooLarge) as error:
        plans(graph, data, 0.05 * usual / MIB, **options)
    least = error.value.nbytes
    said = float(str(error.value).split("needs ")[1].split()[0])
    assert least / MIB <= said < least / MIB + 0.01
    assert plans(graph, data, said, **options) <= said * MIB
    rng = np.random.default_rng(8)
    for share in (1, 0.998, *rng.uniform(0.95, 1.1, 4), *rng.uniform(0.5, usual / least, 2)):
        budget = share * least
        if budget < least:
            with pytest.raises(TooLarge) as error:
                plans(graph, data, budget / MIB, **options)
            assert error.value.nbytes == least
        else:
            assert plans(graph, data, budget / MIB, **options) <= budget


CHILD = """
import json, sys
import nbconv
from tests.train import test_segments

def resident(what):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) / 1024

graph, (x, y), _ = test_segments.LARGE[sys.argv[1]]
limit = float(sys.argv[2]) or None
warm = nbconv.Trainer(test_segments.model(graph), memory_mb=limit and 1000)
warm.step(x[:1], y[:1])
del warm
before = resident("VmRSS")
trainer = nbconv.Trainer(test_segments.model(graph), memory_mb=limit)
trainer.step(x, y)
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # the peak of making the plan is not asked for
for _ in range(3):
    trainer.step(x, y)
print(json.dumps({"mib": resident("VmHWM") - before, **trainer.forecast()}))
"""


def child(name: str, limit: float) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, name, str(limit)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", LARGE)
def test_the_process_stays_under_the_number(name: str) -> None:
    """What a process has resident grows by no more than the number, the state, and what a plan's tables take."""
    usual = child(name, 0)
    limit = LARGE[name][2] * usual["activations_mb"]
    frugal = child(name, limit)
    assert frugal["activations_mb"] <= limit
    assert frugal["mib"] <= limit + frugal["state_mb"] + 4
    assert usual["mib"] > limit + usual["state_mb"] + 4
