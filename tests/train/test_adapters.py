"""Low-rank changes of weights: they train in the weights' place, and fold into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import nbconv
from nbconv.edit.adapters import adapted
from nbconv.edit.parameters import parameters
from nbconv.graph import Graph, Spec
from tests.train.models import F32, batch, convolutional, model, node


def layered(seed: int, rank: int) -> Graph:
    """Convolutions over ``rank`` axes: one, one of groups, one a channel alone, one transposed; then MatMul and two Gemm."""
    rng = np.random.default_rng(seed)
    c, g = int(rng.integers(5, 9)), int(rng.integers(2, 4))
    shapes = {
        "plain": (g * c, 3, *[3] * rank), "grouped": (g * c, c, *[2] * rank), "depthwise": (g * c, 1, *[2] * rank),
        "transposed": (g * c, c, *[2] * rank), "product": (c, 9), "gemm": (9, 8), "turned": (7, 8), "head": (3, 7),
    }  # fmt: skip
    nodes = [
        node("Conv", "x plain bias", "a", "n1", pads=(1,) * (2 * rank)), node("Relu", "a", "b"),
        node("Conv", "b grouped", "d", "n2", group=g), node("Relu", "d", "e"),
        node("Conv", "e depthwise", "f", "n3", group=g * c),
        node("ConvTranspose", "f transposed", "h", "n4"), node("Relu", "h", "i"),
        node("GlobalAveragePool", "i", "j"), node("Flatten", "j", "k"),
        node("MatMul", "k product", "l", "n5"), node("Relu", "l", "m"), node("Gemm", "m gemm", "o", "n6"),
        node("Relu", "o", "p"), node("Gemm", "p turned", "q", "n7", transB=1), node("Gemm", "q head", "y", "n8", transB=1),
    ]  # fmt: skip
    constants = {name: (rng.standard_normal(s) * np.sqrt(2 / np.prod(s[1:]))).astype(F32) for name, s in shapes.items()}
    constants["product"] = constants["product"] * F32.type(3)
    constants["bias"] = np.full(g * c, 0.2, F32)
    sizes = tuple(int(d) for d in rng.integers(3, 6, rank))
    return Graph(nodes, {"x": Spec(("n", 3, *sizes), F32)}, {"y": Spec(("n", 3), F32)}, constants)


def matrices(name: str, change: np.ndarray, groups: int) -> np.ndarray:
    """A weight's change as its matrices."""
    if name in ("product", "gemm", "turned"):
        return change[None]
    return change.reshape(groups if name != "plain" else 1, -1, int(np.prod(change.shape[1:])))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_changes_have_the_rank_and_fold(seed: int, rank: int, tmp_path: Path) -> None:
    graph = layered(10 * rank + seed, rank)
    groups = next(n.op.group for n in graph.nodes if n.name == "n2")  # type: ignore[attr-defined]
    path = tmp_path / "m.onnx"
    nbconv.save(graph, path)
    net = nbconv.load(path, threads=1)
    x, y = batch(12, (3, *graph.inputs["x"].shape[2:]))
    trainer = nbconv.Trainer(net, optimizer=nbconv.Adam(0.01), adapters=2)
    names = {p.name for p in trainer.parameters}
    by_rank = {"plain", "grouped", "product", "gemm", "turned"}
    assert names == {f"{n}/lora_b" for n in by_rank} | {"bias", "depthwise", "transposed", "head"}
    before = {n: np.array(a) for n, a in trainer.state.items() if n.endswith("lora_a")}
    losses = trainer.fit((x, y), epochs=10, batch_size=6)["loss"]
    assert losses[-1] < 0.9 * losses[0]
    for name, basis in before.items():
        np.testing.assert_array_equal(trainer.state[name], basis)

    trained = trainer.graph()
    for name in by_rank:
        for matrix in matrices(name, trained.constants[name].astype(np.float64) - graph.constants[name], groups):
            values = np.linalg.svd(matrix, compute_uv=False)
            assert values[1] > 1e-4 and (values[2:] < 1e-5 * max(1, values[0])).all(), name
    unfolded = trainer.recipe.graph
    unfolded = unfolded.derive(unfolded.nodes, {**unfolded.constants, **trainer.state})
    predicted = trainer.predict(x)
    np.testing.assert_allclose(model(unfolded)(x), predicted, rtol=1e-4, atol=1e-5)

    trainer.save(tmp_path / "m2.onnx")
    old, new = (onnx.load(p).graph for p in (path, tmp_path / "m2.onnx"))
    assert list(old.node) == list(new.node)
    assert {t.name for t in old.initializer} == {t.name for t in new.initializer}
    np.testing.assert_array_equal(nbconv.load(tmp_path / "m2.onnx", threads=1)(x), predicted)


