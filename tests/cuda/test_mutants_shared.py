"""Gate (e) for files that families share: what is wrong with one shows in the kernels of a family."""

from __future__ import annotations

import pytest

from tests.cuda import mutants
from tests.cuda.cases import recordings
from tests.cuda.interpreter import Interpreter
from tests.cuda.kernels import COMPILER
from tests.cuda.mutants import Mutant
from tests.cuda.recordings import replay
from tests.cuda.test_mutants import EACH, compiled, direct, known

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)

LANGUAGE = {
    "_map": ("activation", "arithmetic"), "_pair": ("activation_grad",), "_max": ("reduce",), "_window": ("pool",),
    "_tile": ("gemm", "conv"), "_products": ("gemm", "conv_grad"),
}  # fmt: skip
"""Files that make or serve kernels of families, and the families that show what is wrong with them."""


@pytest.mark.parametrize("file", LANGUAGE)
def test_mutants_of_what_makes_kernels_are_caught(file):
    found = [m for m in mutants.mutants(file, EACH) if not known(m)]
    missed = [m for m in found if not any(shown(m, family) for family in LANGUAGE[file])]
    assert not missed, "\n".join(map(str, missed))


def shown(mutant: Mutant, family: str) -> str:
    """How kernels of a family that imports the mutant's file differ, "" where none does."""
    module = mutants.load(mutant, family)
    kept = [*direct().items(), *recordings().items()]
    kept.sort(key=lambda item: ("_tf32" in item[0][1]) != (mutant.function == "fragments"))
    for (of, name, number), launches in kept:
        if of == family and hasattr(module, name):
            ptx = compiled(vars(module)[name], number)
            for recording in launches:
                said = replay(recording, Interpreter(), ptx)
                if said:
                    return said
    return ""
