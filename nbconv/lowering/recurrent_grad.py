"""Steps of recurrent networks back through time: the forward pass once more, with a tape of its gates, then a kernel of
kernels/cpu/recurrent_grad.py goes back through the steps. Products over all steps are other nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbconv.graph import FLOAT32
from nbconv.kernels.recurrent_params import Gradients, Results, Sequences, Slopes, States
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.packing import ceil
from nbconv.lowering.recurrent import Groups, Kind, Problem, forward, most_rows, problem, state
from nbconv.lowering.step import Work

TAPED = {"lstm": 6, "gru": 4, "rnn": 0}
"""Vectors that a kernel keeps of each panel."""
WIDE = 4
"""Vectors of a panel of R."""


def lower(to: Lowering, kernel: str, groups: Groups, kind: Kind, parts: Mapping[str, int]) -> None:
    """The steps of a gradient whose inputs are the operator's eight, then the gradients of its outputs; ``parts`` says which
    output is which of `Gradients`."""
    p = problem(to, groups)
    states, rows, columns = p.ways * p.batch, most_rows(to, p), p.gates * p.hidden
    line = ceil(p.hidden, WIDE * p.lanes) * WIDE * p.lanes
    y = to.floats(p.steps * states * p.hidden)
    tape = to.floats(p.steps * states * p.panels * p.lanes * TAPED[kernel]) if TAPED[kernel] else None
    forward(to, p, kernel, kind, Results(y, None, None), tape)
    taped: dict[str, Any] = {"tape": tape} if tape else {}
    (h, way, row), (c, c_way, c_row) = state(to, p, 5), state(to, p, 6)
    made = {name: to.output(i) for name, i in parts.items()}
    sizes = {"added": columns, "met": columns, "seen": p.hidden}
    for name in ("added", "seen", *["met"] * (kernel == "gru"), "h", *["c"] * (kernel == "lstm")):
        if name not in made:
            made[name] = to.floats(p.steps * states * sizes[name] if name in sizes else states * p.hidden)
    arithmetic = 2 * p.steps * states * columns * p.hidden
    to.step(
        f"recurrent_grad.{kernel}_grad",
        p.ways * ceil(p.batch, rows),
        work=arithmetic,
        writes=("carry", *(f"gradients.{name}" for name in Gradients._fields)),
        y=y,
        **taped,
        r=_panels(to, p, line),
        lengths=to.input(4) if to.has(4) else None,
        states=States(h, c, way, row, c_way, c_row),
        slopes=Slopes(*(to.input(i) if to.has(i) else None for i in (8, 9, 10))),
        carry=to.floats(2 * states * line),
        gradients=Gradients(*(made.get(name) for name in Gradients._fields)),
        sizes=Sequences(p.steps, p.batch, p.hidden, p.ways, rows, *kind),
        algorithm=lambda: f"back through time, {rows} sequences a unit",
        does=Work(arithmetic, arithmetic, FLOAT32.itemsize * sum(spec.size for spec in to.outputs)),
    )


def _panels(to: Lowering, p: Problem, line: int) -> Ref:
    """R (ways, rows, hidden) in panels of columns, 0 past the last."""
    r, rows, hidden, wide = to.input(2), p.gates * p.hidden, p.hidden, WIDE * p.lanes
    y, (full, rest) = to.floats(p.ways * rows * line), divmod(p.hidden, wide)
    if rest:
        to.fill(y, p.ways * rows * line)
        source, target = r.at(full * wide), y.at(full * rows * wide)
        to.copy(source, target, (p.ways, rows, rest), (rows * hidden, hidden, 1), (rows * line, wide, 1))
    if full:
        strides = (rows * hidden, wide, hidden, 1), (rows * line, rows * wide, wide, 1)
        to.copy(r, y, (p.ways, full, rows, wide), *strides)
    return y
