"""Memory budgets: what is computed again and micro-batches give the same step in less memory."""

from __future__ import annotations

import numpy as np
import pytest

import nbconv
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.train import building
from nbconv.train.memory.planned import Ways
from nbconv.train.memory.policy import MIB
from tests.train.models import F32, batch, model, node

SHAPE = (3, 26, 22)


def deep(norm: bool, layers: int = 6, channels: int = 24) -> Graph:
    """(n, 3, 26, 22) to (n, 3): 3×3 convolutions, some with residual sums, a concat, a pool, a head."""
    rng = np.random.default_rng(2)
    nodes, constants, x, wide = [], {}, "x", 3
    for i in range(layers):
        constants[f"w{i}"] = rng.standard_normal((channels, wide, 3, 3)) * (2 / (9 * wide)) ** 0.5
        nodes.append(node("Conv", f"{x} w{i}", f"c{i}", f"conv{i}", pads=(1, 1, 1, 1)))
        y = f"c{i}"
        if norm:
            for name, value in (("s", 1.0), ("b", 0.1), ("m", 0.0), ("v", 1.0)):
                constants[f"{name}{i}"] = np.full(channels, value)
            nodes.append(node("BatchNormalization", f"c{i} s{i} b{i} m{i} v{i}", f"n{i}", f"bn{i}"))
            y = f"n{i}"
        if i in (2, 4):
            nodes.append(node("Add", f"{y} {x}", f"a{i}", f"add{i}"))
            y = f"a{i}"
        nodes.append(node("Relu", y, f"r{i}", f"relu{i}"))
        x, wide = f"r{i}", channels
    nodes += [
        node("Concat", f"{x} r0", "cat", "cat", axis=1), node("GlobalAveragePool", "cat", "p", "p"),
        node("Flatten", "p", "f", "f"), node("Gemm", "f wh bh", "y", "head", transB=1),
    ]  # fmt: skip
    constants |= {"wh": rng.standard_normal((3, 2 * channels)) * 0.1, "bh": np.zeros(3)}
    arrays = {k: v.astype(np.float32) for k, v in constants.items()}
    return Graph(nodes, {"x": Spec(("n", *SHAPE), F32)}, {"y": Spec(("n", 3), F32)}, arrays)


def trained(graph: Graph, steps: int = 3, **options) -> tuple[list[float], nbconv.Trainer]:
    x, y = batch(8, SHAPE)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.05, momentum=0.9), **options)
    return [trainer.step(x, y) for _ in range(steps)], trainer


def used(trainer: nbconv.Trainer) -> float:
    """MiB."""
    return max(work.step.memory for work in trainer._works.values()) / MIB


def test_what_is_computed_again_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    again, frugal = trained(deep(True))
    with monkeypatch.context() as patch:
        patch.setattr(building, "rematerialise", lambda graph, *_: graph)
        plain, all_kept = trained(deep(True))
    assert again == plain
    assert used(frugal) < 0.85 * used(all_kept)
    for name, value in all_kept.state.items():  # running statistics too: they were updated once
        np.testing.assert_array_equal(frugal.state[name], value, name)


def test_half_the_memory() -> None:
    losses, usual = trained(deep(False))
    want = used(usual) / 2
    found, frugal = trained(deep(False), memory_mb=want)
    assert frugal.forecast()["micro_batches"] > 1
    work = next(iter(frugal._works.values())).step
    assert len(work._space.arena) <= work.memory <= want * MIB
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for name, value in usual.state.items():
        np.testing.assert_allclose(frugal.state[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
    again, other = trained(deep(False), memory_mb=want, threads=2)
    assert again == found
    assert all(np.array_equal(other.state[n], a) for n, a in frugal.state.items())


@pytest.mark.parametrize("options", [{"weights": [0.1, 2.0, 1.0]}, {"ignore_index": 1}, {"label_smoothing": 0.1}])
def test_losses_of_micro_batches_are_the_whole_batchs(options) -> None:
    """The parts' weights differ: of three classes, eight samples hold unequal shares."""
    losses, usual = trained(deep(False), loss_options=options)
    found, _ = trained(deep(False), loss_options=options, memory_mb=used(usual) / 2)
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_batch_statistics_are_not_cut_unasked() -> None:
    _, usual = trained(deep(True))
    limit = used(usual) / 3
    with pytest.raises(ModelError, match=r"needs \d+\.\d+ MiB .* memory_mb is .* micro_batch_norm=True would cut"):
        trained(deep(True), memory_mb=limit)
    losses, frugal = trained(deep(True), memory_mb=limit, micro_batch_norm=True)
    assert frugal.forecast()["micro_batches"] > 1
    assert used(frugal) <= limit
    assert losses[-1] < losses[0]
    means = [a for n, a in frugal.state.items() if n.startswith("m") and n[1:].isdigit()]
    assert len(means) == 6
    assert all(np.isfinite(a).all() and a.any() for a in means)


def test_frozen_parts_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = deep(False)
    losses, usual = trained(graph, trainable="head")
    monkeypatch.setattr("nbconv.train.memory.policy.FROZEN", 0)
    found, halves = trained(graph, trainable="head")
    assert used(halves) < 0.7 * used(usual)
    np.testing.assert_allclose(found, losses, rtol=1e-6)


def test_dropout_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each micro-batch would draw the same mask; what is computed again draws none."""
    graph = deep(False)
    graph.nodes[-1] = node("Gemm", "d wh bh", "y", "head", transB=1)
    graph.nodes.insert(-1, node("Dropout", "f", "d", "drop"))
    losses, usual = trained(graph)
    with pytest.raises(ModelError, match="MiB"):
        trained(graph, memory_mb=used(usual) / 4)
    monkeypatch.setattr(Ways, "fastest", lambda *_: [])
    found, frugal = trained(graph, memory_mb=1000)
    assert used(frugal) < used(usual)
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_steps_of_several_shapes_share_memory() -> None:
    graph = deep(True)
    (x, y), trainer = batch(8, SHAPE), nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.05))
    alone = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.05))
    assert trainer.step(x[:3], y[:3]) == alone.step(x[:3], y[:3])
    assert trainer.step(x, y, budget_ms=1e-3) is None
    small = trainer.step(x[:3], y[:3])  # gives the step that was begun up
    assert small == alone.step(x[:3], y[:3])
    found = None
    while found is None:
        found = trainer.step(x, y, budget_ms=1e-3)
    assert found == alone.step(x, y)
    arenas = {id(work.step._space.arena) for work in trainer._works.values()}
    assert len(arenas) == 1
