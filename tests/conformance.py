"""onnx's own backend suite through nbconv, counted: ``python -m tests.conformance [PATTERN]``.

Each test is a model with inputs and the outputs that onnx's authors wrote down: of one node, of what a function expands to,
small models, those converted from PyTorch, and those of well-known nets with onnx's reference as the judge.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import unittest
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from onnx.backend.test import BackendTest

import nbconv.compat.onnx_backend
from nbconv.errors import ModelError


class Everything(nbconv.compat.onnx_backend.NbconvBackend):
    """nbconv, which the runner does not ask before it tries."""

    is_compatible = None  # type: ignore[assignment]


class Outcome(NamedTuple):
    """What came of a test."""

    name: str
    result: str
    """"passed", "wrong", "refused" (a ModelError) or "failed" (another error)"""
    why: str


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """The suite's tests for the CPU by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suites = BackendTest(Everything, __name__).test_cases  # type: ignore[arg-type]
    for suite in suites.values():
        for name in dir(suite):
            if name.startswith("test_") and name.endswith("_cpu"):
                yield name.removesuffix("_cpu"), getattr(suite, name)


def outcome(name: str, run: Callable) -> Outcome:
    """The test, done now."""
    try:
        run(None)
    except unittest.SkipTest as error:
        return Outcome(name, "failed", f"skipped: {error}")
    except ModelError as error:
        return Outcome(name, "refused", _line(error))
    except AssertionError as error:
        return Outcome(name, "wrong", _line(error))
    except Exception as error:
        return Outcome(name, "failed", f"{type(error).__name__}: {_line(error)}")
    return Outcome(name, "passed", "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    os.environ.setdefault("ONNX_MODELS", tempfile.mkdtemp())  # where the runner writes
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, run in cases():
            if re.search(pattern, name):
                found = outcome(name, run)
                counts[found.result] += 1
                if found.result != "passed":
                    print(f"{found.result:8} {name}: {found.why}", flush=True)
    print(f"passed {counts['passed']} of {sum(counts.values())}")


if __name__ == "__main__":
    main()
