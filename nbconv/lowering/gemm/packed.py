"""Products with b packed in panels (Goto and van de Geijn 2008): when the plan is made where b is a constant, else by a step
before. Each unit sums all of k."""

from __future__ import annotations

from functools import partial

import numpy as np

from nbconv.graph.symbolic import apply
from nbconv.kernels.params import Addends, Scatter
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.cost import weighted_product
from nbconv.lowering.gemm.problem import GemmProblem, Operands
from nbconv.lowering.gemm.steps import Factors, Results, gemm
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import WORTH, Cut, Limits, cut_cost, epilogue, pack, pad_bias, padded, whole
from nbconv.lowering.repack import WeightStrides


def fits(p: GemmProblem) -> bool:
    return True


def cost(p: GemmProblem) -> float:
    if p.target.tiles:
        return WORTH * cut_cost(p, uncut(p), p.batch * p.m * p.n)
    return weighted_product(p.flops, p.m, p.target.tile(p.dtype).rows, p.itemsize * p.matrices_b * p.k * p.n)


def uncut(p: GemmProblem) -> Cut:
    return apply(partial(whole, Limits(p.target, p.columns, p.scratch_limit)), p.m, p.k, p.n, 1, 1, p.batch)


def emit(to: Lowering, p: GemmProblem, operands: Operands) -> None:
    product(to, p, operands, uncut(p))


def product(to: Lowering, p: GemmProblem, operands: Operands, how: Cut) -> None:
    """Steps of kernels/cpu/gemm.py into the node's output, cut as told."""
    m, n, k, lanes, columns = p.m, p.n, p.k, p.target.lanes, p.columns
    a, stride_a = turned(to, p, operands.a)
    b, stride_b = packed(to, p, operands), k * padded(n, lanes, columns) if p.stride_b else 0
    addends = Addends(bias(to, p, operands), to.residual, 0 if to.residual is None else n)
    done = epilogue(to, 1, n, lanes, columns)
    wanted = Results(m, n, p.batch, False, to.output(), n, m * n, addends, done, (1, m), Scatter(1, m))
    gemm(to, how, wanted, Factors(k, a, k, stride_a, b, stride_b))


def turned(to: Lowering, p: GemmProblem, a: Ref) -> tuple[Ref, int]:
    """a as (m, k) matrices, and the elements from one to the next."""
    if not p.trans_a:
        return a, p.stride_a
    matrices, size = p.batch if p.stride_a else 1, p.m * p.k
    y = to.floats(matrices * size)
    to.copy(a, y, (matrices, p.m, p.k), (p.stride_a, 1, p.m), (size, p.k, 1))
    return y, size if p.stride_a else 0


def packed(to: Lowering, p: GemmProblem, operands: Operands) -> Ref:
    """alpha · b in panels."""
    b, alpha, matrices, n, k = operands.b, operands.alpha, p.matrices_b, p.n, p.k
    row, column = (1, k) if p.trans_b else (n, 1)
    if not b.constant:
        strides = WeightStrides(0, p.stride_b, 0, 0, row, column, 1, 1, k)
        return repack.panels(to, b.ref, strides, matrices, n, alpha)

    def make() -> np.ndarray:
        w = b.array()
        w = w.swapaxes(-1, -2) if p.trans_b else w
        w = w if alpha == 1 else alpha * w
        return pack(w.reshape(matrices, k, n), p.target.lanes, p.columns, to.drop)

    return to.constant(f"{b.name}#gemm{int(p.trans_b)}.{alpha}", make)


def bias(to: Lowering, p: GemmProblem, operands: Operands) -> Ref:
    """beta · c, filled up as panels are."""
    c, beta, n, lanes, columns = operands.c, operands.beta, p.n, p.target.lanes, p.columns
    if c is None:
        return to.zeros(padded(n, lanes, columns))
    if not c.constant:
        return repack.bias(to, c.ref, 1, n, scale=beta)

    def make() -> np.ndarray:
        return pad_bias(np.broadcast_to(beta * c.array().reshape(-1), (n,)), 1, n, lanes, columns)

    return to.constant(f"{c.name}#{beta}x{n}", make)


PACKED_GEMM = Implementation("packed_gemm", fits, emit, cost)
