"""Weighted sums along an axis by tables: a sparse matrix by rows (CSR)."""

from __future__ import annotations

import numpy as np

from nbconv.lowering.context import Lowering, Ref


def mix(
    to: Lowering,
    x: Ref,
    y: Ref,
    shape: tuple[int, int, int],
    rows: np.ndarray,
    cells: np.ndarray,
    weights: np.ndarray,
    name: str = "",
) -> None:
    """One step from x (outer, size, inner), of this shape, to y (outer, out, inner): y[o, j] = Σ weights[t] · x[o, cells[t]]
    over t from rows[j] to rows[j + 1], in that order. ``name`` tells the tables of several steps of a node apart."""
    outer, size, inner = shape
    out, width = len(rows) - 1, min(inner, to.target.chunk)
    to.step(
        "mix.mix",
        outer * out * -(-inner // width),
        work=8 * outer * inner * max(out, len(cells)),
        x=x,
        y=y,
        rows=to.table(f"{name}rows", rows.astype(np.int64)),
        cells=to.table(f"{name}cells", cells.astype(np.int64)),
        weights=to.table(f"{name}weights", weights.astype(np.float32)),
        size=size,
        out=out,
        inner=inner,
        width=width,
    )


def by_rows(cells: np.ndarray, weights: np.ndarray, without: np.ndarray) -> dict[str, np.ndarray]:
    """y[j] = Σ_k weights[j, k] · x[cells[j, k]], and 0 for the j of ``without``, as arguments of `mix`."""
    kept = np.broadcast_to(~without[:, None], cells.shape)
    rows = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return {"rows": rows, "cells": cells[kept], "weights": weights[kept]}


def transposed(cells: np.ndarray, weights: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """The gradient of y[j] = Σ_k weights[j, k] · x[cells[j, k]] as arguments of `mix`: for each of x's ``size`` cells the
    outputs that read it, in order."""
    taps = cells.shape[1] if cells.ndim == 2 else 1
    flat = cells.reshape(-1).astype(np.int64)
    order = np.argsort(flat, kind="stable")
    rows = np.searchsorted(flat[order], np.arange(size + 1)).astype(np.int64)
    return {"rows": rows, "cells": order // taps, "weights": weights.reshape(-1)[order].astype(np.float64)}
