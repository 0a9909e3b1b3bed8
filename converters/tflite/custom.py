"""Custom operators: MediaPipe's (mediapipe/util/tflite/operations) and TensorFlow's detection head."""

from __future__ import annotations

import struct

from nbconv.converters.tflite.builder import Builder
from nbconv.converters.tflite.conv import SAME, VALID, transposed
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError

PADDINGS = {1: SAME, 2: VALID}
"""TfLitePadding as the schema's Padding"""


def transpose_conv_bias(to: Builder, node: Operator) -> None:
    """TfLiteTransposeConvParams: padding, stride across, stride down."""
    if len(node.custom_options) < 12:
        raise ModelError(f"its options have {len(node.custom_options)} bytes, wanted 12")
    padding, across, down = struct.unpack_from("<3i", node.custom_options)
    if padding not in PADDINGS:
        raise ModelError(f"its padding is {padding}, wanted 1 (SAME) or 2 (VALID)")
    x, w = node.inputs[:2]
    sizes = []
    for have, k, s in zip(to.tensors[x].shape[1:3], to.tensors[w].shape[1:3], (down, across), strict=True):
        valid = None if have is None or k is None else (have - 1) * s + k
        sizes.append(have * s if have is not None and PADDINGS[padding] == SAME else valid)
    transposed(to, node, x, w, 2, sizes, (down, across), PADDINGS[padding], 0)


RULES = {"Convolution2DTransposeBias": transpose_conv_bias}
