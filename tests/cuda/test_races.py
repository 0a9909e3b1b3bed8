"""Races, barriers and counts as the PTX interpreter sees them: each fault beside a clean twin."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.cuda.assembly import kernel
from tests.cuda.interpreter import Interpreter
from tests.cuda.ptx import PTXError
from tests.cuda.report import KernelFault, LaunchCount
from tests.cuda.test_interpreter import LOCAL, SHARED, STORE, finds, launch

START = f"""{SHARED} {LOCAL} setp.eq.u32 %p1, %r0, 0; setp.eq.u32 %p2, %r0, 40; setp.eq.u32 %p3, %r0, 5;
setp.lt.u32 %p4, %r0, 32;"""
"""%p1: thread 0; %p2: thread 40, of warp 1; %p3: thread 5, of warp 0; %p4: warp 0. Blocks have 64 threads."""
READ = "ld.shared.u32 %r2, [s];"


def test_read_after_write():
    write = "@%p1 st.shared.u32 [s], %r0;"
    launch(f"{START} {write} bar.sync 0; {READ}")
    launch(f"{START} {write} @%p1 {READ}")  # its own word
    finds("RAW race", f"{START} {write} @%p2 {READ}")
    finds("RAW race", f"{START} {write} @%p3 {READ}")  # of one warp, too
    launch(f"{START} {write} bar.warp.sync -1; @%p3 {READ}")
    finds("RAW race", f"{START} {write} bar.warp.sync -1; @%p2 {READ}")  # a warp's barrier does not order another warp
    finds("RAW race", f"{START} bar.sync 0; {write} {READ}")


def test_write_after_read():
    before = f"{START} @%p1 st.shared.u32 [s], %r0; bar.sync 0;"
    write = "st.shared.u32 [s], 7;"
    launch(f"{before} {READ} bar.sync 0; @%p2 {write}")
    launch(f"{before} @%p2 {READ} @%p2 {write}")
    finds("WAR race", f"{before} {READ} @%p2 {write}")
    finds("WAR race", f"{before} @%p1 {READ} @%p3 {write}")
    launch(f"{before} @%p1 {READ} bar.warp.sync -1; @%p3 {write}")
    finds("WAR race", f"{before} @%p4 {READ} bar.warp.sync -1; @%p2 {write}")
    finds("WAR race", f"{before} @%p2 {READ} @%p1 {READ} @%p2 {write}")  # the second of two readers
    finds("WAR race", f"{before} @%p1 {READ} @%p2 {READ} @%p2 {write}")  # and the first


def test_write_after_write():
    one, two = "st.shared.u32 [s], 1;", "st.shared.u32 [s], 2;"
    launch(f"{START} @%p1 {one} bar.sync 0; @%p2 {two}")
    finds("WAW race", f"{START} @%p1 {one} @%p2 {two}")
    finds("WAW race", f"{START} @%p1 {one} @%p3 {two}")
    launch(f"{START} @%p1 {one} bar.warp.sync -1; @%p3 {two}")
    finds("WAW race", f"{START} @%p4 st.shared.u32 [s], %r0;")  # lanes that store different values
    launch(f"{START} @%p4 {one} @%p4 {two}")  # a scalar of the warp
    finds("WAW race", f"{START} {one}")  # of two warps
    launch(f"{START} @%p4 {one} bar.sync 0; @%p2 {two}")


def test_narrow_neighbours_do_not_race():
    """Threads that write bytes of one word touch different bytes."""
    byte = f"{SHARED} cvt.u16.u32 %h1, %r0; mov.u64 %rd21, s; cvt.u64.u32 %rd5, %r0; add.s64 %rd6, %rd21, %rd5;"
    launch(f"{byte} st.shared.u8 [%rd6], %h1;")
    launch(f"{byte} cvt.u64.u32 %rd5, %r0; add.s64 %rd7, %rd0, %rd5; st.global.u8 [%rd7], %h1;")
    finds("WAW race", f"{byte} shr.u64 %rd5, %rd5, 1; add.s64 %rd6, %rd21, %rd5; st.shared.u8 [%rd6], %h1;")


def test_races_of_asynchronous_copies():
    copy = f"""{START} cvt.u32.u64 %r10, %rd22; add.s64 %rd12, %rd1, %rd10;
    cp.async.ca.shared.global [%r10], [%rd12], 4; cp.async.commit_group; cp.async.wait_group 0;"""
    other = "xor.b32 %r5, %r0, 33; mul.wide.u32 %rd23, %r5, 4; add.s64 %rd24, %rd21, %rd23; ld.shared.u32 %r2, [%rd24];"
    launch(f"{copy} bar.sync 0; {other}")
    finds("RAW race", f"{copy} {other}")


def test_global_races():
    mine, other = "st.global.b32 [%rd11], %r1;", "ld.global.b32 %r3, [%rd13];"
    addresses = "add.s64 %rd11, %rd0, %rd10; xor.b64 %rd14, %rd10, {0}; add.s64 %rd13, %rd0, %rd14;"
    launch(f"{addresses.format(128)} {mine} bar.sync 0; {other}")  # threads t and t ^ 32 of one block
    finds("RAW race", f"{addresses.format(128)} {mine} {other}")
    finds("WAR race", f"{addresses.format(128)} {other} {mine}")
    finds("RAW race", f"{addresses.format(256)} {mine} bar.sync 0; {other}", grid=2)  # of two blocks
    finds("WAR race", f"{addresses.format(256)} {other} bar.sync 0; {mine}", grid=2)
    launch(f"{addresses.format(4)} {mine} bar.warp.sync -1; {other}")
    launch("setp.lt.u32 %p1, %r1, 32; @%p1 st.global.u32 [%rd0], 7;", grid=2)
    finds("WAW race", "setp.eq.u32 %p1, %r0, 0; @%p1 st.global.u32 [%rd0], 7;", grid=2)  # units that overlap
    finds("WAW race", "setp.eq.u32 %p1, %r0, 0; @%p1 st.global.u32 [%rd0], 7;", grid=2, device=Interpreter(threads=1))


def test_launches_are_ordered():
    device = Interpreter()
    address = device.alloc(4)
    write, read = kernel("st.global.u32 [%rd0], 7;", 1), kernel("ld.global.u32 %r2, [%rd0];", 1)
    for _ in range(2):
        device.launch(write, "k", 1, 32, [address])
        device.launch(read, "k", 3, 64, [address])


def test_divergent_barriers():
    launch(f"{START} @%p1 bra L; mov.u32 %r2, 1; L: bar.sync 0;")
    finds("divergent barrier", f"{START} @%p1 ret; bar.sync 0;")
    finds("divergent barrier", f"{START} @%p4 ret; bar.sync 0;")
    finds("divergent barrier", f"{START} @%p4 bra L; bar.sync 0; bra.uni E; L: bar.sync 0; E:")
    by_block = "setp.eq.u32 %p5, %r20, 1;"
    launch(f"{by_block} @%p5 bra L; bar.sync 0; bra.uni E; L: mov.u32 %r2, 1; bar.sync 0; E:", grid=3)
    launch(f"{by_block} @%p5 ret; bar.sync 0;", grid=3)


def test_divergent_warps():
    shuffle = "shfl.sync.bfly.b32 %r2, %r0, 1, 31, {0};"
    launch(f"{START} @%p4 bra L; {shuffle.format(-1)} L:")
    finds("divergent warp", f"{START} @%p3 bra L; {shuffle.format(-1)} L:")
    finds("divergent warp", f"{START} @%p3 ret; {shuffle.format(-1)}")
    launch(f"setp.lt.u32 %p1, %r0, 8; @!%p1 bra L; {shuffle.format(255)} L:")
    finds("divergent warp", shuffle.format(255))  # lane 8 asks without being a member


def test_findings_say_where():
    with pytest.raises(KernelFault) as caught:
        launch(f"{START}\n@%p1 st.shared.u32 [s+8], %r0;\n@%p2 ld.shared.u32 %r2, [s+8];")
    text = str(caught.value)
    found = re.fullmatch(
        r"RAW race in k, line (\d+): 4 bytes at shared address 8, thread 40 of block 0; "
        r"written in line (\d+) by thread 0 of block 0",
        text,
    )
    assert found and int(found[1]) == int(found[2]) + 1, text


def test_findings_can_be_collected():
    device = Interpreter(raising=False)
    launch(f"{START} @%p1 st.shared.u32 [s], 1; @%p2 st.shared.u32 [s], 2;", device=device)
    assert [f.kind for f in device.findings] == ["WAW race"]
    unchecked = Interpreter(check=False)
    launch(f"{START} @%p1 st.shared.u32 [s], 1; @%p2 st.shared.u32 [s], 2;", device=unchecked)
    assert not unchecked.findings


def test_atomics_are_refused():
    with pytest.raises(PTXError, match=r"line 13: atomic"):
        launch("\nred.global.add.u32 [%rd0], 1;")
    with pytest.raises(PTXError, match=r"unsupported instruction: bfind\.u32"):
        launch("bfind.u32 %r2, %r0;")


# Counts


def counted(body: str, n: int = 32, grid: int = 1) -> LaunchCount:
    device = Interpreter(raising=False)
    launch(body, n=n, grid=grid, device=device)
    return device.last


def shared_at(step: int, width: int = 4) -> str:
    """Each thread stores `width` bytes at `step` bytes times its number."""
    words = {4: "st.shared.b32 [%rd23], %r0;", 8: "st.shared.v2.b32 [%rd23], {%r0, %r0};"}
    words[16] = "st.shared.v4.b32 [%rd23], {%r0, %r0, %r0, %r0};"
    return f"{SHARED} mov.u64 %rd21, s; mul.wide.u32 %rd20, %r0, {step}; add.s64 %rd23, %rd21, %rd20; {words[width]}"


@pytest.mark.parametrize(
    "step, width, conflicts",
    [
        (4, 4, 1),
        (8, 4, 2),
        (12, 4, 1),
        (64, 4, 16),
        (128, 4, 32),
        (0, 4, 1),
        (8, 8, 1),
        (16, 8, 2),
        (16, 16, 1),
        (32, 16, 2),
    ],
)
def test_bank_conflicts(step, width, conflicts):
    """32 banks of 4 bytes; 8-byte accesses go by half warps, 16-byte ones by quarters."""
    count = counted(shared_at(step, width))
    assert count.conflicts == conflicts
    assert next(i for i in count.instructions if i.name.startswith("st.shared")).ideal == {4: 1, 8: 2, 16: 4}[width]


def test_one_word_is_read_by_all_at_once():
    read = (
        f"{START} st.shared.u32 [%rd22], 1; and.b32 %r5, %r0, {{}}; mul.wide.u32 %rd23, %r5, 4; add.s64 %rd24, %rd21, %rd23;"
    )
    read += "ld.shared.u32 %r2, [%rd24];"
    for members in (0, 1, 31):
        assert counted(read.format(members)).conflicts == 1


@pytest.mark.parametrize("step, share", [(4, 1), (8, 0.5), (32, 0.125), (64, 0.125)])
def test_coalescing(step, share):
    body = f"mul.wide.u32 %rd20, %r0, {step}; add.s64 %rd23, %rd1, %rd20; ld.global.b32 %r2, [%rd23];"
    assert counted(body, grid=16).coalescing == share


def test_uniform_accesses_are_apart():
    count = counted("ld.global.b32 %r2, [%rd1+4];", n=64, grid=3)
    (load,) = [i for i in count.instructions if i.name == "ld.global.b32"]
    assert (load.warps, load.accesses, load.uniform, load.sectors, load.coalescing) == (6, 6, 6, 0, None)


def test_executed_instructions():
    """Warp 0 goes round three times, warp 1 twice."""
    body = "setp.lt.u32 %p2, %r0, 32; selp.u32 %r4, 3, 2, %p2; L: sub.u32 %r4, %r4, 1; setp.gt.u32 %p1, %r4, 0; @%p1 bra L;"
    count = counted(body, n=64)
    assert next(i.warps for i in count.instructions if i.name == "sub.u32") == 5
    assert count.executed == sum(i.warps for i in count.instructions)
    out, _ = launch(f"mov.u32 %r2, 1; {STORE}", values="u4")
    assert np.all(out == 1)
