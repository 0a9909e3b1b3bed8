"""What a matrix product asks for: all that the choice of an implementation depends on, and the operands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from nbconv.kernels.target import Target
from nbconv.lowering.context import Lowering, Ref


class GemmProblem(NamedTuple):
    """A ``batch`` of products (m, k) × (k, n). The limit is that of `Lowering`."""

    dtype: str
    batch: int
    m: int
    k: int
    n: int
    trans_a: bool
    """whether a lies as (k, m)"""
    trans_b: bool
    """whether b lies as (n, k)"""
    stride_a: int
    """elements from one matrix of a batch to the next, 0 where all products share one"""
    stride_b: int
    constant: bool
    """whether b is"""
    target: Target
    scratch_limit: float

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.dtype).itemsize

    @property
    def columns(self) -> int:
        """Columns of a full panel of packed weights."""
        return self.target.columns

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n

    @property
    def matrices_b(self) -> int:
        """The (k, n) matrices that b has."""
        return self.batch if self.stride_b else 1


class Operand(NamedTuple):
    """One of a node's inputs: where it lies, and, where it is ``constant``, what gives its array."""

    ref: Ref
    name: str
    constant: bool
    array: Callable[[], np.ndarray]


class Operands(NamedTuple):
    """Of y = alpha · a · b + beta · c: c has n elements, one for all or one for each column."""

    a: Ref
    b: Operand
    c: Operand | None = None
    alpha: float = 1.0
    beta: float = 1.0


def operand(to: Lowering, i: int) -> Operand:
    """Input i of the node that is lowered."""
    return Operand(to.input(i), to.node.inputs[i], bool(to.inputs[i].constant), partial(to.value, i))


def problem(
    to: Lowering,
    batch: int,
    m: int,
    k: int,
    n: int,
    trans: tuple[bool, bool] = (False, False),
    strides: tuple[int, int] = (0, 0),
) -> GemmProblem:
    """Of the node that is lowered, whose operands a and b are its first inputs; both have ``trans`` and ``strides``."""
    b = to.inputs[1]
    return GemmProblem(b.dtype.name, batch, m, k, n, *trans, *strides, bool(b.constant), to.target, to.scratch_limit)
