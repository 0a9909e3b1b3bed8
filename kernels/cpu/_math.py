"""Elementary functions of vectors, as polynomials: no libm, so kernels need no symbol from outside.

Error bounds are against float64 over the whole float32 range, measured by
tests/kernels/test_math.py.
"""

from nbconv.kernels.params import Activation

from ._simd import (
    absolute,
    bits_exponent,
    bits_mantissa,
    copysign_bits,
    inline,
    magic_round,
    maximum,
    minimum,
    pow2,
    splat,
    where,
)

INF = float("inf")
NAN = float("nan")
ALL_WHOLE = 8388608.0  # 2^23: a float32 from there on is an integer


@inline
def exp(x):
    """e^x, relative error ≤ 2.5e-7 (Cephes expf).
    Overflows to inf, underflows to 0 through the denormals."""
    x = minimum(maximum(x, -104.0), 89.0)
    n = magic_round(x * 1.44269504088896341)
    r = x - n * 0.693359375
    r = r - n * -2.12194440e-4
    p = r * 1.9875691500e-4 + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = p * (r * r) + r + 1.0
    half = magic_round(n * 0.5)
    return p * pow2(half) * pow2(n - half)


@inline
def log(x):
    """ln x, relative error ≤ 3e-7 (Cephes logf). -inf at 0, NaN below; denormals are scaled
    first."""
    tiny = x < 1.17549435e-38
    scaled = where(tiny, x * 8388608.0, x)
    e = bits_exponent(scaled) + where(tiny, splat(-23.0), splat(0.0))
    m = bits_mantissa(scaled)
    high = m > 1.41421356
    m = where(high, m * 0.5, m) - 1.0
    e = where(high, e + 1.0, e)
    z = m * m
    p = m * 7.0376836292e-2 + -1.1514610310e-1
    p = p * m + 1.1676998740e-1
    p = p * m + -1.2420140846e-1
    p = p * m + 1.4249322787e-1
    p = p * m + -1.6668057665e-1
    p = p * m + 2.0000714765e-1
    p = p * m + -2.4999993993e-1
    p = p * m + 3.3333331174e-1
    y = p * m * z + e * -2.12194440e-4 - z * 0.5
    y = m + y + e * 0.693359375
    y = where(x == 0.0, splat(-INF), y)
    y = where(x < 0.0, splat(NAN), y)
    return where((x == INF) | (x != x), x, y)


@inline
def sigmoid(x):
    """1 / (1 + e^-x), relative error ≤ 4e-7."""
    return splat(1.0) / (exp(-x) + 1.0)


@inline
def tanh(x):
    """tanh x, relative error ≤ 5e-7 (Cephes tanhf: a polynomial below 0.625, else through e^2x)."""
    a = absolute(x)
    s = x * x
    p = s * -5.70498872745e-3 + 2.06390887954e-2
    p = p * s + -5.37397155531e-2
    p = p * s + 1.33314422036e-1
    p = p * s + -3.33332819422e-1
    small = p * s * x + x
    large = copysign_bits(splat(1.0) - splat(2.0) / (exp(a + a) + 1.0), x)
    return where(a < 0.625, small, large)


@inline
def expm1(x):
    """e^x - 1 for x ≤ 0 without cancellation, through tanh(x/2)."""
    t = tanh(x * 0.5)
    return (t + t) / (splat(1.0) - t)


@inline
def log1p(x):
    """ln(1 + x) for x ≥ 0; what 1 + x loses is made up for (Goldberg 1991, theorem 4)."""
    u = x + 1.0
    return log(u) + (x - (u - 1.0)) / u


@inline
def erf(x):
    """erf x, absolute error ≤ 4e-7: a rational function of x on [-4, 4] (the coefficients Eigen
    uses)."""
    x = minimum(maximum(x, -4.0), 4.0)
    s = x * x
    p = s * -2.72614225801306e-10 + 2.77068142495902e-08
    p = p * s + -2.10102402082508e-06
    p = p * s + -5.69250639462346e-05
    p = p * s + -7.34990630326855e-04
    p = p * s + -2.95459980854025e-03
    p = p * s + -1.60960333262415e-02
    q = s * -1.45660718464996e-05 + -2.13374055278905e-04
    q = q * s + -1.68282697438203e-03
    q = q * s + -7.37332916720468e-03
    q = q * s + -1.42647390514189e-02
    return x * p / q


@inline
def hard_sigmoid(x, alpha, beta):
    """max(0, min(1, alpha·x + beta))."""
    return maximum(minimum(x * alpha + beta, 1.0), 0.0)


@inline
def activated(act, v, alpha, beta):
    """The `Activation` of a fused step. Clamps are not here: every kernel's epilogue does them."""
    if act == Activation.SIGMOID:
        v = sigmoid(v)
    elif act == Activation.SILU:
        v = v * sigmoid(v)
    elif act == Activation.HARD_SIGMOID:
        v = hard_sigmoid(v, alpha, beta)
    elif act == Activation.HARD_SWISH:
        v = v * hard_sigmoid(v, alpha, beta)
    elif act == Activation.TANH:
        v = tanh(v)
    elif act == Activation.GELU:
        v = v * 0.5 * (erf(v * 0.70710678118654752) + 1.0)
    elif act == Activation.LEAKY_RELU:
        v = where(v < 0.0, v * alpha, v)
    return v


@inline
def nearest(x):
    """The nearest integer, halves to even, with x's sign."""
    size = absolute(x)
    whole = copysign_bits((size + ALL_WHOLE) - ALL_WHOLE, x)
    return where(size < ALL_WHOLE, whole, x)
