"""Readers and detectors are trained: `Trainer` with the losses ctc, ssd and fcos."""

from __future__ import annotations

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.vision import fcos_points, fcos_targets, mean_average_precision, ssd, ssd_anchors, ssd_targets
from tests.train.models import F32, model, node

rng = np.random.default_rng(71)


def reader(end: str = "") -> nbconv.Model:
    """(n, 1, 8, 12) to scores (n, 12, 4) of a column's class."""
    nodes = [
        node("Conv", "x w1", "c", "conv", pads=(0, 1, 0, 1)),
        node("Relu", "c", "r", "relu"),
        node("Squeeze", "r axes", "s", "squeeze"),
        node("Transpose", "s", "t", "turn", perm=(0, 2, 1)),
        node("MatMul", "t w2", "z" if end else "y", "head"),
        *([node(end, "z", "y", "end", axis=-1)] if end else []),
    ]
    constants = {
        "w1": 0.3 * rng.standard_normal((16, 1, 8, 3)).astype(np.float32), "axes": np.array([2]),
        "w2": 0.3 * rng.standard_normal((16, 4)).astype(np.float32),
    }  # fmt: skip
    return model(Graph(nodes, {"x": Spec(("n", 1, 8, 12), F32)}, {"y": Spec(("n", 12, 4), F32)}, constants))


