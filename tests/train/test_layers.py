"""What exporters write in several nodes is one in a training step: gradients are the same, and less is kept."""

from __future__ import annotations

import numpy as np
import pytest

import nbconv
from nbconv.edit.parameters import constants_of
from nbconv.graph import Graph, Spec
from nbconv.train import forward
from tests.train.models import F32, convolutional, model, node

ROWS, WIDE = 400, 48


def mixer(layers: int = 3) -> Graph:
    """(n, 400, 12) to (n, 3): layers as PyTorch exports ConvNeXt's, LayerNormalization, Linear, Gelu by Erf, Linear."""
    rng = np.random.default_rng(3)
    constants = {"root": np.array(2**0.5), "one": np.array(1.0), "half": np.array(0.5)}
    nodes, x = [], "x"
    for i in range(layers):
        constants |= {f"g{i}": np.ones(12), f"s{i}": rng.standard_normal(12)}
        constants |= {f"w{i}": rng.standard_normal((WIDE, 12)) * 0.3, f"b{i}": rng.standard_normal(WIDE)}
        constants |= {f"v{i}": rng.standard_normal((12, WIDE)) * 0.2, f"c{i}": rng.standard_normal(12)}
        nodes += [
            node("LayerNormalization", f"{x} g{i} s{i}", f"n{i}", f"norm{i}"),
            node("Transpose", f"w{i}", f"wt{i}", f"wt{i}", perm=(1, 0)),
            node("MatMul", f"n{i} wt{i}", f"m{i}", f"wide{i}"), node("Add", f"b{i} m{i}", f"a{i}", f"a{i}"),
            node("Div", f"a{i} root", f"d{i}", f"d{i}"), node("Erf", f"d{i}", f"e{i}", f"e{i}"),
            node("Add", f"e{i} one", f"o{i}", f"o{i}"), node("Mul", f"a{i} o{i}", f"p{i}", f"p{i}"),
            node("Mul", f"p{i} half", f"h{i}", f"h{i}"),
            node("Transpose", f"v{i}", f"vt{i}", f"vt{i}", perm=(1, 0)),
            node("MatMul", f"h{i} vt{i}", f"q{i}", f"narrow{i}"), node("Add", f"q{i} c{i}", f"z{i}", f"z{i}"),
            node("Add", f"{x} z{i}", f"x{i}", f"x{i}"),
        ]  # fmt: skip
        x = f"x{i}"
    nodes += [node("ReduceMean", f"{x} axes", "f", "f", keepdims=0), node("Gemm", "f wh", "y", "head")]
    constants["wh"] = rng.standard_normal((12, 3))
    arrays = {k: v.astype(np.float32) for k, v in constants.items()} | {"axes": np.array([1])}
    return Graph(nodes, {"x": Spec(("n", ROWS, 12), F32)}, {"y": Spec(("n", 3), F32)}, arrays)


def grouped(layers: int = 3) -> Graph:
    """(n, 12, 20, 18) to (n, 3): 3×3 convolutions and normalisations of 4 groups, as PyTorch exports them."""
    rng = np.random.default_rng(5)
    constants = {"ones": np.ones(4), "zeros": np.zeros(4)}
    nodes, x = [], "x"
    for i in range(layers):
        constants |= {f"w{i}": rng.standard_normal((12, 12, 3, 3)) * 0.1, f"g{i}": 1 + 0.1 * rng.standard_normal((12, 1, 1))}
        constants |= {f"s{i}": rng.standard_normal((12, 1, 1)) * 0.1}
        nodes += [
            node("Conv", f"{x} w{i}", f"c{i}", f"conv{i}", pads=(1, 1, 1, 1)),
            node("Reshape", f"c{i} split", f"r{i}", f"r{i}"),
            node("InstanceNormalization", f"r{i} ones zeros", f"n{i}", f"n{i}"),
            node("Shape", f"c{i}", f"h{i}", f"h{i}"), node("Reshape", f"n{i} h{i}", f"b{i}", f"b{i}"),
            node("Mul", f"b{i} g{i}", f"m{i}", f"m{i}"), node("Add", f"m{i} s{i}", f"a{i}", f"a{i}"),
            node("Relu", f"a{i}", f"x{i}", f"x{i}"),
        ]  # fmt: skip
        x = f"x{i}"
    nodes += [
        node("GlobalAveragePool", x, "p", "p"), node("Flatten", "p", "f", "f"), node("Gemm", "f wh", "y", "head"),
    ]  # fmt: skip
    constants["wh"] = rng.standard_normal((12, 3))
    arrays = {k: v.astype(np.float32) for k, v in constants.items()} | {"split": np.array([0, 4, -1])}
    return Graph(nodes, {"x": Spec(("n", 12, 20, 18), F32)}, {"y": Spec(("n", 3), F32)}, arrays)


