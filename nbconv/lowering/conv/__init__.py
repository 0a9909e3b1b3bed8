"""Convolutions: which implementations there are.

To add one, write a file with `fits`, `emit` and `cost` (see `Implementation`) and put its row into the list: where costs are
equal, the first is taken. `fits` sees all that a choice may depend on, a `ConvProblem`. For another element type, the row
names it in ``dtypes``.
"""

from __future__ import annotations

from nbconv.lowering.conv.depthwise import DEPTHWISE
from nbconv.lowering.conv.depthwise_transposed import DEPTHWISE_TRANSPOSED
from nbconv.lowering.conv.disjoint import DISJOINT
from nbconv.lowering.conv.indirect_gemm import INDIRECT_GEMM
from nbconv.lowering.conv.integer_depthwise import INTEGER_DEPTHWISE
from nbconv.lowering.conv.integer_gemm import INTEGER_GEMM
from nbconv.lowering.conv.parts import PARTS
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.conv.small_channels import SMALL_CHANNELS
from nbconv.lowering.conv.transposed import TRANSPOSED
from nbconv.lowering.conv.weight_grad import WEIGHT_GRAD
from nbconv.lowering.conv.weight_grad_depthwise import WEIGHT_GRAD_DEPTHWISE
from nbconv.lowering.conv.weight_grad_small import WEIGHT_GRAD_SMALL
from nbconv.lowering.conv.whole_window import WHOLE_WINDOW
from nbconv.lowering.conv.winograd_fused import WINOGRAD_2, WINOGRAD_4
from nbconv.lowering.conv.winograd_steps import WINOGRAD_STEPS_2, WINOGRAD_STEPS_4
from nbconv.lowering.implementation import Implementation

CONVOLUTIONS: tuple[Implementation, ...] = (
    DEPTHWISE,
    DEPTHWISE_TRANSPOSED,
    WHOLE_WINDOW,
    SMALL_CHANNELS,
    DISJOINT,
    INDIRECT_GEMM,
    PARTS,
    INTEGER_DEPTHWISE,
    INTEGER_GEMM,
    TRANSPOSED,
    WINOGRAD_4,
    WINOGRAD_2,
    WINOGRAD_STEPS_4,
    WINOGRAD_STEPS_2,
)
"""For Conv, QLinearConv, ConvTranspose and the gradient of a convolution by its input, which is a transposed one."""

INTEGER_KERNELS: tuple[Implementation, ...] = (INTEGER_DEPTHWISE, INTEGER_GEMM)
"""Those of them that take integers."""

WEIGHT_GRADIENTS: tuple[Implementation, ...] = (WEIGHT_GRAD_DEPTHWISE, WEIGHT_GRAD_SMALL, WEIGHT_GRAD)
"""For the gradient of a convolution by its weights."""

__all__ = ["CONVOLUTIONS", "INTEGER_KERNELS", "WEIGHT_GRADIENTS", "ConvProblem", "Geometry"]
