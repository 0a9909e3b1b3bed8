"""Several batches a step: the step of all of them at once, in the memory of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.train import schedules
from nbconv.train.targets import Weighted
from tests.train.models import batch, convolutional, model
from tests.train.test_segments import resnet

X, Y = batch(22, (2, 7, 9))
SIZES = (6, 6, 6, 4)


def trainer(norm: bool = False, **options) -> nbconv.Trainer:
    return nbconv.Trainer(model(convolutional(norm=norm)), optimizer=nbconv.SGD(0.1, momentum=0.9), **options)


def parts(*arrays: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    ends = np.cumsum(SIZES)
    return [tuple(a[end - size : end] for a in arrays) for size, end in zip(SIZES, ends)]


WEIGHTS = np.random.default_rng(0).random(22).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss_options": {"weights": [0.2, 1, 5], "ignore_index": 1}},
        {"loss": "multiclass_hinge"},
        {"weights": WEIGHTS},
        {"trainable": "head"},
        {"memory_mb": 1.0},
    ],
    ids=["plain", "ignored and class weights", "hinge", "sample weights", "head", "memory"],
)
def test_as_one_batch(options: dict) -> None:
    """Of unequal batches, with weights of classes and samples: losses and states are those of one large batch."""
    weights = options.get("weights")
    options = {n: v for n, v in options.items() if n != "weights"}
    whole, cut = trainer(**options), trainer(accumulate=4, **options)
    for _ in range(3):
        loss = whole.step(X, Y if weights is None else Weighted(Y, weights))
        told = []
        for x, y, w in parts(X, Y, WEIGHTS):
            told.append(cut.step(x, y if weights is None else Weighted(y, w)))
        assert told == [None, None, None, pytest.approx(loss, rel=1e-5)]
    assert cut.steps == 3
    for name, value in whole.state.items():
        np.testing.assert_allclose(cut.state[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    if not options.get("trainable"):
        assert cut.forecast()["micro_batches"] == 4


def test_statistics_of_each_batch() -> None:
    """Batch normalisation sees each batch; the running mean takes their mean, by their samples, and PyTorch's variance."""
    cut = trainer(norm=True, accumulate=4)
    before = {n: cut.state[n].copy() for n in ("mean", "var")}
    for x, y in parts(X, Y):
        cut.step(x, y)
    first = nbconv.Model(cut.authored, threads=1)
    means, variances = [], []
    for (x,) in parts(X):
        c1 = first.run({"x": x}, ["c1"])["c1"].astype(np.float64)
        means.append(c1.mean(axis=(0, 2, 3)))
        variances.append(c1.var(axis=(0, 2, 3), ddof=1))
    share = np.array(SIZES)[:, None] / sum(SIZES)
    for name, found in (("mean", means), ("var", variances)):
        expected = 0.9 * before[name] + 0.1 * (share * found).sum(axis=0)
        np.testing.assert_allclose(cut.state[name], expected, rtol=1e-4, err_msg=name)


def test_memory() -> None:
    """It is far below that of the whole batch."""
    x, y = batch(64, (2, 7, 9))
    whole, cut = trainer(), trainer(accumulate=8)
    whole.step(x, y)
    for k in range(0, 64, 8):
        cut.step(x[k : k + 8], y[k : k + 8])
    assert cut.forecast()["activations_mb"] < 0.6 * whole.forecast()["activations_mb"]


def test_auto_chooses_for_the_whole_step() -> None:
    """In the memory of a step on all its batches, by `fit` and by calls of `step` alike."""
    x, y = batch(16, (3, 57, 53))

    def made(**options) -> nbconv.Trainer:
        return nbconv.Trainer(model(resnet(8, (57, 53))), trainable="auto", memory_mb=0.5, **options)

    one, fitted, stepped = made(), made(accumulate=4), made(accumulate=4)
    one.step(x[:4], y[:4])
    fitted.fit((x, y), epochs=1, batch_size=4, shuffle=False)
    for k in range(0, 16, 4):
        stepped.step(x[k : k + 4], y[k : k + 4])
    assert fitted.chosen == stepped.chosen and fitted.chosen is not None and one.chosen is not None
    assert 0 < len(fitted.chosen.layers) < len(one.chosen.layers)
    assert fitted.forecast()["activations_mb"] <= 0.5


def test_statistics_of_each_batch_in_fit() -> None:
    """Also of the batches that are left at an epoch's end, which are fewer, and of unequal ones."""
    pieces = parts(X, Y)
    for some in (pieces, pieces[:3]):
        cut, whole = trainer(norm=True, accumulate=4), trainer(norm=True, accumulate=len(some))
        cut.fit(some, epochs=1)
        losses = [whole.step(*piece) for piece in some]
        assert losses[-1] is not None
        for name, value in whole.state.items():
            np.testing.assert_array_equal(cut.state[name], value, err_msg=name)


