"""What detectors and readers are taught, and how good they are: `nbconv.vision`'s targets and figures."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv import vision
from nbconv.vision import Detections

rng = np.random.default_rng(61)


def drawn(count: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    corner = rng.random((count, 2)) * (size - 24)
    boxes = np.concatenate([corner, corner + 8 + 16 * rng.random((count, 2))], 1).astype(np.float32)
    return boxes, rng.integers(1, 4, count)


def test_ssd_anchors() -> None:
    found = vision.ssd_anchors((16, 32), (8, 16), [(6, 10), (20,)], ratios=(1, 4))
    assert found.shape == (2 * 4 * 4 + 1 * 2 * 2, 4)
    np.testing.assert_allclose(found[:5], [[4, 4, 6, 6], [4, 4, 12, 3], [4, 4, 10, 10], [4, 4, 20, 5], [12, 4, 6, 6]])
    np.testing.assert_allclose(found[-2:], [[24, 8, 20, 20], [24, 8, 40, 10]])
    with pytest.raises(ValueError, match="there are 2 strides and sizes for 1"):
        vision.ssd_anchors((16, 16), (8, 16), [(4,)])


@pytest.mark.parametrize("seed", range(5))
def test_ssd_targets_are_what_its_decoder_reads(seed: int) -> None:
    """Told as they are, the targets give back every box, and nothing else."""
    boxes, labels = drawn(1 + seed)
    anchors = vision.ssd_anchors((64, 64), (8, 16), [(10, 14), (20, 28)])
    target = vision.ssd_targets(boxes, labels, anchors)
    assert target.dtype == np.float32
    scores = np.eye(4, dtype=np.float32)[target[:, 4].astype(int)]
    found = vision.ssd(target[:, :4], scores, anchors, overlap=0.95)
    assert vision.mean_average_precision([found], [boxes], [labels], overlap=0.95) == 1
    assert len(found.boxes) == len(boxes)


def test_ssd_matching() -> None:
    anchors = np.array([[5, 5, 10, 10], [6, 5, 10, 10], [30, 30, 10, 10], [8, 5, 10, 10]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 44, 44]], np.float32)
    target = vision.ssd_targets(boxes, [1, 2, 3], anchors, overlap=0.6, ignored=0.5)
    # each box has one of its own, the third by force; the last anchor overlaps the second box by 8 / 12
    assert target[:, 4].tolist() == [1, 2, 3, 2]
    assert vision.ssd_targets(boxes[:1], [1], anchors, overlap=0.9, ignored=0.5)[:, 4].tolist() == [1, -1, 0, -1]
    assert not vision.ssd_targets(np.zeros((0, 4)), [], anchors).any()


@pytest.mark.parametrize("seed", range(5))
def test_fcos_targets_are_what_its_decoder_reads(seed: int) -> None:
    boxes = np.array([[4 + 20 * k, 6, 20 + 18 * k, 30 + 2 * k] for k in range(3)], np.float32)[: 1 + seed % 3]
    boxes += rng.random(boxes.shape).astype(np.float32)
    labels = rng.integers(1, 4, len(boxes))
    points = vision.fcos_points((64, 80), (8, 16))
    target = vision.fcos_targets(boxes, labels, points)
    scores = np.eye(4, dtype=np.float32)[target[:, 4].astype(int)][:, 1:]
    found = vision.fcos(target[:, :4], scores, points, overlap=0.95)
    assert vision.mean_average_precision([found], [boxes], [labels - 1], overlap=0.95) == 1
    assert len(found.boxes) == len(boxes)


def test_fcos_matching() -> None:
    points = vision.fcos_points((160, 160), (8, 16))
    assert points.shape == (400 + 100, 3)
    small, large = [22, 22, 34, 34], [2, 2, 158, 158]
    target = vision.fcos_targets(np.array([large, small]), [1, 2], points)
    of = {label: points[target[:, 4] == label] for label in (1, 2)}
    assert set(of[2][:, 2]) == {8}  # the finest stride has the small one
    assert set(of[1][:, 2]) == {16}
    # one that no middle of a cell lies in, near its middle, has nothing; one between is found by force
    assert vision.fcos_targets(np.array([[29.0, 29, 31, 31]]), [1], points)[:, 4].max() == 0
    assert (vision.fcos_targets(np.array([[3.0, 3, 40, 5]]), [1], points)[:, 4] == 1).any()


@pytest.mark.parametrize("encode", [vision.ssd_targets, vision.fcos_targets])
def test_bad_boxes(encode) -> None:
    anchors = np.ones((3, 4 if encode is vision.ssd_targets else 3), np.float32)
    with pytest.raises(ValueError, match="there are 1 boxes and 2 labels"):
        encode(np.array([[0, 0, 1, 1]]), [1, 2], anchors)
    with pytest.raises(ValueError, match="labels are int64 from 0, wanted integers from 1"):
        encode(np.array([[0, 0, 1, 1]]), [0], anchors)
    with pytest.raises(ValueError, match=r"box 1 is \[3.0, 0.0, 3.0, 1.0\], wanted left < right"):
        encode(np.array([[0, 0, 1, 1], [3, 0, 3, 1]]), [1, 1], anchors)
    with pytest.raises(ValueError, match=r"boxes have shape \[1, 3\]"):
        encode(np.zeros((1, 3)), [1], anchors)


def found(*rows: tuple[float, int, float]) -> Detections:
    """Boxes of 10 by 10 at a left, of a class, with a score."""
    boxes = np.array([[left, 0, left + 10, 10] for left, _, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([s for *_, s in rows], np.float32), np.array([c for _, c, _ in rows], np.int64))


def test_average_precision() -> None:
    truth = [np.array([[0, 0, 10, 10], [50, 0, 60, 10]]), np.array([[0, 0, 10, 10]])]
    labels = [np.array([1, 1]), np.array([2])]
    assert vision.average_precision([found((0, 1, 0.9), (50, 1, 0.8)), found((1, 2, 0.1))], truth, labels) == {1: 1, 2: 1}
    # right, wrong, right: precision 1 up to half, then 2/3
    seen = [found((0, 1, 0.9), (80, 1, 0.8), (51, 1, 0.7)), found((0, 1, 0.1))]
    assert vision.average_precision(seen, truth, labels)[1] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # a box is found once
    twice = [found((0, 1, 0.9), (1, 1, 0.8)), found()]
    assert vision.average_precision(twice, truth, labels) == {1: pytest.approx(51 / 101), 2: 0}
    assert vision.mean_average_precision(twice, truth, labels) == pytest.approx(51 / 202)
    # 10 of 11 columns overlap by 9/11: at 0.9 it is wrong
    assert vision.mean_average_precision([found((1, 1, 1))], truth[1:], [[1]], overlap=0.9) == 0
    assert vision.mean_average_precision([], [], []) == 0
    with pytest.raises(ValueError, match="2 pictures' detections, 1 boxes and 2 labels"):
        vision.average_precision(twice, truth[:1], labels)


def test_edit_distance() -> None:
    assert vision.edit_distance("kitten", "sitting") == 3
    assert vision.edit_distance("", "abc") == vision.edit_distance("abc", "") == 3
    assert vision.edit_distance([1, 2, 3], [1, 3]) == 1
    assert vision.character_accuracy(["abc", "x"], ["abd", "xy"]) == pytest.approx(1 - 2 / 5)
    assert vision.character_accuracy(["abcdef"], ["z"]) == 0
    assert vision.character_accuracy([], []) == 1
    with pytest.raises(ValueError, match="1 texts were read, 2 are true"):
        vision.character_accuracy(["a"], ["a", "b"])
