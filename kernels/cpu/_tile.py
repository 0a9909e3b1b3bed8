"""The register tile that all matrix work stands on: R rows × (W or 2W) columns of C, accumulated over taps and channels.

Rows of A are found through a table of addresses, one entry a tap and row (an indirect convolution: Dukhan, "The Indirect
Convolution Algorithm", 2019), so that one kernel serves pointwise, strided, dilated and padded convolutions and GEMM.
B is packed in panels: k-major, NR = NV·W floats a k (the last panel may be W wide).
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, Ints, f32, i32, i64, target
from nbconv.kernels.cpu._math import activated
from nbconv.kernels.cpu._simd import (
    VT,
    W,
    at,
    call_intrinsic,
    clamp_high_ir,
    clamp_low_ir,
    constant,
    inline,
    load,
    load_part,
    load_part_ir,
    splat_ir,
    store,
    store_part,
    store_part_ir,
)

MR = target().rows
NV = target().vectors
NR = NV * W
LINE = 16
"""Floats of a cache line."""
AHEAD = 2048
"""Floats by which packed weights are asked for before they are read: across pages, where the processor's own prefetcher
stops. Two instructions a k; weights that come from memory or a shared cache go up to 1.4 times as fast."""
UNROLL = 4
"""k steps per turn of the inner loop."""


def _make_tile(vectors: int):
    """An intrinsic for tiles of 1 to MR rows: each height is a function of its own, chosen by a switch."""

    @intrinsic
    def tile(tc, rows, table, step, taps, kc, koff, b, out, c, ldc, first, last, bias, res, ldres, low, high, cols):
        sig = types.void(
            Int, Ints, Int, Int, Int, Int, Floats, Ints, Floats, Int, types.boolean, types.boolean, Floats, Floats, Int,
            Float,
            Float, Int,
        )  # fmt: skip

        def gen(ctx, bd, sig, args):
            rows, args = args[0], args[1:]
            done = bd.append_basic_block("tiled")
            switch = bd.switch(rows, done)
            for r in range(1, MR + 1):
                block = bd.append_basic_block(f"rows{r}")
                switch.add_case(_n(r), block)
                bd.position_at_end(block)
                bd.call(_function(bd.module, r, vectors, [a.type for a in args]), args)
                bd.branch(done)
            bd.position_at_end(done)
            return ctx.get_dummy_value()

        return sig, gen

    return tile


def _function(module, rows: int, vectors: int, kinds):
    """The function of one tile height: C[rows, vectors·W] (+)= Σ_taps Σ_k A[row(tap, i)][k] · B[tap, k, :]."""
    name = f"tile_{rows}x{vectors}"
    if name not in module.globals:
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        bd = ir.IRBuilder(fn.append_basic_block("entry"))
        _emit(bd, rows, vectors, *fn.args)
        bd.ret_void()
    return module.globals[name]


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _vector(bd, p, offset: int):
    return bd.bitcast(bd.gep(p, [_n(offset)]), VT.as_pointer())


def _emit(bd, R, V, table, step, taps, kc, koff, b, out, c, ldc, first, last, bias, res, ldres, low, high, cols) -> None:
    pixels = [bd.load(bd.gep(out, [_n(i)])) for i in range(R)]
    crow = [bd.gep(c, [bd.mul(p, ldc)]) for p in pixels]
    whole = bd.icmp_signed(">=", cols, _n(V * W))
    start = _initial(bd, R, V, crow, first, whole, cols)
    acc = _accumulate(bd, R, V, table, step, taps, kc, koff, b, start)
    with bd.if_else(last) as (then, otherwise):
        with then:
            done = _epilogue_sums(bd, R, V, acc, bias)
            _finish(bd, R, V, done, pixels, crow, res, ldres, low, high, whole, cols)
        with otherwise:
            _store(bd, R, V, acc, crow, whole, cols)


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
            held = [_load_c(bd, V, row, whole, cols) for row in crow]
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
    kmain = bd.and_(kc, _n(-UNROLL))
    # A short panel stays in L1, and what lies beyond it may be no memory at all, which costs a walk of the page tables.
    ahead = bd.select(bd.icmp_signed(">=", bd.mul(taps, kc), _n(AHEAD // NR)), _n(AHEAD), _n(0))
    bd.branch(tap_loop)

    def carried(pointer_in, acc_in, block):
        p = bd.phi(f32p)
        p.add_incoming(pointer_in, block)
        acc = [[bd.phi(VT) for _ in range(V)] for _ in range(R)]
        for phis, values in zip(acc, acc_in):
            for phi, value in zip(phis, values):
                phi.add_incoming(value, block)
        return p, acc

    def close(p, acc, p_next, acc_next, block):
        p.add_incoming(p_next, block)
        for phis, values in zip(acc, acc_next):
            for phi, value in zip(phis, values):
                phi.add_incoming(value, block)

    def steps(rows, k, p, acc, count):
        for u in range(count):
            if count > 1:
                _prefetch(bd, bd.gep(p, [ahead]), u * V * W, (u + 1) * V * W)
            bv = [bd.load(_vector(bd, p, (u * V + j) * W), align=4) for j in range(V)]
            acc = [
                [call_intrinsic(bd, f"fmuladd.v{W}f32", VT, x, bv[j], acc[i][j]) for j in range(V)]
                for i, x in ((i, splat_ir(bd, bd.load(bd.gep(rows[i], [bd.add(k, _n(u))]), align=4))) for i in range(R))
            ]
        return bd.gep(p, [_n(count * V * W)]), acc

    bd.position_at_end(tap_loop)
    t = bd.phi(i64)
    t.add_incoming(_n(0), entry)
    p0, acc0 = carried(b, start, entry)
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


def _prefetch(bd, p, begin: int, end: int) -> None:
    """Ask for the lines that begin in p[begin:end]; any address will do, even one that is not there."""
    kinds = [f32.as_pointer(), i32, i32, i32]
    fn = cgutils.get_or_insert_function(bd.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
    for at_line in range(-(-begin // LINE) * LINE, end, LINE):
        read, keep, data = (ir.Constant(i32, v) for v in (0, 3, 1))
        bd.call(fn, [bd.gep(p, [_n(at_line)]), read, keep, data])


def _epilogue_sums(bd, R, V, acc, bias):
    bv = [bd.load(_vector(bd, bias, j * W), align=4) for j in range(V)]
    return [[bd.fadd(acc[i][j], bv[j]) for j in range(V)] for i in range(R)]


def _finish(bd, R, V, acc, pixels, crow, res, ldres, low, high, whole, cols) -> None:
    """Add the residual if there is one, clamp, store."""
    lo, hi = splat_ir(bd, low), splat_ir(bd, high)

    def clamped(values):
        return [[clamp_high_ir(bd, clamp_low_ir(bd, v, lo), hi) for v in row] for row in values]

    none = bd.icmp_unsigned("==", bd.ptrtoint(res, i64), _n(0))
    with bd.if_else(none) as (then, otherwise):
        with then:
            _store(bd, R, V, clamped(acc), crow, whole, cols)
        with otherwise:
            for i in range(R):
                held = _load_c(bd, V, bd.gep(res, [bd.mul(pixels[i], ldres)]), whole, cols)
                row = clamped([[bd.fadd(acc[i][j], held[j]) for j in range(V)]])
                _store(bd, 1, V, row, [crow[i]], whole, cols)


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


tile_wide = _make_tile(NV)
tile_narrow = _make_tile(1)


@inline
def activate_tile(act, alpha, beta, c, ldc, out, rows, cols):
    """Apply an activation to the tile just stored, while it is in L1."""
    if ldc == cols and out[rows - 1] - out[0] == rows - 1:  # the rows lie in one piece
        line = at(c, out[0] * ldc)
        n = rows * cols
        j = 0
        while j + W <= n:
            store(line, j, activated(act, load(line, j), alpha, beta))
            j += W
        if j < n:
            store_part(line, j, activated(act, load_part(line, j, n - j), alpha, beta), n - j)
        return
    for i in range(rows):
        line = at(c, out[i] * ldc)
        j = 0
        while j + W <= cols and j < NR:
            store(line, j, activated(act, load(line, j), alpha, beta))
            j += W
        if j < cols and j < NR:
            store_part(line, j, activated(act, load_part(line, j, cols - j), alpha, beta), cols - j)


@inline
def block(
    table, count, taps, kc, koff, w, k0, k, out, y, ldy, begins, ends, b, res, ldres, low, high, n0, n1, og, act, alpha, beta
):
    """All register tiles of a block: pixels in tiles of equal height, panels outermost so that a panel stays in L1."""
    tiles = (count + MR - 1) // MR
    small = count // tiles
    extra = count - small * tiles
    col = n0
    while col < n1:
        cols = min(NR, og - col)
        c = at(y, col)
        r = at(res, col) if ldres > 0 else res
        i = 0
        for t in range(tiles):
            high_tile = small + 1 if t < extra else small
            if cols > W:
                tile_wide(
                    high_tile, at(table, i), count, taps, kc, koff, at(w, col * k + k0 * NR), at(out, i), c, ldy, begins,
                    ends,
                    at(b, col), r, ldres, low, high, cols,
                )  # fmt: skip
            else:
                tile_narrow(
                    high_tile, at(table, i), count, taps, kc, koff, at(w, col * k + k0 * W), at(out, i), c, ldy, begins,
                    ends,
                    at(b, col), r, ldres, low, high, cols,
                )  # fmt: skip
            if ends and act != 0:
                activate_tile(act, alpha, beta, c, ldy, at(out, i), high_tile, cols)
            i += high_tile
        col += NR
