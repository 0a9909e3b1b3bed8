"""Targets of any shape: a loss takes the one right reading of them, or says what it wants. And what targets hold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.model import Model
from nbconv.train import class_losses
from nbconv.train.goals import CLASSES, LOSSES
from tests.train import oracles
from tests.train.models import F32, batch, convolutional, mlp, model, node

ALIKE = ["binary_cross_entropy", "binary_focal", "hinge", "mse", "l1", "huber"]
OF_CLASSES = [name for name in LOSSES if LOSSES[name] in CLASSES]


def value(name: str, x: np.ndarray, t: np.ndarray, **options: Any) -> float:
    ports = {"x": Spec(x.shape, x.dtype), "t": Spec(t.shape, t.dtype)}
    to = Builder(Graph([], ports, {}, {}), ports)
    made = LOSSES[name](to, "x", "t", **options)
    return float(Model(to.graph((made,)), threads=1).run({"x": x, "t": t})[made])


def squeezed(shape: tuple[int, ...]) -> list[int]:
    return [d for d in shape[1:] if d != 1]


def shapes(rng: np.random.Generator, like: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes near this one: axes of size one in and out, axes dropped, exchanged, of size one."""
    yield like
    for _ in range(5):
        found = list(like)
        for _ in range(rng.integers(1, 3)):
            at, what = int(rng.integers(0, len(found) + 1)), rng.integers(0, 4)
            if what == 0:
                found.insert(at, 1)
            elif found and what == 1:
                del found[min(at, len(found) - 1)]
            elif found and what == 2:
                found[min(at, len(found) - 1)] = 1
            else:
                found = [found[i] for i in rng.permutation(len(found))]
        yield tuple(found)


@pytest.mark.parametrize("name", ALIKE)
def test_numbers_of_any_shape(name: str) -> None:
    rng, taken = np.random.default_rng(7), 0
    for _ in range(6):
        x = rng.standard_normal(tuple(rng.integers(1, 4, rng.integers(1, 5)))).astype(F32)
        for shape in shapes(rng, x.shape):
            t = rng.choice([-1.0, 1.0] if name == "hinge" else [0.0, 1.0], shape).astype(F32)
            right = shape[:1] == x.shape[:1] and squeezed(shape) == squeezed(x.shape)
            if not right:
                with pytest.raises(ValueError, match=rf"{name}: targets are \["):
                    value(name, x, t)
                continue
            taken += 1
            want = getattr(oracles, name)(x.astype(np.float64), t.reshape(x.shape).astype(np.float64))
            assert value(name, x, t) == pytest.approx(want, rel=1e-5), (x.shape, shape)
            if name != "hinge":  # integers are numbers, too
                assert value(name, x, t.astype(np.int64)) == pytest.approx(want, rel=1e-5)
    assert taken > 8


@pytest.mark.parametrize("name", OF_CLASSES)
def test_labels_of_any_shape(name: str) -> None:
    """Whatever the shape and where classes lie, labels are read as they fit, or refused; never two ways in silence."""
    rng, taken = np.random.default_rng(8), 0
    for _ in range(8):
        sizes = [int(d) for d in rng.integers(1, 5, rng.integers(1, 3))]
        classes, n = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        axis = int(rng.integers(1, len(sizes) + 2))
        whole = (n, *sizes[: axis - 1], classes, *sizes[axis - 1 :])
        x = rng.standard_normal(whole).astype(F32)
        moved = np.moveaxis(x, axis, 1).astype(np.float64)
        for shape in shapes(rng, (n, *sizes)):
            t = rng.integers(0, classes, shape)
            fit = [
                a for a in range(1, x.ndim)
                if shape[:1] == (n,) and squeezed(shape) == squeezed(whole[:a] + whole[a + 1 :])
            ]  # fmt: skip
            dense = name not in ("focal", "multiclass_hinge") and shape[:1] == (n,) and squeezed(shape) == squeezed(whole)
            if fit != [axis] or dense:
                if axis not in fit and not dense:
                    with pytest.raises(ValueError, match=name):
                        value(name, x, t, class_axis=axis)
                if len(fit) > 1:
                    with pytest.raises(ValueError, match="give class_axis"):
                        value(name, x, t)
                continue
            taken += 1
            want = getattr(oracles, name)(moved, t.reshape(n, *sizes))
            for options in ({}, {"class_axis": axis}, {"class_axis": axis - x.ndim}):
                assert value(name, x, t, **options) == pytest.approx(want, rel=2e-5), (whole, shape)
            assert value(name, x, t.astype(F32)) == pytest.approx(want, rel=2e-5)  # integers in disguise
    assert taken > 5


