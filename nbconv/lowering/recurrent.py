"""Steps of recurrent networks: what the input adds to the gates in all steps is one product, then a kernel of
kernels/cpu/recurrent.py goes through the steps.

Rows of weights are dealt into panels: of each group of gates, vectors of hidden units, and in each a vector a gate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import FLOAT32
from nbconv.kernels.params import Addends, Epilogue, Scatter
from nbconv.kernels.recurrent_params import Recurrence, Sequences, States
from nbconv.kernels.recurrent_params import Results as Outputs
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.gemm import packed
from nbconv.lowering.gemm.problem import GemmProblem, Operand, Operands
from nbconv.lowering.gemm.steps import Factors, Results, gemm
from nbconv.lowering.packing import ceil
from nbconv.lowering.step import Work

Groups = tuple[tuple[int, ...], ...]


class Problem(NamedTuple):
    """A recurrent network: ``groups`` are the gates that its kernel computes together."""

    steps: int
    batch: int
    inputs: int
    hidden: int
    ways: int
    groups: Groups
    lanes: int

    @property
    def gates(self) -> int:
        return sum(len(group) for group in self.groups)

    @property
    def panels(self) -> int:
        return ceil(self.hidden, self.lanes)

    @property
    def columns(self) -> int:
        """Of one direction, whole vectors of each gate."""
        return self.gates * self.panels * self.lanes

    @property
    def key(self) -> str:
        return f"#recurrent{self.lanes}.{'.'.join(''.join(map(str, group)) for group in self.groups)}"

    def rows(self, group: tuple[int, ...]) -> np.ndarray:
        """(panels · gates · lanes): which row of the weights each column of the panels is; the count of rows, past the last,
        for none."""
        unit = np.arange(self.panels * self.lanes).reshape(self.panels, 1, self.lanes)
        row = np.array(group).reshape(1, -1, 1) * self.hidden + unit
        return np.where(unit < self.hidden, row, self.gates * self.hidden).reshape(-1)

    def dealt(self, w: np.ndarray) -> np.ndarray:
        """(ways, gates · hidden, …) → (ways, columns, …)."""
        wide = np.concatenate([w, np.zeros_like(w[:, :1])], 1)
        return wide[:, np.concatenate([self.rows(group) for group in self.groups])]

    def panelled(self, r: np.ndarray) -> np.ndarray:
        """R (ways, gates · hidden, hidden) as the kernels want it."""
        wide = np.concatenate([r, np.zeros_like(r[:, :1])], 1)
        parts = [
            wide[:, self.rows(group)].reshape(self.ways, self.panels, -1, self.hidden).swapaxes(2, 3).reshape(self.ways, -1)
            for group in self.groups
        ]
        return np.ascontiguousarray(np.concatenate(parts, 1)).reshape(-1)


class Kind(NamedTuple):
    """What a kernel is told of the cell, see `nbconv.kernels.recurrent_params.Sequences`."""

    reverse: int
    flag: int
    clip: float
    hard: int
    alpha: float
    beta: float
    relu: int
    rounded: int = 0


class Stored(NamedTuple):
    """What gives W and R as ONNX's operators have them, where the node has them otherwise, both constants; ``key`` says of
    what else they are made than inputs 1 and 2."""

    w: Callable[[], np.ndarray]
    r: Callable[[], np.ndarray]
    key: str


def lower(to: Lowering, kernel: str, groups: Groups, kind: Kind, stored: Stored | None = None) -> None:
    """The steps of an RNN, GRU or LSTM, whose inputs are ONNX's, W and R perhaps ``stored``."""
    p = problem(to, groups)
    y, *lasts = outputs(to)
    forward(to, p, kernel, kind, Outputs(y or to.floats(p.steps * p.ways * p.batch * p.hidden), *lasts), stored=stored)


