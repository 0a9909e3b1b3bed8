"""The PTX interpreter: control flow, memory, warp-level exchange, counts; and each kind of fault, beside a clean twin."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.assembly import HEAD, kernel, same
from tests.cuda.interpreter import Interpreter, Module
from tests.cuda.report import KernelFault

SHARED = ".shared .align 16 .b8 s[4096];"
MINE = "mov.u32 %r20, %ctaid.x; mov.u32 %r21, %ntid.x; mad.lo.u32 %r1, %r20, %r21, %r0; mul.wide.u32 %rd10, %r1, 4;"
"""%r1: the thread's number in the grid; %rd10: four times that."""
LOCAL = "mul.wide.u32 %rd20, %r0, 4; mov.u64 %rd21, s; add.s64 %rd22, %rd21, %rd20;"
"""%rd22: the thread's word of `s`."""


def launch(body: str, n: int = 64, grid: int = 1, module: str = "", device: Interpreter | None = None, values: str = "f4"):
    """Runs `body` with p0: an output of one word a thread, p1: an input of the words 0, 1, …; (the output, the device)."""
    device = device or Interpreter()
    total = n * grid
    out, given = np.zeros(total, values), np.arange(total).astype(values)
    a, b = device.alloc(4 * total), device.alloc(4 * total)
    device.upload(a, out)
    device.upload(b, given)
    device.launch(kernel(MINE + body, 2, module=module), "k", grid, n, [a, b])
    device.download(a, out)
    return out, device


STORE = "add.s64 %rd11, %rd0, %rd10; st.global.b32 [%rd11], %r2;"
LOAD = "add.s64 %rd12, %rd1, %rd10; ld.global.b32 %r3, [%rd12];"


# Control flow


def test_loops_of_different_lengths_meet_again():
    """Thread t adds t + 1 ones; then all store."""
    body = f"mov.u32 %r2, 0; L1: add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r0; @%p1 bra L1; {STORE}"
    out, device = launch(body, n=64, grid=3, values="u4")
    same(out, [t % 64 + 1 for t in range(192)])
    stores = [i for i in device.last.instructions if i.name.startswith("st")]
    assert stores[0].warps == 6  # once a warp, not once a thread


def test_values_of_waiting_threads_are_kept():
    """Those who leave the loop early keep what they computed in it while others go on."""
    body = f"""mov.u32 %r4, 0; L1: mul.lo.u32 %r2, %r4, 10; add.u32 %r4, %r4, 1;
    setp.lt.u32 %p1, %r4, %r0; @%p1 bra L1; {STORE}"""
    out, _ = launch(body, values="u4")
    same(out, [10 * max(t - 1, 0) for t in range(64)])


def test_early_exit_and_branches():
    body = f"""setp.gt.u32 %p1, %r0, 40; @%p1 ret; setp.lt.u32 %p2, %r0, 10; @!%p2 bra ELSE;
    mov.u32 %r2, 1; bra.uni END; ELSE: mov.u32 %r2, 2; END: {STORE}"""
    out, _ = launch(body, values="u4")
    same(out, [1] * 10 + [2] * 31 + [0] * 23)


