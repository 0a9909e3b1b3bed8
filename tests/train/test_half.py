"""Models of half precision train in float32, and are saved in their own type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.converters.onnx import read
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from tests.check import sampler
from tests.test_half import BF16, F16, F32, HALF, SHAPE, bits, net

LABELS = np.random.default_rng(1).integers(0, 5, 12)


def model(dtype: np.dtype, of: np.dtype) -> Model:
    graph = net(dtype, of)
    graph.outputs = {"y": graph.outputs["y"]}
    return Model(graph, threads=1)


def batch(dtype: np.dtype) -> np.ndarray:
    return sampler(11)(12, *SHAPE[1:]).astype(dtype)


@HALF
@pytest.mark.parametrize("options", [{}, {"memory_mb": 0.6}, {"trainable": "last:2"}], ids=str)
def test_steps_are_float32s(dtype: np.dtype, options: dict) -> None:
    """The bits of a float32 model that begins at the same weights."""
    x = batch(dtype)
    half, single = (nbconv.Trainer(model(kind, dtype), optimizer=nbconv.Adam(1e-2), **options) for kind in (dtype, F32))
    for _ in range(4):
        assert half.step(x, LABELS) == single.step(x.astype(F32), LABELS)
    assert half.state.keys() == single.state.keys()
    for name, value in half.state.items():
        assert value.dtype == F32 and bits(value) == bits(single.state[name]), name


@HALF
def test_saved_in_the_models_type(dtype: np.dtype, tmp_path: Path) -> None:
    x, m = batch(dtype), model(dtype, dtype)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.05))
    losses = trainer.fit((x, LABELS), epochs=12, batch_size=6)["loss"]
    assert losses[-1] < losses[0] / 2
    for fold in (False, True):
        trainer.save(tmp_path / "m.onnx", fold=fold)
        graph = read(tmp_path / "m.onnx")
        assert graph.inputs["x"].dtype == dtype
        assert all(a.dtype == dtype for a in graph.constants.values() if a.size > 1)
        found = nbconv.load(tmp_path / "m.onnx", threads=1).run({"x": x})["y"]
        assert found.dtype == dtype
        np.testing.assert_allclose(found.astype(F32), trainer.predict(x).astype(F32), atol=2e-2 if dtype == BF16 else 2e-3)
    constants = trainer.graph().constants
    for p in trainer.parameters:
        assert bits(constants[p.name]) == bits(trainer.state[p.value].astype(dtype))
    trainer.commit()
    assert bits(m.run({"x": x})["y"]) == bits(trainer.predict(x))
    again = nbconv.Trainer(m, optimizer=nbconv.SGD(0.05))
    assert again.step(x, LABELS) < losses[0] / 2


@HALF
def test_small_updates_add_up(dtype: np.dtype) -> None:
    """Steps too small to change a number of half precision are not lost."""
    x, m = batch(dtype), model(dtype, dtype)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(1e-5), trainable="head")
    before = {n: a.copy() for n, a in trainer.state.items()}
    for _ in range(5):
        trainer.step(x, LABELS)
    assert all(not np.array_equal(a, before[n]) for n, a in trainer.state.items())


@HALF
def test_new_heads(dtype: np.dtype) -> None:
    m = model(dtype, dtype)
    m.replace_head(3)
    x, y = batch(dtype), LABELS % 3
    assert m.run({"x": x})["y"].shape == (12, 3) and m.run({"x": x})["y"].dtype == dtype
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.1), trainable="head")
    losses = trainer.fit((x, y), epochs=6, batch_size=6)["loss"]
    assert losses[-1] < losses[0]


def test_casts_of_the_model_do_not_round_gradients() -> None:
    """A float32 model whose middle is cast to float16: gradients below float16's range reach what is before it."""
    from tests.test_half import node

    r = sampler(3)
    nodes = [
        node("Gemm", "x,w1", "a"), node("Cast", "a", "h", to=10), node("Gemm", "h,w2", "b"), node("Cast", "b", "c", to=1),
        node("Mul", "c,tiny", "y"),
    ]  # fmt: skip
    constants = {"w1": r(6, 5), "w2": r(5, 3).astype(F16), "tiny": np.array(1e-6, F32)}
    graph = Graph(nodes, {"x": Spec(("n", 6), F32)}, {"y": Spec(("n", 3), F32)}, constants)
    trainer = nbconv.Trainer(Model(graph, threads=1), loss="mse", optimizer=nbconv.SGD(1e6))
    before = trainer.state["w1"].copy()
    trainer.step(r(4, 6), r(4, 3))
    assert np.abs(trainer.state["w1"] - before).min() > 0


