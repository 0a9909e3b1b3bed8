"""Split-k: where a GPU's multiprocessors are more than the tiles of the result, units sum parts of k, and a further step
adds these."""

from __future__ import annotations

from nbconv.lowering.context import Lowering
from nbconv.lowering.gemm.packed import product
from nbconv.lowering.gemm.problem import GemmProblem, Operands
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import Cut, cut_cost, split


def fits(p: GemmProblem) -> bool:
    return _split(p) is not None


def cost(p: GemmProblem) -> float:
    return cut_cost(p, parts(p), p.batch * p.m * p.n)


def parts(p: GemmProblem) -> Cut:
    """Of a problem that fits."""
    found = _split(p)
    assert found is not None
    return found


def _split(p: GemmProblem) -> Cut | None:
    return split(p, p.m, p.k, p.n, 1, batch=p.batch)


def emit(to: Lowering, p: GemmProblem, operands: Operands) -> None:
    product(to, p, operands, parts(p))


SPLIT_K = Implementation("split_k", fits, emit, cost)
