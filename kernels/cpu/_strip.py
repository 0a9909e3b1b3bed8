"""Strips of a depthwise convolution's output: up to STRIP neighbours of a row, vectors of channels one
after the other.
Windows 3, 5 and 7 wide are unrolled, and load each input vector once for all the windows it lies
in; others go four taps, or one, at a time."""

from functools import partial

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, f32, i64, target

from ._epilogue import scaled, short_activation
from ._ir import VT, by_size, call_intrinsic, internal, load_part_ir, store_part_ir
from ._simd import W, inline

STRIP = 12 if target().registers >= 32 else 8
"""Most pixels of a strip: their sums stay in registers."""
STRIP_7 = 10 if target().registers >= 32 else 5
"""As many beside the weights of seven taps."""
STRIP_ANY = 8
"""Most pixels of windows that are not unrolled."""
TAPS = 4
"""Taps that share what they load, of windows that are not unrolled."""


@inline
def reach(kw):
    """Columns of padding to the left, and to the right, that unrolled strips can have at most."""
    return kw // 2


def _make_strips(kw: int, stride: int, most: int):
    """An intrinsic for ``count`` vectors of channels: y[p, :] = epilogue(Σ_ky Σ_kx x[ky·line,
    p·stride + kx·gap, :]·w[ky, kx, :] + bias) for p < ``pixels`` ≤ ``most``, ldx floats a pixel.

    Where kw is 0, ``taps``, ``step`` (the stride) and ``gap`` are the arguments; where it is not,
    or stride is not 0, the gap is 1.
    x is at the first pixel of the first window, which is column ``left`` of an image of ``width``
    columns: those outside are padding and are not read. Unrolled windows reach at most `reach`
    columns to either side.
    """

    @intrinsic
    def strips(
        tc, pixels, count, x, ldx, line, w, ldw, rows, taps, step, gap, bias, y, low, high, cols, left, width, act, alpha,
        beta, scale, shift,
    ):  # fmt: skip
        sig = types.void(
            Int, Int, Floats, Int, Int, Floats, Int, Int, Int, Int, Int, Floats, Floats, Float, Float, Int, Int, Int, Int,
            Float, Float, Floats, Floats,
        )  # fmt: skip

        def gen(ctx, b, sig, args):
            pixels, *rest = args
            by_size(b, pixels, most, lambda n: _function(b.module, n, kw, stride, [a.type for a in rest]), rest)
            return ctx.get_dummy_value()

        return sig, gen

    return strips


def _function(module, pixels: int, kw: int, stride: int, kinds):
    """The function for strips of so many pixels.
    A strip in the middle of the image loads whole vectors; one at its border, or of the last
    channels, masks what is not there. Where windows are not unrolled, a strip of the last channels
    in the middle has one mask for all columns."""
    fn, new = internal(module, f"strip_{pixels}_{kw}_{stride}", kinds)
    if new:
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        count, x, ldx, line, w, ldw, rows, taps, step, gap, bias, y, low, high, cols, left, width, *rest = fn.args
        act, alpha, beta, scale, shift = rest
        if kw:
            taps = i64(kw)
        if stride:
            step, gap = i64(stride), i64(1)
        reached = b.add(b.mul(step, i64(pixels - 1)), b.mul(gap, b.sub(taps, i64(1))))
        inside = b.and_(b.icmp_signed(">=", left, i64(0)), b.icmp_signed("<", b.add(left, reached), width))
        whole, part, done = (b.append_basic_block(n) for n in ("whole", "part", "done"))
        variants = [(whole, False, None), (part, True, left)]
        if kw:
            b.cbranch(b.and_(inside, b.icmp_signed(">=", cols, i64(W))), whole, part)
        else:
            within, few = b.append_basic_block("within"), b.append_basic_block("few")
            b.cbranch(inside, within, part)
            b.position_at_end(within)
            b.cbranch(b.icmp_signed(">=", cols, i64(W)), whole, few)
            variants.append((few, True, None))
        for block, masked, begin in variants:
            b.position_at_end(block)
            with cgutils.for_range(b, count) as loop:
                to = b.mul(loop.index, i64(W))
                xp, wp, bp, yp, sp, tp = (b.gep(p, [to]) for p in (x, w, bias, y, scale, shift))
                strip = _Strip(b, pixels, kw, stride, (taps, step, gap), cols if masked else None, begin, width)
                sums = strip.sums(xp, ldx, line, wp, ldw, rows, b.load(_vectors(b, bp), align=4))
                sums = short_activation(b, sums, act, low, high, alpha, beta)
                factors = partial(_loads, b, (sp, tp))
                sums = scaled(b, sums, scale, factors)
                for p, (v,) in enumerate(sums):
                    q = _vectors(b, b.gep(yp, [b.mul(ldx, i64(p))]))
                    if masked:
                        store_part_ir(b, v, q, cols)
                    else:
                        b.store(v, q, align=4)
            b.branch(done)
        b.position_at_end(done)
        b.ret_void()
    return fn


def _vectors(b, p):
    return b.bitcast(p, VT.as_pointer())


def _loads(b, pointers):
    return ([b.load(_vectors(b, p), align=4)] for p in pointers)


