"""Recurrent networks back through time: the gradients of what goes into the gates, from what a forward pass kept.

R lies in panels of 4·W columns: [panel][row][4·W]. What is made lies as (ways, steps, batch, …), a
gate after another; behind the end of a sequence it is 0, of one that has no possible length NaN.
A unit is some sequences of one direction, all steps of them, the last one first.
"""

from nbconv.kernels._numba import Floats, Int, Int32s
from nbconv.kernels.recurrent_params import Gradients, Sequences, Slopes, States

from . import _math
from ._recurrent import SUMS, length, sums_4
from ._simd import W, address, at, get, inline, kernel, load, put, splat, stack_floats, store, where

WIDE = 4 * W


@inline
def _gate_slope(v, hard, alpha):
    return where((v > 0.0) & (v < 1.0), splat(alpha), splat(0.0)) if hard else v * (splat(1.0) - v)


@inline
def _unit_slope(v, relu):
    return where(v > 0.0, splat(1.0), splat(0.0)) if relu else splat(1.0) - v * v


@inline
def _begin(slope, p, carry, line, n, count, hidden):
    """carry = the gradient of the last state."""
    there = address(slope, 0) != 0 and n > 0
    for i in range(count):
        for j in range(0, hidden, W):
            v = get(slope, p + i * hidden + j, min(W, hidden - j)) if there else splat(0.0)
            store(carry, i * line + j, v)


@inline
def _through(met, rows, r, zeros, sums, carry, line, count):
    """carry += met·R."""
    for j in range(0, line, WIDE):
        sums_4(count, met, rows, rows, at(r, j * rows), zeros, sums)
        for i in range(count):
            for v in range(0, WIDE, W):
                store(carry, i * line + j + v, load(carry, i * line + j + v) + load(sums, i * WIDE + v))


@inline
def _kept(seen, h, ldh, count, hidden):
    """The states that R met."""
    for i in range(count):
        for j in range(0, hidden, W):
            put(seen, i * hidden + j, get(at(h, i * ldh), j, min(W, hidden - j)), min(W, hidden - j))


@inline
def _behind(to, n, b, d, count, size, sizes):
    v = splat(_math.NAN) if n < 0 else splat(0.0)
    for t in range(max(n, 0), sizes.steps):
        p = ((d * sizes.steps + t) * sizes.batch + b) * size
        for j in range(0, count * size, W):
            put(to, p + j, v, min(W, count * size - j))


@inline
def _end(to, p, carry, line, n, count, hidden):
    """The gradient of the first state."""
    for i in range(count):
        for j in range(0, hidden, W):
            v = splat(_math.NAN) if n < 0 else load(carry, i * line + j)
            put(to, p + i * hidden + j, v, min(W, hidden - j))


