"""Convolutions of few input channels (the first layer of most networks): x is copied into a padded image, channels last, in
which a row of the window lies in one piece. Such a row is one tap of an indirect GEMM."""

from __future__ import annotations

from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import grouped
from nbconv.lowering.conv.indirect_gemm import taps_steps, weights
from nbconv.lowering.conv.operands import padded_image
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.implementation import Implementation


def fits(p: ConvProblem) -> bool:
    return p.geometry.small_channels and not grouped.fits_first(p)


def emit(to: Lowering, p: ConvProblem) -> None:
    g = p.geometry
    image = padded_image(to, g)
    taps_steps(to, g, weights(to, g), (g.oh, g.ow), (*g.down[:3], 0), (1, g.across.stride, 1, 0), source=image)


SMALL_CHANNELS = Implementation("small_channels", fits, emit)
