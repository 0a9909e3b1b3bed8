"""Elementwise functions of one array, each a formula on vectors."""

from . import _math
from ._map import unary
from ._simd import absolute, copysign_bits, maximum, minimum, splat, sqrt, where

# Kernels are found under these names, so the functions they call go by their module's name here.


@unary
def clip(x, low, high):
    return minimum(maximum(x, low), high)


@unary
def leaky_relu(x, alpha):
    return where(x < 0.0, x * alpha, x)


@unary
def elu(x, alpha):
    return where(x < 0.0, _math.expm1(x) * alpha, x)


@unary
def sigmoid(x):
    return _math.sigmoid(x)


@unary
def silu(x):
    return x * _math.sigmoid(x)


@unary
def hard_sigmoid(x, alpha, beta):
    return _math.hard_sigmoid(x, alpha, beta)


@unary
def hard_swish(x):
    return x * _math.hard_sigmoid(x, 1.0 / 6.0, 0.5)


@unary
def tanh(x):
    return _math.tanh(x)


@unary
def softsign(x):
    return x / (absolute(x) + 1.0)


@unary
def gelu(x):
    return x * 0.5 * (_math.erf(x * 0.70710678118654752) + 1.0)


@unary
def erf(x):
    return _math.erf(x)


@unary
def exp(x):
    return _math.exp(x)


@unary
def log(x):
    return _math.log(x)


@unary
def square_root(x):
    return sqrt(x)


@unary
def power_half(x):
    """x^0.5 as C's pow has it: unlike the square root, ∞ at -∞ and +0 at -0."""
    return where(x == -_math.INF, splat(_math.INF), sqrt(x + 0.0))


@unary
def square(x):
    return x * x


@unary
def abs(x):
    return absolute(x)


@unary
def negative(x):
    return -x


@unary
def reciprocal(x):
    return splat(1.0) / x


@unary
def softplus(x):
    return maximum(x, 0.0) + _math.log1p(_math.exp(-absolute(x)))


@unary
def thresholded_relu(x, alpha):
    return where(x > alpha, x, splat(0.0))


@unary
def shrink(x, bias, lambd):
    return where(x < -lambd, x + bias, where(x > lambd, x - bias, splat(0.0)))


@unary
def selu(x, alpha, gamma):
    return where(x <= 0.0, _math.expm1(minimum(x, 0.0)) * alpha, x) * gamma


@unary
def celu(x, alpha):
    return maximum(x, 0.0) + minimum(_math.expm1(minimum(x / alpha, 0.0)) * alpha, 0.0)


@unary
def mish(x):
    """x·tanh(ln(1 + e^x)): with n = e^x (e^x + 2) the tanh is n / (n + 2), to the last bit 1 from x
    = 20 on."""
    e = _math.exp(minimum(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


@unary
def gelu_tanh(x):
    return x * 0.5 * (_math.tanh((x * x * 0.044715 + 1.0) * x * 0.7978845608028654) + 1.0)


@unary
def scaled(x, factor):
    return x * factor


@unary
def shifted(x, by):
    return x + by


@unary
def floor(x):
    near = _math.nearest(x)
    return copysign_bits(where(near > x, near - 1.0, near), x)


@unary
def ceil(x):
    near = _math.nearest(x)
    return copysign_bits(where(near < x, near + 1.0, near), x)


@unary
def round_half_even(x):
    return _math.nearest(x)
