"""Strips of a convolution's output, of few inputs a group: up to STRIP neighbours of a row, vectors of
channels one after the other.

A vector of results needs, for each tap, the vector of its groups' first inputs, that of their second
inputs, and so on. Where all its lanes are of one group each is one value in all lanes, else it is a
permutation of the vector of x at the same channels.
"""

from functools import partial

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, i32, i64, target

from ._epilogue import given, merge, scaled, short_activation
from ._ir import VI, VT, W, by_size, call_intrinsic, internal, load_part_ir, repeat, splat_ir, store_part_ir, vector_pointer

STRIP = 12 if target().registers >= 32 else 8
"""Most pixels of a strip: their sums stay in registers."""
PERMUTES = {16: "x86.avx512.permvar.sf.512", 8: "x86.avx2.permps"}
"""By lanes, the instruction that picks lanes of a vector by those of another."""


def _make_strips(kw: int, stride: int, spread: bool):
    """An intrinsic for ``count`` vectors of channels: y[p, c] = epilogue(Σ_ky Σ_kx Σ_i x[ky·line,
    p·stride + kx·gap, input i of c's group]·w[ky, kx, i, c] + bias[c] + res[p, c]) for p <
    ``pixels``, ldx and ldy floats a pixel, ``group`` inputs a group, ``ldi`` floats apart.

    w holds (rows, taps, group, W) of a vector of channels after the other, ``apart`` floats each;
    x's inputs of the one lie ``xv`` floats from those of the other.
    ``spread``: a vector is of one group; else its groups' inputs fill a vector, which is permuted.
    Where kw is 0, ``taps``, ``step`` (the stride) and ``gap`` are the arguments, else the gap is 1.
    x is at the first pixel of the first window, which is column ``left`` of an image of ``width``
    columns: for those outside 0 is read, in ``zeros``. Of windows that are not 0 wide the first and the
    last column alone may be outside.
    """

    @intrinsic
    def strips(
        tc, pixels, count, x, ldx, line, ldi, xv, w, apart, rows, group, taps, step, gap, bias, y, ldy, res, ldres, zeros,
        low, high, cols, left, width, act, alpha, beta, scale, shift,
    ):  # fmt: skip
        sig = types.void(
            Int, Int, Floats, Int, Int, Int, Int, Floats, Int, Int, Int, Int, Int, Int, Floats, Floats, Int, Floats, Int,
            Floats, Float, Float, Int, Int, Int, Int, Float, Float, Floats, Floats,
        )  # fmt: skip

        def gen(ctx, b, sig, args):
            pixels, *rest = args
            kinds = [a.type for a in rest]
            by_size(b, pixels, STRIP, lambda n: _function(b.module, n, kw, stride, spread, kinds), rest)
            return ctx.get_dummy_value()

        return sig, gen

    return strips


def _function(module, pixels: int, kw: int, stride: int, spread: bool, kinds):
    """The function for strips of so many pixels."""
    fn, new = internal(module, f"strip_{pixels}_{kw}_{stride}_{'spread' if spread else 'permuted'}", kinds)
    if new:
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        count, x, ldx, line, ldi, xv, w, apart, rows, group, *rest = fn.args
        taps, step, gap, bias, y, ldy, res, ldres, zeros, *rest = rest
        low, high, cols, left, width, act, alpha, beta, scale, shift = rest
        if kw:
            taps, step, gap = i64(kw), i64(stride), i64(1)
        strip = _Strip(b, pixels, kw, stride, spread, (taps, step, gap), group, cols, left, width, zeros, ldx, ldi)

        def vector(v, _):
            at = b.mul(v, i64(W))
            xp = b.gep(x, [b.mul(v, xv)])
            bp, yp, sp, tp = (b.gep(p, [at]) for p in (bias, y, scale, shift))
            start = b.load(vector_pointer(b, bp, i64(0)), align=4)
            found = [[sum_] for sum_ in strip.sums(xp, line, b.gep(w, [b.mul(v, apart)]), rows, start)]
            before = b.block
            with b.if_then(given(b, res)):
                lines = [b.gep(res, [b.add(at, b.mul(ldres, i64(p)))]) for p in range(pixels)]
                terms = [load_part_ir(b, vector_pointer(b, q, i64(0)), cols) for q in lines]
                added = [[b.fadd(s, t)] for (s,), t in zip(found, terms)]
                inside = b.block
            found = merge(b, [(before, found), (inside, added)])
            found = short_activation(b, found, act, low, high, alpha, beta)
            found = scaled(b, found, scale, partial(_loads, b, (sp, tp)))
            for p, (value,) in enumerate(found):
                store_part_ir(b, value, vector_pointer(b, b.gep(yp, [b.mul(ldy, i64(p))]), i64(0)), cols)
            return []

        repeat(b, count, [], vector)
        b.ret_void()
    return fn


