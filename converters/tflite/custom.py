"""Custom operators: MediaPipe's (mediapipe/util/tflite/operations) and TensorFlow's detection head
(tensorflow/lite/kernels/detection_postprocess.cc)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from nbconv.converters.tflite.builder import CHANNELS, Builder
from nbconv.converters.tflite.conv import SAME, VALID, pads, positive, transposed
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError, UnsupportedError

PADDINGS = {1: SAME, 2: VALID}
"""TfLitePadding as the schema's Padding"""


def parameters(node: Operator, count: int) -> tuple[int, list[int]]:
    """The padding and the integers behind it, of options that are a struct of C."""
    if len(node.custom_options) < 4 * count:
        raise ModelError(f"its options have {len(node.custom_options)} bytes, wanted {4 * count}")
    padding, *rest = struct.unpack_from(f"<{count}i", node.custom_options)
    if padding not in PADDINGS:
        raise ModelError(f"its padding is {padding}, wanted 1 (SAME) or 2 (VALID)")
    return PADDINGS[padding], rest


def transpose_conv_bias(to: Builder, node: Operator) -> None:
    """TfLiteTransposeConvParams: padding, stride across, stride down."""
    padding, (across, down) = parameters(node, 3)
    x, w = node.inputs[:2]
    sizes = []
    for have, k, s in zip(to.tensors[x].shape[1:3], to.tensors[w].shape[1:3], (down, across), strict=True):
        valid = None if have is None or k is None else (have - 1) * s + k
        sizes.append(have * s if have is not None and padding == SAME else valid)
    transposed(to, node, x, w, 2, sizes, (down, across), padding, 0)


def pool_parameters(node: Operator) -> tuple[int, list[int], list[int]]:
    """TfLitePoolParams: padding, strides across and down, filter across and down, activation."""
    padding, (across, down, wide, high, activation) = parameters(node, 6)
    if activation:
        raise UnsupportedError(f"its fused activation {activation} is not supported")
    return padding, positive("filter", (high, wide)), positive("strides", (down, across))


def max_pool_argmax(to: Builder, node: Operator) -> None:
    """The second result are ONNX's places, which differ from MediaPipe's: only `max_unpooling` may read them."""
    x, (y, places) = node.inputs[0], node.outputs
    readers = [o for o in to.part.operators if places in o.inputs]
    if any(o.name != "MaxUnpooling2D" for o in readers) or places in to.part.outputs:
        raise UnsupportedError("places that another operator than MaxUnpooling2D reads are not supported")
    padding, kernel, strides = pool_parameters(node)
    around = pads(to, x, kernel, strides, (1, 1), padding)
    values, at = to.add("MaxPool", to.get(x, CHANNELS[4]), count=2, kernel_shape=kernel, strides=strides, **around)
    to.put(y, values, CHANNELS[4])
    to.put(places, at, CHANNELS[4], real=False)


def max_unpooling(to: Builder, node: Operator) -> None:
    x, places = node.inputs[:2]
    _, kernel, strides = pool_parameters(node)
    have, want = (to.tensors[t].shape[1:3] for t in (x, node.outputs[0]))
    if kernel != strides or any(d is None or d * s != w for d, s, w in zip(have, strides, want, strict=True)):
        raise UnsupportedError(f"{list(have)} to {list(want)} by a filter {kernel} with strides {strides} is not supported")
    made = to.add("MaxUnpool", to.get(x, CHANNELS[4]), to.get(places, CHANNELS[4], False), kernel_shape=kernel,
                  strides=strides)  # fmt: skip
    to.put(node.outputs[0], made, CHANNELS[4])