class _Strip:
    """The sums of a strip. ``cols``: how many channels of a vector there are, None for all, and no
    column outside the image, as where ``left`` is None."""

    def __init__(self, b, pixels: int, kw: int, stride: int, window, cols, left, width) -> None:
        self.b, self.pixels, self.kw, self.stride = b, pixels, kw, stride
        self.taps, self.step, self.gap = window
        self.cols, self.left, self.width = cols, left, width

    def sums(self, x, ldx, line, w, ldw, rows, bias):
        """Rows of one vector each, over the rows of the window."""
        b, f32p = self.b, f32.as_pointer()
        present = self.lanes() if self.kw and self.cols is not None else None
        entry, loop, done = b.block, b.append_basic_block("row"), b.append_basic_block("rows_done")
        b.cbranch(b.icmp_signed(">", rows, i64(0)), loop, done)
        b.position_at_end(loop)
        k, xp, wp = b.phi(i64), b.phi(f32p), b.phi(f32p)
        k.add_incoming(i64(0), entry)
        xp.add_incoming(x, entry)
        wp.add_incoming(w, entry)
        acc = [b.phi(VT) for _ in range(self.pixels)]
        for a in acc:
            a.add_incoming(bias, entry)
        if self.kw:
            new = self.unrolled(list(acc), xp, ldx, wp, ldw, present)
        else:
            new, tap = list(acc), i64(0)
            if self.stride == 1:
                whole = b.mul(b.sdiv(self.taps, i64(TAPS)), i64(TAPS))
                new = self.over(tap, whole, TAPS, new, xp, ldx, wp, ldw)
                tap = whole
            new = self.over(tap, self.taps, 1, new, xp, ldx, wp, ldw)
        k1 = b.add(k, i64(1))
        k.add_incoming(k1, b.block)
        xp.add_incoming(b.gep(xp, [line]), b.block)
        wp.add_incoming(b.gep(wp, [b.mul(ldw, self.taps)]), b.block)
        for a, v in zip(acc, new):
            a.add_incoming(v, b.block)
        last = b.block
        b.cbranch(b.icmp_signed("<", k1, rows), loop, done)
        b.position_at_end(done)
        found = []
        for p in range(self.pixels):
            total = b.phi(VT)
            total.add_incoming(bias, entry)
            total.add_incoming(new[p], last)
            found.append([total])
        return found

    def lanes(self):
        """How many channels of each column there are: none outside the image."""
        span = (self.pixels - 1) * self.stride + self.kw
        middle = range(self.kw // 2, span - self.kw // 2)
        return [self.cols if column in middle else self.there(i64(column)) for column in range(span)]

    def there(self, column):
        b = self.b
        if self.left is None:
            return self.cols
        at = b.add(self.left, column)
        seen = b.and_(b.icmp_signed(">=", at, i64(0)), b.icmp_signed("<", at, self.width))
        return b.select(seen, self.cols, i64(0))

    def read(self, xp, ldx, column, present=None):
        b = self.b
        p = _vectors(b, b.gep(xp, [b.mul(ldx, column)]))
        if self.cols is None:
            return b.load(p, align=4)
        return load_part_ir(b, p, self.there(column) if present is None else present)

    def weights(self, wp, ldw, n: int):
        b = self.b
        return [b.load(_vectors(b, b.gep(wp, [b.mul(ldw, i64(j))])), align=4) for j in range(n)]

    def meet(self, new, v, weight, p: int) -> None:
        new[p] = call_intrinsic(self.b, f"fmuladd.v{W}f32", VT, v, weight, new[p])

    def unrolled(self, new, xp, ldx, wp, ldw, present):
        """A row of the window, all of whose taps are known."""
        weights = self.weights(wp, ldw, self.kw)
        for column in range((self.pixels - 1) * self.stride + self.kw):
            used = [(p, column - p * self.stride) for p in range(self.pixels)]
            used = [(p, tap) for p, tap in used if 0 <= tap < self.kw]
            if used:
                v = self.read(xp, ldx, i64(column), present and present[column])
                for p, tap in used:
                    self.meet(new, v, weights[tap], p)
        return new

    def over(self, first, last, n: int, new, xp, ldx, wp, ldw):
        """The taps from first to last of a row, n at a time."""
        b = self.b
        entry, loop, done = b.block, b.append_basic_block(f"taps{n}"), b.append_basic_block(f"taps{n}_done")
        b.cbranch(b.icmp_signed("<", first, last), loop, done)
        b.position_at_end(loop)
        t, acc = b.phi(i64), [b.phi(VT) for _ in new]
        t.add_incoming(first, entry)
        for a, v in zip(acc, new):
            a.add_incoming(v, entry)
        made, weights = list(acc), self.weights(b.gep(wp, [b.mul(ldw, t)]), ldw, n)
        if n > 1:
            for column in range(self.pixels + n - 1):
                v = self.read(xp, ldx, b.add(t, i64(column)))
                for p in range(max(0, column - n + 1), min(self.pixels, column + 1)):
                    self.meet(made, v, weights[column - p], p)
        else:
            at = b.mul(t, self.gap)
            for p in range(self.pixels):
                self.meet(made, self.read(xp, ldx, b.add(at, b.mul(self.step, i64(p)))), weights[0], p)
        t1 = b.add(t, i64(n))
        t.add_incoming(t1, b.block)
        for a, v in zip(acc, made):
            a.add_incoming(v, b.block)
        last_block = b.block
        b.cbranch(b.icmp_signed("<", t1, last), loop, done)
        b.position_at_end(done)
        found = []
        for before, after in zip(new, made):
            phi = b.phi(VT)
            phi.add_incoming(before, entry)
            phi.add_incoming(after, last_block)
            found.append(phi)
        return found


strips_3_1, strips_3_2 = _make_strips(3, 1, STRIP), _make_strips(3, 2, STRIP)
strips_5_1, strips_5_2 = _make_strips(5, 1, STRIP), _make_strips(5, 2, STRIP)
strips_7_1, strips_7_2 = _make_strips(7, 1, STRIP_7), _make_strips(7, 2, STRIP_7)
strips_any_1, strips_any = _make_strips(0, 1, STRIP_ANY), _make_strips(0, 0, STRIP_ANY)