def words(dtype: np.dtype, of: np.dtype) -> Graph:
    """(n, 7) numbers of words to (n, 5): a table, a bare scale and shift, an LSTM, a weight that nodes make, a slope."""
    from tests.test_half import node

    r = sampler(21)
    weights = {
        "table": r(20, 6), "gain": 1 + 0.1 * r(6), "shift": 0.1 * r(6), "w": r(1, 32, 6) * 0.3, "r": r(1, 32, 8) * 0.3,
        "b": r(1, 64) * 0.1, "v": r(8, 5), "g": 1 + 0.1 * r(5), "slope": 0.1 + 0.1 * np.abs(r(5)), "last": r(5),
    }  # fmt: skip
    nodes = [
        node("Gather", "table,ids", "e"), node("Mul", "e,gain", "m"), node("Add", "m,shift", "a"),
        node("Transpose", "a", "t", perm=(1, 0, 2)), node("LSTM", "t,w,r,b", ",h", hidden_size=8),
        node("Squeeze", "h,zero", "s"), node("ReduceL2", "v,zero", "n"), node("Div", "v,n", "u"), node("Mul", "u,g", "w2"),
        node("MatMul", "s,w2", "p"), node("PRelu", "p,slope", "q"), node("Mul", "q,last", "y"),
    ]  # fmt: skip
    constants = {n: np.asarray(a).astype(of).astype(dtype) for n, a in weights.items()} | {"zero": np.array([0])}
    return Graph(nodes, {"ids": Spec(("n", 7), np.dtype(np.int64))}, {"y": Spec(("n", 5), dtype)}, constants)


@HALF
def test_tables_and_what_nodes_compute(dtype: np.dtype, tmp_path: Path) -> None:
    """All parameters have float32 masters, and the bits of a float32 model; the file has the model's type, and scores what
    the trainer does."""
    ids = np.random.default_rng(2).integers(0, 20, (12, 7))
    half, single = (
        nbconv.Trainer(Model(words(kind, dtype), threads=1), optimizer=nbconv.SGD(0.05, momentum=0.9))
        for kind in (dtype, F32)
    )
    assert len(half.parameters) == 10 and half.state.keys() == single.state.keys()
    before = {p.value: half.state[p.value].copy() for p in half.parameters}
    for _ in range(6):
        assert half.step({"ids": ids}, LABELS) == single.step({"ids": ids}, LABELS)
    for name, value in half.state.items():
        assert value.dtype == F32 and bits(value) == bits(single.state[name]), name
    assert all((half.state[n] != a).any() for n, a in before.items())
    half.save(tmp_path / "m.onnx")
    graph = read(tmp_path / "m.onnx")
    assert all(a.dtype == dtype for a in graph.constants.values() if a.dtype.kind != "i")
    found = nbconv.load(tmp_path / "m.onnx", threads=1).run({"ids": ids})["y"]
    assert bits(found) == bits(half.predict({"ids": ids}))
    right = np.mean(found.astype(F32).argmax(axis=1) == LABELS)
    assert half.evaluate([({"ids": ids}, LABELS)])["accuracy"] == right


@HALF
def test_running_statistics_are_float32_and_saved_in_the_models_type(dtype: np.dtype) -> None:
    """Changes too small for half precision add up in them, too."""
    x, m = batch(dtype), model(dtype, dtype)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(1e-6), bn_momentum=0.9999)
    start = {n: trainer.state[n].copy() for n in ("mean", "var")}
    for _ in range(3):
        trainer.step(x, LABELS)
    for name, value in start.items():
        assert trainer.state[name].dtype == F32 and (trainer.state[name] != value).any()
        assert bits(trainer.graph().constants[name]) == bits(trainer.state[name].astype(dtype))
