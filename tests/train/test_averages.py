"""Averages of weights (EMA): what they are, that they are evaluated and saved, and that training goes on with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.train.recipe import average
from tests.train.models import batch, convolutional, model
from tests.train.test_choices import dense

X, Y = batch(20, (2, 7, 9))


@pytest.mark.parametrize("optimizer", [nbconv.SGD(0.1), nbconv.Adam(0.01)], ids=["SGD", "Adam"])
def test_what_they_are(optimizer: nbconv.Optimizer) -> None:
    """Of parameters and running statistics; what trains is bit for bit as without them. The model is the averages."""
    plain = nbconv.Trainer(model(convolutional()), optimizer=optimizer)
    trainer = nbconv.Trainer(model(convolutional()), optimizer=optimizer, ema=0.9)
    expected = {n: a.astype(np.float64) for n, a in plain.state.items() if not n.startswith("slot")}
    assert {"mean", "var", "w1"} < expected.keys()
    for step in range(1, 12):
        assert plain.step(X, Y) == trainer.step(X, Y)
        kept = min(0.9, (1 + step) / (10 + step))
        expected = {n: kept * a + (1 - kept) * plain.state[n] for n, a in expected.items()}
    for name, value in expected.items():
        np.testing.assert_array_equal(trainer.state[name], plain.state[name], err_msg=name)
        np.testing.assert_allclose(trainer.state[average(name)], value, rtol=1e-5, atol=1e-7, err_msg=name)
    for name, value in expected.items():
        plain.state[name][...] = value
    plain.forget()
    np.testing.assert_allclose(trainer.predict(X), plain.predict(X), rtol=1e-4, atol=1e-5)
    assert trainer.evaluate((X, Y), 6)["loss"] == pytest.approx(plain.evaluate((X, Y))["loss"], rel=1e-4)
    with pytest.raises(ValueError, match="ema is 1, wanted a share from 0 to below 1"):
        nbconv.Trainer(model(convolutional()), ema=1)


def test_they_are_saved(tmp_path: Path) -> None:
    trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01), ema=0.99)
    history = trainer.fit((X, Y), (X, Y), epochs=3, batch_size=6)
    assert history["val_loss"][-1] == trainer.evaluate((X, Y), 6)["loss"]
    expected = trainer.predict(X)
    trainer.save(tmp_path / "m.onnx")
    np.testing.assert_allclose(nbconv.load(tmp_path / "m.onnx")(X), expected, rtol=1e-5, atol=1e-6)
    trainer.commit()
    np.testing.assert_allclose(trainer.model(X), expected, rtol=1e-5, atol=1e-6)


def test_go_on(tmp_path: Path) -> None:
    def fitted(epochs: int) -> nbconv.Trainer:
        trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01), ema=0.95)
        callback = nbconv.ModelCheckpoint(tmp_path / "c.safetensors")
        trainer.fit((X, Y), epochs=epochs, batch_size=6, callbacks=[callback], resume=tmp_path / "c.safetensors")
        return trainer

    whole = fitted(4)
    (tmp_path / "c.safetensors").unlink()
    fitted(2)
    again = fitted(4)
    assert again.steps == 16
    for name, value in whole.state.items():
        np.testing.assert_array_equal(again.state[name], value, err_msg=name)
    plain = nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01))
    with pytest.raises(ValueError, match="another training"):
        plain.load_checkpoint(tmp_path / "c.safetensors")
    assert whole.forecast()["state_mb"] > plain.forecast()["state_mb"]


def test_some_channels() -> None:
    """Where only some channels of a layer train, the others' averages stay what they are."""
    trainer = nbconv.Trainer(model(dense()), optimizer=nbconv.Adam(0.01), trainable="auto", memory_mb=0.55, ema=0.1)
    x, y = batch(12)
    trainer.choose(x, y)
    assert trainer.recipe.rows
    expected = {p.value: trainer.state[p.value].copy() for p in trainer.parameters}
    for _ in range(3):
        trainer.step(x, y)
        expected = {n: 0.9 * trainer.state[n] + 0.1 * a for n, a in expected.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(trainer.state[average(name)], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_parts_of_a_step() -> None:
    """A step in slices of time, repaired layers, and a frozen part: averages are of what trains."""
    plain, cut = (nbconv.Trainer(model(convolutional()), ema=0.9, trainable="last:2", repair=True) for _ in range(2))
    for _ in range(3):
        loss = plain.step(X, Y)
        found = None
        while found is None:
            found = cut.step(X, Y, budget_ms=0.01)
        assert found == loss
    for name, value in plain.state.items():
        np.testing.assert_array_equal(cut.state[name], value, err_msg=name)
    np.testing.assert_array_equal(plain.predict(X), cut.predict(X))
