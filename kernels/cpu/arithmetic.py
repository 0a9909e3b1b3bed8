"""Elementwise functions of two broadcast arrays, each a formula on vectors."""

from ._map import binary
from ._simd import maximum, minimum, where


@binary
def add(a, b):
    return a + b


@binary
def sub(a, b):
    return a - b


@binary
def mul(a, b):
    return a * b


@binary
def div(a, b):
    return a / b


@binary
def max(a, b):
    """NaN where either is NaN."""
    return where(b != b, b, maximum(a, b))


@binary
def min(a, b):
    """NaN where either is NaN."""
    return where(b != b, b, minimum(a, b))


@binary
def prelu(x, slope):
    return where(x < 0.0, x * slope, x)