def problem(to: Lowering, groups: Groups) -> Problem:
    """Of the node that is lowered."""
    (steps, batch, inputs), (ways, *sides) = to.inputs[0].shape, to.inputs[2].shape
    return Problem(steps, batch, inputs, min(sides), ways, groups, to.target.lanes)


def forward(
    to: Lowering,
    p: Problem,
    kernel: str,
    kind: Kind,
    results: Outputs,
    tape: Ref | None = None,
    stored: Stored | None = None,
) -> None:
    """The steps to these results, and to the tape, where one is given."""
    steps, batch, hidden, ways = p.steps, p.batch, p.hidden, p.ways
    x = to.input(0)
    if kind.rounded:
        x = to.floats(to.inputs[0].size)
        to.step("recurrent.rounded", 1, work=16 * to.inputs[0].size, x=to.input(0), y=x, n=to.inputs[0].size)
    added = product(to, p, x, stored)
    rows = most_rows(to, p)
    lengths = to.input(4) if to.has(4) else None
    (h, way, row), (c, c_way, c_row) = state(to, p, 5), state(to, p, 6)
    more: dict[str, Any] = {"tape": tape} if tape else {}
    if kernel in ("lstm", "gru_reset"):
        more["cells"] = to.floats(ways * batch * p.panels * p.lanes * (1 if kernel == "lstm" and not kind.rounded else 2))
    arithmetic = 2 * steps * batch * ways * p.gates * hidden * hidden
    to.step(
        f"recurrent.{kernel}" + ("_taped" if tape else ""),
        ways * ceil(batch, rows),
        work=arithmetic,
        writes=("results.y", "results.h", "results.c", "cells", "tape"),
        x=added,
        weights=Recurrence(recurrence(to, p, stored), bias(to, p), to.input(7) if to.has(7) else None),
        lengths=lengths,
        states=States(h, c, way, row, c_way, c_row),
        **more,
        results=results,
        sizes=Sequences(steps, batch, hidden, ways, rows, *kind),
        algorithm=lambda: f"recurrence, {rows} sequences a unit",
        does=Work(arithmetic, arithmetic, FLOAT32.itemsize * sum(spec.size for spec in to.outputs)),
    )


def most_rows(to: Lowering, p: Problem) -> int:
    """Sequences of a unit: one where each has a length of its own, else as many as the kernel takes or little less, so that
    units are of one size; four sequences and more are two units."""
    if to.has(4):
        return 1
    units = max(ceil(p.batch, 6 if to.target.registers >= 32 else 2), 1 if p.ways > 1 or p.batch < 4 else 2)
    return ceil(p.batch, units)


def outputs(to: Lowering) -> list[Ref | None]:
    """Where Y, Y_h and Y_c go, None where they are not wanted."""
    found: list[Ref | None] = [None] * 3
    named = 0
    for slot, name in enumerate(to.node.outputs):
        if name:
            found[slot], named = to.output(named), named + 1
    return found


def state(to: Lowering, p: Problem, i: int) -> tuple[Ref, int, int]:
    """A state before the first step, from input i or 0: where it lies, floats from one direction to the next, and from one
    sequence to the next."""
    if to.has(i):
        return to.input(i), p.batch * p.hidden, p.hidden
    return to.zeros(p.hidden), 0, 0