def lines(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with columns of three kinds, and which they are in their order."""
    signs = np.random.default_rng(72).standard_normal((3, 8)).astype(np.float32)
    x, y = 0.1 * rng.standard_normal((count, 1, 8, 12)).astype(np.float32), np.full((count, 4), -1)
    for i in range(count):
        places = np.sort(rng.choice(6, rng.integers(0, 5), replace=False)) * 2
        y[i, : len(places)] = rng.integers(1, 4, len(places))
        for p, k in zip(places, y[i], strict=False):
            x[i, 0, :, p] += signs[k - 1]
    return x, y


def test_a_reader_learns() -> None:
    x, y = lines(64)
    trainer = nbconv.Trainer(reader(), "ctc", nbconv.Adam(0.03))
    before = trainer.evaluate((x, y))
    history = trainer.fit((x, y), validation=(x, y), epochs=60, batch_size=16)
    after = trainer.evaluate((x, y))
    assert after["loss"] < before["loss"] / 4
    assert before["character_accuracy"] < 0.5 < 0.9 < after["character_accuracy"]
    assert history["val_character_accuracy"][-1] == after["character_accuracy"]
    assert "accuracy" not in after
    fresh, labels = lines(32)
    assert trainer.evaluate((fresh, labels))["character_accuracy"] > 0.7


def test_its_softmax_is_left_out() -> None:
    global rng
    x, y = lines(8)
    found = []
    for end in ("", "Softmax", "LogSoftmax"):
        rng = np.random.default_rng(73)
        trainer = nbconv.Trainer(reader(end), "ctc", nbconv.SGD(0.1))
        found.append([trainer.step(x, y) for _ in range(3)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[1, 2], [4, -1]], "labels from 1 to 4, wanted 0 to 3 without the blank, 0, and -1 behind them"),
        ([[1, 0], [1, -1]], "labels from 0 to 1"),
        ([[1, 2], [-1, 1]], r"labels of sequence 1 are \[-1, 1\]: -1 stands behind them only"),
        ([[1] * 7, [1] + [-1] * 6], "sequence 0 has 7 labels, which want 13 steps .* there are 12"),
        ([[1.0, 2.0], [3.0, 1.0]], r"labels are float32\[2, 2\], outputs \[2, 12, 4\]: wanted integers \[n, most\]"),
        ([1, 2], r"labels are int64\[2\], outputs \[2, 12, 4\]: wanted integers"),
    ],
)
def test_what_is_no_sequence(labels: list, said: str) -> None:
    trainer = nbconv.Trainer(reader(), "ctc")
    x = np.zeros((2, 1, 8, 12), np.float32)
    with pytest.raises(ValueError, match=f"ctc: {said}"):
        trainer.step(x, np.array(labels))
    with pytest.raises(ValueError, match=f"ctc: {said}"):
        trainer.fit((x, np.array(labels)))
    assert trainer.steps == 0


def test_lengths() -> None:
    """Steps behind a sequence's length do not count."""
    x, y = lines(6)
    given = np.concatenate([np.full((6, 1), 9), y.clip(max=1)[:, :2]], axis=1)
    trainer = nbconv.Trainer(reader(), "ctc", loss_options={"lengths_first": True})
    other = x.copy()
    other[..., 10:] = 5.0
    assert trainer.evaluate((x, given))["loss"] == trainer.evaluate((other, given))["loss"]
    given[0, 0] = 13
    with pytest.raises(ValueError, match="lengths from 9 to 13, the output has 12 steps"):
        trainer.step(x, given)


def test_steps_first() -> None:
    """Outputs (steps, n, classes) train alike."""
    graph = reader().graph
    turned = graph.derive([*graph.nodes, node("Transpose", "y", "z", "turned", perm=(1, 0, 2))])
    turned.outputs = {"z": Spec((12, "n", 4), F32)}
    x, y = lines(8)
    other = nbconv.Trainer(model(turned), "ctc", nbconv.SGD(0.1), loss_options={"batch_axis": 1})
    trainer = nbconv.Trainer(model(graph), "ctc", nbconv.SGD(0.1))
    assert [other.step(x, y) for _ in range(3)] == pytest.approx([trainer.step(x, y) for _ in range(3)], rel=1e-5)
    assert other.evaluate((x, y)) == pytest.approx(trainer.evaluate((x, y)), rel=1e-5)


ANCHORS = ssd_anchors((16, 16), (4,), [(5, 8)])


def detector(per: int, classes: int, positive: bool = False) -> nbconv.Model:
    """(n, 1, 16, 16) to boxes (n, 16 · per, 4) and scores (n, 16 · per, classes)."""
    local = np.random.default_rng(74)
    nodes = [
        node("Conv", "x w1 b1", "c1", "conv1", pads=(1, 1, 1, 1), strides=(2, 2)), node("Relu", "c1", "r1", "relu1"),
        node("Conv", "r1 w2", "c2", "conv2", pads=(1, 1, 1, 1), strides=(2, 2)), node("Relu", "c2", "r2", "relu2"),
        node("Conv", "r2 w3", "b0", "box"), node("Transpose", "b0", "b1t", "turn1", perm=(0, 2, 3, 1)),
        node("Reshape", "b1t shape4", "b2" if positive else "boxes", "rows1"),
        *([node("Exp", "b2", "boxes", "exp")] if positive else []),
        node("Conv", "r2 w4", "s0", "score"), node("Transpose", "s0", "s1t", "turn2", perm=(0, 2, 3, 1)),
        node("Reshape", "s1t shapek", "scores", "rows2"),
    ]  # fmt: skip
    shapes = {"w1": (16, 1, 3, 3), "w2": (24, 16, 3, 3), "w3": (4 * per, 24, 1, 1), "w4": (classes * per, 24, 1, 1)}
    constants: dict = {n: 0.2 * local.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    constants |= {"b1": np.zeros(16, np.float32), "shape4": np.array([0, -1, 4]), "shapek": np.array([0, -1, classes])}
    return model(
        Graph(nodes, {"x": Spec(("n", 1, 16, 16), F32)}, {"boxes": Spec(("n", None, 4), F32), "scores": None}, constants)
    )


def pictures(count: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Bright and dark squares."""
    x, boxes, kinds = 0.1 * rng.standard_normal((count, 1, 16, 16)).astype(np.float32), [], []
    for picture in x[:, 0]:
        side, kind = int(rng.integers(4, 9)), int(rng.integers(1, 3))
        left, top = (int(v) for v in rng.integers(0, 17 - side, 2))
        picture[top : top + side, left : left + side] += 3 - 2 * kind
        boxes.append(np.array([[left, top, left + side, top + side]]))
        kinds.append(np.array([kind]))
    return x, boxes, kinds


def test_a_detector_learns_by_anchors() -> None:
    x, boxes, kinds = pictures(48)
    y = np.stack([ssd_targets(b, k, ANCHORS) for b, k in zip(boxes, kinds, strict=True)])
    trainer = nbconv.Trainer(detector(2, 3), {("boxes", "scores"): "ssd"}, nbconv.Adam(0.01))

    def figure() -> float:
        told = trainer.predict(x)
        odds = np.exp(told["scores"]) / np.exp(told["scores"]).sum(axis=2, keepdims=True)
        found = [ssd(b, p, ANCHORS, score=0.1) for b, p in zip(told["boxes"], odds, strict=True)]
        return mean_average_precision(found, boxes, kinds)

    before = figure()
    history = trainer.fit((x, {("boxes", "scores"): y}), epochs=40, batch_size=16)
    assert history["loss"][-1] < history["loss"][0] / 3
    assert before < 0.2 < 0.6 < figure()


def test_a_detector_learns_by_points() -> None:
    x, boxes, kinds = pictures(48)
    points = fcos_points((16, 16), (4,))
    y = np.stack([fcos_targets(b, k, points) for b, k in zip(boxes, kinds, strict=True)])
    trainer = nbconv.Trainer(detector(1, 2, positive=True), {("boxes", "scores"): "fcos"}, nbconv.Adam(0.01))
    losses = [trainer.step(x, y) for _ in range(80)]
    assert losses[-1] < losses[0] / 3


def test_what_is_no_target_of_a_head() -> None:
    trainer = nbconv.Trainer(detector(2, 3), {("boxes", "scores"): "ssd"})
    x, y = np.zeros((2, 1, 16, 16), np.float32), np.zeros((2, 32, 5), np.float32)
    with pytest.raises(ValueError, match=r"scores \[2, 32, 3\], targets \[2, 30, 5\]: wanted \[n, anchors, 4\]"):
        trainer.step(x, y[:, :30])
    y[0, 0, 4] = 3
    with pytest.raises(ValueError, match="ssd: labels from 0 to 3, wanted -1 to 2"):
        trainer.step(x, y)
    y[0, 0] = np.nan
    with pytest.raises(ValueError, match="ssd: targets hold numbers that are not finite"):
        trainer.step(x, y)
    assert trainer.steps == 0
