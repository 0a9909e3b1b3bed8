"""The elementary functions against float64, over the whole float32 range, with the bounds that kernels/cpu/_math.py
states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup

TINY = float(np.finfo(np.float32).tiny)
SMALLEST = 2.0**-149

EDGES = np.array(
    [0.0, TINY, 1e-40, SMALLEST, 1 - 2**-24, 1.0, 1 + 2**-23, 0.625, math.sqrt(2), 3.9999998, 4.0, 4.0000005, 17.32868,
    87.33655,
     88.02969, 88.72283, 88.72284, 88.72285, 89.0, 103.27892, 103.97208, 103.9721, 104.0, 3.4028235e38, math.inf],
    np.float32,
)  # fmt: skip


def samples() -> np.ndarray:
    """Every 4099th float32 of either sign, denormals and NaNs included, an even grid over [-110, 110], and the edges."""
    bits = np.arange(0, 1 << 31, 4099, dtype=np.uint32).view(np.float32)
    grid = np.linspace(-110, 110, 200_003, dtype=np.float32)
    near = np.linspace(0.5, 2, 100_003, dtype=np.float32)
    return np.concatenate([bits, -bits, grid, near, EDGES, -EDGES, [np.float32(np.nan)]])


X = samples()


def run(op: str, x: np.ndarray, flush: bool = False, **attributes: float) -> np.ndarray:
    graph = Graph([Node(lookup(op)(**attributes), ("x",), ("y",))], {"x": Spec(x.shape, x.dtype)}, {"y": None}, {})
    return Model(graph, threads=1, flush_denormals=flush).run({"x": x})["y"]


def exact(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """The function of Python's math module over an array, in float64."""
    return lambda x: np.fromiter((function(v) for v in x.tolist()), np.float64, len(x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# relative to the result, absolute
BOUNDS = {
    "Exp": (np.exp, 2.5e-7, SMALLEST),
    "Log": (np.log, 3e-7, 0),
    "Sigmoid": (sigmoid, 4e-7, TINY),
    "Tanh": (np.tanh, 5e-7, SMALLEST),
    "Erf": (exact(math.erf), 0, 4e-7),
    "Softplus": (softplus, 4e-7, 1.2e-7),
    "Sqrt": (np.sqrt, 2.0**-24, 0),
    "Reciprocal": (np.reciprocal, 2.0**-24, SMALLEST),
}


@pytest.mark.parametrize("flush", [False, True], ids=["denormals", "flushed"])
@pytest.mark.parametrize("name", BOUNDS)
def test_bound(name: str, flush: bool) -> None:
    """Where denormals are flushed the result is that of 0, and what would be one is 0."""
    function, relative, absolute = BOUNDS[name]
    with np.errstate(all="ignore"):
        want = function(np.where(flush & (np.abs(X) < TINY), X * 0, X).astype(np.float64))
        near = want.astype(np.float32)  # overflows as a float32 result must
    got = run(name, X, flush)
    if flush:
        absolute += TINY
        assert not ((got != 0) & (np.abs(got) < TINY)).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(near))
    far = np.isinf(near)
    edge = far & np.isfinite(want) | (np.isinf(got) & ~far)  # within a rounding of the largest float32
    np.testing.assert_array_equal(got[far & ~edge], near[far & ~edge])
    with np.errstate(all="ignore"):
        limit = float(np.finfo(np.float32).max) * (1 - 2 * relative)
        assert (np.abs(want[edge]) >= limit).all()
        assert (np.abs(got[edge]) >= limit).all()
        finite = np.isfinite(near) & ~edge
        error = np.abs(got[finite].astype(np.float64) - want[finite])
        bound = relative * np.abs(want[finite]) + absolute
    worst = np.argmax(error - bound)
    assert (error <= bound).all(), f"{name}({X[finite][worst]!r}) is {got[finite][worst]!r}, wanted {want[finite][worst]!r}"


def test_gelu_keeps_small_what_is_small() -> None:
    x = X[np.isfinite(X)]
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        want = 0.5 * wide * exact(math.erfc)(-wide / math.sqrt(2))
    error = np.abs(run("Gelu", x).astype(np.float64) - want)
    bound = 4e-7 * np.abs(want) + 2e-7 * np.minimum(np.abs(wide), 6) + TINY
    worst = np.argmax(error - bound)
    assert (error <= bound).all(), f"Gelu({x[worst]!r}) wanted {want[worst]!r}, error {error[worst]:.3g}"


@pytest.mark.parametrize("op", ["Relu", "Neg", "Abs", "LeakyRelu"])
def test_exact(op: str) -> None:
    """Bit for bit, but for the NaNs' bits and the sign of zero."""
    with np.errstate(all="ignore"):
        want = {
            "Relu": np.maximum(X, 0), "Neg": -X, "Abs": np.abs(X), "LeakyRelu": np.where(X < 0, X * np.float32(0.3), X),
        }[op]  # fmt: skip
    attributes: dict[str, Any] = {"alpha": 0.3} if op == "LeakyRelu" else {}
    np.testing.assert_array_equal(run(op, X, **attributes), want)


@pytest.mark.parametrize("n", range(70))
def test_every_length(n: int) -> None:
    x = X[:: len(X) // 70][:n].copy()
    np.testing.assert_array_equal(run("Abs", x), np.abs(x))
