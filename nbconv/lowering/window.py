"""The arithmetic of sliding windows, shared by convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nbconv.errors import ModelError
from nbconv.graph.symbolic import apply
from nbconv.kernels import params
from nbconv.kernels.sampling_params import Depth

STRIP = 8
"""Cells of a row that a unit of kernels/cuda/pool_grad.py and of its neighbour for depthwise convolutions does."""


class Window(NamedTuple):
    """A window over the spatial axes, resolved: every tuple has one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    """padding before each axis"""
    end: tuple[int, ...]
    """padding after each axis, as stated (ceil_mode may reach past it)"""
    out: tuple[int, ...]
    """output size of each axis"""


def window_out(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil: bool = False) -> int:
    """Output size along one axis; in ceil mode a last window that would start in the end padding is dropped (ONNX
    MaxPool-22, AveragePool-22)."""
    span = size + begin + end - (dilation * (kernel - 1) + 1)
    if span < 0:
        return 0
    out = (span + stride - 1) // stride + 1 if ceil else span // stride + 1
    if ceil and (out - 1) * stride >= size + begin:
        out -= 1
    return out


def resolve(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    auto_pad: str = "NOTSET",
    ceil: bool = False,
) -> Window:
    """The window that ONNX's attributes describe over an input of this spatial ``size``.

    Raises ModelError for attributes of the wrong length, non-positive strides, dilations or kernels, an unknown
    ``auto_pad`` and an empty output.
    """
    n = len(size)
    strides = strides or (1,) * n
    dilations = dilations or (1,) * n
    pads = pads or (0,) * (2 * n)
    for name, value, want in (
        ("kernel_shape", kernel, n),
        ("strides", strides, n),
        ("dilations", dilations, n),
        ("pads", pads, 2 * n),
    ):
        if len(value) != want:
            raise ModelError(f"{name} {list(value)} has {len(value)} entries, the {n} spatial axes want {want}")
        if name != "pads" and min(value, default=1) < 1:
            raise ModelError(f"{name} {list(value)} must be positive")
    if min(pads, default=0) < 0:
        raise ModelError(f"pads {list(pads)} must not be negative")
    begin, end = pads[:n], pads[n:]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = tuple(
            max((-(-s // st) - 1) * st + d * (k - 1) + 1 - s, 0)
            for s, k, st, d in zip(size, kernel, strides, dilations, strict=True)
        )
        small = tuple(t // 2 for t in total)
        large = tuple(t - t // 2 for t in total)
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    elif auto_pad == "VALID":
        begin = end = (0,) * n
    elif auto_pad != "NOTSET":
        raise ModelError(f"auto_pad {auto_pad!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    out = tuple(
        apply(window_out, s, k, st, d, b, e, ceil and not same)
        for s, k, st, d, b, e in zip(size, kernel, strides, dilations, begin, end, strict=True)
    )
    if any(size < 1 for size in out):
        raise ModelError(f"a {list(kernel)} window does not fit an input of size {list(size)} with pads {list(begin + end)}")
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(begin), tuple(end), out)


def plane(shape: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of (n, c, h, w), or of (n, c, w) as an image of one row."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[2])


class Axis(NamedTuple):
    """A window along one axis."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    def turned(self) -> Axis:
        """The window of the transpose at stride 1, which meets the taps from the last to the first."""
        return self._replace(begin=(self.kernel - 1) * self.dilation - self.begin)


def spatial(window: Window) -> list[Axis]:
    """A window's axes."""
    return [
        Axis(*axis) for axis in zip(window.kernel, window.strides, window.dilations, window.begin, window.end, strict=True)
    ]


def flat(window: Window) -> tuple[Axis, Axis]:
    """Down and across, of a window over one or two axes."""
    axes = spatial(window)
    return (axes[0], axes[1]) if len(axes) == 2 else (Axis(1, 1, 1, 0, 0), axes[0])


def seen_by(down: tuple[int, ...], across: tuple[int, ...]) -> float:
    """The part of an image that a window of `flat` with gaps between its places reads."""
    return min(1.0, down[0] / down[1]) * min(1.0, across[0] / across[1])


def sliding(down: tuple[int, ...], across: tuple[int, ...]) -> params.Window:
    """As kernels take it: a window of `flat`."""
    (kh, sh, dh, ph), (kw, sw, dw, pw) = down[:4], across[:4]
    return params.Window(kh, kw, sh, sw, dh, dw, ph, pw)


def in_space(size: Sequence[int]) -> tuple[int, int, int]:
    """Up to three spatial dimensions as (d, h, w), those that lack being 1."""
    d, h, w = (1, 1, *size)[-3:]
    return d, h, w


def along_space(window: Window) -> list[Axis]:
    """A window's axes along (d, h, w)."""
    return [Axis(1, 1, 1, 0, 0)] * (3 - len(window.out)) + spatial(window)


def depth(axis: Axis, size: int, out: int) -> Depth:
    """As kernels take it: a window along the first of three axes."""
    return Depth(size, out, axis.kernel, axis.stride, axis.dilation, axis.begin)