def product(to: Lowering, p: Problem, x: Ref, stored: Stored | None) -> Ref:
    """The step that makes W·x and W's bias of all steps: (steps, batch, ways, columns)."""
    m, k, n = p.steps * p.batch, p.inputs, p.ways * p.columns
    w, name = to.inputs[1], to.node.inputs[1]

    def array() -> np.ndarray:
        return p.dealt(stored.w() if stored else to.value(1)).reshape(n, k)

    ref = Ref(name) if w.constant else dealt(to, p, to.input(1), p.inputs, p.gates * p.hidden * p.inputs)
    b = Operand(ref, f"{name}{p.key}{stored.key if stored else ''}", bool(w.constant), array)
    c = None
    if to.has(3):
        given = to.inputs[3]
        ref = Ref(to.node.inputs[3]) if given.constant else dealt(to, p, to.input(3), 1, given.shape[1])
        c = Operand(ref, f"{to.node.inputs[3]}{p.key}.w", bool(given.constant), partial(_bias, to, p, 0))
    problem = GemmProblem("float32", 1, m, k, n, False, True, 0, 0, b.constant, to.target, to.scratch_limit)
    operands = Operands(x, b, c)
    y = to.floats(m * n)
    addends = Addends(packed.bias(to, problem, operands))
    wanted = Results(m, n, 1, False, y, n, m * n, addends, Epilogue(), (1, m), Scatter(1, m))
    gemm(to, packed.uncut(problem), wanted, Factors(k, operands.a, k, 0, packed.packed(to, problem, operands), 0))
    return y


def _bias(to: Lowering, p: Problem, part: int) -> np.ndarray:
    """W's bias (part 0) or R's."""
    rows = p.gates * p.hidden
    return p.dealt(to.value(3)[:, part * rows : (part + 1) * rows]).reshape(-1)


def bias(to: Lowering, p: Problem) -> Ref:
    """R's bias as its panels have it."""
    if not to.has(3):
        return to.zeros(p.ways * p.columns)
    if to.inputs[3].constant:
        return to.constant(f"{to.node.inputs[3]}{p.key}.r", partial(_bias, to, p, 1))
    return dealt(to, p, to.input(3).at(p.gates * p.hidden), 1, to.inputs[3].shape[1])


def recurrence(to: Lowering, p: Problem, stored: Stored | None) -> Ref:
    """R in panels."""
    if stored:
        return to.constant(f"{to.node.inputs[2]}{p.key}{stored.key}", lambda: p.panelled(stored.r()))
    if to.inputs[2].constant:
        return to.constant(f"{to.node.inputs[2]}{p.key}", lambda: p.panelled(to.value(2)))
    r, hidden, lanes, size = to.input(2), p.hidden, p.lanes, p.columns * p.hidden
    y = to.floats(p.ways * size)
    if hidden % lanes:
        to.fill(y, p.ways * size)
    way, base = p.gates * hidden * hidden, 0
    full, rest = divmod(hidden, lanes)
    for group in p.groups:
        wide = len(group) * lanes
        for v, gate in enumerate(group):
            source, target = r.at(gate * hidden * hidden), y.at(base * hidden + v * lanes)
            if full:
                strides = (way, lanes * hidden, hidden, 1), (size, hidden * wide, 1, wide)
                to.copy(source, target, (p.ways, full, lanes, hidden), *strides)
            if rest:
                source, target = source.at(full * lanes * hidden), target.at(full * hidden * wide)
                to.copy(source, target, (p.ways, rest, hidden), (way, hidden, 1), (size, 1, wide))
        base += p.panels * wide
    return y


def dealt(to: Lowering, p: Problem, source: Ref, inner: int, way: int) -> Ref:
    """What `Problem.dealt` makes, of rows of so many elements, by steps; the directions lie ``way`` elements apart."""
    size, (full, rest), base = p.columns * inner, divmod(p.hidden, p.lanes), 0
    y = to.floats(p.ways * size)
    if rest:
        to.fill(y, p.ways * size)
    for group in p.groups:
        wide = len(group) * p.lanes * inner
        for v, gate in enumerate(group):
            x, part = source.at(gate * p.hidden * inner), y.at(base + v * p.lanes * inner)
            if full:
                line = p.lanes * inner
                to.copy(x, part, (p.ways, full, line), (way, line, 1), (size, wide, 1))
            if rest:
                x, part = x.at(full * p.lanes * inner), part.at(full * wide)
                to.copy(x, part, (p.ways, rest * inner), (way, 1), (size, 1))
        base += p.panels * wide
    return y
