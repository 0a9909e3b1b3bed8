"""The run loop: a table of steps, done by one thread or claimed unit by unit by several.

A step is four 64-bit words: function, arguments, units, units claimed at a time.
Which units exist is fixed by the plan, so the results do not depend on who does them.
A thread never waits for another to arrive, only for claimed units to be finished: late or preempted
workers cost nothing but their help.
Between runs the workers wait here for a while, then return to Python and sleep.

``job`` (64-bit words, each on a cache line of its own, so word k is job[8·k]): 0 epoch, counts the
jobs opened · 1 open flag · 2 workers inside · 3 cancel flag · 4 steps · 5 number of steps · 6
counters · 7 address of a function that yields the processor · 8 the highest number of a worker that
may help · 9 whether denormals are flushed.
Counters of step i: claimed units at counters[16·i], finished units at counters[16·i + 8].

While a thread does steps it flushes denormals to zero, or keeps them, as it is told; its mode is
restored before anything else sees it.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Int, Ints, i64, kernel, target

from ._denormals import flush_denormals, restore
from ._simd import at, inline, ints_at

EPOCH, OPEN, INSIDE, CANCEL, STEPS, COUNT, COUNTERS, YIELD, LIMIT, FLUSH = (8 * k for k in range(10))
SPINS = 200
"""Turns of a busy wait before the processor is yielded."""


@intrinsic
def _call(tc, function, arguments, first, last, slot):
    def gen(ctx, b, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), i64, i64, i64])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [b.inttoptr(args[1], i64.as_pointer()), *args[2:]])
        return ctx.get_dummy_value()

    return types.void(Int, Int, Int, Int, Int), gen


@intrinsic
def _yield(tc, function):
    def gen(ctx, b, sig, args):
        b.call(b.inttoptr(args[0], ir.FunctionType(ir.IntType(32), []).as_pointer()), [])
        return ctx.get_dummy_value()

    return types.void(Int), gen


@intrinsic
def _add(tc, p, i, n):
    """p[i] += n as one indivisible operation; the value before."""

    def gen(ctx, b, sig, args):
        return b.atomic_rmw("add", b.gep(args[0], [args[1]]), args[2], "acq_rel")

    return Int(Ints, Int, Int), gen


@intrinsic
def _get(tc, p, i):
    def gen(ctx, b, sig, args):
        return b.load_atomic(b.gep(args[0], [args[1]]), "acquire", 8)

    return Int(Ints, Int), gen


@intrinsic
def _set(tc, p, i, n):
    def gen(ctx, b, sig, args):
        b.store_atomic(args[2], b.gep(args[0], [args[1]]), "release", 8)
        return ctx.get_dummy_value()

    return types.void(Ints, Int, Int), gen


@intrinsic
def _fence(tc):
    def gen(ctx, b, sig, args):
        b.fence("seq_cst")
        return ctx.get_dummy_value()

    return types.void(), gen


@intrinsic
def _pause(tc):
    """Tell the processor that this is a busy wait."""

    def gen(ctx, b, sig, args):
        if target().triple.startswith("x86_64"):
            b.call(b.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=ir.FunctionType(ir.VoidType(), [])), [])
        return ctx.get_dummy_value()

    return types.void(), gen


@kernel
def run(steps: Ints, job: Ints, flush: Int, first: Int, last: Int) -> None:
    """Do the steps from first to last on the calling thread alone."""
    mode = flush_denormals(flush)
    for i in range(first, last):
        if _get(job, CANCEL) != 0:
            break
        _call(steps[4 * i], steps[4 * i + 1], 0, steps[4 * i + 2], 0)
    restore(mode)


@kernel
def part(step: Ints, flush: Int, first: Int, last: Int) -> None:
    """Do the units of one step from first to last on the calling thread."""
    mode = flush_denormals(flush)
    _call(step[0], step[1], first, last, 0)
    restore(mode)


@inline
def _share(job, steps, count, counters, slot):
    """Help with every step of the open job: claim units while there are any, then wait until all
    are finished."""
    yielder = job[YIELD]
    for i in range(count):
        step = at(steps, 4 * i)
        units = step[2]
        chunk = step[3]
        counter = at(counters, 16 * i)
        while True:
            unit = _add(counter, 0, chunk)
            if unit >= units:
                break
            end = min(unit + chunk, units)
            if _get(job, CANCEL) == 0:
                _call(step[0], step[1], unit, end, slot)
            _add(counter, 8, end - unit)
        spins = 0
        while _get(counter, 8) < units:
            _pause()
            spins += 1
            if spins == SPINS:
                _yield(yielder)
                spins = 0


@kernel
def lead(steps: Ints, counters: Ints, job: Ints, flush: Int, first: Int, last: Int) -> None:
    """Open a job of the steps from first to last, do it together with whoever comes, close it.
    One leader at a time."""
    count = last - first
    for i in range(count):
        counters[16 * i] = 0
        counters[16 * i + 8] = 0
    steps = at(steps, 4 * first)
    job[STEPS] = _value(steps)
    job[COUNT] = count
    job[COUNTERS] = _value(counters)
    job[FLUSH] = flush
    _set(job, OPEN, 1)
    _add(job, EPOCH, 1)
    mode = flush_denormals(flush)
    _share(job, steps, count, counters, 0)
    restore(mode)
    _set(job, OPEN, 0)
    _fence()
    spins = 0
    while _get(job, INSIDE) > 0:
        _pause()
        spins += 1
        if spins == SPINS:
            _yield(job[YIELD])
            spins = 0


@intrinsic
def _value(tc, p):
    def gen(ctx, b, sig, args):
        return b.ptrtoint(args[0], i64)

    return Int(Ints), gen


@kernel
def follow(job: Ints, mine: Ints, patience: Int, first: Int, last: Int) -> None:
    """A worker's turn: wait for an epoch beyond mine[0] for ``patience`` spins, help with its job,
    and wait again.

    mine[2] is the worker's number, from 1: its slot, since the leader's is 0.

    Returns when the patience is spent (the caller sleeps then), or when mine[1] is set (the pool is
    closing).
    """
    spins = 0
    while mine[1] == 0:
        epoch = _get(job, EPOCH)
        if epoch == mine[0]:
            spins += 1
            if spins > patience:
                return
            _pause()
            continue
        mine[0] = epoch
        spins = 0
        _add(job, INSIDE, 1)
        _fence()
        if _get(job, OPEN) != 0 and mine[2] <= _get(job, LIMIT):
            mode = flush_denormals(job[FLUSH])
            _share(job, ints_at(job[STEPS]), job[COUNT], ints_at(job[COUNTERS]), mine[2])
            restore(mode)
        _add(job, INSIDE, -1)
