"""Implementation lists: which algorithms there are for a problem, and how one of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from nbconv.graph.symbolic import apply, settled
from nbconv.lowering.step import Impl

if TYPE_CHECKING:
    from nbconv.lowering.context import Lowering


class Implementation(NamedTuple):
    """One row of a list: an algorithm for problems of one kind."""

    name: str
    fits: Callable[[Any], bool]
    """whether it can do a problem within its limits of memory, and may be worth it"""
    emit: Callable[..., None]
    """the steps that do it, of a `Lowering`, the problem, and the operands where the problem's node does not name them"""
    cost: Callable[[Any], float] | None = None
    """what it takes, in flops that the target could do meanwhile; None where no other row fits what it fits"""
    dtypes: tuple[str, ...] = ("float32",)
    """element types of the problem that its kernels take"""


def candidates(rows: Sequence[Implementation], problem: Any) -> list[Implementation]:
    """The rows that fit a problem, in the list's order."""
    return [row for row in rows if problem.dtype in row.dtypes and row.fits(problem)]


def choose(to: Lowering, fitting: Sequence[Implementation], problem: Any) -> Implementation:
    """The row that does a problem: what ``to.choices`` says, else the cheapest, of equal ones the first."""
    chosen = to.choices.get(problem)
    return next((row for row in fitting if row.name == chosen), None) or cheapest(fitting, problem)


def cheapest(fitting: Sequence[Implementation], problem: Any) -> Implementation:
    """Of the rows that fit a problem the one that costs least, of equal ones the first."""
    if len(fitting) == 1:
        return fitting[0]
    return min(fitting, key=lambda row: row.cost(problem) if row.cost else 0.0)


def _cheapest(rows: Sequence[Implementation], problem: Any) -> int:
    """The place of the row that does a problem."""
    return rows.index(cheapest(candidates(rows, problem), problem))


def emit(to: Lowering, rows: Sequence[Implementation], problem: Any, *operands: Any) -> None:
    """The steps of the row that does a problem."""
    if to.described:
        fitting = candidates(rows, problem)
        row, names = choose(to, fitting, problem), tuple(r.name for r in fitting)
    else:
        row, names = rows[settled(apply(partial(_cheapest, rows), problem))], ()
    before, to.impl = to.impl, Impl(row.name, problem=problem, candidates=names)
    row.emit(to, problem, *operands)
    to.impl = before
