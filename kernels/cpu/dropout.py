"""Dropout by random bits from counters: Philox 2×32, as `nbconv/base/random.py` has it."""

from ._simd import Float, Floats, Int, Ints, inline, kernel

LOW = 0xFFFFFFFF


@inline
def _round(a, b, k):
    product = a * 0xD256D193  # of two words of 32 bits; the sign bit is one of its bits
    return ((product >> 32) & LOW) ^ k ^ b, product & LOW


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
    """y = x·scale, 0 where the element's word is below the threshold; a unit is ``chunk`` elements,
    an even number."""
    high = step[0] if real == 0 else Int(float_step[0])
    high = high & LOW
    for i in range(first * chunk // 2, (min(last * chunk, n) + 1) // 2):
        a = i & LOW
        b = high
        k = key
        for _ in range(10):
            a, b = _round(a, b, k)
            k = (k + 0x9E3779B9) & LOW
        if a >= threshold:
            y[2 * i] = x[2 * i] * scale
        else:
            y[2 * i] = 0
        if 2 * i + 1 < n:
            if b >= threshold:
                y[2 * i + 1] = x[2 * i + 1] * scale
            else:
                y[2 * i + 1] = 0