def detection(to: Builder, node: Operator) -> None:
    """Boxes of anchors, the best of which are kept: a class an anchor, or (regular) each class by itself. Results are filled
    up with zeros to as many as are asked for."""
    o = _options(node)
    encodings, scores, anchors = node.inputs[:3]
    most, offset = int(o["max_detections"]), _background(to, scores, int(o["num_classes"]))
    regular = bool(o.get("use_regular_nms", 0))
    if not regular and int(o["max_classes_per_detection"]) != 1:
        raise UnsupportedError("several classes per detection are not supported")
    if not 0 < most < 1 << 16:
        raise ModelError(f"it asks for {most} detections")
    boxes = _boxes(to, encodings, anchors, o)
    given = to.add("Slice", to.get(scores), *(to.integers(v) for v in ([offset], [1 << 62], [2])))
    if regular:
        each, rated = int(o.get("detections_per_class", 100)), to.add("Transpose", given, perm=[0, 2, 1])
    else:
        each, rated = most, to.add("ReduceMax", given, to.integers([2]), keepdims=1)
        rated = to.add("Transpose", rated, perm=[0, 2, 1])
    # TFLite keeps a score that is equal to the least one
    least = np.nextafter(np.float32(o["nms_score_threshold"]), np.float32(-np.inf))
    limits = (to.constant(each, np.int64), to.numbers(float(o["nms_iou_threshold"])), to.constant(least, np.float32))
    chosen = to.add("NonMaxSuppression", boxes, rated, *limits)
    nothing = to.constant(np.full(most, -np.inf, np.float32))
    found = to.add("Concat", to.add("GatherND", rated, chosen), nothing, axis=0)
    best, order = to.add("TopK", found, to.integers([most]), axis=0, count=2)
    rows = to.add("Concat", chosen, to.constant(np.zeros((most, 3), np.int64)), axis=0)
    rows = to.add("Gather", rows, order, axis=0)
    label, anchor = (to.add("Gather", rows, to.constant(i, np.int64), axis=1) for i in (1, 2))
    if not regular:
        classes = to.add("Squeeze", to.add("ArgMax", given, axis=2, keepdims=0), to.integers([0]))
        label = to.add("Gather", classes, anchor, axis=0)
    real = to.add("Greater", best, to.numbers(-np.inf))
    corners = to.add("Gather", to.add("Squeeze", boxes, to.integers([0])), anchor, axis=0)
    zero = to.numbers(0)
    kept = to.add("Where", to.add("Unsqueeze", real, to.integers([1])), corners, zero)
    label = to.add("Where", real, to.add("Cast", label, to=1), zero)
    count = to.add("ReduceSum", to.add("Cast", real, to=1), to.integers([0]), keepdims=1)
    results = (kept, label, to.add("Where", real, best, zero))
    for t, value in zip(node.outputs[:3], results, strict=True):
        to.put(t, to.add("Unsqueeze", value, to.integers([0])))
    to.put(node.outputs[3], count)


def _options(node: Operator) -> dict[str, Any]:
    """The numbers in options that are a flexbuffers map."""
    from flatbuffers import flexbuffers as flex

    held = flex.GetRoot(node.custom_options).AsMap
    keys = [held.Keys[i].AsKey for i in range(min(len(held.Keys), 64))]
    found: dict[str, Any] = {}
    for name in keys:
        value = held[str(name)]
        if value.IsFloat or value.IsInt or value.IsBool:
            found[str(name)] = value.AsFloat if value.IsFloat else value.AsInt
    return found


def _background(to: Builder, scores: int, classes: int) -> int:
    """How many classes stand before the first that counts."""
    shape = to.tensors[scores].shape
    if len(shape) != 3 or shape[2] is None or not 0 < classes <= shape[2]:
        raise ModelError(f"it has {classes} classes, and scores of shape {list(shape)}")
    return shape[2] - classes


def _boxes(to: Builder, encodings: int, anchors: int, o: dict[str, Any]) -> str:
    """(1, n, 4): least y and x, greatest y and x."""

    def part(value: str, first: int, axis: int) -> str:
        return to.add("Slice", value, *(to.integers([v]) for v in (first, first + 2, axis)))

    coded, around = to.get(encodings), to.get(anchors)
    size = part(around, 2, 1)
    place = to.add("Div", part(coded, 0, 2), to.numbers(o["y_scale"], o["x_scale"]))
    centre = to.add("Add", to.add("Mul", place, size), part(around, 0, 1))
    grown = to.add("Exp", to.add("Div", part(coded, 2, 2), to.numbers(o["h_scale"], o["w_scale"])))
    half = to.add("Mul", to.add("Mul", grown, size), to.numbers(0.5))
    return to.add("Concat", to.add("Sub", centre, half), to.add("Add", centre, half), axis=2)


RULES = {
    "Convolution2DTransposeBias": transpose_conv_bias,
    "MaxPoolingWithArgmax2D": max_pool_argmax,
    "MaxUnpooling2D": max_unpooling,
    "TFLite_Detection_PostProcess": detection,
}
