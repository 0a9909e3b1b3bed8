"""Winograd's minimal filtering (Lavin and Gray 2015) of 3×3 convolutions at stride 1, in tiles of 4×4 or 2×2 results: the
problems it serves, and its transformed weights. `winograd_fused` does it on processors, `winograd_steps` on GPUs."""

from __future__ import annotations

import numpy as np

from nbconv.kernels.winograd_points import AT_0, AT_FAR, AT_NEAR
from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.problem import ConvProblem, Geometry
from nbconv.lowering.packing import ceil, pack
from nbconv.lowering.repack import varies

TURNED = np.array([1, -1, 1])
G = {
    4: np.array([AT_0, AT_NEAR, TURNED * AT_NEAR, AT_FAR, TURNED * AT_FAR, [0, 0, 1]]),
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
}
"""The weights' transform for tiles of 4×4 and 2×2 results, at the points of kernels/cpu/_winograd.py."""

BLOCK = 1 << 14
"""Filters that are transformed at a time."""
GROUPS = 8
"""Most groups, which are done one after another."""
FEWEST = 12
"""Fewest channels of a group, in and out."""


def serves(p: ConvProblem, size: int) -> bool:
    """Whether this is such a convolution, and the weights of its tiles of ``size`` are within their limit."""
    g = p.geometry
    square = g.down[:3] == g.across[:3] == (3, 1, 1) and g.axes == 2
    if not square or g.small_channels or g.groups > GROUPS or min(g.ci, g.co) < FEWEST or not p.target.winograd:
        return False
    return p.itemsize * (size + 2) ** 2 * g.ci * g.co <= p.packed_limit


def tiles(g: Geometry, size: int) -> int:
    """Tiles in all."""
    return g.n * ceil(g.oh, size) * ceil(g.ow, size)


def padding(g: Geometry) -> tuple[int, int]:
    """Rows above the image and columns left of it; a transposed convolution is one with its taps from last to first."""
    return (2 - g.down.begin, 2 - g.across.begin) if g.transposed else (g.down.begin, g.across.begin)


def pieces(to: Lowering, p: ConvProblem, size: int) -> list[tuple[int, int]]:
    """The output channels of a group, those whose weights are transformed at a time."""
    g = p.geometry
    return to.pieces(g.co, p.itemsize * (size + 2) ** 2 * g.ci) if varies(to, 1) else [(0, g.co)]


def filters(to: Lowering, g: Geometry, size: int, i: int, first: int, count: int) -> Ref:
    """The transformed weights of channels ``first`` … of group i."""
    ci, co, turned = g.ci, g.co, g.transposed
    at = i * co + first

    def make() -> np.ndarray:
        if not turned:
            return to.value(1)[at : at + count]
        return to.value(1)[i * ci : (i + 1) * ci].swapaxes(0, 1)[..., ::-1, ::-1]

    if varies(to, 1):
        steps = (9 * co, 9) if turned else (9, 9 * ci)
        return repack.winograd(to, to.input(1).at(9 * i * ci * co + first * steps[1]), size, ci, count, *steps, turned)
    return to.constant(
        f"{to.node.inputs[1]}#winograd{size}.{i}.{g.groups}{'turned' * turned}",
        lambda: weights(make(), size, to.target.lanes, to.columns),
    )


def weights(w: np.ndarray, size: int, lanes: int, columns: int) -> np.ndarray:
    """(co, ci, 3, 3) → transformed and packed, a panelled (ci, co) matrix a point."""
    co, ci = w.shape[:2]
    g, edge = G[size], size + 2
    taps = w.transpose(3, 2, 1, 0).reshape(3, 3, ci * co)  # kx first, then ky
    full = np.empty((edge, edge, ci * co), np.float32)
    for i in range(0, ci * co, BLOCK):
        part = taps[..., i : i + BLOCK].astype(np.float64)
        half = np.tensordot(g, part, 1)  # (kx', ky, …)
        full[..., i : i + BLOCK] = np.matmul(g, half).swapaxes(0, 1)  # rounded once
    return pack(full.reshape(edge * edge, ci, co), lanes, columns)