def trained(graph: Graph | None = None, **options) -> nbconv.Trainer:
    rng, graph = np.random.default_rng(4), graph or mixer()
    x, y = rng.standard_normal((8, *graph.inputs["x"].shape[1:]), np.float32), rng.integers(0, 3, 8)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.05, momentum=0.9), trainable="all", **options)
    for _ in range(3):
        trainer.step(x, y)
    return trainer


def memory(trainer: nbconv.Trainer) -> int:
    return max(work.step.memory for work in trainer._works.values())


def test_joined_layers_train_alike_in_less_memory(monkeypatch) -> None:
    joined = trained()
    with monkeypatch.context() as patch:
        patch.setattr(forward, "join_layers", lambda graph, _: graph)
        apart = trained()
    for name, value in apart.state.items():
        np.testing.assert_allclose(joined.state[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
    wide = 8 * ROWS * WIDE * 4
    assert memory(joined) < memory(apart) - 3 * wide
    # a wide value a layer, its input, and what it is normalised to and adds again where a layer is gone back through
    assert memory(joined) < 3 * (wide + 2 * wide // 4) + 5 * wide
    kinds = {n.op.type for n in next(iter(joined._works.values())).step.plan.graph.nodes}
    assert {"Linear", "Gelu"} <= kinds and kinds.isdisjoint(("Transpose", "Erf"))


def test_one_thread_and_two_have_the_same_bits() -> None:
    one, two = trained(), trained(threads=2)
    assert all(np.array_equal(two.state[n], a) for n, a in one.state.items())


def test_a_budget_computes_layers_again() -> None:
    usual = trained()
    limit = 0.6 * memory(usual) / 2**20
    frugal = trained(memory_mb=limit)
    assert memory(frugal) <= limit * 2**20
    for name, value in usual.state.items():
        np.testing.assert_allclose(frugal.state[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_groups_of_channels_are_normalised_by_one_node(monkeypatch) -> None:
    joined = trained(grouped())
    with monkeypatch.context() as patch:
        patch.setattr(forward, "join_layers", lambda graph, _: graph)
        apart = trained(grouped())
    for name, value in apart.state.items():
        np.testing.assert_allclose(joined.state[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
    value = 8 * 12 * 20 * 18 * 4
    assert memory(joined) < memory(apart) - 4 * value
    kinds = {n.op.type for n in next(iter(joined._works.values())).step.plan.graph.nodes}
    assert "GroupNormalization" in kinds and "InstanceNormalization" not in kinds
    two = trained(grouped(), threads=2)
    assert all(np.array_equal(two.state[n], a) for n, a in joined.state.items())


def test_groups_of_channels_without_places() -> None:
    """Of vectors, as PyTorch's GroupNorm takes them, too: by hand."""
    rng = np.random.default_rng(6)
    sizes = {"g": 8, "s": 8, "w": (8, 3), "ones": 2, "zeros": 2}
    arrays = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    arrays |= {"ones": np.ones(2, F32), "zeros": np.zeros(2, F32), "split": np.array([0, 2, -1])}
    nodes = [
        node("Reshape", "x split", "r"), node("InstanceNormalization", "r ones zeros", "n"), node("Shape", "x", "h"),
        node("Reshape", "n h", "b"), node("Mul", "b g", "m"), node("Add", "m s", "a"), node("Gemm", "a w", "y", "head"),
    ]  # fmt: skip
    graph = Graph(nodes, {"x": Spec(("n", 8), F32)}, {"y": Spec(("n", 3), F32)}, arrays)
    x, y = rng.standard_normal((6, 8)), np.arange(6) % 3
    loss = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1), trainable="all").step(x.astype(np.float32), y)
    groups = x.reshape(6, 2, 4)
    n = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    p = np.exp((n.reshape(6, 8) * arrays["g"] + arrays["s"]) @ arrays["w"])
    assert loss == pytest.approx(-np.log(p / p.sum(1, keepdims=True))[np.arange(6), y].mean(), rel=1e-5)


def test_what_fills_a_norms_slots_is_no_parameter() -> None:
    why = {found.parameter.name: found.why for found in constants_of(grouped())}
    assert {name for name, told in why.items() if told} == {"ones", "zeros"}
    assert "behind it" in why["ones"]
    graph = grouped()
    graph.constants["ones"] = np.full(4, 1.5, np.float32)  # then they are weights
    assert [c.parameter.name for c in constants_of(graph) if c.why] == ["zeros"]


def test_relu_is_done_where_a_batch_is_normalised(monkeypatch) -> None:
    """What the normalisation gives besides is what it was."""
    fused, other = trained(convolutional()), "nbconv.plan.derive.fuse_epilogues"
    kinds = [n.op.label for n in next(iter(fused._works.values())).step.plan.graph.nodes]
    assert kinds.count("BatchNormalization+Relu") == 1 and "Relu" not in kinds
    monkeypatch.setattr(other, lambda graph, *_: graph)
    apart = trained(convolutional())
    assert "Relu" in [n.op.label for n in next(iter(apart._works.values())).step.plan.graph.nodes]
    for name, value in apart.state.items():
        np.testing.assert_array_equal(fused.state[name], value, name)
