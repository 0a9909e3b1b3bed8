"""Gradients of convolutions over three axes by their weights: for each plane of the kernel one of a convolution of images,
which are the planes of x that meet it. x is copied so that these are equally spaced, one sample's beside the next."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv import weight_grad_depthwise
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import Geometry
from nbconv.lowering.conv.weight_grad import Plane, channel_sums, product, small_channels
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import channels_last
from nbconv.lowering.window import Axis, Window, spatial


class Planes(NamedTuple):
    """Images (h, w), ``apart`` floats from one plane of a sample to the next: those with the same remainder by the stride
    follow each other."""

    ref: Ref
    h: int
    w: int
    apart: int
    each: int
    """planes of each remainder"""
    beside: bool
    """whether a plane has all samples, else a sample all planes"""


def lower_volume_weight_grad(to: Lowering, window: Window, groups: int) -> None:
    """The steps of a ConvGradWeight with this window over x (n, ci, d, h, w), as many of its places as dy has."""
    if len(to.outputs) > 1:
        channel_sums(to)
    (n, ci, _, h, w), (_, co, od, oh, ow) = to.inputs[0].shape, to.inputs[1].shape
    deep, down, across = spatial(window)
    g = Geometry(False, 2, n * od, groups, ci // groups, co // groups, h, w, oh, ow, down, across)
    few, plane = small_channels(g), g.taps
    none = Axis(1, 1, 1, 0, 0)
    x, h, w, apart, each, beside = _planes(to, deep, down if few else none, across if few else none, od)
    dy = _turned(to) if beside else channels_last(to, 1)
    for z in range(deep.kernel):
        step, remainder = divmod(z * deep.dilation, deep.stride)
        here = x.at((remainder * each + step) * apart)
        made = Plane(dy, to.output().at(z * plane), deep.kernel * plane)
        if g.depthwise:
            weight_grad_depthwise.product(to, g, here, made)
        elif few:
            image = Image(here, h, w, ci, across.kernel * ci)
            product(to, g, image, (*down[:3], 0), (1, across.stride, 1, 0), made)
        else:
            product(to, g, Image(here, h, w, ci, g.ci), down[:4], across[:4], made)


def _planes(to: Lowering, deep: Axis, down: Axis, across: Axis, od: int) -> Planes:
    """x with its padding before the first plane, and what an axis across it has; as it is where it lies so already."""
    n, c, d, h, w = to.inputs[0].shape
    depth = (od - 1) * deep.stride + (deep.kernel - 1) * deep.dilation + 1
    hp, wp = h + down.begin + down.end, w + across.begin + across.end
    alone = deep.stride == 1 and (n == 1 or depth == od == d)
    if alone and not deep.begin and depth <= d and (hp, wp) == (h, w):
        return Planes(channels_last(to, 0), h, w, h * w * c, depth, False)
    each, plane = ceil(depth, deep.stride), hp * wp * c
    y = to.floats(deep.stride * each * n * plane)
    to.fill(y, deep.stride * each * n * plane)
    xn, xc, xd, xh, xw = (d * h * w * c, 1, h * w * c, w * c, c) if to.inputs[0].constant else to.strides(0)
    corner = (down.begin * wp + across.begin) * c
    for remainder in range(deep.stride):
        first = (remainder - deep.begin) % deep.stride
        count = ceil(min(d, depth - deep.begin) - first, deep.stride)
        if count <= 0:
            continue
        place = (remainder * each + (first + deep.begin) // deep.stride) * n * plane + corner
        to.copy(
            channels_last(to, 0).at(first * xd),
            y.at(place),
            (count, n, c, h, w),
            (deep.stride * xd, xn, xc, xh, xw),
            (n * plane, plane, 1, wp * c, c),
        )
    return Planes(y, hp, wp, n * plane, each, True)


def _turned(to: Lowering) -> Ref:
    """dy (od, n, oh, ow, co)."""
    dy = channels_last(to, 1)
    n, c, d, *plane = to.inputs[1].shape
    if n == 1 or d == 1:
        return dy
    y, size = to.floats(to.inputs[1].size), prod(plane) * c
    to.copy(dy, y, (d, n, size), (size, d * size, 1), (n * size, size, 1))
    return y
