"""Weights that are computed while running, packed by steps of the node that reads them (`kernels/cpu/packing.py`)."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from nbconv.graph import Spec
from nbconv.kernels.params import FilterStrides
from nbconv.lowering.context import Lowering, Ref, View
from nbconv.lowering.packing import ceil, padded

PIECE = 32
"""Rows of a panel that a unit packs on CUDA (`kernels/cuda/packing.py`)."""
MOVED = 8192
"""Elements that a unit picks."""
FILTERS = 8
"""Rows of a panel that a unit transforms for Winograd on CUDA."""


class WeightStrides(NamedTuple):
    """How a convolution's weights lie: element (group, y, x, i, o) at base + group·g + ky·y + kx·x + ci·i + co·o, for
    kh × kw taps of cg input channels."""

    base: int
    group: int
    ky: int
    kx: int
    ci: int
    co: int
    kh: int
    kw: int
    cg: int


def varies(to: Lowering, i: int) -> bool:
    """Whether input i is given, and no constant."""
    return to.has(i) and not to.inputs[i].constant


def channels_last(to: Lowering, i: int) -> Ref:
    """Input i as it lies channels last; a constant, which lies as ONNX has it, is turned."""
    if not to.inputs[i].constant or to.inputs[i].rank < 3:
        return to.input(i)
    return to.constant(f"{to.node.inputs[i]}#last", lambda: np.ascontiguousarray(np.moveaxis(to.value(i), 1, -1)))


def pick_channels(to: Lowering, i: int, channels: tuple[int, ...]) -> None:
    """The step that copies these channels of input i, which lies channels last; the steps behind it read them as if it had
    no others."""
    n, size, *rest = to.inputs[i].shape
    total, count = n * prod(rest), len(channels)
    x, y = channels_last(to, i), to.floats(total * count)
    pixels = max(1, MOVED // count)
    to.step(
        "elements.pick",
        ceil(total, pixels),
        work=8 * total * count,
        x=x,
        y=y,
        places=to.table("channels", np.array(channels, np.int64)),
        count=count,
        size=size,
        pixels=pixels,
        total=total,
    )
    to.views = {**to.views, to.node.inputs[i]: View(y, 0)}
    inputs = list(to.inputs)
    inputs[i] = Spec((n, count, *rest), to.inputs[i].dtype)
    to.inputs = tuple(inputs)


def panels(to: Lowering, w: Ref, ws: WeightStrides, groups: int, n: int, scale: float = 1.0) -> Ref:
    """Panels of n columns a group, as `packing.pack` makes them of constants."""
    taps, full = ws.kh * ws.kw, padded(n, to.target.lanes, to.columns)
    y, units = to.floats(groups * panel_floats(to, ws, n)), groups * ceil(n, to.columns)
    to.step(
        "packing.panels",
        to.gpu_split(units, ceil(taps * ws.cg, PIECE)),
        work=16 * groups * taps * ws.cg * n,
        w=w.at(ws.base),
        y=y,
        kh=ws.kh,
        kw=ws.kw,
        cg=ws.cg,
        n=n,
        strides=FilterStrides(ws.group, ws.ky, ws.kx, ws.ci, ws.co),
        padded=full,
        scale=scale,
    )
    return y


def planes(to: Lowering, w: Ref, ws: WeightStrides, count: int, n: int) -> list[Ref]:
    """The panels of ``count`` planes of a kernel of one group, ws.group floats apart, in one step."""
    each = panel_floats(to, ws, n)
    if to.target.gpu or count == 1:
        whole = panels(to, w, ws, count, n)
    else:
        whole = to.floats(count * each)
        to.step(
            "packing.planes",
            ceil(n, to.columns),
            work=16 * count * ws.kh * ws.kw * ws.cg * n,
            w=w.at(ws.base),
            y=whole,
            count=count,
            kh=ws.kh,
            kw=ws.kw,
            cg=ws.cg,
            n=n,
            strides=FilterStrides(ws.group, ws.ky, ws.kx, ws.ci, ws.co),
            padded=padded(n, to.target.lanes, to.columns),
            scale=1.0,
        )
    return [whole.at(z * each) for z in range(count)]


def panel_floats(to: Lowering, ws: WeightStrides, n: int) -> int:
    """Floats of a group's panels of n columns."""
    return ws.kh * ws.kw * ws.cg * padded(n, to.target.lanes, to.columns)


def winograd(to: Lowering, w: Ref, size: int, ci: int, co: int, cis: int, cos: int, turned: bool) -> Ref:
    """Transformed and packed 3×3 filters, as `winograd.weights` makes them of constants; filter (i, o) begins at
    i·cis + o·cos, and is read from its end where ``turned``."""
    full, points = padded(co, to.target.lanes, to.columns), (size + 2) ** 2
    y = to.floats(points * ci * full)
    to.step(
        f"packing.winograd_{size}",
        to.gpu_split(ceil(co, to.columns), ceil(ci, FILTERS)),
        work=16 * points * ci * co,
        w=w,
        y=y,
        ci=ci,
        co=co,
        cis=cis,
        cos=cos,
        turned=int(turned),
        padded=full,
    )
    return y


def rows(to: Lowering, x: Ref, count: int, n: int, row: int, column: int, full: int, scale: float = 1.0) -> Ref:
    """``count`` rows of n elements, element (i, j) from i·row + j·column, each filled up to ``full`` with zeros."""
    y = to.floats(count * full)
    to.step("packing.rows", count, work=16 * count * full, x=x, y=y, n=n, row=row, column=column, padded=full, scale=scale)
    return y


def bias(to: Lowering, x: Ref, groups: int, n: int, repeats: int = 1, scale: float = 1.0) -> Ref:
    """groups · n elements, in rows filled up as panels are; with one group they may be repeated side by side."""
    if repeats == 1:
        return rows(to, x, groups, n, n, 1, padded(n, to.target.lanes, to.columns), scale)
    whole = padded(repeats * n, to.target.lanes, to.columns)
    y = to.floats(whole)
    to.copy(x, y, (repeats, n), (0, 1), (n, 1))
    rest = whole - repeats * n
    if rest:
        to.fill(y.at(repeats * n), rest)
    return y
