"""Recurrent networks: what a step adds from the state before, and the gates.

R lies in panels of W hidden units: [panel][k][gate][W], bias and what the input adds in rows of
[panel][gate][W].
A unit is some sequences of one direction, all steps of them.
h of the step before is read where it was written: in the result.
What a way back wants to know of each step is kept on a ``tape``, in vectors of each panel: (steps,
ways, batch, panels, …, W).
"""

from nbconv.kernels._numba import Floats, Int, Int32s
from nbconv.kernels.recurrent_params import Recurrence, Results, Sequences, States

from ._recurrent import SUMS, gate, last_state, length, rest, sums_1, sums_2, sums_3, sums_4, unit_of
from ._simd import (
    W,
    address,
    at,
    get,
    hmax,
    inline,
    kernel,
    load,
    magic_round,
    maximum,
    minimum,
    put,
    splat,
    stack_floats,
    store,
    where,
)


@inline
def _round(x, y, n):
    """y = x by the 8-bit integers that stand for it best, with 0 among them."""
    low = splat(0.0)
    high = splat(0.0)
    for j in range(0, n, W):
        v = get(x, j, min(W, n - j))
        low = maximum(low, -v)
        high = maximum(high, v)
    least = splat(-hmax(low))
    span = splat(hmax(high)) - least
    scale = where(span == 0.0, splat(1.0), span / 255.0)
    zero = magic_round(minimum(maximum(-least / scale, 0.0), 255.0))
    for j in range(0, n, W):
        cols = min(W, n - j)
        q = minimum(maximum(magic_round(get(x, j, cols) / scale) + zero, 0.0), 255.0)
        put(y, j, (q - zero) * scale, cols)


@kernel
def rounded(x: Floats, y: Floats, n: Int, first: Int, last: Int) -> None:
    """Rows of n elements rounded to 8 bits, each by itself. A unit is a row."""
    for unit in range(first, last):
        _round(at(x, unit * n), at(y, unit * n), n)


@inline
def _lstm(x, weights, lengths, states, cells, results, tape, taped, sizes, first, last):
    steps, batch, hidden, ways, rows, reverse, flag, clip, hard, alpha, beta, relu, rounds = sizes
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
        n = length(lengths, b, steps)
        state = d * batch + b
        line = panels * W
        c0 = at(cells, state * line)
        near = at(cells, (ways * batch + state) * line)
        for i in range(count):
            for j in range(0, hidden, W):
                v = get(at(states.c, d * states.c_way + (b + i) * states.c_row), j, min(W, hidden - j))
                store(c0, i * line + j, v)
        h, ldh = at(states.h, d * states.way + b * states.row), states.row
        for s in range(n):
            t = n - 1 - s if d == 1 or reverse else s
            y = at(results.y, ((t * ways + d) * batch + b) * hidden)
            seen, ld = h, ldh
            if rounds:
                for i in range(count):
                    _round(at(h, i * ldh), at(near, i * line), hidden)
                seen, ld = near, line
            for panel in range(panels):
                g = panel * 4 * W
                j = panel * W
                cols = min(W, hidden - j)
                sums_4(
                    count, seen, ld, hidden, at(weights.r, (d * gates + g) * hidden), at(weights.bias, d * gates + g), sums
                )
                for i in range(count):
                    added = at(x, ((t * batch + b + i) * ways + d) * gates + g)
                    mine = at(sums, i * 4 * W)
                    c = load(c0, i * line + j)
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
                    gi = gate(ai, hard, alpha, beta)
                    gf = splat(1.0) - gi if flag else gate(af, hard, alpha, beta)
                    c = gf * c
                    new = unit_of(ag, relu)
                    c = c + gi * new
                    store(c0, i * line + j, c)
                    if peep:
                        ao = ao + get(p, (d * 3 + 1) * hidden + j, cols) * c
                    ao = minimum(maximum(ao, -clip), clip)
                    go = gate(ao, hard, alpha, beta)
                    shown = unit_of(c, relu)
                    put(y, i * hidden + j, go * shown, cols)
                    if taped:
                        kept = at(tape, (((t * ways + d) * batch + b + i) * panels + panel) * 6 * W)
                        store(kept, 0, gi)
                        store(kept, W, go)
                        store(kept, 2 * W, gf)
                        store(kept, 3 * W, new)
                        store(kept, 4 * W, c)
                        store(kept, 5 * W, shown)
            h, ldh = y, hidden
        rest(results.y, n, b, d, count, sizes)
        last_state(results.h, state * hidden, h, ldh, n, count, hidden)
        last_state(results.c, state * hidden, c0, line, n, count, hidden)


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
    """An LSTM, gates i, o, f, c; cells (ways, batch, whole vectors) are memory for c, and, where
    ``rounded``, as much behind it for h."""
    _lstm(x, weights, lengths, states, cells, results, x, False, sizes, first, last)


