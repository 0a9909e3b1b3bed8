"""Gate (e) for files that families share: what is wrong with one shows in the kernels of a family."""

from __future__ import annotations

import importlib

import pytest

from tests.cuda import mutants
from tests.cuda.cases import recordings
from tests.cuda.direct import direct
from tests.cuda.kernels import COMPILER
from tests.cuda.mutants import Mutant
from tests.cuda.test_mutants import EACH, EQUIVALENT, compiled, families, known, wrong

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)

LANGUAGE = {
    "_map": ("activation", "arithmetic"), "_pair": ("activation_grad",), "_max": ("reduce",), "_window": ("pool",),
    "_tile": ("gemm", "conv"), "_products": ("gemm", "conv_grad"),
    "_shared_batch_norm": ("batch_norm",), "_shared_loss": ("loss",),
}  # fmt: skip
"""Files that make or serve kernels of families, and the families that show what is wrong with them; ``_shared_``: the CPU's
file of a family of which some is used here."""


@pytest.mark.parametrize("file", LANGUAGE)
def test_mutants_of_what_makes_kernels_are_caught(file):
    for family in LANGUAGE[file]:
        importlib.import_module(f"nbconv.kernels.cuda.{family}")
    found = [m for m in mutants.mutants(file, EACH) if not known(m) and used(m)]
    missed = [m for m in found if not any(shown(m, family) for family in LANGUAGE[file])]
    assert not missed, "\n".join(map(str, missed))


def test_each_fault_that_is_excused_can_be_made():
    files = [*families(), *(name for name in LANGUAGE if not name.startswith("_shared_"))]
    every = {place for file in files for place in mutants.places(file)}
    assert set(EQUIVALENT) <= every | {place[:2] for place in every}


def used(mutant: Mutant) -> bool:
    """Whether the fault is in what a family here has from its file."""
    if not mutant.family.startswith("_shared_"):
        return True
    here = importlib.import_module(f"nbconv.kernels.cuda.{mutant.family.removeprefix('_shared_')}")
    return hasattr(here, mutant.function) and getattr(here, mutant.function) is getattr(here._shared, mutant.function)


def shown(mutant: Mutant, family: str) -> str:
    """How kernels of a family that imports the mutant's file differ, "" where none does."""
    module = mutants.load(mutant, family)
    kept = [*direct().items(), *recordings().items()]
    kept.sort(key=lambda item: ("_tf32" in item[0][1]) != (mutant.function == "fragments"))
    for (of, name, number), launches in kept:
        if of == family and hasattr(module, name):
            ptx = compiled(vars(module)[name], number)
            said = wrong(mutant, launches, ptx)
            if said:
                return said
    return ""
