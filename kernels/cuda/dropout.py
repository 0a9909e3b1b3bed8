"""Dropout by the CPU's random bits: Philox 2×32, as `nbconv/base/random.py` has it.
A thread makes its own element's word: of the two words that a counter gives it keeps one, and
neighbours read and write side by side."""

from ._numba import shared_source
from ._simd import Float, Floats, Int, Ints, kernel, spread

_shared = shared_source("dropout")
LOW, _round = _shared.LOW, _shared._round


@kernel
def dropout(
    x: Floats,
    y: Floats,
    step: Ints,
    float_step: Floats,
    real: Int,
    n: Int,
    chunk: Int,
    key: Int,
    threshold: Int,
    scale: Float,
    first: Int,
    last: Int,
) -> None:
    """y = x·scale, 0 where the element's word is below the threshold; a unit is ``chunk``
    elements."""
    high = step[0] if real == 0 else Int(float_step[0])
    high = high & LOW
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        i = i0 + e
        a = (i >> 1) & LOW
        b = high
        k = key
        for _ in range(10):
            a, b = _round(a, b, k)
            k = (k + 0x9E3779B9) & LOW
        word = b if i & 1 == 1 else a
        kept = x[i] * scale
        y[i] = kept if word >= threshold else Float(0.0)
