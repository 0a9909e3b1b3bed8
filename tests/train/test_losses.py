"""Losses: written-down values, PyTorch's where it is installed, and gradients by both."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.model import Model
from nbconv.passes.autodiff import backprop
from nbconv.train import class_losses, losses

rng = np.random.default_rng(21)
X = rng.standard_normal((5, 7)).astype(np.float32)
PIXELS = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
LABELS, PIXEL_LABELS = rng.integers(0, 7, 5), rng.integers(0, 5, (2, 4, 3))
PIXEL_LABELS[0, 0] = 4
W7, W5 = (rng.random(k).astype(np.float32) + 0.1 for k in (7, 5))
SOFT = rng.random((5, 7)).astype(np.float32)
SOFT /= SOFT.sum(axis=1, keepdims=True)
OTHER, SIGNS = rng.standard_normal((5, 7)).astype(np.float32), rng.choice([-1.0, 1.0], (5, 7)).astype(np.float32)


def value_and_gradient(
    loss: Callable[..., str], x: np.ndarray, targets: np.ndarray, **options: Any
) -> tuple[float, np.ndarray]:
    """A loss and its gradient by kernels, none of whose steps is NumPy's."""
    ports = {"x": Spec(x.shape, x.dtype), "t": Spec(targets.shape, targets.dtype)}
    to = Builder(Graph([], ports, {}, {}), ports)
    name = loss(to, "x", "t", **options)
    assert to.spec(name) == Spec((), x.dtype)
    one = to.constant(np.ones((), x.dtype))
    graph, _, found = backprop(to.graph((name,)), to.specs, {name: one}, ["x"])
    model = Model(graph)
    assert not model.plan({"x": x.shape, "t": targets.shape}).numpy_steps()
    got = model.run({"x": x, "t": targets})
    return float(got[name]), got[found["x"]]


ROWS: list[tuple[str, Callable, np.ndarray, np.ndarray, dict[str, Any], str, dict[str, Any]]] = [
    ("plain", class_losses.cross_entropy, X, LABELS, {}, "cross_entropy", {}),
    ("sum", class_losses.cross_entropy, X, LABELS, {"reduction": "sum"}, "cross_entropy", {"reduction": "sum"}),
    ("weights", class_losses.cross_entropy, X, LABELS, {"weights": W7}, "cross_entropy", {"weight": W7}),
    ("pixels", class_losses.cross_entropy, PIXELS, PIXEL_LABELS, {"ignore_index": 4}, "cross_entropy", {"ignore_index": 4}),
    ("smooth", class_losses.cross_entropy, X, LABELS, {"label_smoothing": 0.1}, "cross_entropy", {"label_smoothing": 0.1}),
    *(
        ("all", class_losses.cross_entropy, PIXELS, PIXEL_LABELS,
         {"ignore_index": 4, "weights": W5, "label_smoothing": 0.2, "reduction": how}, "cross_entropy",
         {"ignore_index": 4, "weight": W5, "label_smoothing": 0.2, "reduction": how})
        for how in ("mean", "sum")
    ),
    ("soft", class_losses.soft_cross_entropy, X, SOFT, {}, "cross_entropy", {}),
    ("soft weights", class_losses.soft_cross_entropy, X, SOFT, {"weights": W7}, "cross_entropy", {"weight": W7}),
    ("binary", losses.binary_cross_entropy, X, SOFT, {}, "binary_cross_entropy_with_logits", {}),
    ("binary far", losses.binary_cross_entropy, 60 * X, SOFT, {}, "binary_cross_entropy_with_logits", {}),
    ("pos_weight", losses.binary_cross_entropy, X, SOFT, {"pos_weight": 3.0}, "binary_cross_entropy_with_logits",
     {"pos_weight": np.float32(3)}),
    ("margin", class_losses.multiclass_hinge, X, LABELS, {}, "multi_margin_loss", {}),
    ("margin 2", class_losses.multiclass_hinge, X, LABELS, {"margin": 2.0, "reduction": "sum"}, "multi_margin_loss",
     {"margin": 2.0, "reduction": "sum"}),
    ("mse", losses.mse, X, OTHER, {}, "mse_loss", {}),
    ("l1", losses.l1, X, OTHER, {"reduction": "sum"}, "l1_loss", {"reduction": "sum"}),
    ("huber", losses.huber, X, OTHER, {"delta": 0.7}, "huber_loss", {"delta": 0.7}),
]  # fmt: skip


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("row", ROWS, ids=[f"{r[5]}-{r[0]}" for r in ROWS])
def test_as_pytorch(row: tuple) -> None:
    import torch

    _, loss, x, targets, options, name, theirs = row
    got, gradient = value_and_gradient(loss, x, targets, **options)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    goal = torch.tensor(targets, dtype=torch.int64 if targets.dtype.kind == "i" else torch.float64)
    given = {
        k: torch.tensor(v, dtype=torch.float64) if isinstance(v, (np.ndarray, np.floating)) else v for k, v in theirs.items()
    }
    want = getattr(torch.nn.functional, name)(tensor, goal, **given)
    want.backward()
    assert got == pytest.approx(want.item(), rel=1e-5)
    assert tensor.grad is not None
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_written_down() -> None:
    x = np.array([[0.0, 0.0]], np.float32)
    one = np.array([1])
    assert value_and_gradient(class_losses.cross_entropy, x, one)[0] == pytest.approx(np.log(2))
    np.testing.assert_allclose(value_and_gradient(class_losses.cross_entropy, x, one)[1], [[0.5, -0.5]], rtol=1e-6)
    assert value_and_gradient(losses.binary_cross_entropy, x, np.array([[0.0, 1.0]], np.float32))[0] == pytest.approx(
        np.log(2)
    )
    three = np.array([[3.0, -3.0, 0.25]], np.float32)
    assert value_and_gradient(losses.huber, three, np.zeros_like(three), reduction="sum")[0] == pytest.approx(5.03125)
    signs = np.array([[1.0, 1.0, -1.0]], np.float32)
    assert value_and_gradient(losses.hinge, three, signs, reduction="sum")[0] == pytest.approx(0 + 4 + 1.25)
    np.testing.assert_allclose(value_and_gradient(losses.hinge, three, signs, reduction="sum")[1], [[0, -1, 1]])
    assert value_and_gradient(class_losses.multiclass_hinge, three, np.array([0]))[0] == 0
    assert value_and_gradient(class_losses.multiclass_hinge, three, np.array([2]))[0] == pytest.approx(3.75 / 3)


