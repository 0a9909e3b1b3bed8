"""Weights of samples and classes: a weight of k is the sample k times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.train import class_losses, losses
from nbconv.train.data import Arrays, class_weighted
from tests.train.models import batch, mlp, model

LOSSES: list[tuple[Any, str, dict[str, Any]]] = [
    (class_losses.cross_entropy, "labels", {}), (class_losses.cross_entropy, "shares", {}),
    (class_losses.soft_cross_entropy, "shares", {}), (class_losses.cross_entropy, "labels", {"label_smoothing": 0.1}),
    (class_losses.cross_entropy, "shares", {"label_smoothing": 0.1}),
    (class_losses.cross_entropy, "labels", {"weights": [1.0, 2.0, 0.5], "label_smoothing": 0.2}),
    (class_losses.cross_entropy, "labels", {"ignore_index": 1}), (class_losses.focal, "labels", {}),
    (class_losses.multiclass_hinge, "labels", {}), (losses.binary_cross_entropy, "shares", {}),
    (losses.binary_focal, "shares", {}), (losses.hinge, "signs", {}), (losses.mse, "shares", {}),
    (losses.l1, "shares", {}), (losses.huber, "shares", {}),
]  # fmt: skip


def value(loss: Any, options: dict[str, Any], x: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> float:
    feeds = {"x": x, "y": y} if w is None else {"x": x, "y": y, "w": w}
    ports = {n: Spec(a.shape, a.dtype) for n, a in feeds.items()}
    to = Builder(Graph([], ports, {}, {}), ports)
    name = loss(to, "x", "y", **options, **({} if w is None else {"sample_weights": "w"}))
    return float(model(to.graph((name,))).run(feeds)[name])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(range(len(LOSSES))), st.integers(1, 6), st.sampled_from([(), (2,), (2, 3)]), st.integers(0, 99))
def test_a_weight_is_so_many_samples(k: int, n: int, inner: tuple[int, ...], seed: int) -> None:
    loss, kind, options = LOSSES[k]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3, *inner)).astype(np.float32)
    shares = rng.random((n, 3, *inner)).astype(np.float32)
    y = {
        "labels": rng.integers(0, 3, (n, *inner)), "shares": shares / shares.sum(1, keepdims=True),
        "signs": np.sign(shares - 0.5),
    }[kind]  # fmt: skip
    times = rng.integers(0, 4, n)
    w = times.astype(np.float32)
    wanted = value(loss, {**options, "reduction": "sum"}, x.repeat(times, 0), y.repeat(times, 0)) if times.any() else 0.0
    found = value(loss, {**options, "reduction": "sum"}, x, y, w)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)
    one = np.ones(n, np.float32)
    if options.get("ignore_index") is None or (y != options["ignore_index"]).any():
        np.testing.assert_allclose(value(loss, options, x, y, one), value(loss, options, x, y), rtol=2e-5, atol=1e-6)


def test_weights_reach_the_step() -> None:
    """The state after steps with weights is that of the loss written with them; of (x, y, w), of `Data` and of batches."""
    x, y = batch(12)
    w = np.random.default_rng(0).random(12).astype(np.float32)

    def weighted(to: Any, logits: str, targets: str) -> str:
        return class_losses.cross_entropy(to, logits, targets, sample_weights=to.constant(w))

    def state(data: Any, loss: Any = "cross_entropy", size: int = 12, **options: Any) -> dict[str, np.ndarray]:
        trainer = nbconv.Trainer(model(mlp()), loss, nbconv.SGD(0.1), seed=1)
        trainer.fit(data, epochs=2, batch_size=size, shuffle=False, **options)
        return trainer.state

    wanted = state((x, y), weighted)
    for data in ((x, y, w), Arrays(x, y, weights=w), [(x, y, w)], Arrays(x, y, weights=w).part(np.arange(12))):
        for name, a in state(data).items():
            np.testing.assert_array_equal(a, wanted[name])
    plain, none = state((x, y)), nbconv.Trainer(model(mlp())).state
    with pytest.warns(UserWarning, match="left all 4 parameters as before"):
        zero = state((x, y, np.zeros(12)))
    assert all(np.array_equal(zero[n], none[n]) for n in none) and not np.array_equal(plain["w2"], wanted["w2"])
    by_class = state((x, y), class_weight={1: 3.0, 2: 0.0})
    for name, a in state((x, y, np.array([1.0, 3.0, 0.0])[y])).items():
        np.testing.assert_array_equal(by_class[name], a)
    cached = [
        nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1), trainable="head").fit(
            (x, y, w), epochs=2, batch_size=5, cache=c
        )["loss"]
        for c in (True, False)
    ]
    np.testing.assert_allclose(*cached, rtol=1e-5)


def test_balanced_classes_count_alike() -> None:
    y = np.repeat([0, 1, 2], [8, 3, 1])
    data = class_weighted(Arrays(np.zeros((12, 1)), y, classes=["a", "b", "c"]), "balanced")
    assert data.weights is not None
    np.testing.assert_allclose(np.bincount(y, data.weights), 4, rtol=1e-6)
    named = class_weighted(data, {"c": 0.5, 0: 2})
    assert named.weights is not None
    np.testing.assert_allclose(np.bincount(y, named.weights), [8, 4, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((np.ones(5),), {}, r"sample weights have shape \[5\], wanted \[12\], one a sample"),
        ((np.full(12, -1.0),), {}, "sample weights are not all finite numbers of 0 or more"),
        ((np.ones(12),), {"augment": nbconv.Augment(mixup=0.2)}, "mixup and weights of samples exclude each other"),
        ((), {"class_weight": "even"}, "class_weight is 'even', wanted 'balanced'"),
        ((), {"class_weight": {"cat": 1}}, "class_weight names 'cat', the classes are numbers"),
        ((), {"class_weight": [1, 2]}, r"class_weight has shape \[2\], wanted one a class, 3 or more"),
    ],
)
def test_wrong_weights(data: tuple, options: dict[str, Any], message: str) -> None:
    x, y = batch(12)
    with pytest.raises(ValueError, match=message):
        nbconv.Trainer(model(mlp())).fit((x, y, *data), **options)


def test_a_loss_that_takes_no_weights_says_so() -> None:
    x, y = batch(12)
    with pytest.raises(ValueError, match="the loss dice takes no sample weights"):
        nbconv.Trainer(model(mlp()), "dice").fit((x, y, np.ones(12)))
    with pytest.raises(ValueError, match="class_weight wants one class a sample"):
        nbconv.Trainer(model(mlp()), "mse").fit((x, np.zeros((12, 3))), class_weight="balanced")
