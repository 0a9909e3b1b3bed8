"""What kernels' LLVM code is written with: the types of W float32 lanes, and functions of a builder
``b`` for what several kernels emit."""

from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils

from nbconv.kernels._numba import f32, i32, i64, target

W = target().lanes
VT = ir.VectorType(f32, W)
VI = ir.VectorType(i32, W)
VM = ir.VectorType(ir.IntType(1), W)

LINE = 16
"""Words of 32 bits of a cache line."""
AHEAD = 2048
"""Words by which packed weights are asked for before they are read: across pages, where the
processor's own prefetcher stops.
Those that come from memory or a shared cache go up to 1.4 times as fast."""


def constant(value: float) -> ir.Constant:
    """A vector constant of equal lanes."""
    return ir.Constant(VT, [ir.Constant(f32, value)] * W)


def splat_ir(b, scalar):
    """All lanes equal to a scalar f32 value."""
    one = b.insert_element(ir.Constant(VT, ir.Undefined), scalar, ir.Constant(i32, 0))
    return b.shuffle_vector(one, ir.Constant(VT, ir.Undefined), ir.Constant(ir.VectorType(i32, W), [0] * W))


def call_intrinsic(b, name, result, *args):
    """Call llvm.<name> on values."""
    fn = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), f"llvm.{name}")
    return b.call(fn, args)


def vector_pointer(b, p, i):
    """Address of p[i] as a vector pointer."""
    return b.bitcast(b.gep(p, [i]), VT.as_pointer())


def lane_ir(b, vector, lane):
    """All lanes equal to one lane of a vector."""
    return b.shuffle_vector(vector, ir.Constant(VT, ir.Undefined), ir.Constant(VI, [lane] * W))


def lanes_below(b, n):
    """Mask of the lanes with index < n."""
    index = ir.Constant(VI, list(range(W)))
    n32 = b.trunc(n, i32)
    all_n = b.insert_element(ir.Constant(VI, ir.Undefined), n32, ir.Constant(i32, 0))
    all_n = b.shuffle_vector(all_n, ir.Constant(VI, ir.Undefined), ir.Constant(ir.VectorType(i32, W), [0] * W))
    return b.icmp_signed("<", index, all_n)


def load_part_ir(b, pointer, n, fill=0.0):
    """The first n floats at a vector pointer, the other lanes ``fill``; memory past them is not
    touched."""
    fn = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(VT, [VT.as_pointer(), i32, VM, VT]), f"llvm.masked.load.v{W}f32.p0"
    )
    return b.call(fn, [pointer, ir.Constant(i32, 4), lanes_below(b, n), constant(fill)])


def store_part_ir(b, value, pointer, n):
    """Store the first n lanes; memory past them is not touched."""
    fn = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(ir.VoidType(), [VT, VT.as_pointer(), i32, VM]), f"llvm.masked.store.v{W}f32.p0"
    )
    b.call(fn, [value, pointer, ir.Constant(i32, 4), lanes_below(b, n)])


def prefetch(b, p, begin: int, end: int) -> None:
    """Ask for the lines that begin in the words p[begin:end]; any address will do, even one that is
    not there."""
    p = b.bitcast(p, f32.as_pointer())
    kinds = [p.type, i32, i32, i32]
    fn = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0")
    for at_line in range(-(-begin // LINE) * LINE, end, LINE):
        read, keep, data = (ir.Constant(i32, v) for v in (0, 3, 1))
        b.call(fn, [b.gep(p, [i64(at_line)]), read, keep, data])


def clamp_low_ir(b, x, low):
    """max(x, low) that keeps x when it is NaN."""
    return b.select(b.fcmp_ordered("<", x, low), low, x)


def clamp_high_ir(b, x, high):
    """min(x, high) that keeps x when it is NaN."""
    return b.select(b.fcmp_ordered(">", x, high), high, x)


def over_vectors(b, begin, end, body) -> None:
    """``body(i)`` for i = begin, begin + W, … below ``end``."""
    entry, loop, done = b.block, b.append_basic_block("vector"), b.append_basic_block("vectors_done")
    b.cbranch(b.icmp_signed("<", begin, end), loop, done)
    b.position_at_end(loop)
    i = b.phi(i64)
    i.add_incoming(begin, entry)
    body(i)
    following = b.add(i, ir.Constant(i64, W))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, end), loop, done)
    b.position_at_end(done)


def repeat(b, count, state, body) -> list:
    """The values after ``count`` times ``state = body(i, state)``, which may be none."""
    entry, loop, done = b.block, b.append_basic_block("turn"), b.append_basic_block("turns_done")
    b.cbranch(b.icmp_signed(">", count, i64(0)), loop, done)
    b.position_at_end(loop)
    i, held = b.phi(i64), [b.phi(v.type) for v in state]
    found = body(i, held)
    following = b.add(i, i64(1))
    for phi, begin, after in ((i, i64(0), following), *zip(held, state, found)):
        phi.add_incoming(begin, entry)
        phi.add_incoming(after, b.block)
    turned = b.block
    b.cbranch(b.icmp_signed("<", following, count), loop, done)
    b.position_at_end(done)
    results = [b.phi(v.type) for v in state]
    for phi, before, after in zip(results, state, found):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, turned)
    return results


def internal(module, name: str, kinds) -> tuple[ir.Function, bool]:
    """(the function of this name, of arguments of these types, that only its own library sees and
    that is never inlined; whether it has no body yet)."""
    if name in module.globals:
        return module.globals[name], False
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    return fn, True


def by_size(b, size, most: int, function: Callable[[int], ir.Function], args) -> None:
    """Call ``function(size)`` on values, for a size of 1 to ``most`` that is known when it runs: a
    switch."""
    done = b.append_basic_block("done")
    switch = b.switch(size, done)
    for n in range(1, most + 1):
        block = b.append_basic_block(f"size{n}")
        switch.add_case(i64(n), block)
        b.position_at_end(block)
        b.call(function(n), args)
        b.branch(done)
    b.position_at_end(done)
