"""Parameters of kernels: NamedTuples that lie in the table of arguments field by field."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from nbconv.kernels import optimizer_params, params
from nbconv.kernels.compile import families
from nbconv.kernels.target import host, target
from nbconv.lowering.context import Ref
from tests.cuda.kernels import COMPILER

MOST = 12
"""Parameters of a kernel."""
GROUPS = [kind for module in (params, optimizer_params) for _, kind in inspect.getmembers(module, params.is_group)]


@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.__name__)
def test_fields_are_words(kind: type) -> None:
    """By name, in order, each of a kind that the table of arguments has; lowering and kernels agree on all of them."""
    words = params.fields("p", kind)
    assert set(words.values()) <= {"int64", "float32", "float32*"}
    made = kind(*range(len(words)))
    assert list(params.flat({"p": made, "q": 1.5}).items()) == [*zip(words, range(len(words))), ("q", 1.5)]


def test_other_tuples_are_no_groups() -> None:
    x = Ref("x", 8)
    assert params.flat({"x": x, "y": None}) == {"x": x, "y": None}
    assert not params.is_group(Ref)
    assert not params.is_group(tuple)


def test_cpu_kernels_take_few_parameters() -> None:
    from nbconv.kernels import _numba

    for family in families():
        for name, kernel in _numba.kernels_of(family, host()).items():
            assert len(inspect.signature(kernel).parameters) <= MOST, f"{family}.{name}"


@pytest.mark.skipif(bool(COMPILER), reason=COMPILER)
def test_cuda_kernels_take_few_parameters_and_the_cpus() -> None:
    """The same groups, not only the same words."""
    from nbconv.kernels import _numba

    numba = import_module("nbconv.kernels.cuda._numba")
    for family in families(target("cuda")):
        cpu = _numba.kernels_of(family, host())
        for name, kernel in numba.kernels_of(family).items():
            taken = inspect.signature(kernel).parameters
            assert len(taken) <= MOST, f"{family}.{name}"
            twin = cpu.get(name.removesuffix("_tf32"))
            if twin is not None:
                own = inspect.signature(twin).parameters
                assert list(taken) == list(own), f"{family}.{name}"
                groups = [[p.annotation for p in side.values() if params.is_group(p.annotation)] for side in (taken, own)]
                assert groups[0] == groups[1], f"{family}.{name}"


def test_activations_are_named_by_the_epilogue_alone() -> None:
    """An epilogue's fields in the order that kernels unpack; only a clamp by default."""
    assert params.Epilogue._fields == ("low", "high", "act", "alpha", "beta", "scale", "shift")
    assert params.Epilogue().act is params.Activation.NONE
    assert params.Epilogue(low=0.0).clamp() == params.Clamp(0.0, float("inf"))
