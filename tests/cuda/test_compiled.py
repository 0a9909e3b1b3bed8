"""Kernels that numba-cuda compiled, on the interpreter against NumPy; mutants of their barriers are caught."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.cuda.interpreter import Interpreter, Module
from tests.cuda.kernels import COMPILER
from tests.cuda.report import KernelFault

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)
TILE, DEPTH = 128, 8
WORDS = TILE * DEPTH


@pytest.fixture(scope="module")
def numba():
    """`nbconv.kernels.cuda._numba`, which has every import of numba.cuda."""
    from nbconv.kernels.cuda import _numba

    if _numba.SIMULATED:
        pytest.skip("numba.cuda is the simulator here")
    return _numba


def compiled(numba, function, *kinds) -> Module:
    return Module(numba.cuda.compile_ptx(function, numba.types.void(*kinds), cc=(8, 0))[0])


def buffers(device: Interpreter, *arrays: np.ndarray) -> list[int]:
    addresses = [device.alloc(a.nbytes) for a in arrays]
    for address, array in zip(addresses, arrays):
        device.upload(address, array)
    return addresses


def test_vector_add(numba):
    cuda = numba.cuda

    def add(x, y, z, n):
        i = cuda.grid(1)
        if i < n:
            z[i] = x[i] + y[i]

    module = compiled(numba, add, numba.Floats, numba.Floats, numba.Floats, numba.Int)
    device, n = Interpreter(), 1000
    x, y = np.random.default_rng(0).standard_normal((2, n), dtype="f4")
    a, b = buffers(device, x, y)
    c = device.alloc(x.nbytes)
    count = device.launch(module, next(iter(module.entries)), 4, 256, [a, b, c, n])
    z = np.zeros_like(x)
    device.download(c, z)
    assert np.array_equal(z, x + y)
    assert count.coalescing == 1
    with pytest.raises(KernelFault, match="out of bounds"):
        device.launch(module, next(iter(module.entries)), 4, 256, [a, b, c, n + 1])


@pytest.fixture(scope="module")
def sgemm(numba):
    """C (m, n) = Aᵀ B of A (k, m) and B (k, n), all multiples of the tile; blocks of 256 threads do 128 x 128 each."""
    cuda, f4, U = numba.cuda, numba.Float, numba.types.uint64

    def sgemm(a, b, c, m, n, k):
        at = cuda.shared.array(WORDS, f4, alignment=16)
        bt = cuda.shared.array(WORDS, f4, alignment=16)
        total = cuda.local.array((8, 8), f4)
        left, right = cuda.local.array(8, f4), cuda.local.array(8, f4)
        t, row0, column0 = U(cuda.threadIdx.x), U(cuda.blockIdx.y) * U(TILE), U(cuda.blockIdx.x) * U(TILE)
        x, y = t % U(16) * U(4), t // U(16) * U(4)
        row, column = t // U(32), t % U(32)
        for i in range(8):
            for j in range(8):
                total[i, j] = f4(0)
        for first in range(0, k, DEPTH):
            for v in range(4):
                at[row * U(TILE) + column + U(32 * v)] = a[(U(first) + row) * U(m) + row0 + column + U(32 * v)]
                bt[row * U(TILE) + column + U(32 * v)] = b[(U(first) + row) * U(n) + column0 + column + U(32 * v)]
            cuda.syncthreads()
            for d in range(DEPTH):
                for i in range(4):
                    left[i], left[i + 4] = at[U(d * TILE) + y + U(i)], at[U(d * TILE + 64) + y + U(i)]
                    right[i], right[i + 4] = bt[U(d * TILE) + x + U(i)], bt[U(d * TILE + 64) + x + U(i)]
                for i in range(8):
                    for j in range(8):
                        total[i, j] += left[i] * right[j]
            cuda.syncthreads()
        for i in range(8):
            for j in range(8):
                r, q = row0 + U(i // 4 * 64) + y + U(i % 4), column0 + U(j // 4 * 64) + x + U(j % 4)
                c[r * U(n) + q] = total[i, j]

    floats, integer = numba.Floats, numba.Int
    return numba.cuda.compile_ptx(sgemm, numba.types.void(floats, floats, floats, *[integer] * 3), cc=(8, 0))[0]


def multiply(text: str, m: int = 256, n: int = 128, k: int = 64):
    device, module = Interpreter(), Module(text)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((k, m), dtype="f4"), rng.standard_normal((k, n), dtype="f4")
    addresses = buffers(device, a, b)
    c = np.zeros((m, n), "f4")
    out = device.alloc(c.nbytes)
    count = device.launch(module, next(iter(module.entries)), (n // TILE, m // TILE), 256, [*addresses, out, m, n, k])
    device.download(out, c)
    return a.T.astype(float) @ b.astype(float), c, count


def test_matrix_product(sgemm):
    exact, c, count = multiply(sgemm)
    assert np.abs(c - exact).max() <= 1e-6 * np.abs(exact).max()
    assert count.conflicts == 1
    loads = [i for i in count.instructions if i.name.startswith("ld.global")]
    assert all(i.coalescing == 1 for i in loads) and len(loads) >= 8
    fmas = sum(i.warps for i in count.instructions if i.name == "fma.rn.f32")
    assert fmas * 32 == 256 * 128 * 64


@pytest.mark.parametrize("dropped, kind", [(0, "RAW race"), (1, "WAR race")])
def test_a_dropped_barrier_is_a_race(sgemm, dropped, kind):
    barriers = list(re.finditer(r"bar\.sync\s+0;", sgemm))
    assert len(barriers) == 2
    start, end = barriers[dropped].span()
    with pytest.raises(KernelFault) as caught:
        multiply(sgemm[:start] + sgemm[end:])
    assert kind in {f.kind for f in caught.value.findings}


def test_divergent_control_flow(numba):
    """Nested loops and branches that differ by thread, against Python's own run of the same function."""
    cuda = numba.cuda

    def steps(value):
        """Collatz steps to 1, with a toll for each that is divisible by 3 on the way, at most 200."""
        count = 0
        while value != 1:
            if value % 2 == 0:
                value //= 2
            else:
                value = 3 * value + 1
                for d in range(3, 12, 4):
                    if value % d == 0:
                        count += d
                        break
                    if value > 5000:
                        continue
                    count += 1
            count += 1
            if count > 200:
                return -value
        return count

    inner = cuda.jit(device=True)(steps)

    def walk(x, y, n):
        i = cuda.grid(1)
        if i < n:
            y[i] = inner(x[i])

    module = compiled(numba, walk, numba.Ints, numba.Ints, numba.Int)
    device, n = Interpreter(), 300
    x = np.arange(1, n + 1)
    a, b = buffers(device, x, np.zeros_like(x))
    device.launch(module, next(iter(module.entries)), 5, 64, [a, b, n])
    y = np.zeros_like(x)
    device.download(b, y)
    assert y.tolist() == [steps(int(v)) for v in x]
