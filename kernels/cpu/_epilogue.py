"""What a kernel does to its results before they are stored: a clamp or an activation, then a factor
and a term a channel.

The clamp, HardSwish and LeakyRelu are done in registers (`short_activation`); the longer ones on
what was just stored, while it is in L1 (`activate`): unrolled over a tile they would be large.
"""

from nbconv.kernels._numba import i64
from nbconv.kernels.params import Activation, Addends, Epilogue

from ._ir import VT, call_intrinsic, clamp_high_ir, clamp_low_ir, constant, splat_ir
from ._math import activated
from ._simd import W, address, at, floats_at, inline, load, load_part, store, store_part


@inline
def in_registers(act):
    """Whether `short_activation` does this activation."""
    return act == Activation.NONE or act == Activation.HARD_SWISH or act == Activation.LEAKY_RELU


@inline
def short_only(epilogue):
    """The scale for `scaled`: null where `activate` comes after it."""
    return epilogue.scale if in_registers(epilogue.act) else floats_at(0)


@inline
def epilogue_from(epilogue, channel):
    """The epilogue of the channels from ``channel`` on."""
    low, high, act, alpha, beta, scale, shift = epilogue
    if address(scale, 0) != 0:
        scale = at(scale, channel)
        shift = at(shift, channel)
    return Epilogue(low, high, act, alpha, beta, scale, shift)


def given(bd, p):
    """Whether a pointer is not null."""
    return bd.icmp_unsigned("!=", bd.ptrtoint(p, i64), i64(0))


def merge(bd, branches):
    """The vectors of the branch that was taken: ``branches`` are (block, rows of vectors)."""
    merged = []
    for i, row in enumerate(branches[0][1]):
        merged.append([bd.phi(VT) for _ in row])
        for block, values in branches:
            for phi, value in zip(merged[i], values[i]):
                phi.add_incoming(value, block)
    return merged


def short_activation(bd, acc, act, low, high, alpha, beta):
    """Rows of vectors after the activation ``act``, where `in_registers` has it; the others as they
    are."""
    lo, hi, a, b = (splat_ir(bd, v) for v in (low, high, alpha, beta))

    def hard_swish(x):
        gate = call_intrinsic(bd, f"fmuladd.v{W}f32", VT, x, a, b)
        return bd.fmul(x, clamp_low_ir(bd, clamp_high_ir(bd, gate, constant(1.0)), constant(0.0)))

    short = {
        Activation.NONE: lambda x: clamp_high_ir(bd, clamp_low_ir(bd, x, lo), hi),
        Activation.HARD_SWISH: hard_swish,
        Activation.LEAKY_RELU: lambda x: bd.select(bd.fcmp_ordered("<", x, constant(0.0)), bd.fmul(x, a), x),
    }
    done = bd.append_basic_block("activated")
    branches = [(bd.block, acc)]
    switch = bd.switch(act, done)
    for code, formula in short.items():
        block = bd.append_basic_block(f"act{int(code)}")
        switch.add_case(i64(code), block)
        bd.position_at_end(block)
        branches.append((block, [[formula(x) for x in row] for row in acc]))
        bd.branch(done)
    bd.position_at_end(done)
    return merge(bd, branches)


def scaled(bd, acc, scale, load_channels):
    """Rows of vectors times a factor plus a term a column, which ``load_channels`` gives, where
    ``scale`` is not null."""
    before = bd.block
    with bd.if_then(given(bd, scale)):
        factors, terms = load_channels()
        done = [[call_intrinsic(bd, f"fmuladd.v{W}f32", VT, x, f, t) for x, f, t in zip(row, factors, terms)] for row in acc]
        inside = bd.block
    return merge(bd, [(before, acc), (inside, done)])


@inline
def addends_from(addends, channel, place):
    """The addends of the channels from ``channel`` on, the residual's from ``place`` on."""
    bias, residual, ldres = addends
    if ldres > 0:
        residual = at(residual, place)
    return Addends(at(bias, channel), residual, ldres)


@inline
def activate(epilogue, y, cols):
    """Apply an activation, then scale and shift, to the up to W results just stored at y."""
    v = load(y, 0) if cols == W else load_part(y, 0, cols)
    v = activated(epilogue.act, v, epilogue.alpha, epilogue.beta)
    if address(epilogue.scale, 0) != 0:
        v = v * load(epilogue.scale, 0) + load(epilogue.shift, 0)
    if cols == W:
        store(y, 0, v)
    else:
        store_part(y, 0, v, cols)
