"""CUDA kernels are the CPU's: the same names, arguments and kinds of arguments; and docs/cuda.md lists them."""

from __future__ import annotations

import pytest

from nbconv.kernels.compile import families, libraries
from nbconv.kernels.target import target
from tests.cuda.kernels import COMPILER

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)
ALONE = {"winograd": {"winograd"}, "conv": {"conv_parts"}, "packing": {"planes"}}
"""Kernels that the CPU has alone, beside the families of docs/generate.py's NO_TWIN: Winograd's three steps at once,
convolution by parts, and the panels of several planes."""
THEIRS = {"winograd": {"transform_input", "transform_output"}, "gemm": {"finish"}}
"""Kernels that the GPU has alone: the steps before and behind Winograd's `gemm`, and what adds the parts of products that
are split along k."""


def test_names_and_arguments_are_the_cpus():
    from docs.generate import NO_TWIN

    goal = target("cuda")
    ours, theirs = libraries(families()), libraries(families(goal), goal)
    assert theirs.keys() == ours.keys() - NO_TWIN.keys()
    for family, library in theirs.items():
        mine = ours[family]
        shared = set(mine.kernels) - ALONE.get(family, set())
        assert {kernel.removesuffix("_tf32") for kernel in library.kernels} == shared | THEIRS.get(family, set()), family
        for kernel in set(library.kernels) - THEIRS.get(family, set()):
            assert library.arguments(kernel) == mine.arguments(kernel.removesuffix("_tf32")), f"{family}.{kernel}"


def test_the_tables_are_true():
    from docs.generate import CUDA_PAGE, cuda_table, layers_table, with_tables

    text = CUDA_PAGE.read_text(encoding="utf-8")
    assert text == with_tables(text, cuda_table(), layers_table()), "run make docs"