def test_statistics_whatever_the_memory() -> None:
    """Less memory, down to the least that is named, changes no bit; it is refused before statistics are of other samples."""
    x, y = batch(8, (3, 57, 53))

    def stepped(memory_mb: float | None) -> nbconv.Trainer:
        made = nbconv.Trainer(model(resnet(8, (57, 53))), accumulate=2, memory_mb=memory_mb)
        for part in (slice(4), slice(4, 8)):
            made.step(x[part], y[part])
        return made

    usual = stepped(None)
    with pytest.raises(nbconv.ModelError, match="micro_batch_norm=True") as told:
        stepped(0.1)
    least = float(str(told.value).split("needs ")[1].split()[0])
    assert least < usual.forecast()["activations_mb"]
    for name, value in stepped(least).state.items():
        np.testing.assert_array_equal(value, usual.state[name], err_msg=name)
    with pytest.raises(nbconv.ModelError, match=f"needs {least}"):
        stepped(least - 0.001)


@pytest.mark.parametrize("cache", [False, "auto"])
@pytest.mark.parametrize("given", ["arrays", "batches"])
def test_fit(given: str, cache: bool | str) -> None:
    """An epoch of 22 samples by 4 in threes: two steps, the last one of what is left; metrics and schedules count them."""
    options = {"schedule": schedules.step(1, 0.5), "trainable": "last:1"}
    whole, cut = trainer(**options), trainer(accumulate=3, **options)
    source: list = [(X[k : k + 12], Y[k : k + 12]) for k in range(0, 22, 12)]
    pieces = [(X[k : k + 4], Y[k : k + 4]) for k in range(0, 22, 4)]
    one = whole.fit(source if given == "batches" else (X, Y), epochs=2, batch_size=12, shuffle=False, cache=cache)
    two = cut.fit(pieces if given == "batches" else (X, Y), epochs=2, batch_size=4, shuffle=False, cache=cache)
    assert whole.steps == cut.steps == 4
    assert one["accuracy"] == two["accuracy"]
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-5)
    np.testing.assert_array_equal(one["lr"], two["lr"])


def test_go_on(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"

    class Stop(nbconv.ModelCheckpoint):
        def batch_end(self, trainer, logs) -> None:
            super().batch_end(trainer, logs)
            if trainer.steps == 3:
                raise KeyboardInterrupt

    def fitted(*callbacks: nbconv.Callback, accumulate: int = 2) -> nbconv.Trainer:
        made = trainer(norm=True, accumulate=accumulate)
        made.fit((X, Y), epochs=3, batch_size=5, callbacks=callbacks, resume=path)
        return made

    whole = fitted()
    assert whole.steps == 9
    with pytest.raises(KeyboardInterrupt):
        fitted(Stop(path, every=3))
    again = fitted()
    for name, value in whole.state.items():
        np.testing.assert_array_equal(again.state[name], value, err_msg=name)
    with pytest.raises(ValueError, match="written with accumulate 2, this is 1"):
        fitted(accumulate=1)


def test_in_slices_of_time() -> None:
    """The last batch of a step is given again until the step is done."""
    whole, cut = trainer(accumulate=2), trainer(accumulate=2)
    assert whole.step(X[:6], Y[:6]) is None
    loss, found = whole.step(X[6:12], Y[6:12]), None
    assert cut.step(X[:6], Y[:6], budget_ms=0.01) is None
    while found is None:
        found = cut.step(X[6:12], Y[6:12], budget_ms=0.01)
    assert found == loss and cut.steps == 1
    assert cut.step(X[:6], Y[:6]) is None
    cut.abandon()
    assert cut.step(X[:6], Y[:6]) is None
    with pytest.raises(ValueError, match="accumulate is 0, wanted how many batches"):
        trainer(accumulate=0)


def test_batches_that_do_not_fit() -> None:
    """They are refused when they come, and not kept: the step is taken of the others."""
    whole, cut = trainer(accumulate=2), trainer(accumulate=2)
    assert whole.step(X[:4], Y[:4]) is None
    loss = whole.step(X[4:8], Y[4:8])
    with pytest.raises(ValueError, match="5 targets for 4 samples"):
        cut.step(X[:4], Y[:5])
    assert cut.step(X[:4], Y[:4]) is None
    for y, told in (
        (Y[4:7], "3 targets for 4 samples"),
        (np.eye(3)[Y[4:8]], r"targets: float32 \[4, 3\] came, int64 \[4\]"),
    ):
        with pytest.raises(ValueError, match=told):
            cut.step(X[4:8], y)
    assert cut.step(X[4:8], Y[4:8]) == loss


def test_a_checkpoint_forgets_batches(tmp_path: Path) -> None:
    """Those that wait are of the weights before it."""
    cut = trainer(accumulate=2)
    cut.save_checkpoint(tmp_path / "c")
    assert cut.step(X[:6], Y[:6]) is None
    cut.load_checkpoint(tmp_path / "c")
    assert cut.step(X[:6], Y[:6]) is None
    assert cut.step(X[6:12], Y[6:12]) is not None
