"""Which steps of a plan run on the CPU, and what must be copied for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nbconv.lowering.step import Step
    from nbconv.plan.plan import Plan


class Transfers(NamedTuple):
    """Copies of a plan, by the roots of values. A NumPy step works on the CPU's copy of a value and kernels on the device's;
    a value is copied when it is wanted where it is not up to date.

    ``before``: by step, (values to copy to the device, values to copy from it). ``results``: those that lie on the CPU in
    the end, and need no copy.
    """

    before: dict[int, tuple[list[str], list[str]]]
    results: frozenset[str]


def transfers(plan: Plan, resident: frozenset[str] = frozenset()) -> Transfers:
    """What a plan copies: inputs lie on the CPU at first, those named ``resident`` on the device."""
    here = {name for name in plan.inputs if name not in resident}
    there = set(resident)
    before: dict[int, tuple[list[str], list[str]]] = {}
    written: set[str] = set()
    for i, step in enumerate(plan.steps):
        read, made = _touched(plan, step)
        if step.kernel:
            up = sorted(n for n in read | made if n in here and n not in there and (n in plan.inputs or n in written))
            down: list[str] = []
            here -= made
            there |= read | made
        else:
            up, down = [], sorted(n for n in read if n in there and n not in here)
            here |= read | made
            there -= made
        written |= made
        if up or down:
            before[i] = up, down
    return Transfers(before, frozenset(n for n in plan.results if n in here))


def _touched(plan: Plan, step: Step) -> tuple[set[str], set[str]]:
    """(roots that a step only reads, roots that it may write); constants are on both sides always."""
    read, made = ({plan.root(n) for n in names} for names in (step.reads, step.writes))
    return read - made - plan.constants.keys(), made