def test_a_step_is_the_weights_step_within_the_basis() -> None:
    """B moves by -lr · dW · Aᵀ, as a step that trains the weight itself says; the basis is near the best one."""
    x, y = batch(12, (2, 7, 9))
    whole, low = (nbconv.Trainer(model(convolutional(norm=False)), optimizer=nbconv.SGD(0.5), **o)
                  for o in ({}, {"adapters": 2}))  # fmt: skip
    w = np.array(whole.state["w1"]).reshape(6, 18)
    basis = np.array(low.state["w1/lora_a"]).reshape(2, 18)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-5)
    best = np.linalg.svd(w)[1][:2]
    assert np.linalg.norm(w @ basis.T) > 0.999 * np.linalg.norm(best)
    assert whole.step(x, y) == pytest.approx(low.step(x, y), rel=1e-6)
    expected = (whole.state["w1"].reshape(6, 18) - w) @ basis.T
    np.testing.assert_allclose(low.state["w1/lora_b"].reshape(6, 2), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(low.state["w2"], whole.state["w2"], rtol=1e-5, atol=1e-7)
    assert sum(n.startswith("slot") for n in low.state) == 0


def test_a_step_keeps_less_than_one_of_the_weights() -> None:
    """What goes into a layer need not be kept for A's few channels of it."""
    x, y = batch(12, (2, 31, 33))
    plain_step, low = (
        nbconv.Trainer(model(plain((31, 33))), optimizer=nbconv.Adam(0.01), **o) for o in ({}, {"adapters": 1})
    )
    for trainer in (plain_step, low):
        trainer.step(x, y)
    for key in ("activations_mb", "state_mb"):
        assert low.forecast()[key] < 0.8 * plain_step.forecast()[key]


def test_resumed_bits(tmp_path: Path) -> None:
    x, y = batch(12, (2, 7, 9))
    path = tmp_path / "c.safetensors"

    def trainer() -> nbconv.Trainer:
        return nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01), adapters=1, seed=3)

    straight, first, second = trainer(), trainer(), trainer()
    straight.fit((x, y), epochs=4, batch_size=4)
    first.fit((x, y), epochs=2, batch_size=4)
    first.save_checkpoint(path)
    second.state["w1/lora_a"][...] = 7  # the checkpoint says what it is
    second.fit((x, y), epochs=4, batch_size=4, resume=path)
    for name, value in straight.state.items():
        np.testing.assert_array_equal(second.state[name], value, err_msg=name)
    with pytest.raises(ValueError, match="of another training"):
        nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01)).load_checkpoint(path)


def plain(size: tuple[int, int]) -> Graph:
    """Two convolutions that adapters of rank 1 fit, for pictures of this size."""
    graph = convolutional(norm=False)
    graph.nodes[2] = node("Conv", "r1 w2", "c2", "conv2")
    graph.constants["w2"] = (np.random.default_rng(1).standard_normal((6, 6, 2, 3)) * 0.3).astype(F32)
    graph.inputs = {"x": Spec(("n", 2, *size), F32)}
    return graph


@pytest.mark.parametrize(("memory_mb", "parts"), [(0.4, 2), (0.25, 12)])
def test_less_memory(memory_mb: float, parts: int) -> None:
    """Segments and micro-batches."""
    x, y = batch(12, (2, 31, 33))
    trainers = [nbconv.Trainer(model(plain((31, 33))), optimizer=nbconv.Adam(0.01), adapters=1, memory_mb=most)
                for most in (None, memory_mb)]  # fmt: skip
    losses = [[t.step(x, y) for _ in range(3)] for t in trainers]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    found = trainers[1].forecast()
    assert found["activations_mb"] <= memory_mb < trainers[0].forecast()["activations_mb"]
    assert found["micro_batches"] == parts


