"""Recurrent networks: what a step adds from the state before, and the gates.

R lies in panels of W hidden units: [panel][k][gate][W], bias and what the input adds in rows of
[panel][gate][W].
A unit is some sequences of one direction, all steps of them.
h of the step before is read where it was written: in the result.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Floats, Int, Int32s, f32, i64, target
from nbconv.kernels.recurrent_params import Recurrence, Results, Sequences, States

from . import _math
from ._ir import VT, by_size, call_intrinsic, internal, splat_ir
from ._simd import (
    W,
    address,
    at,
    get,
    inline,
    kernel,
    load,
    maximum,
    minimum,
    put,
    splat,
    stack_floats,
    store,
)

ROWS = 6 if target().registers >= 32 else 2
"""Most sequences of a unit: their sums are held in registers."""
CHAINS = 8
"""Sums that go on side by side, so that none waits for its own last addition."""
UNROLL = 4
SUMS = ROWS * 4 * W


def _make_sums(vectors: int):
    """An intrinsic: out[i, v] = bias[v] + Σ_k h[i·ldh + k]·r[k, v], for ``rows`` (1 to ROWS) rows of
    h and so many vectors a k: each height is a function of its own."""

    @intrinsic
    def sums(tc, rows, h, ldh, n, r, bias, out):
        def gen(ctx, bd, sig, args):
            rows, args = args[0], args[1:]
            by_size(bd, rows, ROWS, lambda m: _function(bd.module, m, vectors, [a.type for a in args]), args)
            return ctx.get_dummy_value()

        return types.void(Int, Floats, Int, Int, Floats, Floats, Floats), gen

    return sums


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _at(bd, p, offset):
    return bd.bitcast(bd.gep(p, [offset]), VT.as_pointer())


def _function(module, rows: int, vectors: int, kinds):
    """The function of one height."""
    fn, new = internal(module, f"sums_{rows}x{vectors}", kinds)
    if new:
        bd = ir.IRBuilder(fn.append_basic_block("entry"))
        h, ldh, n, r, bias, out = fn.args
        chains = max(1, CHAINS // (rows * vectors))
        acc = [[[bd.alloca(VT) for _ in range(vectors)] for _ in range(rows)] for _ in range(chains)]
        for c in range(chains):
            for row in acc[c]:
                for v, place in enumerate(row):
                    zero = ir.Constant(VT, [ir.Constant(f32, 0.0)] * W)
                    bd.store(zero if c else bd.load(_at(bd, bias, _n(v * W)), align=4), place)
        starts = [bd.gep(h, [bd.mul(ldh, _n(i))]) for i in range(rows)]

        def turn(k, count):
            for u in range(count):
                at_k = bd.add(k, _n(u))
                panel = bd.mul(at_k, _n(vectors * W))
                x = [splat_ir(bd, bd.load(bd.gep(row, [at_k]), align=4)) for row in starts]
                for v in range(vectors):
                    b = bd.load(_at(bd, r, bd.add(panel, _n(v * W))), align=4)
                    for i in range(rows):
                        place = acc[u % chains][i][v]
                        bd.store(call_intrinsic(bd, f"fmuladd.v{W}f32", VT, x[i], b, bd.load(place)), place)

        whole = max(UNROLL, chains)
        middle = bd.and_(n, _n(-whole))
        _loop(bd, _n(0), middle, whole, lambda k: turn(k, whole))
        _loop(bd, middle, n, 1, lambda k: turn(k, 1))
        for i in range(rows):
            for v in range(vectors):
                parts = [bd.load(acc[c][i][v]) for c in range(chains)]
                while len(parts) > 1:
                    parts = [bd.fadd(parts[j], parts[j + 1]) for j in range(0, len(parts), 2)]
                bd.store(parts[0], _at(bd, out, _n((i * vectors + v) * W)), align=4)
        bd.ret_void()
    return fn


def _loop(bd, begin, end, step: int, body) -> None:
    """``body(k)`` for k = begin, begin + step, … below ``end``."""
    entry, loop, done = bd.block, bd.append_basic_block("k"), bd.append_basic_block("k_done")
    bd.cbranch(bd.icmp_signed("<", begin, end), loop, done)
    bd.position_at_end(loop)
    k = bd.phi(i64)
    k.add_incoming(begin, entry)
    body(k)
    following = bd.add(k, _n(step))
    k.add_incoming(following, bd.block)
    bd.cbranch(bd.icmp_signed("<", following, end), loop, done)
    bd.position_at_end(done)


sums_1, sums_2, sums_3, sums_4 = (_make_sums(vectors) for vectors in (1, 2, 3, 4))


@inline
def _length(lengths, b, steps):
    """Steps of sequence b; -1 where it has a length that cannot be."""
    if address(lengths, 0) == 0:
        return steps
    n = Int(lengths[b])
    return n if n >= 0 and n <= steps else -1


@inline
def _rest(y, n, b, d, count, sizes):
    """Behind its end a sequence is 0; one that has no possible length is NaN."""
    v = splat(_math.NAN) if n < 0 else splat(0.0)
    for t in range(max(n, 0), sizes.steps):
        p = ((t * sizes.ways + d) * sizes.batch + b) * sizes.hidden
        for j in range(0, count * sizes.hidden, W):
            put(y, p + j, v, min(W, count * sizes.hidden - j))


@inline
def _last(to, p, v, ld, n, count, hidden):
    """The last state, at v, where it is wanted; of an empty sequence 0, of one that has no possible
    length NaN."""
    if address(to, 0) != 0:
        none = splat(_math.NAN) if n < 0 else splat(0.0)
        for i in range(count):
            for j in range(0, hidden, W):
                cols = min(W, hidden - j)
                found = get(at(v, i * ld), j, cols) if n > 0 else none
                put(to, p + i * hidden + j, found, cols)


@kernel
def lstm(
    x: Floats,
    weights: Recurrence,
    lengths: Int32s,
    states: States,
    cells: Floats,
    results: Results,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """An LSTM with ONNX's usual activations, gates i, o, f, c; cells (ways, batch, whole vectors)
    are memory for c."""
    steps, batch, hidden, ways, rows, reverse, flag, clip = sizes
    panels = (hidden + W - 1) // W
    gates = panels * 4 * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    p = weights.peepholes
    peep = address(p, 0) != 0
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = _length(lengths, b, steps)
        state = d * batch + b
        c0 = at(cells, state * panels * W)
        for i in range(count):
            for j in range(0, hidden, W):
                v = get(at(states.c, d * states.c_way + (b + i) * states.c_row), j, min(W, hidden - j))
                store(c0, i * panels * W + j, v)
        h, ldh = at(states.h, d * states.way + b * states.row), states.row
        for s in range(n):
            t = n - 1 - s if d == 1 or reverse else s
            y = at(results.y, ((t * ways + d) * batch + b) * hidden)
            for panel in range(panels):
                g = panel * 4 * W
                j = panel * W
                cols = min(W, hidden - j)
                sums_4(count, h, ldh, hidden, at(weights.r, (d * gates + g) * hidden), at(weights.bias, d * gates + g), sums)
                for i in range(count):
                    added = at(x, ((t * batch + b + i) * ways + d) * gates + g)
                    mine = at(sums, i * 4 * W)
                    c = load(c0, i * panels * W + j)
                    ai = load(added, 0) + load(mine, 0)
                    ao = load(added, W) + load(mine, W)
                    af = load(added, 2 * W) + load(mine, 2 * W)
                    ag = load(added, 3 * W) + load(mine, 3 * W)
                    if peep:
                        ai = ai + get(p, d * 3 * hidden + j, cols) * c
                        af = af + get(p, (d * 3 + 2) * hidden + j, cols) * c
                    ai = minimum(maximum(ai, -clip), clip)
                    af = minimum(maximum(af, -clip), clip)
                    ag = minimum(maximum(ag, -clip), clip)
                    gi = _math.sigmoid(ai)
                    gf = splat(1.0) - gi if flag else _math.sigmoid(af)
                    c = gf * c + gi * _math.tanh(ag)
                    store(c0, i * panels * W + j, c)
                    if peep:
                        ao = ao + get(p, (d * 3 + 1) * hidden + j, cols) * c
                    ao = minimum(maximum(ao, -clip), clip)
                    put(y, i * hidden + j, _math.sigmoid(ao) * _math.tanh(c), cols)
            h, ldh = y, hidden
        _rest(results.y, n, b, d, count, sizes)
        _last(results.h, state * hidden, h, ldh, n, count, hidden)
        _last(results.c, state * hidden, c0, panels * W, n, count, hidden)


@kernel
def gru(
    x: Floats,
    weights: Recurrence,
    lengths: Int32s,
    states: States,
    results: Results,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """A GRU with ONNX's usual activations, gates z, r, h, that resets what R made of h."""
    steps, batch, hidden, ways, rows, reverse, _, clip = sizes
    panels = (hidden + W - 1) // W
    gates = panels * 3 * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = _length(lengths, b, steps)
        h, ldh = at(states.h, d * states.way + b * states.row), states.row
        for s in range(n):
            t = n - 1 - s if d == 1 or reverse else s
            y = at(results.y, ((t * ways + d) * batch + b) * hidden)
            for panel in range(panels):
                g = panel * 3 * W
                j = panel * W
                cols = min(W, hidden - j)
                sums_3(count, h, ldh, hidden, at(weights.r, (d * gates + g) * hidden), at(weights.bias, d * gates + g), sums)
                for i in range(count):
                    added = at(x, ((t * batch + b + i) * ways + d) * gates + g)
                    mine = at(sums, i * 3 * W)
                    az = load(added, 0) + load(mine, 0)
                    ar = load(added, W) + load(mine, W)
                    gz = _math.sigmoid(minimum(maximum(az, -clip), clip))
                    gr = _math.sigmoid(minimum(maximum(ar, -clip), clip))
                    an = load(added, 2 * W) + gr * load(mine, 2 * W)
                    new = _math.tanh(minimum(maximum(an, -clip), clip))
                    before = get(at(h, i * ldh), j, cols)
                    put(y, i * hidden + j, (splat(1.0) - gz) * new + gz * before, cols)
            h, ldh = y, hidden
        _rest(results.y, n, b, d, count, sizes)
        _last(results.h, (d * batch + b) * hidden, h, ldh, n, count, hidden)


