"""Matrix products: which implementations there are.

To add one, write a file with `fits`, `emit` and `cost` (see `Implementation`) and put its row into the list: where costs are
equal, the first is taken. `fits` sees all that a choice may depend on, a `GemmProblem`; `emit` is also told the `Operands`.
For another element type, the row names it in ``dtypes``.
"""

from __future__ import annotations

from nbconv.lowering.gemm.packed import PACKED_GEMM
from nbconv.lowering.gemm.problem import GemmProblem, Operands
from nbconv.lowering.gemm.split_k import SPLIT_K
from nbconv.lowering.implementation import Implementation

PRODUCTS: tuple[Implementation, ...] = (PACKED_GEMM, SPLIT_K)
"""For Gemm and MatMul."""

__all__ = ["PRODUCTS", "GemmProblem", "Operands"]
