"""Connectionist temporal classification (Graves et al., 2006): the loss of all alignments of labels
with a sequence of scores, and its gradient by the forward-backward algorithm, in logarithms.

The states of a sequence are its labels with a blank before, between and behind them.
A row of states begins a vector into its memory, and has -inf on both sides.
Each row is kept less the greatest of the row before, so that what matters is near 0 in it.
What is wrong (a label that is no class, or stands behind the padding; a length that is none) makes
NaN. A unit is a sequence.
"""

from nbconv.kernels.ctc_params import Alignment

from . import _math
from ._max import row_max
from ._simd import (
    Float,
    Floats,
    Int,
    Ints,
    W,
    address,
    at,
    get,
    hmax,
    hsum,
    inline,
    kept,
    kernel,
    load,
    maximum,
    put,
    splat,
    store,
    where,
)

NEVER = -_math.INF


@inline
def _count(labels, sizes):
    """How many labels there are; -1 where they are none."""
    count = 0
    wrong = False
    for j in range(sizes.symbols):
        label = labels[j]
        if label != sizes.pad:
            wrong = wrong or count != j or label < 0 or label >= sizes.classes or label == sizes.blank
            count = j + 1
    return -1 if wrong else count


@inline
def _steps(lengths, n, steps):
    """The steps of a sequence; -1 where its length is none."""
    found = steps
    if address(lengths, 0) != 0:
        found = lengths[n]
        if found < 0 or found > steps:
            found = -1
    return found


@inline
def _clear(rows, n):
    for i in range(0, n, W):
        store(rows, i, splat(NEVER))


@inline
def _jumps(skip, labels, count):
    """0 for the labels that may follow the one before without a blank, else -inf."""
    for j in range(1, count):
        skip[W + 2 * j + 1] = Float(0.0) if labels[j] != labels[j - 1] else Float(NEVER)


@inline
def _log_sum(x, n):
    """ln Σ e^x, in all lanes."""
    top = row_max(x, n)
    total = splat(0.0)
    for i in range(0, n, W):
        e = _math.exp(get(x, i, n - i) - top)
        total = total + (e if i + W <= n else kept(e, n - i))
    return top + _math.log(splat(hsum(total)))


@inline
def _scores(x, whole, shown, labels, count, blank):
    """The logarithms of what each state shows at a step."""
    shift = hmax(whole)
    none = x[blank] - shift
    for j in range(count):
        shown[W + 2 * j] = none
        shown[W + 2 * j + 1] = x[labels[j]] - shift
    shown[W + 2 * count] = none


@inline
def _log_add(a, b, c):
    """ln(e^a + e^b + e^c)."""
    top = maximum(maximum(a, b), c)
    top = where(top == NEVER, splat(0.0), top)
    return _math.log(_math.exp(a - top) + _math.exp(b - top) + _math.exp(c - top)) + top


@inline
def _greatest(top):
    """What the next row is less by: nothing where no state is possible."""
    found = hmax(top)
    return Float(0.0) if found == Float(NEVER) else found


@inline
def _forward(before, now, skip, shown, states, t, shift):
    """ln of the probability that a path is in each state, of its step and those before, less
    ``shift``; the greatest of them."""
    top = splat(NEVER)
    if t == 0:
        now[W] = shown[W]
        if states > 1:
            now[W + 1] = shown[W + 1]
        top = maximum(splat(now[W]), splat(now[W + 1]))
    else:
        for p in range(W, W + states, W):
            jump = load(before, p - 2) + load(skip, p)
            v = _log_add(load(before, p), load(before, p - 1), jump) + (load(shown, p) - splat(shift))
            store(now, p, v)
            top = maximum(v, top)
    return _greatest(top)


@inline
def _ends(row, states):
    """ln of the probability that a path ends here: in the last label or the blank behind it."""
    last = splat(row[W + states - 1])
    return hmax(_log_add(last, splat(row[W + states - 2]), splat(NEVER)))


@kernel
def loss(
    x: Floats,
    labels: Ints,
    lengths: Ints,
    each: Floats,
    share: Floats,
    scratch: Floats,
    sizes: Alignment,
    mean: Int,
    first: Int,
    last: Int,
    slot: Int,
) -> None:
    """each[n] = -ln of the probability of the labels; share[n], what it counts for in a ``mean``.
    A thread has 4 rows of scratch memory."""
    skip = at(scratch, slot * 4 * sizes.pitch)
    shown = at(skip, sizes.pitch)
    rows = at(skip, 2 * sizes.pitch)
    for n in range(first, last):
        mine = at(labels, n * sizes.symbols)
        count = _count(mine, sizes)
        steps = _steps(lengths, n, sizes.steps)
        share[n] = Float(1.0) / Float(max(count, 1) * sizes.batch) if mean == 1 else Float(1.0)
        states = 2 * count + 1
        if count < 0 or steps < 0:
            each[n] = Float(_math.NAN)
        elif steps == 0:
            each[n] = Float(0.0) if count == 0 or sizes.zero == 1 else Float(_math.INF)
        else:
            _clear(skip, 4 * sizes.pitch)
            _jumps(skip, mine, count)
            total = Float(0.0)
            lost = Float(0.0)
            shift = Float(0.0)
            for t in range(steps):
                row = at(x, n * sizes.sample + t * sizes.step)
                _scores(row, _log_sum(row, sizes.classes), shown, mine, count, sizes.blank)
                now = at(rows, (t & 1) * sizes.pitch)
                before = at(rows, (1 - (t & 1)) * sizes.pitch)
                more = shift - lost  # Kahan's sum of what rows are less by
                bigger = total + more
                lost = (bigger - total) - more
                total = bigger
                shift = _forward(before, now, skip, shown, states, t, shift)
            end = _ends(at(rows, ((steps - 1) & 1) * sizes.pitch), states)
            found = -(total + end)
            each[n] = Float(0.0) if sizes.zero == 1 and found == Float(_math.INF) else found