def test_kept_features() -> None:
    """The cache begins where the model as it was read has values."""
    x, y = batch(12, (2, 7, 9))
    losses = []
    for cache in (True, False):
        trainer = nbconv.Trainer(model(plain((7, 9))), optimizer=nbconv.Adam(0.01), trainable="last:2", adapters=1)
        assert {p.name for p in trainer.parameters} == {"w2/lora_b", "w3", "b3"}
        history = trainer.fit((x, y), epochs=3, batch_size=4, cache=cache)
        assert history.report["cached"] is cache
        losses.append(history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_half_precision(tmp_path: Path) -> None:
    """Weights are rounded to their type once, when they are read out."""
    graph = convolutional(norm=False)
    graph.constants = {n: a.astype(np.float16) for n, a in graph.constants.items()}
    graph.inputs = {"x": Spec(("n", 2, 7, 9), np.dtype(np.float16))}
    graph.outputs = {"y": Spec(("n", 3), np.dtype(np.float16))}
    x, y = batch(12, (2, 7, 9))
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.Adam(0.01), adapters=1)
    losses = trainer.fit((x.astype(np.float16), y), epochs=10, batch_size=6)["loss"]
    assert losses[-1] < losses[0]
    weight = trainer.graph().constants["w1"]
    b, a = (trainer.state[f"w1/lora_{side}"].astype(np.float64) for side in "ba")
    change = b.reshape(6, 1) @ a.reshape(1, 18)
    assert weight.dtype == np.float16
    expected = graph.constants["w1"].astype(np.float64) + change.reshape(weight.shape)
    np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("ways", "trained"), [
    (["Cast w w1", "Cast w w2", "MatMul x,w1 a", "MatMul a,w2 b"], "w1/lora_b"),
    (["Identity w w1", "MatMul x,w1 a", "MatMul a,w b"], "w"),
    (["MatMul w,w square", "MatMul x,square b"], "w"),
])  # fmt: skip
def test_a_weight_that_is_read_twice(ways: list[str], trained: str) -> None:
    """What trains is what is read out: of a weight that each reader casts, one that has a copy, and a square."""
    rng = np.random.default_rng(6)
    nodes = [node(op, i.replace(",", " "), y, **({"to": 1} if op == "Cast" else {})) for op, i, y in map(str.split, ways)]
    nodes += [node("MatMul", "b v", "c"), node("Relu", "c", "d"), node("Gemm", "d z", "y", "head")]
    constants = {name: rng.standard_normal(s).astype(F32) * F32.type(0.3) for name, s in (("v", (9, 8)), ("z", (8, 3)))}
    constants["w"] = (rng.standard_normal((9, 9)) * 0.3).astype(np.float16 if ways[0].startswith("Cast") else F32)
    x, y = batch(12, (9,))
    net = model(Graph(nodes, {"x": Spec(("n", 9), F32)}, {"y": Spec(("n", 3), F32)}, constants))
    trainer = nbconv.Trainer(net, optimizer=nbconv.SGD(0.2), adapters=1)
    assert trained in {p.name for p in trainer.parameters}
    for _ in range(3):
        p = np.exp(trainer.predict(x).astype(np.float64))
        assert trainer.step(x, y) == pytest.approx(-np.log(p / p.sum(1, keepdims=True))[np.arange(12), y].mean(), rel=1e-4)


def test_what_is_refused() -> None:
    graph = convolutional()
    with pytest.raises(ValueError, match="adapters is 0, wanted a rank, 1 or more"):
        nbconv.Trainer(model(graph), adapters=0)
    with pytest.raises(ValueError, match="no weight, but the head's, that is larger than a change of rank 5"):
        nbconv.Trainer(model(graph), adapters=5)
    with pytest.raises(ValueError, match="no weight, but the head's"):
        nbconv.Trainer(model(graph), adapters=1, trainable="head")
    with pytest.raises(ValueError, match="not with 'auto' or repair=True"):
        nbconv.Trainer(model(convolutional(norm=False)), adapters=1, repair=True)
    integers = convolutional(norm=False)
    integers.nodes.insert(0, node("DequantizeLinear", "q s", "w1", "dq"))
    integers.constants["q"] = np.clip(np.round(integers.constants.pop("w1") * 100), -127, 127).astype(np.int8)
    integers.constants["s"] = np.array(0.01, F32)
    with pytest.raises(ValueError, match="the weight 'q' of conv1 is stored as integers"):
        adapted(integers, parameters(integers), 1)
