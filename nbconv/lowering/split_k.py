"""Steps of matrix products. On a GPU they may be split along k: parts of the sums go to scratch memory, and a further step
adds them."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np

from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.packing import Cut, ceil, padded

SECTOR = 8
"""Floats that a GPU moves at a time."""
NO_EPILOGUE: dict[str, Any] = {
    "low": -inf, "high": inf, "act": 0, "alpha": 0.0, "beta": 0.0, "scale": None, "shift": None,
}  # fmt: skip


class Place(NamedTuple):
    """Where the (oh, ow) results of an image go in y, (full_h, full_w): steps down and across, first row and column."""

    oh: int
    ow: int
    full_h: int
    full_w: int
    osh: int = 1
    osw: int = 1
    oy0: int = 0
    ox0: int = 0


class Results(NamedTuple):
    """Where the (m, n) results of some products go, and what is done to them before: arguments of the products' kernels.

    The ``products`` of a batch, or of a convolution's groups, lie ``apart`` in y and res (floats). Groups are channels
    ``beside`` each other, with biases, factors and terms of their own; a batch shares these."""

    m: int
    n: int
    products: int
    beside: bool
    y: Ref
    ldy: int
    apart: int
    bias: Ref
    res: Ref | None
    ldres: int
    epilogue: dict[str, Any]
    place: Place


def gemm(
    to: Lowering, how: Cut, wanted: Results, k: int, a: Ref, lda: int, batch_a: int, b: Ref, batch_b: int
) -> None:  # fmt: skip
    """The steps of (m, k) × (k, n) products, a batch of them: rows of a are lda floats apart, b is packed."""
    found = sums(to, how, wanted)
    to.step(
        "gemm.gemm", how.units, work=2 * wanted.products * wanted.m * k * wanted.n, a=a, b=b, y=found.y, bias=found.bias,
        res=found.res, m=wanted.m, n=wanted.n, k=k, lda=lda, ldy=found.ldy, ldres=found.ldres, batch_a=batch_a,
        batch_b=batch_b, batch_y=found.apart, rows=how.rows, panels=how.panels, k_chunk=how.channel_chunk, **found.epilogue,
    )  # fmt: skip
    finish(to, how, found, wanted)


def sums(to: Lowering, how: Cut, wanted: Results) -> Results:
    """What the step of a product is told of its results: what is wanted, or, where k is split, scratch memory for sums of
    (how.parts, m, n), to which nothing is done."""
    if how.parts == 1:
        return wanted
    m, n, side, place = wanted.m, wanted.n, wanted.products if wanted.beside else 1, wanted.place
    ld, zeros = ceil(n * side, SECTOR) * SECTOR, side * padded(n, to.target.lanes, to.columns)
    size = how.parts * m * ld
    return wanted._replace(
        y=to.floats(size * wanted.products // side), ldy=ld, apart=n if wanted.beside else size,
        bias=to.constant(f"#zeros{zeros}", lambda: np.zeros(zeros, np.float32)), res=None, ldres=0,
        epilogue=NO_EPILOGUE, place=Place(place.oh, place.ow, place.oh, place.ow),
    )  # fmt: skip


def finish(to: Lowering, how: Cut, found: Results, wanted: Results) -> None:
    """Where k is split, the step of kernels/cuda/gemm.py that adds the ``found`` sums and makes of them what is wanted."""
    if how.parts == 1:
        return
    m, n, products = wanted.m, wanted.n, wanted.products
    to.step(
        "gemm.finish", products * m * ceil(n, to.target.lanes), work=16 * products * m * n * (how.parts + 1),
        sums=found.y, bias=wanted.bias, res=wanted.res, y=wanted.y, m=m, n=n, parts=how.parts, lds=found.ldy,
        ldy=wanted.ldy, ldres=wanted.ldres, batch_sums=found.apart,
        batch_bias=padded(n, to.target.lanes, to.columns) if wanted.beside else 0, batch_y=wanted.apart,
        **wanted.place._asdict(), **wanted.epilogue,
    )  # fmt: skip
