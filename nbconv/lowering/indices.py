"""Indices that a run computes: their steps check them before they become addresses, and tell what is wrong (see
`Lowering.wrongs`)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from nbconv.graph import Spec
from nbconv.kernels.index_params import Lines
from nbconv.lowering.context import CHUNK, Lowering, Ref

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
PUT, ADD = 0, 1
"""How an update meets what is there, see `kernels/cpu/indices.py`."""
WIDTH = 256
"""Columns that a unit does at a time."""


def served(indices: Spec) -> bool:
    """Whether kernels take indices of this type."""
    return indices.dtype in (INT32, INT64)


def as_int64(to: Lowering, i: int) -> Ref:
    """Input i, indices, as int64."""
    if to.inputs[i].dtype == INT64:
        return to.input(i)
    n = to.inputs[i].size
    wide = to.scratch(INT64, max(n, 1))
    to.unary("cast.int32_to_64", x=to.input(i), y=wide, n=n)
    return wide


def checked_places(to: Lowering, i: int, sizes: tuple[int, ...], batch: int | None = None) -> Ref:
    """int64, the row-major place in axes of these sizes that each index of input i names, which holds so many numbers each
    along its last axis, or one each; behind an axis of batches of ``batch`` indices, where that is given."""
    n = to.inputs[i].size // len(sizes)
    places, units = to.scratch(INT64, n), -(-n // CHUNK)
    to.step(
        "indices.places",
        units,
        work=16 * n * len(sizes),
        writes=("y", "wrong"),
        indices=as_int64(to, i),
        sizes=to.table("sizes", np.array(sizes, np.int64)),
        y=places,
        wrong=to.wrongs(units),
        depth=len(sizes),
        batch=batch or n,
        n=n,
        chunk=CHUNK,
    )
    return places


def along(to: Lowering, i: int, shape: tuple[int, ...], axis: int) -> tuple[int, dict[str, Any]]:
    """(units, arguments) of a kernel that goes through input i, an index along ``axis`` of an array of this shape for each
    place, whose other coordinates are its own."""
    mine = to.inputs[i].shape
    steps = [prod(shape[a + 1 :]) for a in range(len(shape))]
    outer, inner = (_offsets(mine, steps, part) for part in (range(axis), range(axis + 1, len(shape))))
    units = len(outer) * -(-len(inner) // WIDTH)
    lines = Lines(len(outer), mine[axis], len(inner), WIDTH, shape[axis], steps[axis])
    starts = to.table("starts", np.concatenate([outer, inner]))
    return units, {"indices": as_int64(to, i), "starts": starts, "wrong": to.wrongs(units), "lines": lines}


def put_along(to: Lowering, shape: tuple[int, ...], axis: int, updates: int, how: int) -> None:
    """The step in which each element of input ``updates`` meets that of the output, an array of this shape, where input 1,
    an index along ``axis``, says; elements go one by one along the axis."""
    units, arguments = along(to, 1, shape, axis)
    to.step(
        f"indices.put_along_{to.outputs[0].dtype.itemsize}",
        units,
        work=16 * to.inputs[1].size,
        writes=("y", "wrong"),
        updates=to.input(updates),
        y=to.output(),
        how=how,
        **arguments,
    )


def put_rows(to: Lowering, places: Ref, count: int, inner: int, how: int) -> None:
    """The step in which ``count`` rows of input 2 meet rows of the output, one by one, at these places."""
    to.step(
        f"indices.put_{to.outputs[0].dtype.itemsize}",
        -(-inner // WIDTH),
        work=16 * count * inner,
        updates=to.input(2),
        places=places,
        y=to.output(),
        count=count,
        inner=inner,
        width=WIDTH,
        how=how,
    )


def _offsets(shape: tuple[int, ...], steps: list[int], axes: range) -> np.ndarray:
    """Where the elements along these axes lie, in row-major order."""
    found = np.zeros(1, np.int64)
    for a in axes:
        found = (found[:, None] + np.arange(shape[a]) * steps[a]).reshape(-1)
    return found
