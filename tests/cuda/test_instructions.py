"""Each instruction of the PTX interpreter against values written down from the PTX ISA."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.assembly import Operand, compute, same

NAN, INF = np.nan, np.inf


def of_type(name: str):
    def operand(*values: float) -> Operand:
        return name, values

    return operand


f32, f64, s32, u32, b32, s64, u64, b64 = map(of_type, ("f32", "f64", "s32", "u32", "b32", "s64", "u64", "b64"))
s16, b16, s8, u8 = map(of_type, ("s16", "b16", "s8", "u8"))

# Integer arithmetic: instruction, type of the result, operands, expected

INTEGER = [
    ("add.s32 %d, %a, %b", "s32", (s32(1, 2**31 - 1), s32(2, 1)), [3, -(2**31)]),
    ("sub.u32 %d, %a, %b", "u32", (u32(1), u32(2)), [2**32 - 1]),
    ("add.s64 %d, %a, -8", "s64", (s64(2**40),), [2**40 - 8]),
    ("mul.lo.s32 %d, %a, %b", "s32", (s32(-3, 2**20), s32(5, 2**20)), [-15, 0]),
    ("mul.hi.s32 %d, %a, %b", "s32", (s32(-1, 2**30), s32(1, 8)), [-1, 2]),
    ("mul.hi.u32 %d, %a, %b", "u32", (u32(2**32 - 1), u32(2**32 - 1)), [2**32 - 2]),
    ("mul.hi.u64 %d, %a, %b", "u64", (u64(2**64 - 1, 2**33), u64(2**64 - 1, 2**33)), [2**64 - 2, 4]),
    ("mul.hi.s64 %d, %a, %b", "s64", (s64(-1, -(2**40)), s64(1, 2**30)), [-1, -64]),
    ("mul.wide.s32 %d, %a, %b", "s64", (s32(-(2**31)), s32(4)), [-(2**33)]),
    ("mul.wide.u32 %d, %a, %b", "u64", (u32(2**31), u32(4)), [2**33]),
    ("mul.wide.s16 %d, %a, %b", "s32", (s16(-300), s16(300)), [-90000]),
    ("mad.lo.s32 %d, %a, %b, %c", "s32", (s32(3), s32(-4), s32(5)), [-7]),
    ("mad.wide.u32 %d, %a, %b, %c", "u64", (u32(2**31), u32(2), u64(1)), [2**32 + 1]),
    ("mad.hi.u32 %d, %a, %b, %c", "u32", (u32(2**31), u32(6), u32(10)), [13]),
    ("div.s32 %d, %a, %b", "s32", (s32(7, -7, 7, -7), s32(2, 2, -2, -2)), [3, -3, -3, 3]),
    ("div.s64 %d, %a, %b", "s64", (s64(-7, -(2**63)), s64(2, -1)), [-3, -(2**63)]),
    ("div.u32 %d, %a, %b", "u32", (u32(2**32 - 1), u32(16)), [2**28 - 1]),
    ("rem.s32 %d, %a, %b", "s32", (s32(7, -7, 7, -7), s32(4, 4, -4, -4)), [3, -3, 3, -3]),
    ("rem.u64 %d, %a, %b", "u64", (u64(2**64 - 1), u64(10)), [5]),
    ("min.s32 %d, %a, %b", "s32", (s32(-1), s32(1)), [-1]),
    ("min.u32 %d, %a, %b", "u32", (u32(2**32 - 1), u32(1)), [1]),
    ("max.s64 %d, %a, %b", "s64", (s64(-1), s64(-2)), [-1]),
    ("abs.s32 %d, %a", "s32", (s32(-5, 5),), [5, 5]),
    ("neg.s32 %d, %a", "s32", (s32(-5, 7),), [5, -7]),
    ("and.b32 %d, %a, %b", "b32", (b32(0b1100), b32(0b1010)), [0b1000]),
    ("or.b32 %d, %a, %b", "b32", (b32(0b1100), b32(0b1010)), [0b1110]),
    ("xor.b64 %d, %a, %b", "b64", (b64(0b1100), b64(0b1010)), [0b0110]),
    ("not.b32 %d, %a", "b32", (b32(0xF0F0F0F0),), [0x0F0F0F0F]),
    ("cnot.b32 %d, %a", "b32", (b32(0, 3),), [1, 0]),
    ("shl.b32 %d, %a, %b", "b32", (b32(1, 1, 3, 1), u32(0, 31, 31, 32)), [1, 2**31, 2**31, 0]),
    ("shr.u32 %d, %a, %b", "u32", (u32(2**31, 2**31), u32(31, 40)), [1, 0]),
    ("shr.s32 %d, %a, %b", "s32", (s32(-8, -8, 8), u32(1, 99, 99)), [-4, -1, 0]),
    ("shl.b64 %d, %a, %b", "b64", (b64(1, 1), u32(63, 64)), [2**63, 0]),
    ("shr.s64 %d, %a, 5", "s64", (s64(-33, 64),), [-2, 2]),
    ("popc.b32 %d, %a", "u32", (b32(0, 0xFFFFFFFF, 0x101),), [0, 32, 2]),
    ("popc.b64 %d, %a", "u32", (b64(2**64 - 1, 2**63),), [64, 1]),
    ("clz.b32 %d, %a", "u32", (b32(0, 1, 2**31),), [32, 31, 0]),
    ("clz.b64 %d, %a", "u32", (b64(0, 1, 2**63),), [64, 63, 0]),
    ("brev.b32 %d, %a", "b32", (b32(1, 0xF0000000),), [2**31, 0xF]),
    (
        "bfe.u32 %d, %a, %b, %c",
        "u32",
        (
            u32(0xABCD, 0xABCD, 0xABCD),
            u32(4, 0, 8),
            u32(8, 0, 40),
        ),
        [0xBC, 0, 0xAB],
    ),
    (
        "bfe.s32 %d, %a, %b, %c",
        "s32",
        (
            s32(0xF0, 0x70, -256),
            u32(4, 4, 8),
            u32(4, 4, 99),
        ),
        [-1, 7, -1],
    ),
    ("bfi.b32 %d, %a, %b, 8, 4", "b32", (b32(0xF5), b32(0xFFFFFFFF)), [0xFFFFF5FF]),
    ("bfi.b32 %d, %a, %b, 0, 32", "b32", (b32(0xF5), b32(0xFFFFFFFF)), [0xF5]),
    ("prmt.b32 %d, %a, %b, 0x7531", "b32", (b32(0x33221100), b32(0x77665544)), [0x77553311]),
    ("prmt.b32 %d, %a, %b, 0x888b", "b32", (b32(0x80000080), b32(0)), [0xFFFFFFFF]),
    ("lop3.b32 %d, %a, %b, %c, 0x96", "b32", (b32(12), b32(10), b32(1)), [12 ^ 10 ^ 1]),
    ("lop3.b32 %d, %a, %b, %c, 0xca", "b32", (b32(0xF0), b32(0xFF), b32(0x0F)), [0xFF]),
    ("shf.l.wrap.b32 %d, %a, %b, 8", "b32", (b32(0x11223344), b32(0x55667788)), [0x66778811]),
    ("shf.r.clamp.b32 %d, %a, %b, 40", "b32", (b32(0x11223344), b32(0x55667788)), [0x55667788]),
    ("slct.u32.s32 %d, %a, %b, %c", "u32", (u32(1, 1), u32(2, 2), s32(0, -1)), [1, 2]),
]


@pytest.mark.parametrize("instruction, result, operands, expected", INTEGER, ids=[case[0] for case in INTEGER])
def test_integer(instruction, result, operands, expected):
    same(compute(instruction, result, *operands), expected)


# Floating point. tiny is the least normal number, sub a subnormal one, ulp the step at 1.

TINY, SUB, ULP = 2.0**-126, 2.0**-130, 2.0**-23
FLOAT = [
    ("add.f32 %d, %a, %b", "f32", (f32(1, 0.0, SUB), f32(ULP / 2, -0.0, SUB)), [1, 0, 2 * SUB]),
    ("add.rz.f32 %d, %a, %b", "f32", (f32(1, -1), f32(ULP * 0.75, -ULP * 0.75)), [1, -1]),
    ("add.rp.f32 %d, %a, %b", "f32", (f32(1, -1), f32(2.0**-80, -(2.0**-80))), [1 + ULP, -1]),
    ("sub.rm.f32 %d, %a, %b", "f32", (f32(1), f32(2.0**-80)), [1 - ULP / 2]),
    ("add.ftz.f32 %d, %a, %b", "f32", (f32(SUB, TINY), f32(0.0, -TINY / 2)), [0, TINY]),
    (
        "add.sat.f32 %d, %a, %b",
        "f32",
        (
            f32(0.75, -1, NAN, 0.25),
            f32(0.75, 0, 0, 0.5),
        ),
        [1, 0, 0, 0.75],
    ),
    ("mul.f32 %d, %a, %b", "f32", (f32(3, -0.0, 1e30), f32(-2, 5, 1e30)), [-6, -0.0, INF]),
    ("mul.rm.f32 %d, %a, %b", "f32", (f32(1 + ULP), f32(1 + ULP)), [1 + 2 * ULP]),
    ("mul.rp.f32 %d, %a, %b", "f32", (f32(1 + ULP), f32(1 + ULP)), [1 + 3 * ULP]),
    ("mul.f64 %d, %a, %b", "f64", (f64(0.1), f64(3)), [0.1 * 3]),
    (
        "div.rn.f32 %d, %a, %b",
        "f32",
        (
            f32(1, 1, 0),
            f32(3, 0, 0),
        ),
        [np.float32(1) / np.float32(3), INF, NAN],
    ),
    ("div.full.f32 %d, %a, %b", "f32", (f32(6), f32(3)), [2]),
    (
        "min.f32 %d, %a, %b",
        "f32",
        (
            f32(NAN, 1, -0.0, 0.0, NAN),
            f32(2, NAN, 0, -0.0, NAN),
        ),
        [2, 1, -0.0, -0.0, NAN],
    ),
    (
        "max.f32 %d, %a, %b",
        "f32",
        (
            f32(NAN, 1, -0.0, 0.0, NAN),
            f32(2, NAN, 0, -0.0, NAN),
        ),
        [2, 1, 0, 0, NAN],
    ),
    ("min.NaN.f32 %d, %a, %b", "f32", (f32(NAN, 1, 3), f32(2, NAN, 4)), [NAN, NAN, 3]),
    ("max.NaN.f32 %d, %a, %b", "f32", (f32(NAN, 1, 3), f32(2, NAN, 4)), [NAN, NAN, 4]),
    ("abs.f32 %d, %a", "f32", (f32(-2, -0.0),), [2, 0]),
    ("neg.f32 %d, %a", "f32", (f32(-2, 0.0),), [2, -0.0]),
    ("copysign.f32 %d, %a, %b", "f32", (f32(-1, 1), f32(5, -6)), [-5, 6]),
    ("sqrt.rn.f32 %d, %a", "f32", (f32(2, -1, -0.0),), [np.sqrt(np.float32(2)), NAN, -0.0]),
    ("rcp.rn.f32 %d, %a", "f32", (f32(4, 0.0, -0.0),), [0.25, INF, -INF]),
    ("rcp.approx.ftz.f32 %d, %a", "f32", (f32(4, SUB),), [0.25, INF]),
    ("rsqrt.approx.f32 %d, %a", "f32", (f32(4, 0),), [0.5, INF]),
    ("ex2.approx.ftz.f32 %d, %a", "f32", (f32(3, -127, -INF),), [8, 0, 0]),
    ("lg2.approx.f32 %d, %a", "f32", (f32(8, 0, -1),), [3, -INF, NAN]),
    ("sin.approx.f32 %d, %a", "f32", (f32(0.5),), [np.float32(np.sin(0.5))]),
    ("cos.approx.f32 %d, %a", "f32", (f32(0.5),), [np.float32(np.cos(0.5))]),
    ("tanh.approx.f32 %d, %a", "f32", (f32(0.5),), [np.float32(np.tanh(0.5))]),
    ("selp.f32 %d, %a, %b, 1", "f32", (f32(1), f32(2)), [1]),
    ("mov.b32 %d, %a", "f32", (b32(0x3F800000),), [1]),
]


@pytest.mark.parametrize("instruction, result, operands, expected", FLOAT, ids=[case[0] for case in FLOAT])
def test_float(instruction, result, operands, expected):
    same(compute(instruction, result, *operands), expected)


def test_fma_rounds_once():
    """a * b = 1 + 2^-23 + 2^-46..., c brings the sum within 2^-60 of a tie, which a float64 sum loses."""
    a, b = 1 + 2.0**-12, 1 + 2.0**-12  # the product is 1 + 2^-11 + 2^-24: a tie in float32
    got = compute("fma.rn.f32 %d, %a, %b, %c", "f32", f32(a, a, a), f32(b, b, b), f32(0, 2.0**-90, -(2.0**-90)))
    same(got, [1 + 2.0**-11, 1 + 2.0**-11 + ULP, 1 + 2.0**-11])
    directed = {"rm": [1 + 2.0**-11] * 3, "rz": [1 + 2.0**-11] * 3, "rp": [1 + 2.0**-11 + ULP] * 3}
    for mode, expected in directed.items():
        same(
            compute(
                f"fma.{mode}.f32 %d, %a, %b, %c",
                "f32",
                f32(a, a, a),
                f32(b, b, b),
                f32(0, 2.0**-90, -(2.0**-90)),
            ),
            expected,
        )


CONVERT = [
    ("cvt.rn.f32.s32 %d, %a", "f32", s32(-3, 2**24 + 1, 2**24 + 3), [-3, 2**24, 2**24 + 4]),
    ("cvt.rz.f32.u32 %d, %a", "f32", u32(2**24 + 3), [2**24 + 2]),
    ("cvt.rp.f32.s32 %d, %a", "f32", s32(2**24 + 1), [2**24 + 2]),
    ("cvt.rn.f32.u64 %d, %a", "f32", u64(2**63 + 1), [2**63]),
    ("cvt.rn.f32.s64 %d, %a", "f32", s64(2**53 + 2**29 + 1), [2**53 + 2**30]),
    ("cvt.rzi.s32.f32 %d, %a", "s32", f32(1.9, -1.9, 1e20, -1e20, NAN), [1, -1, 2**31 - 1, -(2**31), 0]),
    ("cvt.rni.s32.f32 %d, %a", "s32", f32(0.5, 1.5, 2.5, -0.5), [0, 2, 2, 0]),
    ("cvt.rmi.s32.f32 %d, %a", "s32", f32(-0.5, 1.5), [-1, 1]),
    ("cvt.rpi.s32.f32 %d, %a", "s32", f32(-0.5, 1.5), [0, 2]),
    ("cvt.rzi.u32.f32 %d, %a", "u32", f32(-1, 4294967040, 1e20), [0, 4294967040, 2**32 - 1]),
    ("cvt.rzi.s64.f32 %d, %a", "s64", f32(-2.5, 1e30, NAN), [-2, 2**63 - 1, -(2**63)]),
    ("cvt.rzi.u8.f32 %d, %a", "u8", f32(300, -1, 7.9), [255, 0, 7]),
    ("cvt.rni.f32.f32 %d, %a", "f32", f32(2.5, -0.25), [2, -0.0]),
    ("cvt.rmi.f32.f32 %d, %a", "f32", f32(-2.5), [-3]),
    ("cvt.sat.f32.f32 %d, %a", "f32", f32(2, -1, 0.5, NAN), [1, 0, 0.5, 0]),
    ("cvt.rn.f32.f64 %d, %a", "f32", f64(0.1), [np.float32(0.1)]),
    ("cvt.rz.f32.f64 %d, %a", "f32", f64(1 + 1.9 * ULP), [1 + ULP]),
    ("cvt.f64.f32 %d, %a", "f64", f32(0.1), [float(np.float32(0.1))]),
    ("cvt.s64.s32 %d, %a", "s64", s32(-1), [-1]),
    ("cvt.u64.u32 %d, %a", "u64", u32(2**32 - 1), [2**32 - 1]),
    ("cvt.u32.u64 %d, %a", "u32", u64(2**32 + 7), [7]),
    ("cvt.s32.s8 %d, %a", "s32", s8(-1, 127), [-1, 127]),
    ("cvt.u32.u8 %d, %a", "u32", u8(255), [255]),
    ("cvt.u16.u32 %d, %a", "u16", u32(0x12345), [0x2345]),
    ("cvt.sat.u8.s32 %d, %a", "u8", s32(300, -5, 9), [255, 0, 9]),
    ("cvt.sat.s8.s32 %d, %a", "s8", s32(300, -500, 9), [127, -128, 9]),
]


@pytest.mark.parametrize("instruction, result, operand, expected", CONVERT, ids=[case[0] for case in CONVERT])
def test_convert(instruction, result, operand, expected):
    same(compute(instruction, result, operand), expected)


def test_convert_halves():
    """float16 is bits in a .b16 register: 1.5 is 0x3E00; 65520 and more round to infinity."""
    same(compute("cvt.f32.f16 %d, %a", "f32", b16(0x3E00, 0xFC00)), [1.5, -INF])
    same(compute("cvt.rn.f16.f32 %d, %a", "b16", f32(1.5, 65520, 2049)), [0x3E00, 0x7C00, 0x6800])


def test_convert_tf32():
    """To nearest with ties away: 10 bits of mantissa stay."""
    got = compute("cvt.rna.tf32.f32 %d, %a", "b32", f32(1 + 2.0**-11, 1 + 2.0**-12, -(1 + 2.0**-11)))
    same(got.view("f4"), [1 + 2.0**-10, 1, -(1 + 2.0**-10)])


COMPARE = [  # of 1?2, 2?1, 1?1, NaN?1
    ("eq", [0, 0, 1, 0]), ("ne", [1, 1, 0, 0]), ("lt", [1, 0, 0, 0]), ("le", [1, 0, 1, 0]), ("gt", [0, 1, 0, 0]),
    ("ge", [0, 1, 1, 0]), ("equ", [0, 0, 1, 1]), ("neu", [1, 1, 0, 1]), ("ltu", [1, 0, 0, 1]), ("leu", [1, 0, 1, 1]),
    ("gtu", [0, 1, 0, 1]), ("geu", [0, 1, 1, 1]), ("num", [1, 1, 1, 0]), ("nan", [0, 0, 0, 1]),
]  # fmt: skip


@pytest.mark.parametrize("how, expected", COMPARE)
def test_compare_floats(how, expected):
    code = f"setp.{how}.f32 %p1, %a, %b; selp.b32 %d, 1, 0, %p1"
    same(compute(code, "b32", f32(1, 2, 1, NAN), f32(2, 1, 1, 1)), expected)


@pytest.mark.parametrize(
    "how, expected",
    [("lt.s32", [1, 0]), ("lo.u32", [0, 0]), ("gt.u32", [1, 0]), ("hi.u32", [1, 0]), ("ls.u32", [0, 1]), ("hs.u32", [1, 1])],
)
def test_compare_integers(how, expected):
    code = f"setp.{how} %p1, %a, %b; selp.b32 %d, 1, 0, %p1"
    same(compute(code, "b32", b32(-1, 1), b32(1, 1)), expected)


def test_predicates():
    """setp with two results and a third operand; and, or, xor, not of predicates."""
    code = """setp.gt.s32 %p3, %a, 0; setp.lt.and.s32 %p1|%p2, %a, 10, %p3;
    selp.b32 %r1, 1, 0, %p1; selp.b32 %r2, 2, 0, %p2; or.b32 %d, %r1, %r2"""
    same(compute(code, "b32", s32(5, 50, -5)), [1, 2, 0])
    code = """setp.gt.s32 %p1, %a, 0; setp.lt.s32 %p2, %a, 10; {0}.pred %p3, %p1, %p2; selp.b32 %d, 1, 0, %p3"""
    same(compute(code.format("and"), "b32", s32(5, 50, -5)), [1, 0, 0])
    same(compute(code.format("or"), "b32", s32(5, 50, -5)), [1, 1, 1])
    same(compute(code.format("xor"), "b32", s32(5, 50, -5)), [0, 1, 1])
    same(compute("setp.gt.s32 %p1, %a, 0; not.pred %p2, %p1; selp.b32 %d, 1, 0, %p2", "b32", s32(5, -5)), [0, 1])
    same(compute("set.gt.u32.s32 %d, %a, 0", "u32", s32(5, -5)), [2**32 - 1, 0])


def test_guards_keep_old_values():
    code = "mov.u32 %d, 7; setp.gt.s32 %p1, %a, 0; @%p1 mov.u32 %d, 8; @!%p1 add.u32 %d, %d, 2"
    same(compute(code, "u32", s32(5, -5)), [8, 9])


def test_pack_and_unpack():
    same(compute("mov.b64 %d, {%a, %b}", "b64", b32(1), b32(2)), [2**33 + 1])
    same(compute("mov.b64 {%r1, %r2}, %a; sub.s32 %d, %r2, %r1", "s32", b64(2**33 + 5)), [-3])
    same(compute("mov.b32 {%h1, %h2}, %a; cvt.u32.u16 %d, %h2", "u32", b32(0xABCD1234)), [0xABCD])


def test_scoped_names():
    """What inline assembly declares in braces is its own."""
    same(
        compute("{ .reg .b32 t; add.s32 t, %a, 1; { .reg .b32 t; mov.u32 t, 9; } mov.b32 %d, t; }", "s32", s32(4)),
        [5],
    )
