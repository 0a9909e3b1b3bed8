"""Arithmetic that NumPy has no function for, with PTX's rules: one rounding, NaN in min and max, division that truncates."""

from typing import Any

import numpy as np
from numba import njit, vectorize
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]


_compiled: list[Any] = []


def ufunc(signatures: list[str]) -> Any:
    """numba.vectorize without its check of each call's arguments, which takes longer than a small array."""

    def compile_(function: Any) -> Any:
        _compiled.append(vectorize(signatures, cache=True)(function))  # what the ufunc calls lives in it
        return _compiled[-1].ufunc

    return compile_


@intrinsic
def _fma(typing_context: Any, a: Any, b: Any, c: Any):
    def generate(context: Any, builder: Any, signature: Any, arguments: Any):
        return builder.fma(*arguments)

    return a(a, b, c), generate


@ufunc(["f4(f4,f4,f4)", "f8(f8,f8,f8)"])
def fma(a, b, c):
    """a * b + c, rounded once to nearest even."""
    return _fma(a, b, c)


@ufunc(["f4(f4,f4)", "f8(f8,f8)"])
def minimum(a, b):
    """PTX min: the number when the other is NaN; -0 < +0."""
    if a < b or b != b:
        return a
    if a == b and np.signbit(a):
        return a
    return b


@ufunc(["f4(f4,f4)", "f8(f8,f8)"])
def maximum(a, b):
    """PTX max: the number when the other is NaN; -0 < +0."""
    if a > b or b != b:
        return a
    if a == b and not np.signbit(a):
        return a
    return b


@ufunc(["i4(i4,i4)", "i8(i8,i8)"])
def divide(a, b):
    """Signed division that rounds to zero; 0 for division by zero, which PTX leaves open."""
    if b == 0:
        return 0
    if b == -1:
        return -a
    quotient = a // b
    if quotient * b != a and (a < 0) != (b < 0):
        quotient += 1
    return quotient


@ufunc(["i4(i4,i4)", "i8(i8,i8)"])
def remainder(a, b):
    """a - b * divide(a, b)."""
    if b == 0 or b == -1:
        return 0
    rest = a % b
    if rest != 0 and (rest < 0) != (a < 0):
        rest -= b
    return rest


@njit(cache=True)
def _high64(a, b):
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + ((a0 * b0) >> half)
    return a1 * b1 + (middle >> half) + ((a0 * b1 + (middle & low)) >> half)


@ufunc(["u8(u8,u8)"])
def multiply_high_u64(a, b):
    """The upper 64 bits of the product of two unsigned numbers."""
    return _high64(a, b)


def multiply_high(a: Array, b: Array) -> Array:
    """The upper half of the product, same type."""
    bits = 8 * a.itemsize
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
        return np.right_shift(a.astype(wide) * b.astype(wide), wide.type(bits)).astype(a.dtype)
    if a.dtype.kind == "u":
        return multiply_high_u64(a, b)
    ua, ub = a.view("u8"), b.view("u8")
    zero = np.uint64(0)
    return (multiply_high_u64(ua, ub) - np.where(a < 0, ub, zero) - np.where(b < 0, ua, zero)).view("i8")


def multiply_wide(a: Array, b: Array) -> Array:
    """The whole product in twice the width."""
    wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
    return a.astype(wide) * b.astype(wide)


@ufunc(["u4(u4)", "u4(u8)"])
def count_ones(a):
    rest, n = np.uint64(a), 0
    while rest:
        rest &= rest - np.uint64(1)
        n += 1
    return n


@ufunc(["u4(u4)", "u4(u8)"])
def bit_length(a):
    rest, n = np.uint64(a), 0
    while rest:
        rest >>= np.uint64(1)
        n += 1
    return n


def reverse_bits(a: Array) -> Array:
    bits = 8 * a.itemsize
    one = a.dtype.type(1)
    result = np.zeros_like(a)
    for i in range(bits):
        result |= ((a >> a.dtype.type(i)) & one) << a.dtype.type(bits - 1 - i)
    return result


