"""The register tile that all matrix work stands on: R rows × (W or 2W) columns of C, accumulated
over taps and channels.

Rows of A are found through a table of addresses, one entry a tap and row (an indirect convolution:
Dukhan, "The Indirect Convolution Algorithm", 2019), so that one kernel serves pointwise, strided,
dilated and padded convolutions and GEMM.
B is packed in panels: k-major, NR = NV·W floats a k (the last panel may be W wide).
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, Ints, f32, i64, target

from ._epilogue import (
    activate,
    addends_from,
    epilogue_from,
    given,
    in_registers,
    merge,
    scaled,
    short_activation,
    short_only,
)
from ._ir import (
    AHEAD,
    VT,
    by_size,
    call_intrinsic,
    constant,
    internal,
    lane_ir,
    load_part_ir,
    prefetch,
    splat_ir,
    store_part_ir,
)
from ._simd import W, address, at, inline

MR = target().tile().rows
NV = target().tile().vectors
NR = NV * W
MR3 = target().tile().rows_wider
"""Rows of a tile of a full panel and a narrow one beside it."""
UNROLL = 4
"""k steps per turn of the inner loop."""
BY_LANE = W == UNROLL and target().registers >= 32
"""Whether a turn's values of A are loaded as a vector a row and multiplied lane by lane, as NEON's
fmla can; elsewhere each is loaded into all lanes."""


def _make_tiles(vectors: int, most: int):
    """An intrinsic for ``count`` tiles of ``rows`` (1 to ``most``) rows each, one below the other:
    each height is a function of its own, chosen by a switch.
    A tile of NV + 1 vectors reads a full panel at b and a narrow one at q.
    Scale and shift, where scale is not null, multiply and add a column after the activation."""

    @intrinsic
    def tiles(
        tc, rows, count, table, step, taps, kc, koff, b, q, out, c, ldc, first, last, bias, res, ldres, low, high, cols,
        act, alpha, beta, scale, shift,
    ):  # fmt: skip
        sig = types.void(
            Int, Int, Ints, Int, Int, Int, Int, Floats, Floats, Ints, Floats, Int, types.boolean, types.boolean, Floats,
            Floats, Int, Float, Float, Int, Int, Float, Float, Floats, Floats,
        )  # fmt: skip

        def gen(ctx, bd, sig, args):
            rows, args = args[0], args[1:]
            by_size(bd, rows, most, lambda n: _function(bd.module, n, vectors, [a.type for a in args]), args)
            return ctx.get_dummy_value()

        return sig, gen

    return tiles


def _function(module, rows: int, vectors: int, kinds):
    """The function of one tile height: for each tile C[rows, vectors·W] (+)= Σ_taps Σ_k A[row(tap,
    i)][k] · B[tap, k, :]."""
    fn, new = internal(module, f"tile_{rows}x{vectors}", kinds)
    if new:
        bd = ir.IRBuilder(fn.append_basic_block("entry"))
        count, table, step, taps, kc, koff, b, q, out, *rest = fn.args
        entry, loop, done = bd.block, bd.append_basic_block("next"), bd.append_basic_block("done")
        bd.cbranch(bd.icmp_signed(">", count, _n(0)), loop, done)
        bd.position_at_end(loop)
        t = bd.phi(i64)
        t.add_incoming(_n(0), entry)
        below = bd.mul(t, _n(rows))
        _emit(bd, rows, vectors, bd.gep(table, [below]), step, taps, kc, koff, (b, q), bd.gep(out, [below]), *rest)
        t1 = bd.add(t, _n(1))
        t.add_incoming(t1, bd.block)
        bd.cbranch(bd.icmp_signed("<", t1, count), loop, done)
        bd.position_at_end(done)
        bd.ret_void()
    return fn


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _vector(bd, p, offset: int):
    return bd.bitcast(bd.gep(p, [_n(offset)]), VT.as_pointer())


def _emit(
    bd, R, V, table, step, taps, kc, koff, b, out, c, ldc, first, last, bias, res, ldres, low, high, cols, act, alpha, beta,
    scale, shift,
) -> None:  # fmt: skip
    whole = bd.icmp_signed(">=", cols, _n(V * W))

    def rows_of(p, ld):
        return [bd.gep(p, [bd.mul(bd.load(bd.gep(out, [_n(i)])), ld)]) for i in range(R)]

    start = _initial(bd, R, V, lambda: rows_of(c, ldc), first, whole, cols)
    sums = _accumulate(bd, R, V, table, step, taps, kc, koff, b, start)
    crow = rows_of(c, ldc)
    with bd.if_else(last) as (then, otherwise):
        with then:
            bv = [bd.load(_vector(bd, bias, j * W), align=4) for j in range(V)]
            acc = [[bd.fadd(sums[i][j], bv[j]) for j in range(V)] for i in range(R)]
            acc = _with_residual(bd, V, acc, res, lambda: rows_of(res, ldres), whole, cols)
            acc = short_activation(bd, acc, act, low, high, alpha, beta)

            def channels(p):
                return [bd.load(_vector(bd, p, j * W), align=4) for j in range(V)]

            acc = scaled(bd, acc, scale, lambda: (channels(scale), channels(shift)))
            _store(bd, R, V, acc, crow, whole, cols)
        with otherwise:
            _store(bd, R, V, sums, crow, whole, cols)


def _load_c(bd, V, row, whole, cols):
    """One row of C: full vectors, or with its last vector masked; a list of V values."""
    with bd.if_else(whole) as (then, otherwise):
        with then:
            full = [bd.load(_vector(bd, row, j * W), align=4) for j in range(V)]
            from_full = bd.block
        with otherwise:
            part = [bd.load(_vector(bd, row, j * W), align=4) for j in range(V - 1)]
            part.append(load_part_ir(bd, _vector(bd, row, (V - 1) * W), bd.sub(cols, _n((V - 1) * W))))
            from_part = bd.block
    found = []
    for x, y in zip(full, part):
        phi = bd.phi(VT)
        phi.add_incoming(x, from_full)
        phi.add_incoming(y, from_part)
        found.append(phi)
    return found


def _initial(bd, R, V, crow, first, whole, cols):
    """Accumulators at the start: zero in the first chunk of k, else what C holds."""
    with bd.if_else(first) as (then, otherwise):
        with then:
            from_zero = bd.block
        with otherwise:
            held = [_load_c(bd, V, row, whole, cols) for row in crow()]
            from_held = bd.block
    start = []
    for i in range(R):
        row = []
        for j in range(V):
            phi = bd.phi(VT)
            phi.add_incoming(constant(0.0), from_zero)
            phi.add_incoming(held[i][j], from_held)
            row.append(phi)
        start.append(row)
    return start


def _accumulate(bd, R, V, table, step, taps, kc, koff, b, start):
    """The loops over taps and k; returns the accumulators."""
    f32p = f32.as_pointer()
    entry = bd.block
    tap_loop, main, main_end, rest, rest_end, done = (
        bd.append_basic_block(n) for n in ("tap", "k4", "k4_end", "k1", "k1_end", "tile_done")
    )
    streams = [(b[0], V * W)] if V <= NV else [(b[0], NR), (b[1], W)]
    kmain = bd.and_(kc, _n(-UNROLL))
    # A short panel stays in L1, and what lies beyond it may be no memory at all, which costs a walk of the page tables.
    ahead = bd.select(bd.icmp_signed(">=", bd.mul(taps, kc), _n(AHEAD // NR)), _n(AHEAD), _n(0))
    bd.branch(tap_loop)

    def carried(pointers, acc_in, block):
        p = [bd.phi(f32p) for _ in streams]
        for phi, pointer in zip(p, pointers):
            phi.add_incoming(pointer, block)
        acc = [[bd.phi(VT) for _ in range(V)] for _ in range(R)]
        for phis, values in zip(acc, acc_in):
            for phi, value in zip(phis, values):
                phi.add_incoming(value, block)
        return p, acc

    def close(p, acc, p_next, acc_next, block):
        for phi, pointer in zip(p, p_next):
            phi.add_incoming(pointer, block)
        for phis, values in zip(acc, acc_next):
            for phi, value in zip(phis, values):
                phi.add_incoming(value, block)

    def steps(rows, k, p, acc, count):
        held = []
        if BY_LANE and count == W:
            held = [bd.load(bd.bitcast(bd.gep(row, [k]), VT.as_pointer()), align=4) for row in rows]

        def element(i, u):
            if held:
                return lane_ir(bd, held[i], u)
            return splat_ir(bd, bd.load(bd.gep(rows[i], [bd.add(k, _n(u))]), align=4))

        for u in range(count):
            bv = []
            for pointer, (_, width) in zip(p, streams):
                if count > 1:
                    prefetch(bd, bd.gep(pointer, [ahead]), u * width, (u + 1) * width)
                bv += [bd.load(_vector(bd, pointer, u * width + j), align=4) for j in range(0, width, W)]
            acc = [
                [call_intrinsic(bd, f"fmuladd.v{W}f32", VT, x, bv[j], acc[i][j]) for j in range(V)]
                for i, x in ((i, element(i, u)) for i in range(R))
            ]
        return [bd.gep(pointer, [_n(count * width)]) for pointer, (_, width) in zip(p, streams)], acc

    bd.position_at_end(tap_loop)
    t = bd.phi(i64)
    t.add_incoming(_n(0), entry)
    p0, acc0 = carried([pointer for pointer, _ in streams], start, entry)
    base = bd.gep(table, [bd.mul(t, step)])
    rows = [bd.gep(bd.inttoptr(bd.load(bd.gep(base, [_n(i)])), f32p), [koff]) for i in range(R)]
    bd.cbranch(bd.icmp_signed(">", kmain, _n(0)), main, main_end)

    bd.position_at_end(main)
    k = bd.phi(i64)
    k.add_incoming(_n(0), tap_loop)
    p1, acc1 = carried(p0, acc0, tap_loop)
    p1n, acc1n = steps(rows, k, p1, acc1, UNROLL)
    k1 = bd.add(k, _n(UNROLL))
    k.add_incoming(k1, main)
    close(p1, acc1, p1n, acc1n, main)
    bd.cbranch(bd.icmp_signed("<", k1, kmain), main, main_end)

    bd.position_at_end(main_end)
    p2, acc2 = carried(p0, acc0, tap_loop)
    close(p2, acc2, p1n, acc1n, main)
    bd.cbranch(bd.icmp_signed("<", kmain, kc), rest, rest_end)

    bd.position_at_end(rest)
    k = bd.phi(i64)
    k.add_incoming(kmain, main_end)
    p3, acc3 = carried(p2, acc2, main_end)
    p3n, acc3n = steps(rows, k, p3, acc3, 1)
    k1 = bd.add(k, _n(1))
    k.add_incoming(k1, rest)
    close(p3, acc3, p3n, acc3n, rest)
    bd.cbranch(bd.icmp_signed("<", k1, kc), rest, rest_end)

    bd.position_at_end(rest_end)
    p4, acc4 = carried(p2, acc2, main_end)
    close(p4, acc4, p3n, acc3n, rest)
    t1 = bd.add(t, _n(1))
    t.add_incoming(t1, rest_end)
    close(p0, acc0, p4, acc4, rest_end)
    bd.cbranch(bd.icmp_signed("<", t1, taps), tap_loop, done)
    bd.position_at_end(done)
    return acc4


def _with_residual(bd, V, acc, res, rows, whole, cols):
    before = bd.block
    with bd.if_then(given(bd, res)):
        held = [_load_c(bd, V, row, whole, cols) for row in rows()]
        added = [[bd.fadd(x, h) for x, h in zip(xs, hs)] for xs, hs in zip(acc, held)]
        inside = bd.block
    return merge(bd, [(before, acc), (inside, added)])


def _store(bd, R, V, acc, crow, whole, cols) -> None:
    with bd.if_else(whole) as (then, otherwise):
        with then:
            for i in range(R):
                for j in range(V):
                    bd.store(acc[i][j], _vector(bd, crow[i], j * W), align=4)
        with otherwise:
            for i in range(R):
                for j in range(V - 1):
                    bd.store(acc[i][j], _vector(bd, crow[i], j * W), align=4)
                store_part_ir(bd, acc[i][V - 1], _vector(bd, crow[i], (V - 1) * W), bd.sub(cols, _n((V - 1) * W)))


tiles_wide, tiles_narrow = _make_tiles(NV, MR), _make_tiles(1, MR)
tiles_both = _make_tiles(NV + 1, MR3)


@inline
def block(table, count, taps, kc, koff, w, k0, k, out, y, ldy, begins, ends, addends, n0, n1, og, epilogue):
    """All register tiles of a block: pixels in tiles of equal height, panels outermost so that a
    panel stays in L1.
    A narrow panel is done with the full one before it."""
    low, high, act, alpha, beta, scale, _ = epilogue
    affine = address(scale, 0) != 0
    later = ends and not in_registers(act)
    col = n0
    while col < n1:
        left = og - col
        both = left > NR and left <= NR + W and col + NR < n1
        cols = left if both else min(NR, left)
        c = at(y, col)
        bias, r, ldres = addends_from(addends, col, col)
        mine = epilogue_from(epilogue, col)
        s = mine.shift
        t = short_only(mine)
        p = at(w, col * k + k0 * (W if cols <= W else NR))
        q = at(w, (col + NR) * k + k0 * W)
        most = MR3 if both else MR
        tiles = (count + most - 1) // most
        rows = count // tiles
        extra = count - rows * tiles
        i = 0
        for part in range(2):  # tiles of rows + 1 first, then those of rows
            height = rows + 1 - part
            n = extra if part == 0 else tiles - extra
            work = height, n, at(table, i), count, taps, kc, koff, p, q, at(out, i), c, ldy
            rest = begins, ends, bias, r, ldres, low, high, cols, act, alpha, beta, t, s
            if both:
                tiles_both(*work, *rest)
            elif cols > W:
                tiles_wide(*work, *rest)
            else:
                tiles_narrow(*work, *rest)
            i += n * height
        if later:
            if ldy == cols and not affine and out[count - 1] - out[0] == count - 1:  # the rows lie in one piece
                line = at(c, out[0] * ldy)
                for j in range(0, count * cols, W):
                    activate(mine, at(line, j), min(W, count * cols - j))
            else:
                for j in range(0, cols, W):
                    beside = epilogue_from(mine, j)
                    for i in range(count):
                        activate(beside, at(c, out[i] * ldy + j), min(W, cols - j))
        col += NR + W if both else NR