@kernel
def lstm_grad(
    y: Floats,
    tape: Floats,
    r: Floats,
    lengths: Int32s,
    states: States,
    slopes: Slopes,
    carry: Floats,
    gradients: Gradients,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """Of `recurrent.lstm` without peepholes. carry (2, ways, batch, whole panels) is memory for the gradients of h and c."""
    steps, batch, hidden, ways, rows, reverse, flag, _, hard, alpha, _, relu, _ = sizes
    panels = (hidden + W - 1) // W
    line = (hidden + WIDE - 1) // WIDE * WIDE
    blocks = (batch + rows - 1) // rows
    sums = stack_floats(SUMS)
    none = stack_floats(WIDE)
    for j in range(0, WIDE, W):
        store(none, j, splat(0.0))
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = length(lengths, b, steps)
        state = d * batch + b
        dh = at(carry, state * line)
        dc = at(carry, (ways * batch + state) * line)
        _begin(slopes.h, state * hidden, dh, line, n, count, hidden)
        _begin(slopes.c, state * hidden, dc, line, n, count, hidden)
        for back in range(n):
            s = n - 1 - back
            turned = d == 1 or reverse
            t = back if turned else s
            before = t + 1 if turned else t - 1
            h, ldh = at(states.h, d * states.way + b * states.row), states.row
            if s > 0:
                h, ldh = at(y, ((before * ways + d) * batch + b) * hidden), hidden
            place = (d * steps + t) * batch + b
            da = at(gradients.added, place * 4 * hidden)
            for i in range(count):
                row = (t * ways + d) * batch + b + i
                for panel in range(panels):
                    j = panel * W
                    cols = min(W, hidden - j)
                    kept = at(tape, (row * panels + panel) * 6 * W)
                    gi = load(kept, 0)
                    go = load(kept, W)
                    gf = load(kept, 2 * W)
                    new = load(kept, 3 * W)
                    shown = load(kept, 5 * W)
                    if s > 0:
                        c = load(tape, ((((before * ways + d) * batch + b + i) * panels + panel) * 6 + 4) * W)
                    else:
                        c = get(states.c, d * states.c_way + (b + i) * states.c_row + j, cols)
                    vh = load(dh, i * line + j)
                    if address(slopes.y, 0) != 0:
                        vh = vh + get(slopes.y, row * hidden + j, cols)
                    vc = load(dc, i * line + j) + vh * go * _unit_slope(shown, relu)
                    di = vc * new
                    df = vc * c
                    if flag:
                        di = di - df
                        df = splat(0.0)
                    p = i * 4 * hidden + j
                    put(da, p, di * _gate_slope(gi, hard, alpha), cols)
                    put(da, p + hidden, vh * shown * _gate_slope(go, hard, alpha), cols)
                    put(da, p + 2 * hidden, df * _gate_slope(gf, hard, alpha), cols)
                    put(da, p + 3 * hidden, vc * gi * _unit_slope(new, relu), cols)
                    store(dc, i * line + j, vc * gf)
                    store(dh, i * line + j, splat(0.0))
            _through(da, 4 * hidden, at(r, d * line * 4 * hidden), none, sums, dh, line, count)
            _kept(at(gradients.seen, place * hidden), h, ldh, count, hidden)
        _behind(gradients.added, n, b, d, count, 4 * hidden, sizes)
        _behind(gradients.seen, n, b, d, count, hidden, sizes)
        _end(gradients.h, state * hidden, dh, line, n, count, hidden)
        _end(gradients.c, state * hidden, dc, line, n, count, hidden)


@kernel
def gru_grad(
    y: Floats,
    tape: Floats,
    r: Floats,
    lengths: Int32s,
    states: States,
    slopes: Slopes,
    carry: Floats,
    gradients: Gradients,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """Of `recurrent.gru`. carry (ways, batch, whole panels) is memory for the gradient of h."""
    steps, batch, hidden, ways, rows, reverse, _, _, hard, alpha, _, relu, _ = sizes
    panels = (hidden + W - 1) // W
    line = (hidden + WIDE - 1) // WIDE * WIDE
    blocks = (batch + rows - 1) // rows
    sums = stack_floats(SUMS)
    none = stack_floats(WIDE)
    for j in range(0, WIDE, W):
        store(none, j, splat(0.0))
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = length(lengths, b, steps)
        state = d * batch + b
        dh = at(carry, state * line)
        _begin(slopes.h, state * hidden, dh, line, n, count, hidden)
        for back in range(n):
            s = n - 1 - back
            turned = d == 1 or reverse
            t = back if turned else s
            before = t + 1 if turned else t - 1
            h, ldh = at(states.h, d * states.way + b * states.row), states.row
            if s > 0:
                h, ldh = at(y, ((before * ways + d) * batch + b) * hidden), hidden
            place = (d * steps + t) * batch + b
            da = at(gradients.added, place * 3 * hidden)
            met = at(gradients.met, place * 3 * hidden)
            for i in range(count):
                row = (t * ways + d) * batch + b + i
                for panel in range(panels):
                    j = panel * W
                    cols = min(W, hidden - j)
                    kept = at(tape, (row * panels + panel) * 4 * W)
                    gz = load(kept, 0)
                    gr = load(kept, W)
                    new = load(kept, 2 * W)
                    q = load(kept, 3 * W)
                    vh = load(dh, i * line + j)
                    if address(slopes.y, 0) != 0:
                        vh = vh + get(slopes.y, row * hidden + j, cols)
                    dn = vh * (splat(1.0) - gz) * _unit_slope(new, relu)
                    dz = vh * (get(at(h, i * ldh), j, cols) - new) * _gate_slope(gz, hard, alpha)
                    dr = dn * q * _gate_slope(gr, hard, alpha)
                    p = i * 3 * hidden + j
                    put(da, p, dz, cols)
                    put(da, p + hidden, dr, cols)
                    put(da, p + 2 * hidden, dn, cols)
                    put(met, p, dz, cols)
                    put(met, p + hidden, dr, cols)
                    put(met, p + 2 * hidden, dn * gr, cols)
                    store(dh, i * line + j, vh * gz)
            _through(met, 3 * hidden, at(r, d * line * 3 * hidden), none, sums, dh, line, count)
            _kept(at(gradients.seen, place * hidden), h, ldh, count, hidden)
        _behind(gradients.added, n, b, d, count, 3 * hidden, sizes)
        _behind(gradients.met, n, b, d, count, 3 * hidden, sizes)
        _behind(gradients.seen, n, b, d, count, hidden, sizes)
        _end(gradients.h, state * hidden, dh, line, n, count, hidden)


@kernel
def rnn_grad(
    y: Floats,
    r: Floats,
    lengths: Int32s,
    states: States,
    slopes: Slopes,
    carry: Floats,
    gradients: Gradients,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """Of `recurrent.rnn`. carry (ways, batch, whole panels) is memory for the gradient of h."""
    steps, batch, hidden, ways, rows, reverse, _, _, _, _, _, relu, _ = sizes
    line = (hidden + WIDE - 1) // WIDE * WIDE
    blocks = (batch + rows - 1) // rows
    sums = stack_floats(SUMS)
    none = stack_floats(WIDE)
    for j in range(0, WIDE, W):
        store(none, j, splat(0.0))
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = length(lengths, b, steps)
        state = d * batch + b
        dh = at(carry, state * line)
        _begin(slopes.h, state * hidden, dh, line, n, count, hidden)
        for back in range(n):
            s = n - 1 - back
            turned = d == 1 or reverse
            t = back if turned else s
            before = t + 1 if turned else t - 1
            h, ldh = at(states.h, d * states.way + b * states.row), states.row
            if s > 0:
                h, ldh = at(y, ((before * ways + d) * batch + b) * hidden), hidden
            place = (d * steps + t) * batch + b
            da = at(gradients.added, place * hidden)
            for i in range(count):
                row = (t * ways + d) * batch + b + i
                for j in range(0, hidden, W):
                    cols = min(W, hidden - j)
                    vh = load(dh, i * line + j)
                    if address(slopes.y, 0) != 0:
                        vh = vh + get(slopes.y, row * hidden + j, cols)
                    put(da, i * hidden + j, vh * _unit_slope(get(y, row * hidden + j, cols), relu), cols)
                    store(dh, i * line + j, splat(0.0))
            _through(da, hidden, at(r, d * line * hidden), none, sums, dh, line, count)
            _kept(at(gradients.seen, place * hidden), h, ldh, count, hidden)
        _behind(gradients.added, n, b, d, count, hidden, sizes)
        _behind(gradients.seen, n, b, d, count, hidden, sizes)
        _end(gradients.h, state * hidden, dh, line, n, count, hidden)
