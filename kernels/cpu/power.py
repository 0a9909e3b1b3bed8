"""a^b of broadcast arrays, and its derivatives."""

from . import _math
from ._map import binary
from ._simd import absolute, copysign_bits, inline, magic_round, splat, where


@inline
def _power(a, b):
    """As C's pow, by e^(b ln|a|), relative error ≤ 1e-6·(1 + |b ln a|).
    Exponents from 2^22 on count as even."""
    size = absolute(a)
    y = _math.exp(_math.log(size) * b)
    y = where((size == 1.0) | (b == 0.0), splat(1.0), y)
    near = absolute(b) < 4194304.0
    part = near & (magic_round(b) != b)
    odd = near & (magic_round(b) == b) & (magic_round(b * 0.5) * 2.0 != b)
    y = where(odd & (copysign_bits(splat(1.0), a) < 0.0), -y, y)
    y = where(part & (a < 0.0) & (size < _math.INF), splat(_math.NAN), y)
    return where(((a != a) | (b != b)) & (a != 1.0) & (b != 0.0), splat(_math.NAN), y)


@binary
def power(a, b):
    return _power(a, b)


@binary
def power_slope(a, b):
    """b·a^(b - 1), 0 where b is 0."""
    return where(b == 0.0, splat(0.0), b * _power(a, b - 1.0))


@binary
def power_log(a, b):
    """a^b·ln a, 0 where a is 0 and b not negative."""
    return where((a == 0.0) & (b >= 0.0), splat(0.0), _power(a, b) * _math.log(a))
