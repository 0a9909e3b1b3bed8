"""Convolutions over three axes: x is copied into padded volumes, and each plane of the kernel is a convolution of images,
whose results are added to those before."""

from __future__ import annotations

import numpy as np

from nbconv.kernels.params import Epilogue
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.indirect_gemm import Weights, Wide, taps_steps
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import SMALL_CHANNELS, Geometry
from nbconv.lowering.repack import WeightStrides
from nbconv.lowering.window import Window, spatial

NO_BIAS = 99
"""An input that no node has."""


def is_padded(window: Window) -> bool:
    """Whether x is copied, from whatever layout it has."""
    return any((*window.begin, *window.end))


def lower_volume(to: Lowering, window: Window, groups: int) -> None:
    """The steps of a Conv with this window over x (n, ci, d, h, w)."""
    n, c, d, h, w = to.inputs[0].shape
    co, cg, kd, _, kw = to.inputs[1].shape
    (deep, down, across), (od, oh, ow) = spatial(window), window.out
    d, h, w = (size + a.begin + a.end for size, a in zip((d, h, w), (deep, down, across), strict=True))
    x = padded_volume(to, window) if is_padded(window) else to.input(0)
    few = c < SMALL_CHANNELS and groups == 1 and kw > 1 and across.dilation == 1  # a row of the window is one tap
    sides = down._replace(begin=0, end=0), across._replace(begin=0, end=0)
    g = Geometry(False, 2, od, groups, cg, co // groups, h, w, oh, ow, *sides)
    columns, floats = (1, across.stride, 1, 0) if few else sides[1][:4], kw * cg if few else cg
    last, pixels = (to.epilogue, to.affine), od * oh * ow
    residual, target = to.residual, to.output()
    other = to.floats(n * pixels * co) if kd > 1 else target
    together = d == od * deep.stride  # the batch's planes are equally spaced
    for z in range(kd):
        here, before = (target, other) if (kd - z) % 2 else (other, target)
        to.epilogue, to.affine = last if z == kd - 1 else (Epilogue(), None)
        for i in range(1 if together else n):
            if z:
                to.residual, to.ldres = before.at(i * pixels * co), co
            elif residual is not None:
                to.residual = residual.at(i * pixels * to.ldres)
            taps_steps(
                to,
                g._replace(n=n * od) if together else g,
                plane_weights(to, z, groups),
                (oh, ow),
                sides[0][:4],
                columns,
                source=Image(x.at((i * d + z * deep.dilation) * h * w * c), deep.stride * h, w, c, floats),
                wide=Wide(here.at(i * pixels * co), co),
                bias_input=NO_BIAS if z else 2,
            )


def padded_volume(to: Lowering, window: Window) -> Ref:
    """Steps that copy x into zero-filled volumes with room for the padding, channels last."""
    n, c, *size = to.inputs[0].shape
    d, h, w = (s + a.begin + a.end for s, a in zip(size, spatial(window), strict=True))
    y = to.floats(n * d * h * w * c)
    to.fill(y, n * d * h * w * c)
    front, top, left = window.begin
    there = (d * h * w * c, 1, h * w * c, w * c, c)
    to.copy(to.input(0), y.at(((front * h + top) * w + left) * c), (n, c, *size), to.strides(0), there)
    return y


def plane_weights(to: Lowering, z: int, groups: int) -> Weights:
    """A plane of the kernel, of (groups · co, ci, kd, kh, kw)."""
    co, cg, kd, kh, kw = to.inputs[1].shape
    taps, whole = kh * kw, kd * kh * kw

    def make() -> np.ndarray:
        return to.value(1)[:, :, z].reshape(groups, co // groups, cg, taps).transpose(0, 3, 2, 1)

    strides = WeightStrides(z * taps, whole * cg * (co // groups), kw, 1, whole, cg * whole, kh, kw, cg)
    return Weights(f"conv{groups}.plane{z}", make, strides, to.input(1))
