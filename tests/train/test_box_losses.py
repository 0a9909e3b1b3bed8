"""Losses of boxes and of detectors' heads: against NumPy in float64, and its differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.model import Model
from nbconv.passes.autodiff import backprop
from nbconv.train import box_losses

rng = np.random.default_rng(51)


def value_and_gradients(
    loss: Callable[..., str],
    outputs: list[np.ndarray],
    targets: np.ndarray,
    numpy_steps: tuple[str, ...] = (),
    **options: Any,
) -> tuple[float, list[np.ndarray]]:
    """A loss and its gradients by the outputs, by kernels but for these steps."""
    arrays = {**{f"x{i}": x.astype(np.float32) for i, x in enumerate(outputs)}, "t": targets.astype(np.float32)}
    ports = {n: Spec(a.shape, a.dtype) for n, a in arrays.items()}
    to = Builder(Graph([], ports, {}, {}), ports)
    wrt = [n for n in ports if n != "t"]
    name = loss(to, tuple(wrt) if len(wrt) > 1 else wrt[0], "t", **options)
    assert to.spec(name) == Spec((), np.dtype(np.float32))
    graph, _, found = backprop(to.graph((name,)), to.specs, {name: to.constant(np.ones((), np.float32))}, wrt)
    model = Model(graph)
    steps = model.plan({n: a.shape for n, a in arrays.items()}).numpy_steps()
    assert {n.op.type for n in steps} == set(numpy_steps)
    got = model.run(arrays)
    return float(got[name]), [got[found[n]] for n in wrt]


def slope(f: Callable[..., float], outputs: list[np.ndarray], ways: list[np.ndarray], step: float = 1e-6) -> float:
    """The derivative along a direction."""
    plus, minus = (f(*(x + s * step * w for x, w in zip(outputs, ways, strict=True))) for s in (1, -1))
    return (plus - minus) / (2 * step)


def check(
    loss: Callable[..., str], oracle: Callable[..., float], outputs: list[np.ndarray], targets: np.ndarray, **options: Any
) -> None:
    value, gradients = value_and_gradients(loss, outputs, targets, **options)
    assert value == pytest.approx(oracle(*outputs), rel=1e-5)
    ways = [rng.standard_normal(x.shape) for x in outputs]
    along = sum(float((g * w).sum()) for g, w in zip(gradients, ways, strict=True))
    scale = sum(float(np.abs(g * w).sum()) for g, w in zip(gradients, ways, strict=True))
    assert abs(along - slope(oracle, outputs, ways)) <= 1e-4 * scale


def boxes(*shape: int) -> np.ndarray:
    corner = 4 * rng.random((*shape, 2))
    return np.concatenate([corner, corner + 1 + 2 * rng.random((*shape, 2))], -1)


def overlap(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    """As the papers have it, and the weight of CIoU."""
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    sizes = [v[..., 2:] - v[..., :2] for v in (a, b)]
    whole = sizes[0].prod(-1) + sizes[1].prod(-1) - shared
    part = shared / whole
    around = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    if kind == "iou":
        return 1 - part
    if kind == "giou":
        return 1 - part + (around.prod(-1) - whole) / around.prod(-1)
    apart = (((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])) ** 2).sum(-1) / 4
    loss = 1 - part + apart / (around**2).sum(-1)
    if kind == "diou":
        return loss
    v = 4 / np.pi**2 * (np.arctan(sizes[1][..., 0] / sizes[1][..., 1]) - np.arctan(sizes[0][..., 0] / sizes[0][..., 1])) ** 2
    return loss + v * (v / (1 - part + v))


@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_iou(kind: str, how: str) -> None:
    a, b = boxes(3, 7), boxes(3, 7)
    check(box_losses.iou, lambda x: getattr(overlap(x, b, kind), how)(), [a], b, kind=kind, reduction=how)


def test_ciou_holds_its_weight() -> None:
    a, b = boxes(9), boxes(9)
    value, (gradient,) = value_and_gradients(box_losses.iou, [a], b, ("Atan",), kind="ciou", reduction="sum")
    assert value == pytest.approx(overlap(a, b, "ciou").sum(), rel=1e-5)

    def held(x: np.ndarray) -> float:
        v, part = overlap(x, b, "ciou") - overlap(x, b, "diou"), overlap(a, b, "iou")
        shape = (v + np.sqrt(v * v + 4 * v * overlap(x, b, "iou"))) / 2  # v is shape² / (1 - IoU + shape)
        mine = overlap(a, b, "ciou") - overlap(a, b, "diou")
        weight = mine / ((mine + np.sqrt(mine * mine + 4 * mine * part)) / 2)
        return float((overlap(x, b, "diou") + weight * shape).sum())

    way = rng.standard_normal(a.shape)
    assert float((gradient * way).sum()) == pytest.approx(slope(held, [a], [way]), rel=1e-3)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_smooth_l1(beta: float) -> None:
    x, y = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 5, 4))

    def oracle(x: np.ndarray) -> float:
        d = np.abs(x - y)
        return float(np.where(d < beta, d * d / (2 * beta), d - beta / 2).mean())

    check(box_losses.smooth_l1, oracle, [x], y, beta=beta)


def targets(n: int, anchors: int, classes: int) -> np.ndarray:
    labels = rng.choice([-1, 0, 1], (n, anchors), p=[0.1, 0.6, 0.3]) * rng.integers(1, classes, (n, anchors)).clip(1)
    labels = np.where(labels < 0, -1, labels)
    return np.concatenate([rng.random((n, anchors, 4)) + 0.2, labels[..., None]], -1)


@pytest.mark.parametrize("options", [{}, {"negatives": 1, "box_weight": 0.5, "beta": 0.2}, {"negatives": 0, "least": 4}])
def test_ssd(options: dict[str, Any]) -> None:
    n, anchors, classes = 3, 30, 4
    t = targets(n, anchors, classes)
    t[2, :, 4] = np.where(t[2, :, 4] > 0, 0, t[2, :, 4])  # a picture with nothing in it
    t[..., :4] *= t[..., 4:] > 0
    ratio, least, weight, beta = (
        options.get(k, v) for k, v in (("negatives", 3), ("least", 0), ("box_weight", 1), ("beta", 1))
    )

    def oracle(b: np.ndarray, s: np.ndarray) -> float:
        logp = s - np.log(np.exp(s).sum(-1, keepdims=True))
        total = 0.0
        for i in range(n):
            label = t[i, :, 4].astype(int)
            entropy = -logp[i][np.arange(anchors), label.clip(0)]
            total += entropy[label > 0].sum()
            total += np.sort(entropy[label == 0])[::-1][: max(ratio * (label > 0).sum(), least)].sum()
            d = np.abs(b[i] - t[i, :, :4])[label > 0]
            total += weight * np.where(d < beta, d * d / (2 * beta), d - beta / 2).sum()
        return float(total / (t[..., 4] > 0).sum())

    check(
        box_losses.ssd,
        oracle,
        [rng.standard_normal((n, anchors, 4)), rng.standard_normal((n, anchors, classes))],
        t,
        **options,
    )


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5, "gamma": 1.5, "kind": "diou", "box_weight": 2.0}])
def test_fcos(options: dict[str, Any]) -> None:
    n, points, classes = 2, 20, 3
    t = targets(n, points, classes + 1)
    alpha, gamma, kind, weight = (
        options.get(k, v) for k, v in (("alpha", 0.25), ("gamma", 2), ("kind", "giou"), ("box_weight", 1))
    )
    signs = np.array([-1, -1, 1, 1])

    def oracle(d: np.ndarray, s: np.ndarray) -> float:
        hot = t[..., 4:] == np.arange(1, classes + 1)
        p = 1 / (1 + np.exp(-s))
        true = np.where(hot, p, 1 - p)
        focal = -np.where(hot, alpha, 1 - alpha) * (1 - true) ** gamma * np.log(true)
        some = t[..., 4] > 0
        place = overlap(d * signs, t[..., :4] * signs, kind)[some].sum()
        return float((focal[t[..., 4] >= 0].sum() + weight * place) / some.sum())

    check(
        box_losses.fcos, oracle, [rng.random((n, points, 4)) + 0.1, rng.standard_normal((n, points, classes))], t, **options
    )


@pytest.mark.parametrize("loss", [box_losses.ssd, box_losses.fcos])
def test_no_object(loss: Callable[..., str]) -> None:
    """A batch without objects has a finite loss, and boxes have no gradient."""
    t = np.zeros((2, 5, 5))
    value, (by_box, _) = value_and_gradients(loss, [np.zeros((2, 5, 4)), np.zeros((2, 5, 3))], t)
    assert np.isfinite(value)
    assert not by_box.any()


def test_messages() -> None:
    with pytest.raises(
        ValueError, match=r"boxes are \[2, 5, 4\], scores \[2, 6, 3\], targets \[2, 5, 5\]: wanted \[n, anchors"
    ):
        value_and_gradients(box_losses.ssd, [np.zeros((2, 5, 4)), np.zeros((2, 6, 3))], np.zeros((2, 5, 5)))
    with pytest.raises(ValueError, match="kind is 'siou', wanted one of iou, giou, diou, ciou"):
        value_and_gradients(box_losses.iou, [np.zeros((2, 4))], np.zeros((2, 4)), kind="siou")
    with pytest.raises(ValueError, match=r"iou: targets are \[3, 4\], outputs \[2, 4\]: wanted one shape"):
        value_and_gradients(box_losses.iou, [np.zeros((2, 4))], np.zeros((3, 4)))
