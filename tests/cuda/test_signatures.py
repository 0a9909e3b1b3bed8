"""CUDA kernels are the CPU's: the same names, arguments and kinds of arguments; and docs/cuda.md lists them."""

from __future__ import annotations

import pytest

from nbconv.kernels.compile import families, libraries
from nbconv.kernels.target import target
from tests.cuda.kernels import COMPILER

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)
ALONE = {"packing": {"winograd_2", "winograd_4"}}
"""Kernels that the CPU has alone, beside the families of docs/generate.py's NO_TWIN: they serve Winograd's."""

GPU_ALONE = {"gemm": {"finish"}}
"""Kernels that a GPU has alone: `finish` adds the parts of products that are split along k."""


def test_names_and_arguments_are_the_cpus():
    from docs.generate import NO_TWIN

    goal = target("cuda")
    ours, theirs = libraries(families()), libraries(families(goal), goal)
    assert theirs.keys() == ours.keys() - NO_TWIN.keys()
    for family, library in theirs.items():
        mine = ours[family]
        alone = GPU_ALONE.get(family, set())
        assert set(library.kernels) == (set(mine.kernels) - ALONE.get(family, set())) | alone, family
        for kernel in set(library.kernels) - alone:
            assert library.arguments(kernel) == mine.arguments(kernel), f"{family}.{kernel}"


def test_the_table_is_true():
    from docs.generate import BEGIN, CUDA_PAGE, END, cuda_table

    text = CUDA_PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0].strip() == "\n".join(cuda_table()), "run make docs"