def flush(a: Array) -> Array:
    """`.ftz`: subnormal numbers become zeros of their sign."""
    return np.where(np.abs(a) < np.finfo(a.dtype).tiny, np.copysign(a.dtype.type(0), a), a)


def saturate(a: Array) -> Array:
    """`.sat`: clamps to [0, 1]; NaN becomes +0."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    return np.where(a > zero, np.where(a < one, a, one), zero)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b as float64 and the error of that sum (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def round_f32(total: Array, error: Array | float, mode: str) -> Array:
    """The float32 neighbour of total + error in direction `mode` (rm down, rp up, rz to zero); |error| <= ulp(total) / 2."""
    result = total.astype(np.float32)
    error = np.where(np.isfinite(total), error, 0.0)
    above = (result > total) | ((result == total) & (error < 0))
    below = (result < total) | ((result == total) & (error > 0))
    down, up = np.nextafter(result, np.float32(-np.inf)), np.nextafter(result, np.float32(np.inf))
    if mode == "rm":
        return np.where(above, down, result)
    if mode == "rp":
        return np.where(below, up, result)
    return np.where(above & (total > 0), down, np.where(below & (total < 0), up, result))


def directed(op: str, mode: str, *args: Array) -> Array:
    """`add`, `sub`, `mul` or `fma` of float32 with a directed rounding."""
    a, b, *c = (x.astype(np.float64) for x in args)
    if op == "mul":
        return round_f32(a * b, 0.0, mode)
    if op == "fma":
        a, b = a * b, c[0]
    elif op == "sub":
        b = -b
    return round_f32(*two_sum(a, b), mode)


def to_integer(a: Array, mode: str, dtype: np.dtype[Any]) -> Array:
    """cvt of floats: rounds as `mode` says, clamps to the range; NaN gives 0, or the top bit in 64-bit or from float64."""
    rounded = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode](a.astype(np.float64))
    limits = np.iinfo(dtype)
    inside = (rounded >= float(limits.min)) & (rounded < float(limits.max) + (0 if dtype.itemsize == 8 else 1))
    result = np.where(inside, rounded, 0).astype(dtype)
    result = np.where(inside, result, np.where(rounded < 0, limits.min, limits.max).astype(dtype))
    top = dtype.itemsize == 8 or a.dtype.itemsize == 8
    of_nan = np.array(1 << (8 * dtype.itemsize - 1) if top else 0, f"u{dtype.itemsize}").view(dtype)
    return np.where(np.isnan(a), of_nan, result)


def clamp(a: Array, dtype: np.dtype[Any]) -> Array:
    """cvt.sat between integers: the nearest number of `dtype`'s range, still in `a`'s type."""
    wide, narrow = np.iinfo(a.dtype), np.iinfo(dtype)
    return np.clip(a, a.dtype.type(max(narrow.min, wide.min)), a.dtype.type(min(narrow.max, wide.max)))


def to_tf32(a: Array) -> Array:
    """cvt.rna.tf32: 10 bits of mantissa, ties away from zero; the bits stay a float32's."""
    bits = a.view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(a), rounded, bits).view(np.float32)


def approximate(function: Any) -> Any:
    """A float32 function computed in float64: the nearest float32, where the hardware is within a few ulp."""
    return lambda a: function(a.astype(np.float64)).astype(a.dtype)


ex2 = approximate(np.exp2)
lg2 = approximate(np.log2)
sin = approximate(np.sin)
cos = approximate(np.cos)
tanh = approximate(np.tanh)
rsqrt = approximate(lambda a: 1.0 / np.sqrt(a))


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    """Any function of three bits: bit 4a + 2b + c of `table`."""
    result = np.zeros_like(a & b & c)
    for i in range(8):
        if table >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return result


