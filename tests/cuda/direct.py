"""Launches of kernels by themselves: with what no op's call has, and on arrays that end where their memory ends."""

from __future__ import annotations

import functools
from collections import defaultdict

import numpy as np

from nbconv.base.random import bits, stream_key
from nbconv.kernels.params import ClassWeights, Extents, Scores, Strides, TapStrides
from tests.cuda import test_tiles, test_winograd
from tests.cuda.recordings import Recording
from tests.cuda.test_tiles import HARD_SWISH, SILU, products, rand, run


@functools.cache
def direct() -> dict[tuple[str, str, int], list[Recording]]:
    """Launches that were right, by family, kernel and variant."""
    with test_tiles.recording() as found:
        products(64, 70, 64, 20, residual=True, code=HARD_SWISH)
        products(64, 9, 31, 12, residual=True, code=SILU, affine=True)
        products(64, 9, 20, 24, residual=True, affine=True, chunk=8)
        products(128, 3, 64, 8, affine=True)
        for size in (4, 2):
            test_winograd.test_filters(size, 13, 70, False, 0)
            test_winograd.test_filters(size, 9, 20, True, 0)
        test_tiles.test_panels(5, 70, 2, 3, 2, False)
        rows()
        merged()
        turned(20, 40, 2)
        turned(300, 8, 2)
        dropout()
        no_classes()
    kept: dict[tuple[str, str, int], list[Recording]] = defaultdict(list)
    for one in found:
        kept[one.family, one.kernel, one.variant].append(one)
    return kept


def rows() -> None:
    x, y = rand(9, 34), np.full((9, 64), np.nan, np.float32)
    run("packing", "rows", None, 9, {"x": x, "y": y, "n": 34, "row": 34, "column": 1, "padded": 64, "scale": 1.0})
    assert np.array_equal(y, np.pad(x, ((0, 0), (0, 30))))


def merged() -> None:
    """Nine rows: the second unit has one, the last of the array."""
    x, y = rand(2, 9, 32), np.full((5, 9), np.nan, np.float32)
    sizes = {"parts": 2, "taps": 1, "cg": 9, "og": 5, "padded": 32, "step": 9 * 32}
    run("conv_grad", "merge", None, 2, {"x": x, "y": y, **sizes, "strides": TapStrides(1, 1, 9, 0)})
    assert np.array_equal(y, (x[0] + x[1]).T[:5])


def turned(n: int, m: int, units: int) -> None:
    """``units``: tiles of the copy, whose sides depend on n and m."""
    x, y = rand(m, n), np.full((n, m), np.nan, np.float32)
    strides = {"x_strides": Strides(1, 1, 1, 1, n), "y_strides": Strides(1, 1, 1, m, 1)}
    run("move", "copy", None, units, {"x": x, "y": y, "extents": Extents(1, 1, n, m), **strides})
    assert np.array_equal(y, x.T)


def dropout() -> None:
    """With a word as threshold: what is not below it is kept."""
    x, y, words = rand(70), np.full(70, np.nan, np.float32), bits(3, 0, 9, 70)
    run(
        "dropout", "dropout", None, 1,
        {
            "x": x, "y": y, "step": np.array([9]), "float_step": None, "real": 0, "n": 70, "chunk": 128,
            "key": stream_key(3, 0), "threshold": int(words[40]), "scale": 1.0,
        },
    )  # fmt: skip
    assert np.array_equal(y, np.where(words >= words[40], x, 0)) and y[40] == x[40]


def no_classes() -> None:
    """Of labels of which two are no classes."""
    labels, logp, y, share = np.array([2, 5, 4, -1]), rand(4, 5), np.full(4, np.nan, np.float32), np.zeros(4, np.float32)
    where = {"labels": labels, "n": 4, "chunk": 256, "scores": Scores(5, 1, 5, 5, 1)}
    plain = ClassWeights(None, 0, 0, -9)
    run("loss", "pick", None, 1, {"logp": logp, "y": y, "share": share, "weighting": plain, **where})
    np.testing.assert_array_equal(y, [-logp[0, 2], np.nan, -logp[2, 4], np.nan])
    hot = np.full((4, 5), np.nan, np.float32)
    run("loss", "one_hot", None, 1, {"y": hot, "on": 1.0, "off": 0.25, "ignore": -9, **where})
    assert np.array_equal(hot[::2], np.where(labels[::2, None] == np.arange(5), np.float32(1), np.float32(0.25)))
    assert not hot[1::2].any()
