"""Runs of pixels of a depthwise convolution, a thread a channel: each input is read once for all
pixels that it reaches."""

from ._numba import SIMULATED

RUN = 4
"""Pixels of a run."""
TAPS = 25
"""Most taps that are held in registers."""

if SIMULATED:

    def taps(w, n, padded):  # pyright: ignore[reportRedeclaration]
        """The first n taps of a channel, ``padded`` apart, as a tuple of TAPS."""
        return tuple(w[i * padded] if i < n else 0 for i in range(TAPS))

    def strip(k, stride):  # pyright: ignore[reportRedeclaration]
        """The function that adds k × k taps (of `taps`, by rows) to ``a`` for the RUN pixels whose
        windows begin at (iy, ix + i·stride) of one channel of an image, x, of h × width pixels c
        apart.
        What lies outside is 0."""

        def run(x, held, a, iy, dh, h, ix, width, c):
            sums = [a] * RUN
            for ky in range(k):
                for i in range(RUN * k if 0 <= iy + ky * dh < h else 0):
                    p, s = i // k, ix + i // k * stride + i % k
                    if 0 <= s < width:
                        sums[p] = sums[p] + x[((iy + ky * dh) * width + s) * c] * held[ky * k + i % k]
            return tuple(sums)

        return run

else:
    from ._numba import Floats, cgutils, intrinsic, ir, types

    f32, i64 = ir.FloatType(), ir.IntType(64)
    zero = ir.Constant(f32, 0.0)

    def _where(b, ok, make):
        """The floats that ``make`` finds where ok, else zeros."""
        before = b.block
        with b.if_then(ok):
            found = make()
            inside = b.block
        merged = [b.phi(f32) for _ in found]
        for phi, v in zip(merged, found):
            phi.add_incoming(zero, before)
            phi.add_incoming(v, inside)
        return merged

    @intrinsic
    def taps(tc, w, n, padded):
        def gen(ctx, b, sig, args):
            w, n, padded = args

            def read(first, last):
                return [b.load(b.gep(w, [b.mul(padded, i64(i))]), align=4) for i in range(first, last)]

            few = _where(b, b.icmp_signed(">=", n, i64(9)), lambda: read(0, 9))
            return cgutils.pack_array(b, few + _where(b, b.icmp_signed("==", n, i64(TAPS)), lambda: read(9, TAPS)))

        return types.UniTuple(types.float32, TAPS)(Floats, types.int64, types.int64), gen

    def strip(k, stride):
        reach = (RUN - 1) * stride + k

        def gen(ctx, b, sig, args):
            x, held, a, iy, dh, h, ix, width, c = args
            held = cgutils.unpack_tuple(b, held)
            last = b.sub(width, i64(1))
            columns = []
            for j in range(reach):
                s = b.add(ix, i64(j))
                near = b.select(b.icmp_signed("<", s, i64(0)), i64(0), s)
                near = b.select(b.icmp_signed(">", near, last), last, near)
                columns.append((b.icmp_unsigned("<", s, width), b.mul(near, c)))
            sums = [a] * RUN
            for ky in range(k):
                r = b.add(iy, b.mul(dh, i64(ky)))
                before = b.block
                with b.if_then(b.icmp_unsigned("<", r, h)):
                    row = b.gep(x, [b.mul(b.mul(r, width), c)])
                    more = list(sums)
                    for j, (ok, place) in enumerate(columns):
                        v = b.select(ok, b.load(b.gep(row, [place]), align=4), zero)
                        for p in range(RUN):
                            if 0 <= j - p * stride < k:
                                product = b.fmul(v, held[ky * k + j - p * stride], flags=("contract",))
                                more[p] = b.fadd(more[p], product, flags=("contract",))
                    inside = b.block
                for p in range(RUN):
                    phi = b.phi(f32)
                    phi.add_incoming(sums[p], before)
                    phi.add_incoming(more[p], inside)
                    sums[p] = phi
            return cgutils.pack_array(b, sums)

        @intrinsic
        def run(tc, x, held, a, iy, dh, h, ix, width, c):
            ints = [types.int64] * 6
            return types.UniTuple(types.float32, RUN)(Floats, held, types.float32, *ints), gen

        return run