@pytest.mark.parametrize("name", ["cross_entropy", "dice"])
def test_a_number_for_each_class(name: str) -> None:
    """Shares of classes and masks, as floats and as integers, along any axis, samples along another."""
    rng = np.random.default_rng(9)
    for axis, first in ((1, 0), (2, 0), (3, 0), (-1, 0), (2, 1)):
        plain = rng.standard_normal((3, 4, 5, 2) if first == 0 else (5, 3, 4)).astype(F32)
        at = axis % plain.ndim
        x = np.moveaxis(np.moveaxis(plain, at, 1), 0, 0) if first == 0 else plain.transpose(1, 2, 0)
        labels = rng.integers(0, x.shape[1], (x.shape[0], *x.shape[2:]))
        one = oracles.hot(labels, x.shape[1])
        t = np.moveaxis(one, 1, at) if first == 0 else one.transpose(0, 2, 1)
        want = getattr(oracles, name)(x.astype(np.float64), one)
        for dtype in (F32, np.int64):
            got = value(name, plain, t.astype(dtype), class_axis=axis, batch_axis=first)
            assert got == pytest.approx(want, rel=2e-5), (axis, first)
        want = getattr(oracles, name)(x.astype(np.float64), labels)
        assert value(name, plain, labels, class_axis=axis, batch_axis=first) == pytest.approx(want, rel=2e-5)


def test_masks_of_one_channel() -> None:
    """(n, h, w) for (n, 1, h, w), as floats, labels and booleans would be."""
    rng = np.random.default_rng(10)
    x, t = rng.standard_normal((2, 1, 5, 4)).astype(F32), rng.integers(0, 2, (2, 5, 4))
    for name in ("binary_cross_entropy", "binary_focal", "dice", "mse"):
        want = getattr(oracles, name)(x.astype(np.float64), t[:, None].astype(np.float64))
        for given in (t, t.astype(F32), t[:, None], t[..., None]):
            assert value(name, x, given) == pytest.approx(want, rel=1e-5)
    for name, other in (("cross_entropy", "binary_cross_entropy"), ("focal", "binary_focal"), ("multiclass_hinge", "hinge")):
        with pytest.raises(ValueError, match=f"{name}: outputs .* have one class.*: {other} is a loss for one"):
            value(name, x, t)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cross_entropy", {"weights": [1.0, 2.0]}, r"weights have shape \[2\], wanted \[3\], one a class"),
        ("cross_entropy", {"weights": [1.0, -2.0, 1.0]}, "weights are .*, wanted finite numbers of 0 or more"),
        ("focal", {"weights": 2.0}, r"weights have shape \[\]"),
        ("focal", {"gamma": -1}, "gamma is -1"),
        ("binary_focal", {"alpha": 2}, "alpha is 2"),
        ("binary_cross_entropy", {"pos_weight": [1.0, 2.0]}, r"pos_weight has shape \[2\], wanted one number or 3"),
        ("binary_cross_entropy", {"weights": np.ones((3, 3))}, r"weights has shape \[3, 3\]"),
        ("cross_entropy", {"class_axis": 2}, "class_axis is 2, outputs have 2 axes"),
        ("cross_entropy", {"class_axis": 0}, "class_axis and batch_axis are both 0"),
        ("cross_entropy", {"batch_axis": "n"}, "batch_axis is 'n'"),
        ("dice", {"activation": "relu"}, "activation is 'relu'"),
    ],
)
def test_options_that_make_no_sense(name: str, options: dict, message: str) -> None:
    t = np.ones((4, 3), F32) if name.startswith("binary") else np.zeros(4, np.int64)
    with pytest.raises(ValueError, match=message):
        value(name, np.ones((4, 3), F32), t, **options)


def test_pos_weight_as_pytorch_broadcasts_it() -> None:
    rng = np.random.default_rng(11)
    x, t = rng.standard_normal((2, 3, 4, 4)).astype(F32), rng.random((2, 3, 4, 4)).astype(F32)
    p = np.array([1.0, 2.0, 0.5], F32)
    want = oracles.binary_cross_entropy(x.astype(np.float64), t.astype(np.float64), pos_weight=p, weights=p)
    for shape in ((3,), (3, 1, 1), (1, 3, 1, 1)):
        got = value("binary_cross_entropy", x, t, pos_weight=p.reshape(shape), weights=p.reshape(shape))
        assert got == pytest.approx(want, rel=1e-5)


X, Y = batch()