def test_batches_give_the_same():
    """Blocks that run together or one by one: same results, same counts."""
    body = f"{LOAD} add.u32 %r2, %r3, %r20; {STORE}"
    together, one = Interpreter(), Interpreter(threads=1)
    a, _ = launch(body, n=48, grid=7, device=together, values="u4")
    b, _ = launch(body, n=48, grid=7, device=one, values="u4")
    same(a, [t + t // 48 for t in range(336)])
    assert np.array_equal(a, b) and together.last == one.last


def test_special_registers_in_three_dimensions():
    body = """mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %laneid;
    mov.u32 %r10, %ntid.x; mov.u32 %r11, %ntid.y; mad.lo.u32 %r12, %r3, %r11, %r2; mad.lo.u32 %r12, %r12, %r10, %r1;
    mul.lo.u32 %r13, %r1, 1; mad.lo.u32 %r13, %r2, 10, %r13; mad.lo.u32 %r13, %r3, 100, %r13;
    mad.lo.u32 %r13, %r5, 1000, %r13; mad.lo.u32 %r13, %r4, 100000, %r13;
    mad.lo.u32 %r14, %r4, 48, %r12; mul.wide.u32 %rd10, %r14, 4; add.s64 %rd11, %rd0, %rd10; st.global.u32 [%rd11], %r13;"""
    device = Interpreter()
    out = np.zeros(96, "u4")
    address = device.alloc(out.nbytes)
    device.launch(kernel(body, 1), "k", (1, 2, 1), (4, 3, 4), [address])
    device.download(address, out)
    expected = []
    for block in range(2):
        for t in range(48):
            x, y, z = t % 4, t // 4 % 3, t // 12
            expected.append(x + 10 * y + 100 * z + 1000 * (t % 32) + 100000 * block)
    same(out, expected)


def test_a_kernel_without_end_is_stopped():
    with pytest.raises(KernelFault, match="endless"):
        launch("L1: bra.uni L1;", device=Interpreter(steps=1000))


# Parameters, variables, spaces


def test_parameters_of_all_types():
    text = f"""{HEAD}.visible .entry k(.param .u64 out, .param .f32 f, .param .s32 i, .param .u8 b,
    .param .align 8 .b8 pair[16]) {{ .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b16 %h<3>;
    ld.param.u64 %rd1, [out]; ld.param.f32 %f1, [f]; ld.param.s32 %r1, [i]; ld.param.u8 %h1, [b]; cvt.u32.u16 %r2, %h1;
    st.global.f32 [%rd1], %f1; st.global.u32 [%rd1+4], %r1; st.global.u32 [%rd1+8], %r2; ret; }}"""
    module, device = Module(text), Interpreter()
    parameters = module.entries["k"].parameters
    assert [(p.name, p.nbytes, p.offset) for p in parameters] == [
        ("out", 8, 0),
        ("f", 4, 8),
        ("i", 4, 12),
        ("b", 1, 16),
        ("pair", 16, 24),
    ]
    text = text.replace(",\n    .param .align 8 .b8 pair[16]", "")
    address, out = device.alloc(12), np.zeros(3, "u4")
    device.launch(Module(text), "k", 1, 1, [address, 1.5, -3, 200])
    device.download(address, out)
    same(out, [0x3FC00000, -3, 200])


def test_initialised_arrays():
    module = ".const .align 4 .f32 table[3] = {0f3F800000, 0f40000000, 0f40400000}; .global .align 2 .b8 bytes[4] = {9, 8};"
    body = f"""mov.u64 %rd5, table; ld.const.b32 %r2, [%rd5+8]; ld.const.b32 %r3, [table+4];
    ld.global.u8 %h1, [bytes+1]; cvt.u32.u16 %r4, %h1; xor.b32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; {STORE}"""
    out, _ = launch(body, n=1, values="u4", module=module)
    same(out, [(0x40400000 ^ 0x40000000) + 8])


def test_vectors_and_narrow_accesses():
    body = """mul.wide.u32 %rd9, %r0, 16; add.s64 %rd10, %rd1, %rd9; add.s64 %rd11, %rd0, %rd9;
    ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd10]; add.f32 %f1, %f1, %f4; st.global.v2.f32 [%rd11+8], {%f3, %f1};
    ld.global.s8 %h1, [%rd10+3]; cvt.s32.s16 %r5, %h1; st.global.b32 [%rd11], %r5;"""
    device = Interpreter()
    a, b = device.alloc(64), device.alloc(64)
    given, out = np.arange(16, dtype="f4"), np.zeros(16, "f4")
    given[0] = -2.0  # its top byte is 0xC0
    device.upload(a, out)
    device.upload(b, given)
    device.launch(kernel(body, 2), "k", 1, 4, [a, b])
    device.download(a, out)
    same(out.reshape(4, 4)[:, 2], [2, 6, 10, 14])
    same(out.reshape(4, 4)[:, 3], [1, 11, 19, 27])
    same(out.view("i4").reshape(4, 4)[:, 0], [-64, 0x40, 0x41, 0x41])


def test_generic_and_local_addresses():
    body = f""".local .align 8 .b8 depot[16]; mov.u64 %rd5, depot; cvta.local.u64 %rd6, %rd5; st.u32 [%rd6+4], %r0;
    ld.local.u32 %r2, [%rd5+4]; {SHARED} {LOCAL} cvta.shared.u64 %rd7, %rd22; st.u32 [%rd7], %r2; ld.shared.u32 %r4, [%rd22];
    cvta.to.shared.u64 %rd8, %rd7; ld.shared.u32 %r5, [%rd8]; add.u32 %r2, %r4, %r5;
    add.s64 %rd11, %rd0, %rd10; st.u32 [%rd11], %r2;"""
    out, _ = launch(body, values="u4")
    same(out, [2 * t for t in range(64)])


# Exchange within a warp


def exchange(instruction: str, n: int = 32) -> np.ndarray:
    return launch(f"{instruction} {STORE}", n=n, values="u4")[0]


def test_shuffles():
    lanes = np.arange(32)
    same(exchange("shfl.sync.idx.b32 %r2, %r0, 5, 31, -1;"), [5] * 32)
    same(exchange("shfl.sync.bfly.b32 %r2, %r0, 3, 31, -1;"), list(lanes ^ 3))
    same(exchange("shfl.sync.up.b32 %r2, %r0, 4, 0, -1;"), [t - 4 if t >= 4 else t for t in lanes])
    same(exchange("shfl.sync.down.b32 %r2, %r0, 4, 31, -1;"), [t + 4 if t < 28 else t for t in lanes])
    in_eights = "shfl.sync.down.b32 %r2|%p1, %r0, 2, 6175, -1; @!%p1 mov.u32 %r2, 99;"  # c = 0x181F: segments of 8
    same(exchange(in_eights), [t + 2 if t % 8 < 6 else 99 for t in lanes])
    same(exchange("xor.b32 %r5, %r0, 31; shfl.sync.idx.b32 %r2, %r0, %r5, 31, -1;"), list(31 - lanes))
    same(exchange("shfl.sync.bfly.b32 %r2, %r0, 16, 31, -1;", n=64), list(np.arange(64) ^ 16))


def test_votes():
    is_even = "and.b32 %r4, %r0, 1; setp.eq.u32 %p1, %r4, 0;"
    same(exchange(f"{is_even} vote.sync.ballot.b32 %r2, %p1, -1;"), [0x55555555] * 32)
    for how, expected in (("any", 1), ("all", 0), ("uni", 0)):
        same(exchange(f"{is_even} vote.sync.{how}.pred %p2, %p1, -1; selp.u32 %r2, 1, 0, %p2;"), [expected] * 32)
    same(exchange("mov.u32 %r2, 7; setp.lt.u32 %p1, %r0, 3; @!%p1 bra E; activemask.b32 %r2; E:"), [7] * 3 + [7] * 29)


def test_sum_of_a_warp():
    code = "mov.u32 %r2, %r0;"
    for by in (16, 8, 4, 2, 1):
        code += f"shfl.sync.bfly.b32 %r3, %r2, {by}, 31, -1; add.u32 %r2, %r2, %r3;"
    same(exchange(code), [496] * 32)


def test_matrix_product_of_a_warp():
    """mma.m16n8k8 with small integers, which tf32 holds: fragments as PTX ISA 9.7.14.5.5 lays them out."""
    rng = np.random.default_rng(1)
    A, B, C = (rng.integers(-8, 8, shape).astype("f4") for shape in ((16, 8), (8, 8), (16, 8)))
    lane = np.arange(32)
    g, c = lane // 4, lane % 4
    a = [A[g, c], A[g + 8, c], A[g, c + 4], A[g + 8, c + 4]]
    b, acc = [B[c, g], B[c + 4, g]], [C[g, 2 * c], C[g, 2 * c + 1], C[g + 8, 2 * c], C[g + 8, 2 * c + 1]]
    given = np.stack([*a, *b, *acc])
    body = "mul.wide.u32 %rd9, %r0, 4; add.s64 %rd10, %rd1, %rd9; add.s64 %rd11, %rd0, %rd9;"
    body += "".join(f"ld.global.b32 %r{i + 1}, [%rd10+{128 * i}];" for i in range(6))
    body += "".join(f"ld.global.f32 %f{i + 1}, [%rd10+{128 * (6 + i)}];" for i in range(4))
    body += """mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
    {%f5, %f6, %f7, %f8}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};"""
    body += "".join(f"st.global.f32 [%rd11+{128 * i}], %f{i + 5};" for i in range(4))
    device = Interpreter()
    x, y = device.alloc(given.nbytes), device.alloc(512)
    device.upload(x, given)
    device.launch(kernel(body, 2), "k", 1, 32, [y, x])
    out = np.zeros((4, 32), "f4")
    device.download(y, out)
    D = A @ B + C
    same(out, np.stack([D[g, 2 * c], D[g, 2 * c + 1], D[g + 8, 2 * c], D[g + 8, 2 * c + 1]]))


# Barriers and asynchronous copies

NEIGHBOUR = "xor.b32 %r5, %r0, {0}; mul.wide.u32 %rd23, %r5, 4; add.s64 %rd24, %rd21, %rd23; ld.shared.u32 %r2, [%rd24];"


def test_shared_memory_across_a_barrier():
    body = f"{SHARED} {LOCAL} st.shared.u32 [%rd22], %r1; bar.sync 0; {NEIGHBOUR.format(33)} {STORE}"
    out, _ = launch(body, grid=3, values="u4")
    same(out, [t ^ 33 for t in range(192)])


COPY = f"""{SHARED} {LOCAL} cvt.u32.u64 %r10, %rd22; add.s64 %rd12, %rd1, %rd10;
cp.async.ca.shared.global [%r10], [%rd12], 4; cp.async.commit_group;"""


def test_asynchronous_copy():
    body = f"{COPY} cp.async.wait_group 0; bar.sync 0; {NEIGHBOUR.format(1)} {STORE}"
    same(launch(body, values="u4")[0], [t ^ 1 for t in range(64)])
    zeros = body.replace("[%rd12], 4;", "[%rd12], 4, %r9;").replace(
        "cp.async.ca", "mov.u32 %r9, 4; @%p1 mov.u32 %r9, 0; cp.async.ca"
    )
    same(launch("setp.lt.u32 %p1, %r0, 2;" + zeros, values="u4")[0], [0, 0] + [t ^ 1 for t in range(2, 64)])


def test_copies_arrive_when_waited_for():
    """Of two groups `wait_group 1` brings the first only: the second's word is still unwritten."""
    second = "add.u32 %r11, %r10, 1024; cp.async.ca.shared.global [%r11], [%rd12], 4; cp.async.commit_group;"
    read = "ld.shared.u32 %r2, [%rd22{}]; " + STORE
    same(launch(f"{COPY} {second} cp.async.wait_group 1; {read.format('')}", values="u4")[0], list(range(64)))
    same(launch(f"{COPY} {second} cp.async.wait_all; {read.format('+1024')}", values="u4")[0], list(range(64)))
    with pytest.raises(KernelFault, match="uninitialised"):
        launch(f"{COPY} {second} cp.async.wait_group 1; {read.format('+1024')}")
    with pytest.raises(KernelFault, match="uninitialised"):
        launch(f"{COPY} bar.sync 0; {read.format('')}")


# Faults: each beside its clean twin


def finds(kind: str, body: str, line_of: str = "", **options) -> None:
    """The launch ends with a finding of this kind only; with `line_of`, in the line of that text."""
    with pytest.raises(KernelFault) as caught:
        launch(body, **options)
    assert {f.kind for f in caught.value.findings} == {kind}, str(caught.value)


def test_out_of_bounds_and_alignment():
    launch("ld.global.u32 %r2, [%rd1+252];")
    finds("out of bounds", "ld.global.u32 %r2, [%rd1+256];")
    finds("out of bounds", "ld.global.u32 %r2, [%rd1+-4];")
    finds("out of bounds", "st.global.u32 [%rd1+260], %r0;", n=65)
    finds("out of bounds", "cvt.u32.u64 %r2, %rd1; cvt.u64.u32 %rd3, %r2; ld.global.u32 %r3, [%rd3];")
    finds("out of bounds", "ld.global.u32 %r2, [4];")
    finds("misaligned", "ld.global.u32 %r2, [%rd1+2];")
    finds("misaligned", "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1+8];")
    two = ".shared .align 4 .b8 s[256]; .shared .align 4 .b8 s2[256]; mov.u64 %rd6, s2; setp.eq.u32 %p1, %r0, 0;"
    launch(f"{two} {LOCAL} @%p1 st.shared.u32 [%rd6+252], %r0; st.shared.u32 [%rd22], %r0;")
    finds("out of bounds", f"{two} {LOCAL} st.shared.u32 [%rd22+4], %r0;")
    finds("out of bounds", f"{two} @%p1 st.shared.u32 [%rd6+256], %r0;")
    finds("out of bounds", ".local .align 4 .b8 d[8]; mov.u64 %rd5, d; st.local.u32 [%rd5+8], %r0;")


def test_uninitialised_memory():
    finds("uninitialised", f"{SHARED} {LOCAL} st.shared.u32 [%rd22], %r0; ld.shared.u32 %r2, [%rd22+1024];")
    device = Interpreter()
    address = device.alloc(4)
    module = kernel("ld.global.u32 %r2, [%rd0];", 1)
    with pytest.raises(KernelFault, match=r"uninitialised in k, line \d+: 4 bytes at .*buffer of 4 bytes.*block 0"):
        device.launch(module, "k", 1, 1, [address])
    device.fill(address, 0, 4)
    device.launch(module, "k", 1, 1, [address])
    device.free(address)
    with pytest.raises(KernelFault, match="out of bounds"):
        device.launch(module, "k", 1, 1, [address])
