"""The trainer: steps, what trains and what does not, errors that change nothing, weights in service."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import nbconv
from nbconv.edit.deploy import frontier
from nbconv.edit.selection import select
from tests.train.models import batch, convolutional, mlp, model


def test_public_names() -> None:
    for name in nbconv.__all__:
        assert getattr(nbconv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        nbconv.Trainr  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("norm", [True, False])
def test_five_steps_as_pytorch(norm: bool) -> None:
    import torch
    from torch import nn

    graph = convolutional(norm=norm)
    theirs = nn.Sequential(
        nn.Conv2d(2, 6, 3, (2, 1), 1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(),
        nn.Conv2d(6, 6, (2, 3), groups=6, bias=False), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten(),
    )  # fmt: skip
    names = {"w1": "0.weight", "b1": "0.bias", "w2": "3.weight", "w3": "5.weight", "b3": "5.bias"}
    if norm:
        names |= {"scale": "1.weight", "shift": "1.bias", "mean": "1.running_mean", "var": "1.running_var"}
    weights = {their: torch.tensor(graph.constants[our]) for our, their in names.items()}
    theirs.load_state_dict(weights, strict=False)
    x, y = batch(10, (2, 7, 9))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(lr=0.1, momentum=0.9))
    for _ in range(5):
        loss = nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-5)
    for our, their in names.items():
        np.testing.assert_allclose(trainer.state[our], theirs.state_dict()[their].numpy(), rtol=1e-4, atol=1e-5)
    theirs.eval()
    np.testing.assert_allclose(trainer.predict(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_clipping_as_written_down() -> None:
    x, y = batch()
    plain, clipped, valued = (
        nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(1.0, **options))
        for options in ({}, {"clip_norm": 0.25}, {"clip_value": 0.01})
    )
    for trainer in (plain, clipped, valued):
        trainer.step(x, y)
    before = mlp().constants
    moves = {n: before[n] - plain.state[n] for n in before}
    norm = np.sqrt(sum(float((m.astype(np.float64) ** 2).sum()) for m in moves.values()))
    assert norm > 0.25
    for name, move in moves.items():
        np.testing.assert_allclose(before[name] - clipped.state[name], move * 0.25 / (norm + 1e-6), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(before[name] - valued.state[name], move.clip(-0.01, 0.01), rtol=1e-3, atol=1e-6)


def test_what_trains() -> None:
    graph = convolutional()
    assert [p.name for p in select(graph, "head")] == ["w3", "b3"]
    assert [p.name for p in select(graph, "last:2")] == ["w2", "w3", "b3"]
    assert [p.name for p in select(graph, ["bn1", "b?"])] == ["b1", "scale", "shift", "b3"]
    assert [p.depth for p in select(graph, "all")] == [2, 2, 2, 2, 1, 0, 0]
    with pytest.raises(ValueError, match="fits no parameter"):
        select(graph, "nothing*")
    with pytest.raises(ValueError, match="wanted last:1"):
        select(graph, "last:x")
    assert frontier(graph, select(graph, "head"), "y") == ("pool",)
    assert frontier(graph, select(graph, "all"), "y") == ("x",)


def test_frozen_parts_stay() -> None:
    x, y = batch(8, (2, 7, 9))
    m = model(convolutional())
    assert m.freeze("relu1") == ["b1", "scale", "shift", "w1"]
    trainer = nbconv.Trainer(m, optimizer=nbconv.Adam(0.1))
    trainer.step(x, y)
    after = trainer.graph().constants
    for name, value in m.graph.constants.items():
        assert np.array_equal(after[name], value) == (name not in ("w2", "w3", "b3")), name
    assert "mean" not in trainer.state
    m.freeze()
    with pytest.raises(ValueError, match="no node, value or parameter 'nowhere'"):
        m.freeze("nowhere")


def test_learning_rate_shrinks_towards_the_input() -> None:
    x, y = batch(8, (2, 7, 9))
    whole, shrunk = (
        nbconv.Trainer(model(convolutional()), optimizer=nbconv.SGD(0.1), lr_decay=decay) for decay in (1.0, 0.5)
    )
    for trainer in (whole, shrunk):
        trainer.step(x, y)
    before = convolutional().constants
    for name, factor in (("w3", 1.0), ("w2", 0.5), ("w1", 0.25), ("scale", 0.25)):
        np.testing.assert_allclose(
            before[name] - shrunk.state[name], factor * (before[name] - whole.state[name]), rtol=1e-2, atol=1e-7
        )


def test_running_statistics_keep_what_is_said() -> None:
    x, y = batch(8, (2, 7, 9))
    plain, half, none = (nbconv.Trainer(model(convolutional()), bn_momentum=m) for m in (None, 0.5, 0.0))
    for trainer in (plain, half, none):
        trainer.step(x, y)
    for name in ("mean", "var"):
        before, batch_has = convolutional().constants[name], none.state[name]
        np.testing.assert_allclose(half.state[name], (before + batch_has) / 2, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(plain.state[name], 0.9 * before + 0.1 * batch_has, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="bn_momentum is 1"):
        nbconv.Trainer(model(convolutional()), bn_momentum=1)


def test_errors_change_nothing() -> None:
    x, y = batch()
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1, momentum=0.9))
    trainer.step(x, y)
    kept = {n: a.copy() for n, a in trainer.state.items()}
    for wrong, labels, message in (
        (x, np.full(12, 3), "labels from 3 to 3, there are 3 classes"), (x, y - 1, "labels from -1 to 1"),
        (x, y[:5], "5 targets for 12 samples"), (x[:, :, :3], y, r"input 'x' has shape \[12, 1, 3, 4\]"),
        (x[:0], y[:0], "the batch is empty"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            trainer.step(wrong, labels)
    with pytest.raises(nbconv.NonFiniteLoss, match="the loss is nan at step 2"):
        trainer.step(np.where(x > 9, x, np.nan).astype(np.float32), y)
    assert trainer.steps == 1
    for name, value in kept.items():
        np.testing.assert_array_equal(trainer.state[name], value)
    with pytest.raises(ValueError, match="loss is 'entropy', wanted one of cross_entropy"):
        nbconv.Trainer(model(mlp()), loss="entropy")
    with pytest.raises(ValueError, match="lr_decay is 0"):
        nbconv.Trainer(model(mlp()), lr_decay=0)


def test_commit_and_rollback() -> None:
    x, y = batch()
    m = model(mlp())
    before = m(x)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.5))
    for _ in range(3):
        trainer.step(x, y)
    np.testing.assert_array_equal(m(x), before)
    after = trainer.predict(x)
    assert np.abs(after - before).max() > 0.05
    trainer.commit()
    np.testing.assert_array_equal(m(x), after)
    trainer.rollback()
    np.testing.assert_array_equal(m(x), before)
    with pytest.raises(ValueError, match="nothing was committed"):
        trainer.rollback()


def test_softmax_at_the_end_is_seen_through() -> None:
    x, y = batch()
    plain, ended = (nbconv.Trainer(model(g), optimizer=nbconv.SGD(0.1)) for g in (mlp(), mlp(end="Softmax")))
    assert [plain.step(x, y) for _ in range(3)] == [ended.step(x, y) for _ in range(3)]
    np.testing.assert_allclose(ended.predict(x).sum(axis=1), 1, rtol=1e-5)


def test_budget() -> None:
    x, y = batch()
    whole, pieces = (nbconv.Trainer(model(mlp()), optimizer=nbconv.Adam(0.01)) for _ in range(2))
    for _ in range(3):
        loss, calls = None, 0
        while loss is None:
            loss = pieces.step(x, y, budget_ms=0)  # a unit of a kernel each
            calls += 1
            assert calls < 1000
        assert calls > 1
        assert loss == whole.step(x, y)
    for name, value in whole.state.items():
        np.testing.assert_array_equal(pieces.state[name], value)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "hinge", "binary_cross_entropy", "dice", "multiclass_hinge"])
def test_losses_by_name(loss: str) -> None:
    x, y = batch()
    targets = y if loss == "multiclass_hinge" else np.eye(3, dtype=np.float32)[y]
    trainer = nbconv.Trainer(model(mlp()), loss=loss, optimizer=nbconv.SGD(0.05))
    first = trainer.step(x, targets)
    for _ in range(20):
        last = trainer.step(x, targets)
    assert last < first
    assert trainer.evaluate((x, targets))["loss"] < first


def test_repair_folds_back_without_loss() -> None:
    x, y = batch(10, (2, 7, 9))
    m = model(convolutional(norm=False))
    before = m(x)
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.1, momentum=0.9), repair=True)
    np.testing.assert_array_equal(trainer.predict(x), before)
    losses = [trainer.step(x, y) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert np.abs(trainer.state["w1/scale"] - 1).max() > 1e-3
    assert list(trainer.graph().constants) == list(m.graph.constants)
    assert trainer.evaluate((x, y))["loss"] == pytest.approx(trainer.step(x, y), rel=1e-5)
    with pytest.raises(ValueError, match="no convolution with a bias trains"):
        nbconv.Trainer(m, trainable=["w2"], repair=True)
