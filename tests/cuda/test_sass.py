"""Gate (c): the machine code of the tiled kernels' main loops. ``python -m tests.cuda.test_sass`` prints their shares of
multiplying instructions."""

from __future__ import annotations

import functools

import pytest

from nbconv.kernels.target import with_tf32
from tests.cuda.kernels import COMPILER, TARGETS, Compiled, compiled
from tests.cuda.sass import Loop, Machine, machine_code, missing

pytestmark = pytest.mark.skipif(bool(COMPILER or missing()), reason=COMPILER or missing())

SHARES = {
    ("gemm", 128): 0.88, ("gemm", 64): 0.80, ("gemm", 256): 0.78,
    ("conv", 128): 0.80, ("conv", 64): 0.68, ("conv", 256): 0.68,
}  # fmt: skip
"""Multiply-adds of all instructions that a main loop must have, by kernel and rows of its tile."""
TF32_SHARES = {
    ("gemm_tf32", 128): 0.17, ("gemm_tf32", 64): 0.10, ("gemm_tf32", 256): 0.07,
    ("conv_tf32", 128): 0.125, ("conv_tf32", 64): 0.075, ("conv_tf32", 256): 0.05, ("conv_grad_weight_tf32", None): 0.065,
}  # fmt: skip
"""Instructions of tensor cores of all that a main loop must have. Each multiplies for eight cycles of an A100 (its data
sheet: 156 Tflop/s), so from 0.125 on they could be busy all the time."""
SUMS = {128: 64, 64: 32, 256: 32, None: 32}
"""Sums of a thread; a step of a main loop is eight products of each."""
REGISTERS = 1 << 16
"""Of an SM."""


@functools.cache
def machine(name: str, rows: int | None, architecture: str) -> tuple[Compiled, Machine]:
    """The kernel that has tiles of so many rows, and its machine code."""
    kernels = compiled(TARGETS[architecture], ["conv", "conv_grad", "gemm"])
    kernel = next(k for k in kernels if k.kernel == name and k.variant == rows)
    digits = architecture.removeprefix("sm_")
    return kernel, machine_code(kernel.ptx, (int(digits[:-1]), int(digits[-1])))


@pytest.mark.parametrize("architecture", sorted(TARGETS))
@pytest.mark.parametrize("name,rows", sorted(SHARES))
def test_main_loops(name, rows, architecture):
    kernel, code = machine(name, rows, architecture)
    main = code.loops[0]
    assert main.products == 8 * SUMS[rows]
    assert main.share >= SHARES[name, rows], f"{main.share:.3f}: {main.counts}"
    assert main.counts["LDG.128"] >= 2  # a quad of A and one of B
    for loop in code.loops:
        if loop.products >= main.products:  # that for rows which cannot be read 16 bytes at a time, too
            assert loop.counts["LDS.32"] == loop.counts["LDS.64"] == 0 and loop.counts["LDS.128"] > 0
    fits(kernel, code)


@pytest.mark.parametrize("architecture", sorted(TARGETS.keys() - {"sm_75"}))
@pytest.mark.parametrize("name,rows", TF32_SHARES)
def test_main_loops_of_tensor_cores(name, rows, architecture):
    kernel, code = machine(name, rows, architecture)
    main = tensor_loop(code)
    assert main.counts["HMMA"] * 16 * 8 * 8 == 32 * 8 * SUMS[rows]
    share = main.counts["HMMA"] / main.counts.total()
    assert share >= TF32_SHARES[name, rows], f"{share:.3f}: {main.counts}"
    assert main.counts["LDG.128"] >= 2
    for loop in code.loops:
        if loop.counts["HMMA"]:
            assert loop.counts["LDS.32"] == 0 and loop.counts["LDS.128"] == 2  # A's fragments; B's are 8 bytes
    fits(kernel, code)


def test_tensor_cores_are_not_asked_of_gpus_without():
    assert not any("tf32" in k.kernel or "mma" in k.ptx for k in compiled(TARGETS["sm_75"], ["conv", "conv_grad", "gemm"]))


def tensor_loop(code: Machine) -> Loop:
    """The loop with most instructions of tensor cores, the shortest of such."""
    return max(code.loops, key=lambda loop: (loop.counts["HMMA"], -loop.counts.total()))


def fits(kernel: Compiled, code: Machine) -> None:
    """The kernel's blocks have their registers, and nothing lies in memory that need not."""
    assert code.spills == code.stack == code.local == code.generic == code.double == 0
    assert code.registers <= 128 and code.registers * kernel.threads * (2 if kernel.threads == 256 else 4) <= REGISTERS


def test_tiles_are_those_that_plans_choose_from():
    from nbconv.kernels.cuda._tile import TILES

    for target in (*TARGETS.values(), with_tf32(TARGETS["sm_80"])):
        assert [(rows, columns) for rows, columns, _ in target.tiles] == [(tile.rows, tile.columns) for tile in TILES]


def test_a_loop_in_a_loop_is_the_main_one():
    """The loop that is found is the innermost one, and what it counts is in it."""
    ptx = """.version 8.0
.target sm_80
.address_size 64
.visible .entry loops(.param .u64 p, .param .u32 n) {
 .reg .b64 %a<2>; .reg .b32 %r<4>; .reg .f32 %f<4>; .reg .pred %q;
 ld.param.u64 %a0, [p]; cvta.to.global.u64 %a1, %a0; ld.param.u32 %r0, [n]; mov.u32 %r1, 0; ld.global.f32 %f0, [%a1];
outer: mov.u32 %r2, 0; add.f32 %f0, %f0, 0f3F800000;
inner: ld.global.f32 %f1, [%a1+4]; fma.rn.f32 %f0, %f0, %f1, %f0; ld.global.f32 %f2, [%a1+8]; st.global.f32 [%a1+8], %f0;
 fma.rn.f32 %f0, %f0, %f2, %f1; add.u32 %r2, %r2, 1; bar.sync 0; setp.lt.u32 %q, %r2, %r0; @%q bra inner;
 add.u32 %r1, %r1, 1; setp.lt.u32 %q, %r1, %r0; @%q bra outer; st.global.f32 [%a1], %f0; ret; }
"""
    code = machine_code(ptx, (8, 0))
    assert code.loops[0].counts["FADD"] == 0
    assert code.loops[0].products >= 2 and code.loops[0].counts["LDG.32"] == code.loops[0].products


def main() -> None:
    for name, rows in (*SHARES, *TF32_SHARES):
        found = []
        for architecture in sorted(TARGETS) if (name, rows) in SHARES else ("sm_80", "sm_90"):
            code = machine(name, rows, architecture)[1]
            loop = code.loops[0] if (name, rows) in SHARES else tensor_loop(code)
            found.append(
                f"{architecture} {loop.counts['FFMA' if (name, rows) in SHARES else 'HMMA'] / loop.counts.total():.3f}"
            )
        print(f"{name:24}{rows or '':>4}  {', '.join(found)}")


if __name__ == "__main__":
    main()
