"""Weights that are packed while a model runs: the results have the bits that those of constants have."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.lowering.conv import CONVOLUTIONS
from nbconv.model import Model
from nbconv.ops import convolution, lookup

F32 = np.dtype(np.float32)
ROWS = ("indirect_gemm", "transposed_phases", "grouped")
"""Implementations whose weights are panels."""


def same_bits(name: str, fields: dict, x: np.ndarray, w: np.ndarray) -> None:
    op, y, results = lookup(name)(**fields), {"y": None}, []
    for held in (True, False):
        inputs = {"x": Spec(x.shape, F32)} | ({} if held else {"w": Spec(w.shape, F32)})
        graph = Graph([Node(op, ("x", "w"), ("y",))], inputs, dict(y), {"w": w} if held else {})
        for threads in (1, 2):
            results.append(Model(graph, threads=threads).run({"x": x} | ({} if held else {"w": w}))["y"])
    assert all(np.array_equal(results[0], r) for r in results[1:]), (fields, x.shape, w.shape)
    want = op.reference(x.astype(np.float64), w.astype(np.float64))
    assert np.allclose(results[0], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", ["Conv", "ConvTranspose"])
def test_panels(monkeypatch, name, axes) -> None:
    """Random kernels, strides (of whose phases taps lie apart), dilations, groups and channels, whole vectors and parts."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [r for r in CONVOLUTIONS if r.name in ROWS])
    rng = np.random.default_rng(axes)
    for _ in range(12):
        kernel, stride, dilation = (rng.choice(of, axes) for of in ((1, 2, 3, 3, 5), (1, 1, 2, 3), (1, 1, 2)))
        group, (ci, co) = int(rng.choice([1, 1, 2])), rng.choice([17, 20, 33, 37, 70], 2)
        pads = np.minimum((kernel - 1) * dilation // 2, kernel)
        size = (kernel - 1) * dilation + rng.integers(1, 4, axes)
        shape = (group * co, ci, *kernel) if name == "Conv" else (group * ci, co, *kernel)
        fields = {"strides": stride, "dilations": dilation, "pads": np.concatenate([pads, pads])}
        fields = {"group": group, **{k: tuple(map(int, v)) for k, v in fields.items()}}
        x, w = (rng.standard_normal(s).astype(F32) for s in ((2, group * ci, *size), shape))
        same_bits(name, fields, x, w)


@pytest.mark.parametrize("kernel", [(30, 20), (1, 1), (1, 2)])
def test_kernels_of_any_size(monkeypatch, kernel) -> None:
    """Taps that lie too far apart to be read as a piece, and those that are one."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [r for r in CONVOLUTIONS if r.name in ROWS])
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(s).astype(F32) for s in ((1, 17, kernel[0] + 1, kernel[1] + 2), (19, 17, *kernel)))
    same_bits("Conv", {}, x, w)
    same_bits("ConvTranspose", {"strides": (2, 2)}, x, w.swapaxes(0, 1).copy())