@kernel
def lstm_taped(
    x: Floats,
    weights: Recurrence,
    lengths: Int32s,
    states: States,
    cells: Floats,
    results: Results,
    tape: Floats,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """As `lstm`. The tape holds i, o, f, g, the new c and its activation."""
    _lstm(x, weights, lengths, states, cells, results, tape, True, sizes, first, last)


@inline
def _gru(x, weights, lengths, states, results, tape, taped, sizes, first, last):
    steps, batch, hidden, ways, rows, reverse, _, clip, hard, alpha, beta, relu, _ = sizes
    panels = (hidden + W - 1) // W
    gates = panels * 3 * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = length(lengths, b, steps)
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
                    gz = gate(minimum(maximum(az, -clip), clip), hard, alpha, beta)
                    gr = gate(minimum(maximum(ar, -clip), clip), hard, alpha, beta)
                    an = load(added, 2 * W) + gr * load(mine, 2 * W)
                    new = unit_of(minimum(maximum(an, -clip), clip), relu)
                    before = get(at(h, i * ldh), j, cols)
                    put(y, i * hidden + j, (splat(1.0) - gz) * new + gz * before, cols)
                    if taped:
                        kept = at(tape, (((t * ways + d) * batch + b + i) * panels + panel) * 4 * W)
                        store(kept, 0, gz)
                        store(kept, W, gr)
                        store(kept, 2 * W, new)
                        store(kept, 3 * W, load(mine, 2 * W))
            h, ldh = y, hidden
        rest(results.y, n, b, d, count, sizes)
        last_state(results.h, (d * batch + b) * hidden, h, ldh, n, count, hidden)


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
    _gru(x, weights, lengths, states, results, x, False, sizes, first, last)


@kernel
def gru_taped(
    x: Floats,
    weights: Recurrence,
    lengths: Int32s,
    states: States,
    results: Results,
    tape: Floats,
    sizes: Sequences,
    first: Int,
    last: Int,
) -> None:
    """As `gru`. The tape holds z, r, the new h and
    what R made."""
    _gru(x, weights, lengths, states, results, tape, True, sizes, first, last)


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
    steps, batch, hidden, ways, rows, reverse, _, clip, hard, alpha, beta, relu, _ = sizes
    panels = (hidden + W - 1) // W
    gates = panels * 3 * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    line = panels * W
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = length(lengths, b, steps)
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
                    store(zs, i * 2 * line + j, gate(minimum(maximum(az, -clip), clip), hard, alpha, beta))
                    gr = gate(minimum(maximum(ar, -clip), clip), hard, alpha, beta)
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
                    new = unit_of(minimum(maximum(an, -clip), clip), relu)
                    gz = load(zs, i * 2 * line + j)
                    put(y, i * hidden + j, (splat(1.0) - gz) * new + gz * get(at(h, i * ldh), j, cols), cols)
            h, ldh = y, hidden
        rest(results.y, n, b, d, count, sizes)
        last_state(results.h, (d * batch + b) * hidden, h, ldh, n, count, hidden)


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
    """tanh(x + R·h), or its ReLU."""
    steps, batch, hidden, ways, rows, reverse, _, clip, _, _, _, relu, _ = sizes
    panels = (hidden + W - 1) // W
    gates = panels * W
    sums = stack_floats(SUMS)
    blocks = (batch + rows - 1) // rows
    for unit in range(first, last):
        d = unit // blocks
        b = (unit - d * blocks) * rows
        count = min(rows, batch - b)
        n = length(lengths, b, steps)
        h, ldh = at(states.h, d * states.way + b * states.row), states.row
        for s in range(n):
            t = n - 1 - s if d == 1 or reverse else s
            y = at(results.y, ((t * ways + d) * batch + b) * hidden)
            for j in range(0, gates, W):
                sums_1(count, h, ldh, hidden, at(weights.r, (d * gates + j) * hidden), at(weights.bias, d * gates + j), sums)
                for i in range(count):
                    a = load(x, ((t * batch + b + i) * ways + d) * gates + j) + load(sums, i * W)
                    a = minimum(maximum(a, -clip), clip)
                    put(y, i * hidden + j, unit_of(a, relu), min(W, hidden - j))
            h, ldh = y, hidden
        rest(results.y, n, b, d, count, sizes)
        last_state(results.h, (d * batch + b) * hidden, h, ldh, n, count, hidden)
