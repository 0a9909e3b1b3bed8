"""The language of `_simd` in Numba's CUDA simulator: threads of Python, with NumPy scalars as
lanes.

A pointer is a `Pointer`: an array and a place in it, which may lie outside as long as nothing is
read there.
The simulator has no warp instructions: where lanes meet (`hsum`) the block does, so a block is one
warp wherever lanes meet.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

from ._numba import (
    VECTOR,
    WARP,
    Bytes,
    Float,
    Floats,
    Int,
    Ints,
    context,
    inline,
    kernel,
    on_tensor_cores,
    tiled,
)

__all__ = [
    "Bytes", "Float", "Floats", "Int", "Ints", "Pointer", "W", "absolute", "aligned", "at", "barrier", "below",
    "bits_exponent", "bits_mantissa", "blocks", "copysign_bits", "cuda", "fma", "get", "given", "hmax", "hsum", "inline",
    "kept", "kernel", "lane", "load", "load2", "load4", "load_part", "magic_round", "maximum", "minimum", "mma",
    "on_tensor_cores", "pow2", "product", "put", "quotient", "scalar", "shared_floats", "short", "splat", "spread", "sqrt",
    "store", "store4", "store_part", "tiled", "to_tf32", "unordered", "unseen", "vec", "where",
]  # fmt: skip

W = WARP
_lock = threading.Lock()
vec = np.float32
F32 = np.float32


class Pointer:
    """An array's elements from ``place`` on; IndexError for what lies outside the array."""

    __slots__ = ("array", "place")

    def __init__(self, array: np.ndarray, place: int = 0) -> None:
        self.array, self.place = array, place

    def __getitem__(self, i: int) -> Any:
        return self.array[self._at(i)]

    def __setitem__(self, i: int, value: Any) -> None:
        self.array[self._at(i)] = value

    def _at(self, i: int) -> int:
        i = int(i) + self.place
        if not 0 <= i < len(self.array):
            raise IndexError(f"element {i} of an array of {len(self.array)}")
        return i


class _Cuda:
    """numba.cuda as it is inside the running kernel."""

    def __getattr__(self, name: str) -> Any:
        return getattr(context(), name)


cuda = _Cuda()


def _by_warp(function):
    setattr(function, VECTOR, True)
    return function


@_by_warp
def lane():
    return threading.current_thread().threadIdx.x % W  # type: ignore[attr-defined]


@_by_warp
def load(p, i):
    return p[i + lane()]


@_by_warp
def store(p, i, v):
    p[i + lane()] = v


@_by_warp
def load_part(p, i, n):
    return p[i + lane()] if lane() < n else F32(0)


@_by_warp
def store_part(p, i, v, n):
    if lane() < n:
        p[i + lane()] = v


def splat(s):
    return F32(s)


def scalar(v):
    return v


def where(m, x, y):
    return F32(x) if m else F32(y)


def kept(v, n):
    return v if lane() < n else F32(0)


def unordered(x, y):
    return (x != x) | (y != y)


def maximum(x, y):
    return F32(y) if x < F32(y) else x


def minimum(x, y):
    return F32(y) if x > F32(y) else x


def sqrt(x):
    return np.sqrt(x)


def fma(x, y, z):
    return F32(float(x) * float(y) + float(z))


def absolute(x):
    return np.abs(x)


def copysign_bits(x, sign):
    return np.copysign(x, sign)


MAGIC = F32(12582912.0)


def magic_round(x):
    return (x + MAGIC) - MAGIC


def pow2(n):
    bits = (n + (MAGIC + F32(127))).view(np.uint32)
    return ((bits << np.uint32(23)) & np.uint32(0xFFFFFFFF)).view(F32)


def bits_exponent(x):
    return F32(int(x.view(np.uint32) >> np.uint32(23)) - 127)


def bits_mantissa(x):
    return ((x.view(np.uint32) & np.uint32(0x007FFFFF)) | np.uint32(0x3F800000)).view(F32)


def _meet(v):
    """The values of the warp's lanes, on each of them."""
    thread: Any = threading.current_thread()
    held = thread._manager.__dict__.setdefault("lanes", {})
    barrier()
    held[thread.threadIdx.x] = v
    barrier()
    first = thread.threadIdx.x - lane()
    return [held[first + k] for k in range(W)]


@_by_warp
def hsum(v):
    found = _meet(v)
    while len(found) > 1:
        half = len(found) // 2
        found = [found[k] + found[k + half] for k in range(half)]
    return found[0]


@_by_warp
def hmax(v):
    found = _meet(v)
    return F32(np.nan) if any(x != x for x in found) else max(found)


def to_tf32(v):
    bits = np.asarray(v, F32).view(np.uint32)
    return v if not np.isfinite(v) else ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(F32)[()]


def mma(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    warp = np.array(_meet((a0, a1, a2, a3, b0, b1)), np.float64).reshape(8, 4, 6)  # rows r (columns of B), then q
    a = np.empty((16, 8))
    a[:8, :4], a[8:, :4], a[:8, 4:], a[8:, 4:] = (warp[:, :, k] for k in range(4))
    b = np.concatenate([warp[:, :, 4], warp[:, :, 5]], axis=1).T
    r, q = divmod(lane(), 4)
    sums = (a @ b)[[r, r, r + 8, r + 8], [2 * q, 2 * q + 1] * 2]
    return tuple(F32(float(c) + s) for c, s in zip((c0, c1, c2, c3), sums))


def at(p, i):
    return Pointer(p.array, p.place + int(i)) if p is not None else None


def given(p):
    return p is not None


def aligned(p):
    return p is not None and p.place % 4 == 0


def quotient(n, d):
    return n // d


def barrier():
    threading.current_thread().syncthreads()  # type: ignore[attr-defined]


def load2(p, i):
    return p[i], p[i + 1]


def load4(p, i):
    return p[i], p[i + 1], p[i + 2], p[i + 3]


def store4(p, i, x, y, z, w):
    p[i], p[i + 1], p[i + 2], p[i + 3] = x, y, z, w


def below(i, n):
    return int(i) & 0xFFFFFFFF < int(n) & 0xFFFFFFFF


def short(n):
    return n


def product(x, y):
    return x * y


def unseen(n):
    return n


def shared_floats(n):
    caller = sys._getframe(1)
    held = threading.current_thread()._manager.__dict__.setdefault("shared", {})  # type: ignore[attr-defined]
    with _lock:
        array = held.setdefault((caller.f_code, caller.f_lineno), np.zeros(n, F32))
    return Pointer(array)


@_by_warp
def spread(n):
    return range(lane(), n, W)


def blocks(n):
    return (n + W - 1) // W


def get(p, i, cols):
    return load(p, i) if cols >= W else load_part(p, i, cols)


def put(p, i, v, cols):
    if cols >= W:
        store(p, i, v)
    else:
        store_part(p, i, v, cols)
