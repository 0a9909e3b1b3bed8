"""Schedules, initialisers, metrics and augmentation against PyTorch and values written down."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from nbconv.edit import initializers
from nbconv.train import augment, metrics, schedules
from nbconv.train.augment import geometry


def test_metrics() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2, 9]), np.array([0, 0, 1, 1, 2, 2, 0])
    matrix = metrics.confusion_matrix(labels, predicted, 4, ignore_index=9)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert metrics.accuracy(matrix) == pytest.approx(4 / 6)
    np.testing.assert_allclose(metrics.precision(matrix), [1, 0.5, 0.5, 0])
    np.testing.assert_allclose(metrics.recall(matrix), [2 / 3, 0.5, 1, 0])
    np.testing.assert_allclose(metrics.f1(matrix), [0.8, 0.5, 2 / 3, 0])
    np.testing.assert_allclose(metrics.jaccard(matrix), [2 / 3, 1 / 3, 0.5, 0])
    assert metrics.mean_jaccard(matrix) == pytest.approx(0.5)
    assert metrics.top_k(np.array([[3.0, 2, 1], [1, 2, 3]]), np.array([1, 0]), 2) == 0.5
    with pytest.raises(ValueError, match="labels from 0 to 9, there are 4 classes"):
        metrics.confusion_matrix(labels, predicted, 4)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_schedules_as_pytorch() -> None:
    import torch

    pairs = [
        (schedules.step(3, 0.5), "StepLR", {"step_size": 3, "gamma": 0.5}),
        (schedules.step([2, 5]), "MultiStepLR", {"milestones": [2, 5]}),
        (schedules.exponential(0.8), "ExponentialLR", {"gamma": 0.8}),
        (schedules.cosine(8, 0.1), "CosineAnnealingLR", {"T_max": 8, "eta_min": 0.1}),
        (schedules.one_cycle(8), "OneCycleLR", {"total_steps": 8, "max_lr": 1.0, "cycle_momentum": False}),
    ]
    for ours, name, options in pairs:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        theirs = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
        for k in range(8):
            assert ours(k, float(k)) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), (name, k)
            optimizer.step()
            if k < 7:
                theirs.step()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs, ours = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1), schedules.Plateau(patience=1)
    for value in (3.0, 2.0, 2.5, 2.4, 2.3, 1.0, 1.0, 1.0, 1.0):
        theirs.step(value)
        ours.seen(value)
        assert ours(0, 0) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_warm_up() -> None:
    rate = schedules.warm_up(4, schedules.exponential(0.5))
    assert [rate(0, 0), rate(2, 0), rate(4, 0), rate(9, 1)] == [0, 0.5, 1, 0.5]


def test_initializers() -> None:
    rng, shape = np.random.default_rng(0), (64, 32, 3, 3)  # fan in 288, fan out 576
    for name, deviation in (
        ("xavier_uniform", np.sqrt(2 / 864)), ("xavier_normal", np.sqrt(2 / 864)), ("he", np.sqrt(2 / 288)),
        ("he_uniform", np.sqrt(2 / 288)),
    ):  # fmt: skip
        w = initializers.INITIALIZERS[name](shape, rng)
        assert w.std() == pytest.approx(deviation, rel=0.02)
        assert abs(w.mean()) < deviation / 50
    for rows, columns in ((5, 9), (9, 5)):
        q = initializers.orthogonal((rows, columns), rng).astype(np.float64)
        near = q @ q.T if rows < columns else q.T @ q
        np.testing.assert_allclose(near, np.eye(5), atol=1e-6)
    assert (initializers.constant(2.0)((3,), rng) == 2).all()


def test_augmentation() -> None:
    x = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    assert geometry.moved(x, 1, -1)[0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 0], [5, 6, 7, 0]]
    assert geometry.moved(x, 1, -1, 255)[0].tolist() == [[255] * 4, [1, 2, 3, 255], [5, 6, 7, 255]]
    white = np.full((2, 5, 7), 255, np.float32)
    np.testing.assert_allclose(augment.rotated(white, 30, 255), white)
    assert augment.rotated(white, 30)[:, 0, 0].max() < 255
    np.testing.assert_allclose(augment.rotated(x, 180), x[:, ::-1, ::-1], atol=1e-4)
    np.testing.assert_allclose(augment.rotated(x, 0), x)
    square = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    np.testing.assert_allclose(augment.rotated(square, 90), np.rot90(square, axes=(1, 2)), atol=1e-4)
    y, shares = augment.Augment(mixup=1.0)(
        np.stack([x, -x]), np.array([0, 1]), [np.random.default_rng(k) for k in (0, 1)], 2
    )
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(y[0], (shares[0, 0] - shares[0, 1]) * x, rtol=1e-5, atol=1e-5)
    assert augment.resized(np.array([[[[0.0, 4.0]]]], np.float32), (1, 4)).ravel().tolist() == [0, 1, 3, 4]
