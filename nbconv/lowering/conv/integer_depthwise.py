"""Depthwise convolutions of 8-bit integers: along a row of results each column of the window is read once."""

from __future__ import annotations

import numpy as np

from nbconv.kernels.params import DenseImage
from nbconv.kernels.quantised_params import Requantise
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.integer_gemm import DTYPES, WORD, Integers, by_bytes, constants
from nbconv.lowering.conv.problem import ConvProblem
from nbconv.lowering.implementation import Implementation
from nbconv.lowering.packing import ceil
from nbconv.lowering.step import Work
from nbconv.lowering.window import seen_by, sliding

WINDOWS = ((3, 3), (5, 5), (1, 3))
"""Heights and widths that have kernels, at strides 1 and 2."""


def fits(p: ConvProblem) -> bool:
    g = p.geometry
    window = (g.down.kernel, g.across.kernel) in WINDOWS and g.across.stride <= 2 and g.across.dilation == 1
    return g.depthwise and not g.transposed and window and p.contiguous and g.groups >= p.target.lanes


def emit(to: Lowering, p: ConvProblem, q: Integers) -> None:
    """One step of kernels/cpu/quantised_depthwise.py."""
    g, c, flip, in_bytes = p.geometry, p.geometry.groups, 0x80 if p.dtype == "int8" else 0, by_bytes(p, q)
    kh, kw, stride = g.down.kernel, g.across.kernel, g.across.stride
    x_zero, each = q.x_zero + flip, WORD if in_bytes else WORD // 2

    def weights() -> np.ndarray:
        full = np.zeros((kw, ceil(kh, each) * each, c), np.int8 if in_bytes else np.int16)
        full[:, :kh] = q.matrices().reshape(c, kh, kw).transpose(2, 1, 0)
        full = full.reshape(kw, -1, each, c).swapaxes(2, 3)
        return np.ascontiguousarray(full).view(np.int32).reshape(-1)

    bias, scale = constants(to, q, g, x_zero, 1, 1)
    size = g.n * c * g.oh * g.ow
    to.step(
        f"quantised_depthwise.{'bytes' if in_bytes else 'shorts'}_{kh}x{kw}_{stride}",
        g.n * g.oh,
        work=4 * size * g.taps,
        x=to.input(0),
        w=to.constant(f"{q.key}#slide{int(in_bytes)}", weights),
        bias=bias,
        y=to.output(),
        padding=to.constant(
            f"#zero_points{q.x_zero}", lambda: np.full(p.target.lanes, q.x_zero & 0xFF, np.uint8)
        ),
        image=DenseImage(g.h, g.w, c, g.oh, g.ow),
        window=sliding(g.down, g.across),
        padded=c,
        to8=Requantise(scale, q.low - q.zero_point, q.high - q.zero_point, q.zero_point, flip, x_zero, q.size),
        kind="depthwise",
        algorithm=f"integers, depthwise {kh}×{kw} /{stride}",
        does=Work(2 * size * g.taps, 2 * size * g.taps, size, seen_by(g.down, g.across)),
    )  # fmt: skip


INTEGER_DEPTHWISE = Implementation("integer_depthwise", fits, emit, lambda p: 0.0, DTYPES)
