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
