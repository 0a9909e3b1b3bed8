"""Gate (e): kernels with a fault put in give other results than they should, or are stopped."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Callable
from types import CodeType

import pytest

from nbconv.kernels.target import target
from tests.cuda import mutants
from tests.cuda.cases import recordings
from tests.cuda.interpreter import Interpreter
from tests.cuda.kernels import COMPILER
from tests.cuda.mutants import Mutant
from tests.cuda.recordings import Recording, replay

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)
EACH = int(os.environ.get("NBCONV_MUTANTS", "1"))
"""Faults of a kind in each function."""

UNWRITTEN = "what the last element of a local array is before it is written the compiler may choose, and it chooses 0"
EQUIVALENT = {
    ("convolution", "off by one", "for j in range(sums):"): UNWRITTEN,
    ("product", "off by one", "for j in range(sums):"): UNWRITTEN,
    ("grad_weight", "off by one", "for i in range(sums):"): UNWRITTEN,
    (
        "working",
        "off by one",
        "staged = 1 if tensor else 2 if 4 * down * stage_pitch > both else 4",
    ): "none fills it",
    ("_read", "off by one", "for j in range(8):"): "what is not zeroed is multiplied by zeros of the other side",
    ("hold_filters", "off by one", "if cis < cos:  # the filters of a column lie side by side"): "all are read either way",
    ("inside", "off by one", "while k0 < k and i0 + k0 * d < 0:"): "a window outside the image is empty either way",
}
"""(function, kind, line) of faults that change nothing in the compiled code, with the reason."""


def known(mutant: Mutant) -> bool:
    return (mutant.function, mutant.kind, mutant.line) in EQUIVALENT


def families() -> list[str]:
    return sorted({family for family, _, _ in recordings()})


def caught(mutant: Mutant, kept: dict[tuple[str, str, int], list[Recording]]) -> str | None:
    """How a mutant was found out; "" where it was not, None where no kernel of its file reaches the fault."""

    from numba.core.errors import NumbaError

    module = mutants.load(mutant)
    fault = vars(module)[mutant.function]
    reached = False
    for (family, name, number), launches in kept.items():
        if family != mutant.family or not reaches(vars(module).get(name), fault, set()):
            continue
        reached = True
        try:
            ptx = compiled(vars(module)[name], number)
        except NumbaError as error:
            return f"it does not compile: {error}"
        for recording in launches:
            said = replay(recording, Interpreter(), ptx)
            if said:
                return said
    return "" if reached else None


def compiled(function: Callable, number: int) -> str:
    """PTX of a kernel's variant."""
    from nbconv.kernels.cuda._family import variants
    from nbconv.kernels.cuda._numba import compile_kernel

    digits = target("cuda").cpu.removeprefix("sm_")
    return compile_kernel(variants(function)[1][number][1], (int(digits[:-1]), int(digits[-1])))


def reaches(function: Callable | None, fault: Callable, seen: set[int]) -> bool:
    """Whether a function calls another of its file, itself or through others."""
    plain, wanted = (getattr(f, "py_func", f) for f in (function, fault))
    if plain is wanted or function is fault or _made_by(plain, wanted):
        return True
    if not hasattr(plain, "__code__") or id(plain) in seen:
        return False
    seen.add(id(plain))
    inner = [plain.__globals__[n] for n in plain.__code__.co_names if n in plain.__globals__]
    inner += [cell.cell_contents for cell in plain.__closure__ or ()]
    inner += [kernel for _, kernel in (getattr(plain, "__variants__", None) or ("", []))[1]]
    return any(reaches(f, fault, seen) for f in inner if callable(f))


def _made_by(function: Callable | None, maker: Callable) -> bool:
    """Whether a function was defined inside another."""
    inside, todo = set(), [maker.__code__] if hasattr(maker, "__code__") else []
    while todo:
        found = [c for c in todo.pop().co_consts if isinstance(c, CodeType)]
        inside.update(found)
        todo += found
    return getattr(function, "__code__", None) in inside


@functools.cache
def direct() -> dict[tuple[str, str, int], list[Recording]]:
    """Launches of the kernels by themselves: with what follows products, which no op's call by itself has; and with weights
    that end where their memory ends."""
    from tests.cuda import test_tiles, test_winograd

    with test_tiles.recording() as found:
        test_tiles.products(64, 70, 64, 20, residual=True, code=4)
        test_tiles.products(64, 9, 31, 12, residual=True, code=2, affine=True)
        for size in (4, 2):
            test_winograd.test_filters(size, 13, 70, False, 0)
            test_winograd.test_filters(size, 9, 20, True, 0)
    kept: dict[tuple[str, str, int], list[Recording]] = defaultdict(list)
    for one in found:
        kept[one.family, one.kernel, one.variant].append(one)
    return kept


@pytest.mark.parametrize("family", families() if not COMPILER else [])
def test_mutants_are_caught(family):
    kept = {key: [*found, *direct().get(key, [])] for key, found in recordings().items() if key[0] == family}
    how: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants.mutants(family, EACH):
        if not known(mutant):
            said = caught(mutant, kept)
            how["nobody reaches it" if said is None else "caught" if said else "not caught"].append(mutant)
    assert not how["not caught"], "\n".join(map(str, how["not caught"]))
    assert how["caught"] or not any(how.values())
