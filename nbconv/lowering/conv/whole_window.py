"""A window as large as the image: a fully connected layer that is written as a convolution, as in LeNet-5 and in
fully convolutional forms of VGG. All of an image is one tap, and no address is looked up."""

from __future__ import annotations

from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import product, taps_steps, weights
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.implementation import Implementation


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    whole = g.down == (g.h, 1, 1, 0, 0) and g.across == (g.w, 1, 1, 0, 0)
    return whole and g.taps > 1 and g.groups == 1 and not g.transposed and p.contiguous


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    size = g.taps * g.ci
    taps_steps(to, g, weights(to, g), (1, 1), (1, 1, 1, 0), (1, 1, 1, 0), source=Image(to.input(0), 1, 1, size, size))


WHOLE_WINDOW = Implementation("whole_window", fits, emit, product)
