"""Gate (b): every kernel's PTX goes through ptxas for each architecture, and keeps everything in registers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from nbconv.kernels.compile import families
from tests.cuda.kernels import COMPILER, TARGETS, Compiled, compiled
from tests.cuda.sass import machine_code, missing

pytestmark = pytest.mark.skipif(bool(COMPILER or missing()), reason=COMPILER or missing())


def faults(kernel: Compiled, architecture: str) -> str:
    """What is wrong with a kernel's machine code, "" where nothing is."""
    digits = architecture.removeprefix("sm_")
    try:
        code = machine_code(kernel.ptx, (int(digits[:-1]), int(digits[-1])))
    except ValueError as error:
        return f"{kernel}: {error}"
    found = {
        "bytes spilled": code.spills, "bytes of stack": code.stack, "local accesses": code.local,
        "generic accesses": code.generic, "instructions in double precision": code.double,
    }  # fmt: skip
    return ", ".join(f"{kernel}: {n} {what}" for what, n in found.items() if n)


@pytest.mark.parametrize("architecture", sorted(TARGETS))
def test_kernels_keep_to_registers(architecture):
    kernels = list(compiled(TARGETS[architecture]))
    assert {k.family for k in kernels} == set(families(TARGETS[architecture]))
    with ThreadPoolExecutor(2) as pool:
        found = [said for said in pool.map(lambda k: faults(k, architecture), kernels) if said]
    assert not found, "\n".join(found)


def test_what_is_wrong_is_seen():
    """A kernel that indexes its own array by what it reads needs a stack and local memory."""
    ptx = """.version 8.0
.target sm_80
.address_size 64
.visible .entry bad(.param .u64 p) {
 .local .align 16 .b8 depot[64]; .reg .b64 %a<4>; .reg .b32 %r<3>; .reg .f64 %d<3>;
 ld.param.u64 %a0, [p]; ld.u32 %r0, [%a0]; mov.u64 %a1, depot; cvt.u64.u32 %a2, %r0; add.u64 %a2, %a1, %a2;
 st.local.u32 [%a1], %r0; ld.local.u32 %r1, [%a2]; cvt.rn.f64.u32 %d0, %r1; mul.f64 %d1, %d0, %d0;
 cvt.rzi.u32.f64 %r2, %d1; st.u32 [%a0], %r2; ret; }
"""
    said = faults(Compiled("bad", "bad", None, 32, ptx), "sm_80")
    for word in ("stack", "local", "generic", "double"):
        assert word in said
    assert "bad" in faults(Compiled("bad", "bad", None, 32, ptx.replace("mul.f64", "mull.f64")), "sm_80")
