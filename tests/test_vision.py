"""What stands before and behind vision models: letterboxing, boxes of detectors, text of recognisers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from nbconv import vision
from nbconv.models import path
from nbconv.ops.select import NonMaxSuppression


def boxes(rng: np.random.Generator, n: int, size: float = 100.0) -> np.ndarray:
    corner = rng.random((n, 2)) * size
    return np.concatenate([corner, corner + rng.random((n, 2)) * size / 3], 1).astype(np.float32)


def test_iou() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 5]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(vision.iou(a, b), [[1 / 7, 1, 0], [0, 0, 0]], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.sampled_from([0.1, 0.3, 0.6]))
def test_nms_is_the_operator(seed: int, n: int, threshold: float) -> None:
    """As ONNX's NonMaxSuppression has it, which onnxruntime's holds (tests/ops/test_select.py)."""
    rng = np.random.default_rng(seed)
    found, scores = boxes(rng, n), rng.random(n).astype(np.float32)
    op = NonMaxSuppression().reference(found[None], scores[None, None], np.array(n), np.array(threshold, np.float32))
    np.testing.assert_array_equal(vision.nms(found, scores, threshold=threshold), op[:, 2])


def test_nms_by_class_and_of_odd_scores() -> None:
    found = np.array([[0, 0, 10, 10]] * 4, np.float32)
    scores = np.array([0.5, np.nan, 0.9, 0.5], np.float32)
    assert vision.nms(found, scores).tolist() == [2]
    assert vision.nms(found, scores, [0, 0, 1, 0]).tolist() == [2, 0]
    assert vision.nms(found, scores, [0, 1, 2, 3], most=2).tolist() == [2, 0]
    assert vision.nms(np.zeros((0, 4)), np.zeros(0)).tolist() == []
    with pytest.raises(ValueError, match="4 boxes and 3 scores"):
        vision.nms(found, scores[:3])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 64), st.integers(1, 64), st.sampled_from([0, 1, 3]))
def test_letterbox(h: int, w: int, out_h: int, out_w: int, channels: int) -> None:
    image = np.full((h, w, channels)[: 3 if channels else 2], 200, np.uint8)
    out, way = vision.letterbox(image, (out_h, out_w), fill=7)
    assert out.shape == (out_h, out_w, *image.shape[2:]) and set(np.unique(out)) <= {7, 200}
    inside = np.argwhere((out if out.ndim == 2 else out[..., 0]) == 200)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    assert (top, left) == (way.top, way.left) and (out_h in (bottom - top,) or out_w == right - left)
    corners = np.array([[left, top, right, bottom]], np.float32)
    back = way.undo(vision.Detections(corners, np.ones(1, np.float32), np.zeros(1, np.int64), corners.reshape(1, 2, 2)))
    np.testing.assert_allclose(back.boxes[0], [0, 0, w, h], atol=0.51 / way.scale + 1e-3)
    assert back.points is not None and back.points.shape == (1, 2, 2)


def test_letterbox_refuses() -> None:
    for image in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="wanted uint8"):
            vision.letterbox(image, (8, 8))
    for size in ((0, 8), (8,), (8.5, 8), 8, None, "ab"):
        with pytest.raises(ValueError, match="size is"):
            vision.letterbox(np.zeros((4, 4, 3), np.uint8), size)  # type: ignore[arg-type]
    for fill in (-1, 256, "x", None):
        with pytest.raises(ValueError, match="fill is"):
            vision.letterbox(np.zeros((4, 4, 3), np.uint8), (8, 8), fill=fill)  # type: ignore[arg-type]


def test_boxes_are_rows_of_four() -> None:
    """(6, 2) has the elements of three boxes, and is none."""
    with pytest.raises(ValueError, match=r"boxes have shape \[6, 2\]"):
        vision.nms(np.zeros((6, 2)), np.zeros(3))
    with pytest.raises(ValueError, match=r"boxes have shape \[6, 2\]"):
        vision.iou(np.zeros((6, 2)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="wanted"):
        vision.ssd(np.zeros(()), np.zeros(()), np.zeros(()))


def test_yolo_heads_agree() -> None:
    """The same boxes in each form of head."""
    rng = np.random.default_rng(5)
    found = boxes(rng, 40)
    classes = rng.integers(0, 3, 40)
    scores = rng.random(40).astype(np.float32)
    centre, size = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    one_hot = np.eye(3, dtype=np.float32)[classes]
    v8 = np.concatenate([centre, size, one_hot * scores[:, None]], 1)
    v5 = np.concatenate([centre, size, scores[:, None], one_hot], 1)
    kept = vision.nms(found, scores, classes, threshold=0.4)
    kept = kept[scores[kept] >= 0.3]
    for head in (v8.T[None], v5[None]):
        got = vision.yolo(head, score=0.3, overlap=0.4)
        np.testing.assert_allclose(got.boxes, found[kept], atol=1e-4)
        np.testing.assert_array_equal(got.classes, classes[kept])
        np.testing.assert_allclose(got.scores, scores[kept])
    end_to_end = np.concatenate([found[kept], scores[kept, None], classes[kept, None]], 1)
    got = vision.yolo(end_to_end[::-1], score=0.3)
    np.testing.assert_array_equal(got.boxes, found[kept])
    np.testing.assert_array_equal(got.classes, classes[kept])
    assert len(vision.yolo(v8.T, score=2).scores) == 0
    with pytest.raises(ValueError, match="output has shape"):
        vision.yolo(np.zeros((3, 4)))


def test_ssd_undoes_the_encoding() -> None:
    rng = np.random.default_rng(6)
    found = boxes(rng, 20)
    centre, size = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2] + 1
    anchors = np.concatenate([centre + rng.normal(size=(20, 2)), size * np.exp(rng.normal(size=(20, 2)))], 1)
    moves = np.concatenate([(centre - anchors[:, :2]) / anchors[:, 2:] / 0.1, np.log(size / anchors[:, 2:]) / 0.2], 1)
    scores = np.zeros((20, 4), np.float32)
    scores[:, 0], scores[3, 2], scores[5, 1], scores[5, 3] = 1, 0.9, 0.8, 0.7
    got = vision.ssd(moves, scores, anchors)
    with pytest.raises(ValueError, match=r"variances is \(1, 2\), wanted four numbers"):
        vision.ssd(moves, scores, anchors, variances=(1, 2))
    assert got.classes.tolist() == [2, 1, 3]
    want = np.concatenate([centre - size / 2, centre + size / 2], 1)
    np.testing.assert_allclose(got.boxes, want[[3, 5, 5]], rtol=1e-4, atol=1e-3)


def test_blazeface_on_the_model() -> None:
    """The bundled model finds no face in noise; a face put into its output is found where it was put."""
    anchors = vision.blazeface_anchors()
    assert anchors.shape == (896, 2) and anchors[0].tolist() == [4, 4] and anchors[-1].tolist() == [120, 120]
    model = nbconv.load(path("blazeface_short_128"))
    out = model.run({"input": np.random.default_rng(0).uniform(-1, 1, (1, 3, 128, 128)).astype(np.float32)})
    regressors, logits = out["regressors"][0], out["classificators"][0]
    assert len(vision.blazeface(regressors, logits).scores) == 0
    for k in (100, 101, 700):
        regressors[k, :4] = [64 - anchors[k, 0], 50 - anchors[k, 1], 30, 40]
        logits[k] = 3
    got = vision.blazeface(regressors, logits)
    np.testing.assert_allclose(got.boxes, [[49, 30, 79, 70]], rtol=1e-5)
    assert got.points is not None and got.points.shape == (1, 6, 2)
    with pytest.raises(ValueError, match="wanted 896"):
        vision.blazeface(regressors[:10], logits[:10])
    with pytest.raises(ValueError, match=r"wanted \(n, 16\)"):
        vision.blazeface(regressors.reshape(448, 32), logits)


def brute_force(rows: np.ndarray, letters: list[str]) -> tuple[str, float]:
    """The likeliest text by adding up all paths."""
    totals: dict[str, float] = {}
    for steps in itertools.product(range(rows.shape[1]), repeat=len(rows)):
        text = "".join(letters[k] for k, _ in itertools.groupby(steps) if k)
        totals[text] = totals.get(text, 0.0) + float(np.prod(rows[np.arange(len(rows)), steps]))
    return max(totals.items(), key=lambda t: t[1])


def test_ctc() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        rows = rng.dirichlet(np.ones(4) * 0.5, 5).astype(np.float32)
        text, probability = brute_force(rows.astype(np.float64), ["", "a", "b", "c"])
        got = vision.ctc(rows, "abc", beam=1000)
        assert got.text == text
        best = rows.argmax(1)
        greedy = "".join("-abc"[k] for k, _ in itertools.groupby(best) if k)
        for form in (rows, rows[None], rows[:, None], np.log(rows)):
            assert vision.ctc(form, "abc").text == greedy
        moved = np.concatenate([rows[:, 1:], rows[:, :1]], 1)
        assert vision.ctc(moved, "abc", blank=3).text == greedy
        assert 0 < probability <= 1 and 0 <= got.score <= 1
    assert vision.ctc(np.array([[1, 0], [1, 0]], np.float32), "a") == ("", 0.0)
    with pytest.raises(ValueError, match=r"wanted \(time, 4\) for 3 characters"):
        vision.ctc(np.zeros((5, 3)), "abc")
    with pytest.raises(ValueError, match="alphabet is 3, wanted a sequence of characters"):
        vision.ctc(np.zeros((5, 3)), 3)  # pyright: ignore[reportArgumentType]