@pytest.mark.parametrize("name", OF_CLASSES)
def test_labels_out_of_range_are_found_before_a_step(name: str) -> None:
    """Also one far back in the data, before fit takes its first step; floats that are no whole numbers, too."""
    for wrong, message in (
        (3, "labels from 0 to 3, there are 3 classes"), (-1, "labels from -1 to 2"),
        (0.5, rf"{name}: labels hold 0.5, wanted whole numbers from 0 to 2"), (np.nan, "labels hold nan"),
    ):  # fmt: skip
        labels = Y.astype(np.float32 if isinstance(wrong, float) else np.int64)
        labels[-1] = wrong
        trainer = nbconv.Trainer(model(mlp()), loss=name)
        for call in (lambda: trainer.step(X, labels), lambda: trainer.fit((X, labels), batch_size=4, shuffle=False)):  # noqa: B023
            with pytest.raises(ValueError, match=message):
                call()
        assert trainer.steps == 0
    whole, floats = (nbconv.Trainer(model(mlp()), loss=name) for _ in range(2))
    assert whole.step(X, Y) == floats.step(X, Y.astype(np.float64)[:, None])
    assert whole.evaluate((X, Y))["accuracy"] == whole.evaluate((X, Y.astype(F32)))["accuracy"]


def test_what_targets_hold() -> None:
    """Masks of 255, shares that are no shares, signs that are none: refused where they mean nothing, else told, once."""
    hot = np.eye(3, dtype=F32)[Y]
    for name, targets, message in (
        ("binary_cross_entropy", 255 * hot, "targets are from 0 to 255, wanted 0 to 1: divide masks by 255"),
        ("binary_focal", hot - 1, "targets are from -1 to 0, wanted 0 to 1"),
        ("dice", 2 * hot, "dice: targets are from 0 to 2"),
        ("cross_entropy", 1.5 * hot - 0.5, "shares of classes are from -0.5 on"),
    ):
        with pytest.raises(ValueError, match=message):
            nbconv.Trainer(model(mlp()), loss=name).step(X, targets)
    for name, targets, message in (
        ("cross_entropy", np.ones_like(hot), "shares of classes sum to 3 to 3, not to 1; binary_cross_entropy"),
        ("hinge", hot, "hinge: targets are from 0 to 1, wanted -1 and 1: 2 . y - 1 has them"),
    ):
        trainer = nbconv.Trainer(model(mlp()), loss=name)
        with pytest.warns(UserWarning, match=message):
            trainer.step(X, targets)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trainer.step(X, targets)
    x = np.zeros((2, 2, 7, 9), F32)
    trainer = nbconv.Trainer(model(per_pixel()), loss="cross_entropy")
    with pytest.raises(ValueError, match="shares of classes sum to 1 along another axis than 1: class_axis"):
        trainer.step(x, oracles.hot(np.zeros((2, 3, 9), np.int64), 7).transpose(0, 2, 1, 3).astype(F32))


def per_pixel() -> Graph:
    w = np.random.default_rng(2).standard_normal((3, 2, 1, 1)).astype(F32)
    nodes = [node("Conv", "x w", "y", "conv")]
    return Graph(nodes, {"x": Spec(("n", 2, 7, 9), F32)}, {"y": Spec(("n", 3, 7, 9), F32)}, {"w": w})


def test_weights_shares_and_smoothing_of_mixed_samples() -> None:
    """Mixup and label smoothing go together, as in PyTorch."""
    rng = np.random.default_rng(12)
    x, p = rng.standard_normal((4, 3)).astype(F32), rng.dirichlet(np.ones(3), 4).astype(F32)
    for options in ({"label_smoothing": 0.2}, {"label_smoothing": 0.2, "weights": [1.0, 2.0, 0.5], "reduction": "sum"}):
        want = oracles.cross_entropy(x.astype(np.float64), p.astype(np.float64), **options)
        assert value("cross_entropy", x, p, **options) == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="ignore_index goes with labels"):
        value("cross_entropy", x, p, ignore_index=1)
    ports = {"x": Spec((4, 3), F32), "t": Spec((4,), np.dtype(np.int64))}
    to = Builder(Graph([], ports, {}, {}), ports)
    with pytest.raises(ValueError, match="wanted a share for each class"):
        class_losses.soft_cross_entropy(to, "x", "t")


def test_one_output_of_size_one() -> None:
    """(n,) for (n, 1): the example that broadcast to (n, n)."""
    x, y = batch(12, (2, 7, 9))
    t = (y % 2).astype(F32)
    for name in ("mse", "hinge", "binary_cross_entropy"):
        targets = 2 * t - 1 if name == "hinge" else t
        flat, whole = (nbconv.Trainer(model(convolutional(classes=1)), loss=name) for _ in range(2))
        assert [flat.step(x, targets) for _ in range(2)] == [whole.step(x, targets[:, None]) for _ in range(2)]
        assert flat.evaluate((x, targets))["loss"] == whole.evaluate((x, targets[:, None]))["loss"]
