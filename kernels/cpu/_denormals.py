"""What a thread's arithmetic does with denormal numbers, a mode of the processor: MXCSR's FTZ and DAZ
on x86, FPCR's FZ on ARM."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Int, i32, i64, target

from ._ir import call_intrinsic

_VOID = ir.VoidType()
_X86 = target().triple.startswith("x86_64")
_FLUSH = 0x8040 if _X86 else 1 << 24
"""The bits that flush: results (FTZ) and operands (DAZ), or both (FZ)."""


def _get(b):
    if not _X86:
        return call_intrinsic(b, "aarch64.get.fpcr", i64)
    word = cgutils.alloca_once(b, i32)
    call_intrinsic(b, "x86.sse.stmxcsr", _VOID, word)
    return b.zext(b.load(word), i64)


def _set(b, mode) -> None:
    if not _X86:
        call_intrinsic(b, "aarch64.set.fpcr", _VOID, mode)
        return
    word = cgutils.alloca_once(b, i32)
    b.store(b.trunc(mode, i32), word)
    call_intrinsic(b, "x86.sse.ldmxcsr", _VOID, word)


@intrinsic
def flush_denormals(tc, flush):
    """From here on this thread takes denormals for zeros, and gives zeros for them, or it does not
    (0), whatever it did before; the mode it was in, for `restore`."""

    def gen(ctx, b, sig, args):
        before = _get(b)
        wanted = b.select(b.icmp_unsigned("!=", args[0], i64(0)), i64(_FLUSH), i64(0))
        _set(b, b.or_(b.and_(before, i64(~_FLUSH)), wanted))
        return before

    return Int(Int), gen


@intrinsic
def restore(tc, mode):
    """The mode that `flush_denormals` found."""

    def gen(ctx, b, sig, args):
        _set(b, args[0])
        return ctx.get_dummy_value()

    return types.void(Int), gen