@kernel
def total(each: Floats, share: Floats, y: Floats, n: Int, first: Int, last: Int) -> None:
    """y = Σ each·share; one unit. Sums go in runs of 64."""
    for _ in range(first, last):
        whole = Float(0.0)
        for i0 in range(0, n, 64):
            part = Float(0.0)
            for i in range(i0, min(i0 + 64, n)):
                part += each[i] * share[i]
            whole += part
        y[0] = whole


@inline
def _fill(dx, n, value):
    for i in range(0, n, W):
        put(dx, i, splat(value), n - i)


@inline
def _joined(a, b, y, states):
    """y = a + b of all states; the greatest, in lanes."""
    top = splat(NEVER)
    for p in range(W, W + states, W):
        v = load(a, p) + load(b, p)
        store(y, p, v)
        top = maximum(v, top)
    return top


@inline
def _backward(now, after, skip, shown, states):
    """Make of ln of the probability of what comes after a step, for each state, the same of the step
    before; ``now`` takes what the step itself shows."""
    shift = splat(_greatest(_joined(after, shown, now, states)))
    for p in range(W, W + states, W):
        jump = load(now, p + 2) + load(skip, p + 2)
        v = _log_add(load(now, p), load(now, p + 1), jump) - shift
        store(after, p, v)


@inline
def _slopes(x, whole, dx, before, after, likely, labels, count, blank, classes, factor):
    """dx = factor·(softmax of x - the probability that a path shows the class at this step)."""
    states = 2 * count + 1
    shift = splat(hmax(_joined(before, after, likely, states)))
    total = splat(0.0)
    for p in range(W, W + states, W):
        v = _math.exp(load(likely, p) - shift)
        store(likely, p, v)
        total = total + v
    scale = factor / hsum(total)
    for i in range(0, classes, W):
        put(dx, i, _math.exp(get(x, i, classes - i) - whole) * splat(factor), classes - i)
    none = likely[W + 2 * count]
    for j in range(count):
        none += likely[W + 2 * j]
        dx[labels[j]] -= likely[W + 2 * j + 1] * scale
    dx[blank] -= none * scale


@kernel
def loss_grad(
    dy: Floats,
    x: Floats,
    labels: Ints,
    lengths: Ints,
    dx: Floats,
    scratch: Floats,
    sizes: Alignment,
    each: Int,
    mean: Int,
    first: Int,
    last: Int,
    slot: Int,
) -> None:
    """The gradient of `loss` by x; dy is one for each sequence where ``each`` is 1.
    A thread has steps + 4 rows of scratch memory, and a float a step."""
    skip = at(scratch, slot * ((sizes.steps + 4) * sizes.pitch + sizes.steps))
    shown = at(skip, sizes.pitch)
    after = at(skip, 2 * sizes.pitch)
    likely = at(skip, 3 * sizes.pitch)
    rows = at(skip, 4 * sizes.pitch)
    sums = at(rows, sizes.steps * sizes.pitch)
    for n in range(first, last):
        mine = at(labels, n * sizes.symbols)
        count = _count(mine, sizes)
        steps = _steps(lengths, n, sizes.steps)
        states = 2 * count + 1
        factor = dy[n] if each == 1 else dy[0]
        if mean == 1:
            factor = factor / Float(max(count, 1) * sizes.batch)
        possible = False
        if count >= 0 and steps > 0:
            _clear(skip, (steps + 4) * sizes.pitch)
            _jumps(skip, mine, count)
            shift = Float(0.0)
            for t in range(steps):
                row = at(x, n * sizes.sample + t * sizes.step)
                whole = _log_sum(row, sizes.classes)
                sums[t] = hmax(whole)
                _scores(row, whole, shown, mine, count, sizes.blank)
                before = at(rows, max(t - 1, 0) * sizes.pitch)
                shift = _forward(before, at(rows, t * sizes.pitch), skip, shown, states, t, shift)
            possible = _ends(at(rows, (steps - 1) * sizes.pitch), states) != Float(NEVER)
        if possible:
            after[W + states - 1] = Float(0.0)
            if states > 1:
                after[W + states - 2] = Float(0.0)
            for back in range(steps):
                t = steps - 1 - back
                row = at(x, n * sizes.sample + t * sizes.step)
                to = at(dx, n * sizes.sample + t * sizes.step)
                whole = splat(sums[t])
                before = at(rows, t * sizes.pitch)
                _slopes(row, whole, to, before, after, likely, mine, count, sizes.blank, sizes.classes, factor)
                _scores(row, whole, shown, mine, count, sizes.blank)
                _backward(likely, after, skip, shown, states)
        wrong = count < 0 or steps < 0
        for t in range(0 if wrong or not possible else steps, sizes.steps):
            nothing = Float(0.0)
            if wrong or (t < steps and sizes.zero == 0):
                nothing = Float(_math.NAN)
            _fill(at(dx, n * sizes.sample + t * sizes.step), sizes.classes, nothing)
