"""The gradient by the weights where input channels are few: a row of the window, which lies in one piece of a padded image,
serves as its channels."""

from __future__ import annotations

from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.operands import padded_image
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.conv.weight_grad import product, small_channels, whole
from nbconv.lowering.implementation import Implementation


def fits(p: ConvProblem) -> bool:
    return small_channels(p.geometry)


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    product(to, g, padded_image(to, g), (*g.down[:3], 0), (1, g.across.stride, 1, 0), whole(to, g))


WEIGHT_GRAD_SMALL = Implementation("weight_grad_small_channels", fits, emit)
