"""What a step costs: operations, and bytes of values and constants."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from nbconv.lowering.step import Cost

if TYPE_CHECKING:
    from nbconv.lowering.step import Step
    from nbconv.plan.plan import Plan


def cost(plan: Plan, step: Step) -> Cost:
    """What a step does: as its implementation says, else its share of what the op does. All of a value counts that it
    reads; of an image, what its window sees."""
    work = step.work
    given = tuple(plan.specs.get(n) if n else None for n in step.node.inputs)
    made = tuple(plan.specs[n] for n in step.node.outputs if n)
    flops = work.flops
    if flops is None:
        flops = int(step.node.op.flops(given, made)) // sum(s.node is step.node for s in plan.steps)
    written = sum(spec.nbytes for spec in made) if work.written is None else work.written
    most = written if work.copies else inf
    reads = weights = 0
    for i, name in enumerate(step.reads):
        size = nbytes(plan, name)
        if plan.root(name) in plan.constants:
            weights += size
        elif name not in step.node.outputs:
            reads += int(min(size if i else size * work.seen, most))
    return Cost(flops, flops if work.arithmetic is None else work.arithmetic, reads, written, weights)


def nbytes(plan: Plan, name: str) -> int:
    """Bytes of a value, a scratch area or a constant."""
    root = plan.root(name)
    if root in plan.arrays:
        return plan.arrays[root].nbytes
    spec = plan.specs.get(name)
    return spec.nbytes if spec is not None else plan._scratches.get(name, 0)