@kernel
def gru_reset(
    x: Floats,
    weights: Recurrence,
    lengths: Int32s,
    states: States,
    cells: Floats,
    results: Results,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """A GRU that resets h before R meets it: panels of z and r, then those of h.
    cells (ways, batch, 2, whole vectors) are memory for z and the reset h."""
    steps, batch, hidden, ways, rows, reverse, _, clip = sizes
    panels = (hidden + W - 1) // W
    gates = panels * 3 * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    line = panels * W
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = _length(lengths, b, steps)
        zs = at(cells, (d * batch + b) * 2 * line)
        qs = at(zs, line)
        h, ldh = at(states.h, d * states.way + b * states.row), states.row
        for s in range(n):
            t = n - 1 - s if d == 1 or reverse else s
            y = at(results.y, ((t * ways + d) * batch + b) * hidden)
            for panel in range(panels):
                g = panel * 2 * W
                j = panel * W
                sums_2(count, h, ldh, hidden, at(weights.r, (d * gates + g) * hidden), at(weights.bias, d * gates + g), sums)
                for i in range(count):
                    added = at(x, ((t * batch + b + i) * ways + d) * gates + g)
                    az = load(added, 0) + load(sums, i * 2 * W)
                    ar = load(added, W) + load(sums, i * 2 * W + W)
                    store(zs, i * 2 * line + j, _math.sigmoid(minimum(maximum(az, -clip), clip)))
                    gr = _math.sigmoid(minimum(maximum(ar, -clip), clip))
                    store(qs, i * 2 * line + j, gr * get(at(h, i * ldh), j, min(W, hidden - j)))
            for panel in range(panels):
                g = 2 * line + panel * W
                j = panel * W
                cols = min(W, hidden - j)
                sums_1(
                    count,
                    qs,
                    2 * line,
                    hidden,
                    at(weights.r, (d * gates + g) * hidden),
                    at(weights.bias, d * gates + g),
                    sums,
                )
                for i in range(count):
                    an = load(x, ((t * batch + b + i) * ways + d) * gates + g) + load(sums, i * W)
                    new = _math.tanh(minimum(maximum(an, -clip), clip))
                    gz = load(zs, i * 2 * line + j)
                    put(y, i * hidden + j, (splat(1.0) - gz) * new + gz * get(at(h, i * ldh), j, cols), cols)
            h, ldh = y, hidden
        _rest(results.y, n, b, d, count, sizes)
        _last(results.h, (d * batch + b) * hidden, h, ldh, n, count, hidden)


@kernel
def rnn(
    x: Floats,
    weights: Recurrence,
    lengths: Int32s,
    states: States,
    results: Results,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """tanh(x + R·h), or with ``flag`` its ReLU."""
    steps, batch, hidden, ways, rows, reverse, flag, clip = sizes
    panels = (hidden + W - 1) // W
    gates = panels * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = _length(lengths, b, steps)
        h, ldh = at(states.h, d * states.way + b * states.row), states.row
        for s in range(n):
            t = n - 1 - s if d == 1 or reverse else s
            y = at(results.y, ((t * ways + d) * batch + b) * hidden)
            for j in range(0, gates, W):
                sums_1(count, h, ldh, hidden, at(weights.r, (d * gates + j) * hidden), at(weights.bias, d * gates + j), sums)
                for i in range(count):
                    a = load(x, ((t * batch + b + i) * ways + d) * gates + j) + load(sums, i * W)
                    a = minimum(maximum(a, -clip), clip)
                    put(y, i * hidden + j, maximum(a, 0.0) if flag else _math.tanh(a), min(W, hidden - j))
            h, ldh = y, hidden
        _rest(results.y, n, b, d, count, sizes)
        _last(results.h, (d * batch + b) * hidden, h, ldh, n, count, hidden)
