"""Gate (e): kernels with a fault put in give other results than they should, or are stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType

import pytest

from nbconv.kernels.target import target
from tests.cuda import mutants
from tests.cuda.cases import recordings
from tests.cuda.direct import direct
from tests.cuda.interpreter import Interpreter
from tests.cuda.kernels import COMPILER
from tests.cuda.mutants import Mutant
from tests.cuda.recordings import Recording, replay

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)
EACH = int(os.environ.get("NBCONV_MUTANTS", "1"))
"""Faults of a kind in each function."""

UNWRITTEN = "what the last element of a local array is before it is written the compiler may choose, and it chooses 0"
SLOWER = "what is whole is taken apart"
EQUIVALENT = {
    ("convolution", "for j in range(sums)"): UNWRITTEN,
    ("product", "for j in range(sums)"): UNWRITTEN,
    ("grad_weight", "for i in range(sums)"): UNWRITTEN,
    ("_read", "for j in range(8)"): "what is not zeroed is multiplied by zeros of the other side",
    ("hold_filters", "cis < cos"): "all are read either way",
    ("turn", "taps > 1"): "all are read either way",
    ("turn", "abs(ci) > abs(kx)"): "all are read either way",
    ("inside", "k0 < k"): "a window outside the image is empty either way",
    ("inside", "k1 > k0"): "a window outside the image is empty either way",
    ("row_max", "v > top"): "the same number",
    ("_log_softmax_row", "i + W <= n"): SLOWER,
    ("unary", "i + W <= n"): SLOWER,
    ("pair", "i + W <= n"): SLOWER,
    ("binary", "rest > 0"): "a part of no elements",
    ("quad", "count >= 4"): SLOWER,
    ("working", "left >= 4"): SLOWER,
    ("working", "left > 0", "if row < m and left > 0:"): "nothing of columns that are not there is stored",
    ("working", "t < b_quads"): "what it reads goes nowhere",
    ("working", "4 * down * stage_pitch > both"): "none fills it",
}
"""(function, place, or a line that has more than one such) of bounds that may be off by one without harm, and why."""


def known(mutant: Mutant) -> bool:
    places = (mutant.function, mutant.place), (mutant.function, mutant.place, mutant.line)
    return mutant.kind == "off by one" and any(place in EQUIVALENT for place in places)


def families() -> list[str]:
    return sorted({family for family, _, _ in recordings()})


def caught(mutant: Mutant, kept: dict[tuple[str, str, int], list[Recording]]) -> str:
    """How a mutant was found out; "" where it was not."""
    from numba.core.errors import NumbaError

    module = mutants.load(mutant)
    fault = vars(module)[mutant.function]
    for (family, name, number), launches in kept.items():
        if family != mutant.family or not reaches(vars(module).get(name), fault, set()):
            continue
        try:
            ptx = compiled(vars(module)[name], number)
        except NumbaError as error:
            return f"it does not compile: {error}"
        said = wrong(mutant, launches, ptx)
        if said:
            return said
    return ""


def wrong(mutant: Mutant, launches: list[Recording], ptx: str) -> str:
    """What is wrong with the launches of a mutant's kernel. What only a barrier keeps apart are a block's units, too: then
    one block does them all."""
    alone = [launch._replace(blocks=1) for launch in launches if mutant.kind == "barrier" and launch.blocks > 1]
    return next(filter(None, (replay(launch, Interpreter(), ptx) for launch in launches + alone)), "")


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


@pytest.mark.parametrize("family", [f for f in families() if any(mutants.mutants(f, 1))] if not COMPILER else [])
def test_mutants_are_caught(family):
    kept = {key: [*found, *direct().get(key, [])] for key, found in recordings().items() if key[0] == family}
    missed = [m for m in mutants.mutants(family, EACH) if not known(m) and not caught(m, kept)]
    assert not missed, "\n".join(map(str, missed))
