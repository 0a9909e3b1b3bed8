"""Steps of matrix products. On a GPU they may be split along k: parts of the sums go to scratch memory, and a further step
adds them."""

from __future__ import annotations

from typing import NamedTuple

from nbconv.graph import FLOAT32
from nbconv.kernels.params import Addends, Batch, Epilogue, Matrices, MatrixBlocking, Scatter, Sums, SumsBatch
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.packing import Cut, ceil, padded
from nbconv.lowering.step import Work

SECTOR = 8
"""Floats that a GPU moves at a time."""


class Results(NamedTuple):
    """Where the (m, n) results of some products go, and what is done to them before.

    ``size``: (oh, ow) of an image, where they are a convolution's. The ``products`` of a batch, or of a convolution's
    groups, lie ``apart`` in y and the residual (floats). Groups are channels ``beside`` each other, with biases, factors
    and terms of their own; a batch shares these."""

    m: int
    n: int
    products: int
    beside: bool
    y: Ref
    ldy: int
    apart: int
    addends: Addends
    epilogue: Epilogue
    size: tuple[int, int]
    scatter: Scatter


class Factors(NamedTuple):
    """The factors of (m, k) × (k, n) products: rows of a are ``lda`` elements apart, b is packed; the matrices of a batch
    lie ``batch_a`` and ``batch_b`` apart."""

    k: int
    a: Ref
    lda: int
    batch_a: int
    b: Ref
    batch_b: int


def gemm(to: Lowering, how: Cut, wanted: Results, factors: Factors, kind: str = "", flops: int | None = None) -> None:
    """The steps of a batch of products. ``kind`` and ``flops`` are the mathematics', where they are not a product's."""
    m, n, k = wanted.m, wanted.n, factors.k
    arithmetic = 2 * wanted.products * m * k * n
    method = f"{kind.capitalize()}, gemm" if kind else "gemm"
    kind = kind or ("dense" if m == 1 else "pointwise")
    found = sums(to, how, wanted)
    done = Work(arithmetic if flops is None else flops, arithmetic, FLOAT32.itemsize * wanted.products * m * n)
    to.step(
        "gemm.gemm",
        how.units,
        work=arithmetic,
        a=factors.a,
        b=factors.b,
        y=found.y,
        addends=found.addends,
        matrices=Matrices(m, n, k, factors.lda, found.ldy),
        batch=Batch(factors.batch_a, factors.batch_b, found.apart),
        blocking=MatrixBlocking(how.rows, how.panels, how.channel_chunk),
        epilogue=found.epilogue,
        kind=kind,
        algorithm=lambda: f"{method}, {how.rows} rows × {how.panels} panels, k {how.channel_chunk}",
        does=done,
    )
    finish(to, how, found, wanted, kind)


def sums(to: Lowering, how: Cut, wanted: Results) -> Results:
    """What the step of a product is told of its results: what is wanted, or, where k is split, scratch memory for sums of
    (how.parts, m, n), to which nothing is done."""
    if how.parts == 1:
        return wanted
    m, n, side = wanted.m, wanted.n, wanted.products if wanted.beside else 1
    ld, zeros = ceil(n * side, SECTOR) * SECTOR, side * padded(n, to.target.lanes, to.columns)
    size = how.parts * m * ld
    y = to.floats(size * wanted.products // side)
    apart = n if wanted.beside else size
    plain = Addends(to.zeros(zeros))
    return wanted._replace(y=y, ldy=ld, apart=apart, addends=plain, epilogue=Epilogue(), scatter=Scatter(*wanted.size))


def finish(to: Lowering, how: Cut, found: Results, wanted: Results, kind: str) -> None:
    """Where k is split, the step of kernels/cuda/gemm.py that adds the ``found`` sums and makes of them what is wanted."""
    if how.parts == 1:
        return
    m, n, products, (oh, ow) = wanted.m, wanted.n, wanted.products, wanted.size
    apart = padded(n, to.target.lanes, to.columns) if wanted.beside else 0
    results = products * m * n
    to.step(
        "gemm.finish",
        products * m * ceil(n, to.target.lanes),
        work=16 * results * (how.parts + 1),
        sums=found.y,
        addends=wanted.addends,
        y=wanted.y,
        parts=Sums(m, n, how.parts, found.ldy, wanted.ldy),
        batch=SumsBatch(found.apart, apart, wanted.apart),
        oh=oh,
        ow=ow,
        scatter=wanted.scatter,
        epilogue=wanted.epilogue,
        kind=kind,
        algorithm=lambda: f"sum of {how.parts} parts",
        does=Work(0, results * how.parts, FLOAT32.itemsize * results),
    )
