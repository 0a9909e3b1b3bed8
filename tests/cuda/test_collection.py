"""Which files a GPU's tests are in (`conftest.py`), and what they import."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.cuda.conftest import HERE, ON_GPU

DEVICE = re.compile(r"^def test_\w+\([^)]*\b(device|gpu)\b", re.M)


def test_a_gpus_tests_are_where_they_are_looked_for():
    assert {path.name for path in HERE.glob("test_*.py") if DEVICE.search(path.read_text())} == ON_GPU


def test_they_are_collected_without_numba_cuda():
    """As on a GPU, with kernels that were compiled before."""
    names = [f"tests.cuda.{name.removesuffix('.py')}" for name in sorted(ON_GPU)]
    source = (
        "import os, sys, importlib; os.environ |= {'NBCONV_TEST_DEVICE': 'cuda', 'NBCONV_KERNELS': '.'};"
        "sys.modules['numba.cuda'] = sys.modules['numba_cuda'] = None;"
        f"[importlib.import_module(name) for name in {names}]"
    )
    subprocess.run([sys.executable, "-c", source], check=True, cwd=HERE.parent.parent)