def _loads(b, pointers):
    return ([b.load(vector_pointer(b, p, i64(0)), align=4)] for p in pointers)


class _Strip:
    """The sums of a strip. ``cols``: how many channels of a vector there are."""

    def __init__(self, b, pixels, kw, stride, spread, window, group, cols, left, width, zeros, ldx, ldi) -> None:
        self.b, self.pixels, self.kw, self.stride, self.spread = b, pixels, kw, stride, spread
        self.taps, self.step, self.gap = window
        self.group, self.cols, self.left, self.width, self.zeros = group, cols, left, width, zeros
        self.ldx, self.ldi = ldx, ldi

    def sums(self, x, line, w, rows, bias):
        """A vector a pixel, over the rows of the window."""
        b = self.b
        size = b.mul(b.mul(self.taps, self.group), i64(W))

        def row(ky, acc):
            xp, wp = b.gep(x, [b.mul(ky, line)]), b.gep(w, [b.mul(ky, size)])
            if self.kw:
                return repeat(b, self.group, acc, lambda i, acc: self.unrolled(acc, xp, wp, i))

            def tap(t, acc):
                here = b.gep(wp, [b.mul(b.mul(t, self.group), i64(W))])
                return repeat(b, self.group, acc, lambda i, acc: self.one(acc, xp, here, t, i))

            return repeat(b, self.taps, acc, tap)

        return repeat(b, rows, [bias] * self.pixels, row)

    def unrolled(self, acc, xp, wp, i):
        """Input i of each group, of a row of the window, all of whose taps are known."""
        b, span = self.b, (self.pixels - 1) * self.stride + self.kw
        at, acc = b.mul(i, i64(W)), list(acc)
        weights = [
            b.load(vector_pointer(b, b.gep(wp, [b.mul(self.group, i64(tap * W))]), at), align=4) for tap in range(self.kw)
        ]
        for column in range(span):
            used = [(p, column - p * self.stride) for p in range(self.pixels)]
            used = [(p, tap) for p, tap in used if 0 <= tap < self.kw]
            if used:
                v = self.read(xp, i64(column), i, column in (0, span - 1))
                for p, tap in used:
                    self.meet(acc, v, weights[tap], p)
        return acc

    def one(self, acc, xp, wp, t, i):
        """Input i of each group, of one tap."""
        b, acc = self.b, list(acc)
        weight = b.load(vector_pointer(b, wp, b.mul(i, i64(W))), align=4)
        for p in range(self.pixels):
            column = b.add(b.mul(t, self.gap), b.mul(self.step, i64(p)))
            self.meet(acc, self.read(xp, column, i, True), weight, p)
        return acc

    def read(self, xp, column, i, edge: bool):
        """What input i of each lane's group is in a column, which may be outside the image where it is at the ``edge``."""
        b = self.b
        p, seen = b.gep(xp, [b.mul(self.ldx, column)]), None
        if edge:
            at = b.add(self.left, column)
            seen = b.and_(b.icmp_signed(">=", at, i64(0)), b.icmp_signed("<", at, self.width))
        if self.spread:
            p = b.gep(p, [b.mul(self.ldi, i)])
            return splat_ir(b, b.load(p if seen is None else b.select(seen, p, self.zeros), align=4))
        cols = self.cols if seen is None else b.select(seen, self.cols, i64(0))
        v = load_part_ir(b, vector_pointer(b, p, i64(0)), cols)
        return self.permuted(v, i)

    def permuted(self, v, i):
        """Lane i of each group of lanes, in all lanes of the group."""
        b, lanes = self.b, ir.Constant(VI, list(range(W)))
        first = b.and_(lanes, self.all_lanes(b.sub(i64(0), self.group)))
        index, name = b.add(first, self.all_lanes(i)), PERMUTES[W]
        return call_intrinsic(b, name, VT, v, index)

    def all_lanes(self, value):
        b, undefined = self.b, ir.Constant(VI, ir.Undefined)
        one = b.insert_element(undefined, b.trunc(value, i32), ir.Constant(i32, 0))
        return b.shuffle_vector(one, undefined, ir.Constant(VI, [0] * W))

    def meet(self, acc, v, weight, p: int) -> None:
        acc[p] = call_intrinsic(self.b, f"fmuladd.v{W}f32", VT, v, weight, acc[p])


spread_3_1, spread_3_2, spread_any = (_make_strips(kw, stride, True) for kw, stride in ((3, 1), (3, 2), (0, 0)))
if W in PERMUTES:
    permuted_3_1, permuted_3_2, permuted_any = (_make_strips(kw, s, False) for kw, s in ((3, 1), (3, 2), (0, 0)))
else:  # groups always fill a vector
    permuted_3_1, permuted_3_2, permuted_any = spread_3_1, spread_3_2, spread_any
