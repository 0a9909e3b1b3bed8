"""TFLite's custom operators: MediaPipe's, and the head of TensorFlow's detectors."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.errors import ModelError, UnsupportedError
from tests.tflite_cases import noise
from tests.tflite_files import O, T, constant, flatbuffers, litert, write


def test_transposed_convolution_with_bias() -> None:
    """SAME doubles the size."""
    x, w, b = noise(1, 3, 4, 2), noise(3, 2, 2, 2), noise(3)
    tensors = [T("x", x.shape), constant("w", w), constant("b", b), T("y", (1, 6, 8, 3))]
    content = write(tensors, [O("Convolution2DTransposeBias", [0, 1, 2], [3], custom=struct.pack("<3i", 1, 2, 2))], [0], [3])
    want = np.einsum("nyxc,oklc->nykxlo", x, w).reshape(1, 6, 8, 3) + b
    np.testing.assert_allclose(nbconv.load(content)(x), want, 1e-5, 1e-5)


def test_pooling_with_places_and_back() -> None:
    """Each greatest value of 2×2 goes back to where it was."""
    x = noise(2, 4, 6, 3)
    options = struct.pack("<10i", 1, 2, 2, 2, 2, 0, 0, 0, 0, 0)
    tensors = [T("x", x.shape), T("v", (2, 2, 3, 3)), T("at", (2, 2, 3, 3)), T("y", x.shape)]
    pool = O("MaxPoolingWithArgmax2D", [0], [1, 2], custom=options)
    back = O("MaxUnpooling2D", [1, 2], [3], custom=options)
    blocks = x.reshape(2, 2, 2, 3, 2, 3)
    most = blocks.max((2, 4), keepdims=True)
    want = np.where(blocks == most, blocks, 0).reshape(x.shape)
    np.testing.assert_array_equal(nbconv.load(write(tensors, [pool, back], [0], [3]))(x), want)
    with pytest.raises(UnsupportedError, match="MaxPoolingWithArgmax2D: places that another operator"):
        nbconv.load(write(tensors, [pool], [0], [1, 2]))


OPTIONS = {
    "max_detections": 5, "max_classes_per_detection": 1, "nms_score_threshold": 0.3, "nms_iou_threshold": 0.5,
    "num_classes": 3, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
}  # fmt: skip


def detector(options: dict[str, Any], boxes: np.ndarray, scores: np.ndarray, anchors: np.ndarray) -> bytes:
    flex = pytest.importorskip("flatbuffers.flexbuffers")
    assert flatbuffers
    most = options["max_detections"]
    tensors = [T("boxes", boxes.shape), T("scores", scores.shape), constant("anchors", anchors)]
    tensors += [T("found", (1, most, 4)), T("classes", (1, most)), T("likely", (1, most)), T("count", (1,))]
    operator = O("TFLite_Detection_PostProcess", [0, 1, 2], [3, 4, 5, 6], custom=bytes(flex.Dumps(options)))
    return write(tensors, [operator], [0, 1], [3, 4, 5, 6])


def test_two_boxes_on_one_thing() -> None:
    """Of anchors 0 and 1, which are one on the other, the likelier stays; anchor 2 stands apart, 3 is not likely."""
    anchors = np.array([[0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]], np.float32)
    boxes = np.zeros((1, 4, 4), np.float32)
    boxes[0, 2, 0] = 1  # a tenth of the anchor's height down
    scores = np.array([[[0, 0.5, 0.1, 0], [0, 0.2, 0.9, 0], [0, 0, 0, 0.6], [0.9, 0.1, 0.2, 0.2]]], np.float32)
    model = nbconv.load(detector(OPTIONS, boxes, scores, anchors))
    found = model.run({"boxes": boxes, "scores": scores})
    assert found["count"].tolist() == [2]
    assert found["classes"].tolist() == [[1, 2, 0, 0, 0]]
    np.testing.assert_allclose(found["likely"], [[0.9, 0.6, 0, 0, 0]])
    want = np.zeros((5, 4))
    want[:2] = [[0.21, 0.2, 0.41, 0.4], [0.62, 0.5, 0.82, 0.9]]
    np.testing.assert_allclose(found["found"], want[None], atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"use_regular_nms": True, "detections_per_class": 4}])
def test_many_boxes(more: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    anchors = np.concatenate([rng.uniform(0.1, 0.9, (40, 2)), rng.uniform(0.1, 0.5, (40, 2))], 1).astype(np.float32)
    boxes, scores = noise(1, 40, 4), rng.random((1, 40, 4), np.float32)
    content = detector({**OPTIONS, "max_detections": 12, **more}, boxes, scores, anchors)
    found = list(nbconv.load(content).run({"boxes": boxes, "scores": scores}).values())
    assert found[3] > 4 and (np.diff(found[2]) <= 0).all() and set(found[1].ravel()) <= {0, 1, 2}
    for got, theirs in zip(found, litert(content, [boxes, scores]) or ()):
        np.testing.assert_allclose(got, theirs, 1e-5, 1e-6)


def test_options_that_are_broken() -> None:
    options = {**OPTIONS, "num_classes": 9}
    args = noise(1, 4, 4), noise(1, 4, 4), noise(4, 4)
    with pytest.raises(ModelError, match=r"TFLite_Detection_PostProcess \(found\): it has 9 classes"):
        nbconv.load(detector(options, *args))
    with pytest.raises(UnsupportedError, match="several classes per detection"):
        nbconv.load(detector({**OPTIONS, "max_classes_per_detection": 2}, *args))
    del options["y_scale"], options["num_classes"]
    with pytest.raises(ModelError, match="is damaged: 'num_classes'"):
        nbconv.load(detector(options, *args))
