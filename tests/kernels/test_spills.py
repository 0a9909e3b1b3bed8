"""The register tile of every target fits its registers: no inner loop stores vectors to the stack, or loads them from it.

Two families that compile fast stand for all: conv, gemm and winograd have the same tiles, and
`python -m tests.kernels.disassembly` shows them. Skipped where numba is not installed.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbconv.kernels.target import TARGETS, target
from tests.kernels.disassembly import Loop, assembly, loops

pytest.importorskip("numba")

UNROLL = 4  # as in kernels/cpu/_tile.py


@pytest.fixture(scope="module")
def compiled():
    """The inner loops of (family, target)."""
    wanted = [(family, name) for family in ("winograd", "depthwise") for name in TARGETS]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) as pool:
        texts = pool.map(lambda args: assembly(*args), wanted)
        return {key: list(loops(text)) for key, text in zip(wanted, texts)}


def of(found: list[Loop], function: str) -> list[Loop]:
    return [loop for loop in found if loop.function == function]


@pytest.mark.parametrize("name", TARGETS)
def test_register_tiles_stay_in_registers(compiled, name):
    goal, found = target(name), compiled["winograd", name]
    tile = goal.tile()
    for vectors, most in ((1, tile.rows), (tile.vectors, tile.rows), (tile.vectors + 1, tile.rows_wider)):
        for rows in range(1, most + 1):
            tile = of(found, f"tile_{rows}x{vectors}")
            counts = [loop.multiplies for loop in tile]
            assert any(n >= rows * vectors * UNROLL for n in counts), (rows, vectors, counts)
            assert not [loop for loop in tile if loop.spills]
        assert not of(found, f"tile_{most + 1}x{vectors}")


@pytest.mark.parametrize("name", TARGETS)
def test_depthwise_strips_stay_in_registers(compiled, name):
    """But for AVX2's loops with masks (a strip at the border), whose masks take registers too."""
    for width in (3, 5, 7):
        many = target(name).registers >= 32
        pixels = (10 if many else 5) if width == 7 else 12 if many else 8
        for stride in (1, 2):
            strip = of(compiled["depthwise", name], f"strip_{pixels}_{width}_{stride}")
            whole = [loop for loop in strip if not loop.masked]
            assert [loop.multiplies for loop in whole] == [pixels * width]
            assert not whole[0].spills
            if name != "x86-64-v3":
                assert not [loop for loop in strip if loop.spills]


@pytest.mark.parametrize(
    ("text", "spills"),
    [
        ("tile_1x1:\n.LBB0_1:\n\tmulps\t%xmm1, %xmm0\n\tmovaps\t%xmm13, -16(%rsp)\n\tjne\t.LBB0_1\n", 1),
        ("tile_1x1:\n.LBB0_1:\n\tmulps\t(%rax,%rcx), %xmm0\n\tmovq\t8(%rsp), %rax\n\tjne\t.LBB0_1\n", 0),
        ("tile_1x1:\n.LBB0_1:\n\tvfmadd231ps\t64(%rsp), %zmm1, %zmm0\n\tjl\t.LBB0_1\n", 1),
        ("tile_1x1:\n.LBB0_1:\n\tfmla\tv1.4s, v0.4s, v2.s[1]\n\tldr\tq1, [sp, #32]\n\tb.lt\t.LBB0_1\n", 1),
        ("tile_1x1:\n.LBB0_1:\n\tfmla\tv1.4s, v0.4s, v2.s[1]\n\tldr\tx1, [sp, #32]\n\tb.lt\t.LBB0_1\n", 0),
    ],
)
def test_a_spill_is_seen(text, spills):
    (loop,) = loops(f"{text}\tret\nconv:\n\tret\n")
    assert len(loop.spills) == spills