def test_dice() -> None:
    far = np.array([[[60.0, -60.0, 60.0, -60.0]]], np.float32)  # sigmoid: 1, 0, 1, 0
    mask = np.array([[[1.0, 0.0, 0.0, 0.0]]], np.float32)
    assert value_and_gradient(class_losses.dice, far, mask, smooth=0.0)[0] == pytest.approx(1 - 2 / 3)
    assert value_and_gradient(class_losses.dice, far, mask)[0] == pytest.approx(1 - 3 / 4)
    logits = np.zeros((1, 2, 1, 3), np.float32)
    labels = np.array([[[0, 1, 1]]])
    # p is 1/2 everywhere: class 0 (2 · 0.5 + 1) / (1.5 + 1 + 1), class 1 (2 · 1 + 1) / (1.5 + 2 + 1)
    assert value_and_gradient(class_losses.dice, logits, labels)[0] == pytest.approx(1 - (2 / 3.5 + 3 / 4.5) / 2)
    # without the last pixel: (1 + 1) / (1 + 1 + 1) both
    labels = np.array([[[0, 1, 9]]])
    assert value_and_gradient(class_losses.dice, logits, labels, ignore_index=9)[0] == pytest.approx(1 - 2 / 3)


def test_penalties() -> None:
    ports = {"w": Spec((3,), np.dtype(np.float32)), "v": Spec((2, 1), np.dtype(np.float32))}
    to = Builder(Graph([], ports, {}, {}), ports)
    names = losses.l2_penalty(to, ["w", "v"], 0.5), losses.l1_penalty(to, ["w", "v"], 0.5)
    got = Model(to.graph(names)).run({"w": np.array([1, -2, 3], np.float32), "v": np.array([[4], [0]], np.float32)})
    assert [float(got[n]) for n in names] == pytest.approx([0.25 * 30, 0.5 * 10])


def test_messages() -> None:
    ports = {"x": Spec((2, 3), np.dtype(np.float32)), "t": Spec((2, 3), np.dtype(np.float32))}
    to = Builder(Graph([], ports, {}, {}), ports)
    with pytest.raises(ValueError, match="reduction is 'none', wanted 'mean' or 'sum'"):
        losses.mse(to, "x", "t", reduction="none")
    with pytest.raises(ValueError, match="delta is 0"):
        losses.huber(to, "x", "t", delta=0)
    with pytest.raises(ValueError, match="a penalty wants at least one parameter"):
        losses.l2_penalty(to, [], 0.1)


SEQUENCES = rng.standard_normal((3, 9, 6)).astype(np.float32)
TEXTS = np.array([[5, 4, 4, 1], [1, 1, -1, -1], [-1, -1, -1, -1]])
LENGTHS = np.array([[9], [3], [2]])


@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("major", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_ctc(how: str, major: bool, lengths: bool) -> None:
    """PyTorch's where it is installed, and the gradient is 0 behind a sequence's end."""
    x = np.ascontiguousarray(SEQUENCES.swapaxes(0, 1)) if major else SEQUENCES
    y = np.concatenate([LENGTHS, TEXTS], axis=1) if lengths else TEXTS
    value, slope = value_and_gradient(losses.ctc, x, y, reduction=how, batch_axis=int(major), lengths_first=lengths)
    slope = slope.swapaxes(0, 1) if major else slope
    assert value > 0
    assert (slope[1, 3:] == 0).all() == lengths
    np.testing.assert_allclose(slope.sum(axis=2), 0, atol=1e-6)
    if find_spec("torch") is None:
        return
    import torch

    tensor = torch.tensor(SEQUENCES, dtype=torch.float64, requires_grad=True)
    steps = torch.tensor(LENGTHS[:, 0] if lengths else [9] * 3)
    logp = tensor.log_softmax(2).transpose(0, 1)
    counts = torch.tensor((TEXTS >= 0).sum(axis=1))
    want = torch.nn.functional.ctc_loss(logp, torch.tensor(TEXTS).clamp(1), steps, counts, reduction=how)
    want.backward()
    assert value == pytest.approx(want.item(), rel=1e-5)
    assert tensor.grad is not None
    np.testing.assert_allclose(slope, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_ctc_of_a_sequence_that_is_too_short() -> None:
    x, y = SEQUENCES[:1, :2], np.array([[3, 3]])
    assert value_and_gradient(losses.ctc, x, y)[0] == np.inf
    value, slope = value_and_gradient(losses.ctc, x, y, zero_infinity=True)
    assert value == 0
    assert not slope.any()
