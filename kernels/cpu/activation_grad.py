"""Gradients of elementwise functions: dy and the forward's x or y, each a formula on vectors."""

from . import _math
from ._pair import pair
from ._simd import absolute, minimum, splat, where


@pair
def relu_grad(dy, y):
    return where(y <= 0.0, splat(0.0), dy)


@pair
def clip_grad(dy, y, low, high):
    return where((y <= low) | (y >= high), splat(0.0), dy)


@pair
def leaky_relu_grad(dy, x, alpha):
    return where(x > 0.0, dy, dy * alpha)


@pair
def thresholded_relu_grad(dy, x, alpha):
    return where(x > alpha, dy, splat(0.0))


@pair
def shrink_grad(dy, x, lambd):
    return where(absolute(x) > lambd, dy, splat(0.0))


@pair
def elu_grad(dy, x, alpha):
    return where(x > 0.0, dy, _math.exp(x) * alpha * dy)


@pair
def selu_grad(dy, x, alpha, gamma):
    return where(x > 0.0, dy, _math.exp(x) * alpha * dy) * gamma


@pair
def celu_grad(dy, x, alpha):
    return where(x > 0.0, dy, _math.exp(x / alpha) * dy)


@pair
def sigmoid_grad(dy, y):
    return dy * (y * (splat(1.0) - y))


@pair
def hard_sigmoid_grad(dy, y, alpha):
    return where((y <= 0.0) | (y >= 1.0), splat(0.0), dy * alpha)


@pair
def hard_swish_grad(dy, x):
    return where(x <= -3.0, splat(0.0), where(x >= 3.0, dy, dy * (x * (1.0 / 3.0) + 0.5)))


@pair
def silu_grad(dy, x):
    s = _math.sigmoid(x)
    return dy * (s * (x * (splat(1.0) - s) + 1.0))


@pair
def tanh_grad(dy, y):
    return dy * (splat(1.0) - y * y)


@pair
def softsign_grad(dy, x):
    a = absolute(x) + 1.0
    return dy / (a * a)


@pair
def softplus_grad(dy, x):
    return dy * _math.sigmoid(x)


@pair
def mish_grad(dy, x):
    """As `activation.mish`: with n = e^x (e^x + 2), t = n / (n + 2) and 1 - t² = 4 (n + 1) / (n +
    2)²."""
    e = _math.exp(minimum(x, 20.0))
    n = e * (e + 2.0)
    m = splat(1.0) / (n + 2.0)
    return dy * (n * m + x * ((n + 1.0) * m * m * 4.0) * (e / (e + 1.0)))


@pair
def gelu_grad(dy, x):
    density = _math.exp(x * x * -0.5) * 0.3989422804014327
    return dy * ((_math.erf(x * 0.70710678118654752) + 1.0) * 0.5 + x * density)


@pair
def gelu_tanh_grad(dy, x):
    t = _math.tanh((x * x * 0.044715 + 1.0) * x * 0.7978845608028654)
    inner = x * x * 0.1070322244089048 + 0.7978845608028654
    return dy * ((t + 1.0) * 0.5 + x * 0.5 * (splat(1.0) - t * t) * inner)


@pair
def abs_grad(dy, x):
    return where(x > 0.0, dy, where(x < 0.0, -dy, splat(0.0)))
