"""Convolutions: which implementations there are.

To add one, write a file with `fits`, `emit` and `cost` (see `Implementation`) and put its row into the list: where costs are
equal, the first is taken. `fits` sees all that a choice may depend on, a `ConvProblem`. For another element type, the row
names it in ``dtypes``.
"""

from __future__ import annotations

from math import inf

from nbconv.kernels.target import Target
from nbconv.lowering.conv import integer_depthwise, integer_gemm, integer_winograd
from nbconv.lowering.conv.depthwise import DEPTHWISE, MULTIPLIED
from nbconv.lowering.conv.depthwise_transposed import DEPTHWISE_TRANSPOSED
from nbconv.lowering.conv.disjoint import DISJOINT
from nbconv.lowering.conv.grouped import FIRST_LAYER, GROUPED
from nbconv.lowering.conv.indirect_gemm import INDIRECT_GEMM
from nbconv.lowering.conv.integer_depthwise import INTEGER_DEPTHWISE
from nbconv.lowering.conv.integer_gemm import INTEGER_GEMM
from nbconv.lowering.conv.integer_winograd import INTEGER_WINOGRAD
from nbconv.lowering.conv.parts import PARTS
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.conv.small_channels import SMALL_CHANNELS
from nbconv.lowering.conv.transposed import TRANSPOSED
from nbconv.lowering.conv.weight_grad import WEIGHT_GRAD
from nbconv.lowering.conv.weight_grad_depthwise import WEIGHT_GRAD_DEPTHWISE
from nbconv.lowering.conv.weight_grad_grouped import WEIGHT_GRAD_GROUPED
from nbconv.lowering.conv.weight_grad_small import WEIGHT_GRAD_SMALL
from nbconv.lowering.conv.whole_window import WHOLE_WINDOW
from nbconv.lowering.conv.winograd_fused import WINOGRAD_2, WINOGRAD_4
from nbconv.lowering.conv.winograd_steps import WINOGRAD_STEPS_2, WINOGRAD_STEPS_4
from nbconv.lowering.implementation import Implementation, candidates
from nbconv.lowering.packing import padded

CONVERTED = 10.0
"""Flops that the kernel of float32 products could do while an element goes from integers to floats, or back."""

CONVOLUTIONS: tuple[Implementation, ...] = (
    DEPTHWISE,
    DEPTHWISE_TRANSPOSED,
    MULTIPLIED,
    WHOLE_WINDOW,
    FIRST_LAYER,
    SMALL_CHANNELS,
    DISJOINT,
    GROUPED,
    INDIRECT_GEMM,
    PARTS,
    INTEGER_DEPTHWISE,
    INTEGER_GEMM,
    INTEGER_WINOGRAD,
    TRANSPOSED,
    WINOGRAD_4,
    WINOGRAD_2,
    WINOGRAD_STEPS_4,
    WINOGRAD_STEPS_2,
)
"""For Conv, QLinearConv, ConvTranspose and the gradient of a convolution by its input, which is a transposed one."""

INTEGER_KERNELS: tuple[Implementation, ...] = (INTEGER_DEPTHWISE, INTEGER_GEMM, INTEGER_WINOGRAD)
"""Those of them that take integers."""
INTEGER_SUMS: tuple[Implementation, ...] = (INTEGER_GEMM, INTEGER_WINOGRAD)
"""Those that can give the sums themselves."""


def integer_cost(g: Geometry, target: Target, symmetric: bool) -> float:
    """What a convolution of integers takes, in flops of the kernel of float32 products; those of a depthwise one that
    slides are few. Winograd's of integers is no slower than that of floats, and exact."""
    p = ConvProblem(g, "uint8", True, True, target, inf, inf)
    if integer_depthwise.fits(p):
        return 0.0 if target.triple.startswith("x86") else inf
    found = integer_gemm.cost_of(p, symmetric)
    return min(found, integer_winograd.cost(p)) if integer_winograd.fits(p) else found


def plain_cost(g: Geometry, target: Target) -> float:
    """That of the same convolution of float32, and of what goes from integers and back. Winograd's filtering of floats is
    not compared with that of integers, which is exact and about as fast."""
    if integer_winograd.fits(ConvProblem(g, "uint8", True, True, target, inf, inf)):
        target = target._replace(winograd=False)
    p = ConvProblem(g, "float32", True, True, target, inf, inf)
    rows = candidates(CONVOLUTIONS, p)
    flops = 2.0 * g.n * g.oh * g.ow * g.co * g.ci * g.taps
    cheapest = min(flops if row.cost is None else row.cost(p) for row in rows)
    if not g.depthwise:
        cheapest *= padded(g.co, target.lanes, target.columns) / g.co  # panels are multiplied, filled or not
    return g.groups * (cheapest + CONVERTED * g.n * (g.h * g.w * g.ci + g.oh * g.ow * g.co))


WEIGHT_GRADIENTS: tuple[Implementation, ...] = (
    WEIGHT_GRAD_DEPTHWISE, WEIGHT_GRAD_SMALL, WEIGHT_GRAD_GROUPED, WEIGHT_GRAD,
)  # fmt: skip
"""For the gradient of a convolution by its weights."""

__all__ = [
    "CONVOLUTIONS", "INTEGER_KERNELS", "INTEGER_SUMS", "WEIGHT_GRADIENTS", "ConvProblem", "Geometry", "integer_cost",
    "plain_cost",
]  # fmt: skip
