"""Depthwise convolutions over three axes, one filter a channel: x is copied into padded volumes where windows reach past it.
A transposed one is such a convolution per phase of its strides."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from nbconv.kernels.params import Extents, Strides
from nbconv.kernels.sampling_params import Taps
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.transposed import phase
from nbconv.lowering.conv.volume import Volume, padded_volume
from nbconv.lowering.packing import ceil, epilogue, pad_bias
from nbconv.lowering.repack import varies
from nbconv.lowering.step import Work
from nbconv.lowering.window import Axis, Window, spatial


class Row(NamedTuple):
    """Along one axis: the taps, where in x the first one meets the first result, how far it is from there to the next
    result's, and to the next tap's; results from ``begin`` on, ``step`` apart, ``out`` of them."""

    taps: range
    start: int
    stride: int
    dilation: int
    begin: int
    step: int
    out: int


def lower_depthwise(to: Lowering, window: Window) -> None:
    """The steps of a Conv."""
    rows = [Row(range(a.kernel), -a.begin, a.stride, a.dilation, 0, 1, out) for a, out in zip(spatial(window), window.out)]
    product(to, padded_volume(to, window.begin, window.end), (rows[0], rows[1], rows[2]))


def lower_depthwise_transposed(to: Lowering, window: Window) -> None:
    """The steps of a ConvTranspose."""
    axes = [list(_phases(to.inputs[0].shape[2 + i], axis, window.out[i])) for i, axis in enumerate(spatial(window))]
    size = to.inputs[0].shape[2:]
    begin = tuple(max(0, *(-_reach(row)[0] for row in rows)) for rows in axes)
    end = tuple(max(0, *(_reach(row)[1] - n for row in rows)) for rows, n in zip(axes, size, strict=True))
    x = padded_volume(to, begin, end)
    for deep in axes[0]:
        for down in axes[1]:
            for across in axes[2]:
                product(to, x, (deep, down, across))


def _phases(size: int, axis: Axis, out: int) -> Iterator[Row]:
    """An axis's phases; one that no tap meets has none."""
    stride = axis[1]
    for p in range(min(stride, out)):
        taps, (_, _, dilation, begin) = phase(p, axis)
        found = range(taps[0], taps[-1] + 1, taps[1] - taps[0] if len(taps) > 1 else 1) if taps else range(0)
        yield Row(found, -begin if taps else 0, 1, dilation if taps else 0, p, stride, ceil(out - p, stride))


def _reach(row: Row) -> tuple[int, int]:
    """[first, end) of the cells of x that an axis reads."""
    if not row.taps:
        return 0, 0
    ends = [
        row.start + tap * row.dilation + last for tap in (0, len(row.taps) - 1) for last in (0, (row.out - 1) * row.stride)
    ]
    return min(ends), max(ends) + 1


def product(to: Lowering, x: Volume, rows: tuple[Row, Row, Row]) -> None:
    """One step of `depthwise` in kernels/cpu/volume_conv.py."""
    (n, c), lanes, (od, oh, ow) = to.outputs[0].shape[:2], to.target.lanes, to.outputs[0].shape[2:]
    deep, down, across = rows
    full, (xz, xy, xx), (yz, yy, yx) = ceil(c, lanes) * lanes, (x.h * x.w * c, x.w * c, c), (oh * ow * c, ow * c, c)
    some = len(deep.taps), len(down.taps), len(across.taps)
    taps = prod(some)
    first = [row.start + pad for row, pad in zip(rows, x.begin, strict=True)] if taps else [0, 0, 0]
    units, flops = n * deep.out * down.out, 2 * n * c * taps * deep.out * down.out * across.out
    to.step(
        "volume_conv.depthwise",
        units,
        work=4 * max(flops, units * across.out * c),
        x=x.ref.at(first[0] * xz + first[1] * xy + first[2] * xx),
        w=_weights(to, rows, full),
        b=_bias(to, full),
        y=to.output().at(deep.begin * yz + down.begin * yy + across.begin * yx),
        extents=Extents(deep.out, down.out, across.out, c),
        x_strides=Strides(x.d * xz, deep.stride * xz, down.stride * xy, across.stride * xx, 1),
        y_strides=Strides(od * yz, deep.step * yz, down.step * yy, across.step * yx, 1),
        taps=Taps(*some, deep.dilation * xz, down.dilation * xy, across.dilation * xx),
        padded=full,
        epilogue=epilogue(to, 1, c, lanes, lanes),
        kind="depthwise",
        algorithm=f"depthwise {'×'.join(map(str, some))}",
        does=Work(flops, flops, 4 * n * c * deep.out * down.out * across.out),
    )


def _weights(to: Lowering, rows: tuple[Row, Row, Row], full: int) -> Ref:
    """The taps of all channels, in rows of ``full``."""
    c, _, kd, kh, kw = to.inputs[1].shape
    deep, down, across = (row.taps for row in rows)
    some = len(deep), len(down), len(across)
    if not all(some):
        return to.zeros(full)
    if varies(to, 1):
        y, base = to.floats(some[0] * some[1] * some[2] * full), (deep[0] * kh + down[0]) * kw + across[0]
        to.fill(y, some[0] * some[1] * some[2] * full)
        steps = (deep.step * kh * kw, down.step * kw, across.step, kd * kh * kw)
        to.copy(to.input(1).at(base), y, (*some, c), steps, (some[1] * some[2] * full, some[2] * full, full, 1))
        return y

    def make() -> np.ndarray:
        packed = np.zeros((*some, full), np.float32)
        packed[..., :c] = np.moveaxis(to.value(1)[:, 0][(slice(None), *np.ix_(deep, down, across))], 0, -1)
        return packed

    return to.constant(f"{to.node.inputs[1]}#depthwise{full}.{list(deep)}{list(down)}{list(across)}", make)


def _bias(to: Lowering, full: int) -> Ref:
    """The bias of all channels, in a row of ``full``."""
    c, lanes = to.outputs[0].shape[1], to.target.lanes
    if varies(to, 2):
        return repack.rows(to, to.input(2), 1, c, 0, 1, full)
    name = to.node.inputs[2] if to.has(2) else ""
    return to.constant(f"{name}#lanes{c}", lambda: pad_bias(to.value(2) if name else None, 1, c, lanes, lanes))
