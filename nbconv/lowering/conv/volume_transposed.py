"""Transposed convolutions over three axes. Planes of y that leave the same remainder by the stride meet the same planes of
the kernel; each of these is a transposed convolution of images, by phases, added to those before."""

from __future__ import annotations

import numpy as np

from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import Weights, taps_steps
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import Geometry
from nbconv.lowering.conv.transposed import NOTHING, Phase, phase, phases, strides
from nbconv.lowering.conv.volume import NO_BIAS, Turns, packed_once, padded_volume
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import WeightStrides
from nbconv.lowering.window import Window, spatial


def lower_volume_transposed(to: Lowering, window: Window, groups: int) -> None:
    """The steps of a ConvTranspose with this window over x (n, ci, d, h, w)."""
    n, ci, d, h, w = to.inputs[0].shape
    (deep, down, across), (od, oh, ow) = spatial(window), window.out
    g = Geometry(True, 2, 0, groups, ci // groups, to.inputs[1].shape[1], h, w, oh, ow, down, across)
    found = []  # of each phase: the plane of y it begins at, its planes, and by plane of the kernel the first of x it meets
    for p in range(min(deep.stride, od)):
        taps, (_, _, dilation, begin) = phase(p, deep)
        found.append((p, ceil(od - p, deep.stride), [(z, i * dilation - begin) for i, z in enumerate(taps)]))
    front = max([0, *(-at for _, _, met in found for _, at in met)])
    back = max([0, *(at + out - d for _, out, met in found for _, at in met)])
    x, d, *_ = padded_volume(to, (front, 0, 0), (back, 0, 0))
    turns = Turns(to, max(len(met) for _, _, met in found))
    for p, out, met in found:
        begins = met or [(-1, 0)]
        for part in phases(g):
            windows = (part.down, part.across) if met else NOTHING
            planes = packed_once(to, [_weights(to, g, part, z) for z, _ in begins], groups, g.co)
            for turn, (weights, (_, at)) in enumerate(zip(planes, begins, strict=True)):
                for i in range(n):
                    taps_steps(
                        to,
                        g._replace(n=out),
                        weights,
                        part.size,
                        *windows,
                        part.scatter._replace(full_h=deep.stride * oh, oy0=part.scatter.oy0 + p * oh),
                        source=Image(x.at((i * d + front + at) * h * w * ci), h, w, ci, g.ci),
                        wide=turns.begin(turn, len(begins), i * od * oh * ow),
                        bias_input=NO_BIAS if turn else 2,
                    )


def _weights(to: Lowering, g: Geometry, part: Phase, z: int) -> Weights:
    """The phase's taps in plane z of the weights, which ONNX has as (groups · ci, co, kd, kh, kw); none where z is -1."""
    kd, ky, kx = to.inputs[1].shape[2], part.ky, part.kx

    def make() -> np.ndarray:
        full = to.value(1)[:, :, z].reshape(g.groups, g.ci, g.co, g.down.kernel, g.across.kernel)
        some = full[:, :, :, ky][..., kx].transpose(0, 3, 4, 1, 2)
        return some.reshape(g.groups, len(ky) * len(kx), g.ci, g.co)

    found = strides(g, ky, kx, z, kd) if z >= 0 else WeightStrides(*[0] * 9)
    return Weights(f"transposed{g.groups}.plane{z}.{ky}{kx}", make, found, to.input(1))