def prmt(a: Array, b: Array, selector: Array) -> Array:
    """Four bytes picked from the eight of b:a, each by four bits of the selector; its bit 3 spreads the sign instead."""
    both = (b.astype(np.uint64) << np.uint64(32)) | a
    result = np.zeros_like(a | b | selector)
    for i in range(4):
        pick = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = ((both >> ((pick & np.uint32(7)) * np.uint32(8)).astype(np.uint64)) & np.uint64(255)).astype(np.uint32)
        signs = (byte >> np.uint32(7)) * np.uint32(255)
        result |= np.where(pick & np.uint32(8), signs, byte) << np.uint32(8 * i)
    return result


def bit_field(a: Array, start: Array, length: Array) -> Array:
    """bfe: `length` bits of `a` from `start`, sign-extended when `a` is signed."""
    bits = 8 * a.itemsize
    unsigned = np.dtype(f"u{a.itemsize}").type
    at, n = (start & np.uint32(255)).astype(unsigned), np.minimum(length & np.uint32(255), np.uint32(bits)).astype(unsigned)
    top = unsigned(bits) - n
    if a.dtype.kind == "u":
        return np.where(n == 0, unsigned(0), ((a >> at) << top) >> top)
    last = np.minimum(at + n - unsigned(1), unsigned(bits - 1)).view(a.dtype)
    sign = (a >> last) & a.dtype.type(1)
    field = (a.view(unsigned) >> at) & ~np.where(n == bits, unsigned(0), ~unsigned(0) << n)
    field = np.where(at >= bits, unsigned(0), field)
    inside = np.minimum(n, np.where(at >= bits, unsigned(0), unsigned(bits) - at))
    spread = np.where(sign != 0, np.where(inside == bits, unsigned(0), ~unsigned(0) << inside), unsigned(0))
    return np.where(n == 0, unsigned(0), field | spread).view(a.dtype)


def insert_bits(a: Array, b: Array, start: Array, length: Array) -> Array:
    """bfi: `length` bits of `a` placed into `b` from bit `start`."""
    kind, bits = a.dtype.type, 8 * a.itemsize
    at, n = (start & np.uint32(255)).astype(a.dtype), (length & np.uint32(255)).astype(a.dtype)
    mask = np.where(n >= bits, ~kind(0), (kind(1) << n) - kind(1)) << at
    return (b & ~mask) | ((a << at) & mask)


def funnel(a: Array, b: Array, amount: Array, left: bool, wrap: bool) -> Array:
    """shf: the 64 bits b:a shifted; the upper half for left, the lower for right."""
    both = (b.astype(np.uint64) << np.uint64(32)) | a
    n = (amount & np.uint32(31) if wrap else np.minimum(amount, np.uint32(32))).astype(np.uint64)
    return ((both << n) >> np.uint64(32) if left else both >> n).astype(np.uint32)


def mma_tf32(c: list[Array], a: list[Array], b: list[Array]) -> list[Array]:
    """mma.m16n8k8 of tf32 fragments, (blocks, warps, 32) each: c (4), a (4) and b (2) as float32; sums in float32."""
    shape = np.broadcast_shapes(*(x.shape for x in (*a, *b, *c)))[:2]
    lane = np.arange(32)
    group, member = lane // 4, lane % 4
    A, B = np.zeros((*shape, 16, 8), np.float32), np.zeros((*shape, 8, 8), np.float32)
    C = np.zeros((*shape, 16, 8), np.float32)
    for i in range(4):
        A[:, :, group + 8 * (i % 2), member + 4 * (i // 2)] = (a[i].view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
        C[:, :, group + 8 * (i // 2), 2 * member + i % 2] = c[i]
    for i in range(2):
        B[:, :, member + 4 * i, group] = (b[i].view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    D = np.matmul(A, B) + C
    return [np.ascontiguousarray(D[:, :, group + 8 * (i // 2), 2 * member + i % 2]) for i in range(4)]
