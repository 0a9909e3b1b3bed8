"""Control flow: ops that hold graphs and run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import OBJECT, Graph, Spec, bodies, spec_of
from nbconv.graph import infer as want
from nbconv.graph.infer import BOOL, INT64
from nbconv.graph.op import Op

Run = Callable[[str, list[Any]], list[Any]]
"""Runs the body of this attribute on these values of its own inputs."""


class Turns(NamedTuple):
    """How a loop goes whose body gives values of the same shapes in each turn."""

    given: tuple[Spec, ...]
    """of the body's own inputs, with values that are the same in all turns"""
    made: tuple[Spec, ...]
    """of its outputs"""
    carried: int
    """how many values each turn hands to the next"""
    number: int | None
    """how many turns there are; None: as many as a run finds"""
    looped: bool
    """whether the number of the turn and a condition come first of the inputs, a condition of the outputs"""
    reads: tuple[tuple[int, int], ...] = ()
    """(axis, whether from the end) of what a turn reads a slice of, the last of the inputs"""
    writes: tuple[tuple[int, int], ...] = ()
    """the same of what it writes a slice of, the last of the outputs"""


class Control(Op, abstract=True):
    """An op that runs its bodies: ``interpret`` says how."""

    pure = False
    own: ClassVar[int] = 0
    """Inputs of its own that come before those that are any number: given or left out, they have their places."""

    def named(self, inputs: tuple) -> dict[str, Any]:
        """What the bodies read around them, the last of the inputs, by the names that they have for it."""
        names = bodies.captured(self.bodies().values())
        if len(names) > len(inputs):
            raise ModelError(f"its bodies read {', '.join(names)} around them, {len(inputs)} values are given")
        return dict(zip(names, inputs[len(inputs) - len(names) :], strict=True))

    def done(self, inputs: tuple[Spec | None, ...], why: str) -> tuple[Spec, ...]:
        """The outputs' Specs, where all inputs are known; else a DataDependentError that says why."""
        if any(spec is not None and spec.value is None for spec in inputs):
            raise DataDependentError(why)
        found = self.reference(*(spec and spec.value for spec in inputs))
        return tuple(Spec(np.shape(y), np.asarray(y).dtype) for y in found)

    def reference(self, *inputs: Any) -> tuple[Any, ...]:
        around = self.named(inputs)

        def run(which: str, feeds: list[Any]) -> list[Any]:
            body = self.bodies()[which]
            return bodies.run(body, {**around, **dict(zip(body.inputs, feeds, strict=True))})

        return tuple(self.interpret(list(inputs[: len(inputs) - len(around)]), run))


class Repeated(Control, abstract=True):
    """An op that runs its body in turns."""

    control = "repeat"

    body: Graph

    def _turn(self, given: Sequence[Spec], around: tuple[Spec, ...]) -> tuple[Spec, ...] | None:
        """The Specs of the body's outputs for these inputs of its own; None where they depend on values, or where the body
        refuses the inputs: it may then be that it never runs."""
        try:
            specs = bodies.infer(self.body, {**self.named(around), **dict(zip(self.body.inputs, given, strict=True))})
        except ModelError:
            return None
        found = tuple(specs[n] for n in self.body.outputs)
        return None if any(spec.dtype == OBJECT for spec in found) else found

    def turns(self, inputs: tuple[Spec | None, ...]) -> Turns | None:
        """How it goes for these inputs, where that is known before it runs."""
        raise NotImplementedError(self.type)

    def flops(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> int:
        """Of all turns; of one where their number is not known."""
        turns = self.turns(inputs)
        if turns is None:
            return 0
        around = self.named(inputs)
        return (1 if turns.number is None else turns.number) * _flops(
            self.body, {**around, **dict(zip(self.body.inputs, turns.given, strict=True))}
        )


class If(Control):
    """The outputs of one of two bodies."""

    control = "if"

    then_branch: Graph
    else_branch: Graph

    def infer(self, cond: Spec, *around: Spec) -> tuple[Spec, ...]:
        if cond.dtype != BOOL or cond.size != 1:
            raise ModelError(f"the condition is {cond}, wanted one bool")
        counts = [len(body.outputs) for body in self.bodies().values()]
        if counts[0] != counts[1]:
            raise ModelError(f"its branches have {counts[0]} and {counts[1]} outputs")
        if len(self.named(around)) != len(around):
            raise ModelError(f"takes one condition, {len(around) - len(self.named(around)) + 1} inputs are given")
        body = self.inlined((cond, *around))
        if body:
            return self._found(body, around)
        one, other = self._both(around)
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise DataDependentError(f"output {i} is {a} in then_branch, {b} in else_branch")
        return tuple(
            a if a.quantisation == b.quantisation else a._replace(quantisation=None) for a, b in zip(one, other, strict=True)
        )

    def _both(self, around: tuple[Spec, ...]) -> list[tuple[Spec, ...]]:
        """The outputs of each branch. One that is not for these shapes may be the one that is not taken: which is taken must
        then be known."""
        found, wrong = [], []
        for name in self.bodies():
            try:
                found.append(self._found(name, around))
            except DataDependentError:
                raise
            except ModelError as error:
                wrong.append(error)
        if found and wrong:
            raise DataDependentError(f"a branch cannot be taken with these shapes: {wrong[0]}")
        if wrong:
            raise wrong[0]
        return found

    def _found(self, name: str, around: tuple[Spec, ...]) -> tuple[Spec, ...]:
        """The Specs of a body's outputs."""
        body = self.bodies()[name]
        specs = bodies.infer(body, self.named(around))
        made = [specs[n] for n in body.outputs]
        return tuple(Spec(s.shape, s.dtype, quantisation=s.quantisation) for s in made)

    def inlined(self, inputs: tuple[Spec | None, ...]) -> str:
        value = inputs[0].value if inputs and inputs[0] is not None else None
        return "" if value is None else "then_branch" if value.reshape(()) else "else_branch"

    def interpret(self, inputs: list[Any], run: Run) -> list[Any]:
        return run("then_branch" if inputs[0].reshape(()) else "else_branch", [])

    def flops(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> int:
        """Of the branch that takes more."""
        return max(_flops(body, self.named(inputs[1:])) for body in self.bodies().values())


class Loop(Repeated):
    """Runs ``body`` (iteration, condition, *carried) → (condition, *carried, *scanned) while the condition holds, at most M
    times. Outputs: the carried values, then what was scanned, stacked along a new first axis."""

    own = 2

    body: Graph

    def infer(self, M: Spec | None, cond: Spec | None, *values: Spec) -> tuple[Spec, ...]:
        carried = len(values) - len(self.named(values))
        for name, spec in (("M", M), ("cond", cond)):
            if spec is not None and spec.size != 1:
                raise ModelError(f"{name} is {spec}, wanted one value")
        if len(self.body.inputs) != carried + 2 or len(self.body.outputs) < carried + 1:
            raise ModelError(
                f"its body has {len(self.body.inputs)} inputs and {len(self.body.outputs)} outputs, wanted "
                f"{carried + 2}, and {carried + 1} or more, for {carried} carried values"
            )
        turns = self.turns((M, cond, *values))
        if turns is None:
            return self.done((M, cond, *values), "how often its body runs is known while it runs")
        rows = turns.made[1 + carried :]
        if rows and turns.number is None:
            raise DataDependentError("how often its body runs is known while it runs")
        return (*turns.given[2:], *(self._stacked(turns, i) for i in range(len(rows))))

    def _stacked(self, turns: Turns, i: int) -> Spec:
        """The Spec of what was scanned, the i-th of such."""
        row, declared = turns.made[1 + turns.carried + i], [*self.body.outputs.values()][1 + turns.carried + i]
        if not turns.number:
            empty = stacked([], declared)
            return Spec(empty.shape, empty.dtype)
        return want.make((turns.number, *row.shape), row.dtype)

    def turns(self, inputs: tuple[Spec | None, ...]) -> Turns | None:
        M, cond, *values = inputs
        count = len(values) - len(bodies.captured([self.body]))
        states = tuple(Spec(s.shape, s.dtype) for s in values[:count] if s is not None)
        given = (Spec((), INT64), spec_of(np.array(True)), *states)
        made = self._turn(given, tuple(values[count:]))  # type: ignore[arg-type]
        if made is None or made[0].dtype != BOOL or made[0].size != 1:
            return None
        if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(states, made[1:], strict=False)):
            return None
        again = made[0].value
        most = None if M is None or M.value is None else int(M.value.reshape(()))
        going = cond is None or (None if cond.value is None else bool(cond.value.reshape(())))
        number = None
        if going is False:
            number = 0
        elif going and again is not None and most is not None:
            number = max(0, most if again.reshape(()) else min(most, 1))
        return Turns(given, made, count, number, True, (), ((0, 0),) * (len(made) - 1 - count))

    def interpret(self, inputs: list[Any], run: Run) -> list[Any]:
        most, cond, *carried = (*inputs, None, None)[: max(2, len(inputs))]
        most = None if most is None else int(most.reshape(()))
        scanned: list[list[np.ndarray]] = [[] for _ in range(len(self.body.outputs) - 1 - len(carried))]
        i, going = 0, cond is None or bool(cond.reshape(()))
        while going and (most is None or i < most):
            again, *found = run("body", [np.array(i, np.int64), np.array(True), *carried])
            carried, new = found[: len(carried)], found[len(carried) :]
            for kept, value in zip(scanned, new, strict=True):
                kept.append(np.array(value))
            i, going = i + 1, bool(again.reshape(()))
        specs = [*self.body.outputs.values()][1 + len(carried) :]
        return [*carried, *(stacked(kept, spec) for kept, spec in zip(scanned, specs, strict=True))]


class Scan(Repeated):
    """Runs ``body`` (*states, *slices) → (*states, *scanned) for each slice of the last ``num_scan_inputs`` inputs along
    their axes. Outputs: the last states, then what was scanned, stacked."""

    body: Graph
    num_scan_inputs: int
    scan_input_axes: tuple[int, ...] | None = None
    scan_input_directions: tuple[int, ...] | None = None
    scan_output_axes: tuple[int, ...] | None = None
    scan_output_directions: tuple[int, ...] | None = None

    def infer(self, *values: Spec) -> tuple[Spec, ...]:
        given = values[: len(values) - len(self.named(values))]
        states = len(given) - self.num_scan_inputs
        if not 1 <= self.num_scan_inputs <= len(given) or len(self.body.inputs) != len(given):
            raise ModelError(
                f"{len(given)} inputs of which {self.num_scan_inputs} are scanned, its body has {len(self.body.inputs)}"
            )
        axes, _ = self._ways(self.scan_input_axes, self.scan_input_directions, self.num_scan_inputs, "input")
        sizes = {spec.shape[want.axis(a, spec.rank, "scan_input_axes entry")] for spec, a in
                 zip(given[states:], axes, strict=True)}  # fmt: skip
        if len(sizes) > 1:
            raise ModelError(f"the scanned inputs have {sorted(sizes)} slices, wanted one number")
        turns = self.turns(values)
        if turns is None:
            return self.done(values, "its body runs for each slice")
        rows = []
        for row, (axis, _), declared in zip(
            turns.made[states:], turns.writes, [*self.body.outputs.values()][states:], strict=True
        ):
            if not turns.number:
                row = Spec(stacked([], declared).shape[1:], stacked([], declared).dtype)
            rows.append(want.make((*row.shape[:axis], turns.number or 0, *row.shape[axis:]), row.dtype))
        return (*turns.given[:states], *rows)

    def turns(self, inputs: tuple[Spec | None, ...]) -> Turns | None:
        own = len(inputs) - len(bodies.captured([self.body]))
        states = own - self.num_scan_inputs
        axes, back = self._ways(self.scan_input_axes, self.scan_input_directions, self.num_scan_inputs, "input")
        specs = [spec for spec in inputs[:own] if spec is not None]
        reads = [(want.axis(a, s.rank), d) for a, d, s in zip(axes, back, specs[states:], strict=True)]
        slices = [(*s.shape[:a], *s.shape[a + 1 :]) for s, (a, _) in zip(specs[states:], reads, strict=True)]
        given = [Spec(s.shape, s.dtype) for s in specs[:states]]
        given += [Spec(shape, s.dtype) for shape, s in zip(slices, specs[states:], strict=True)]
        made = self._turn(given, inputs[own:])  # type: ignore[arg-type]
        if made is None or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(given[:states], made, strict=False)):
            return None
        axes, back = self._ways(self.scan_output_axes, self.scan_output_directions, len(made) - states, "output")
        places = [want.axis(a, s.rank + 1, "scan_output_axes entry") for a, s in zip(axes, made[states:], strict=True)]
        count = specs[states].shape[reads[0][0]]
        return Turns(tuple(given), made, states, count, False, tuple(reads), tuple(zip(places, back, strict=True)))

    @staticmethod
    def _ways(axes: Sequence[int] | None, directions: Sequence[int] | None, count: int, what: str) -> tuple:
        """Axes and directions of so many scanned values, 0 where they are not given."""
        for name, values in ((f"scan_{what}_axes", axes), (f"scan_{what}_directions", directions)):
            if values is not None and len(values) != count:
                raise ModelError(f"{name} has {len(values)} entries for {count} values")
        return axes or (0,) * count, directions or (0,) * count

    def interpret(self, inputs: list[Any], run: Run) -> list[Any]:
        count = self.num_scan_inputs
        states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
        axes, directions = self._ways(self.scan_input_axes, self.scan_input_directions, count, "input")
        slices = [np.moveaxis(x, a, 0)[:: -1 if d else 1] for x, a, d in zip(scanned, axes, directions, strict=True)]
        kept: list[list[np.ndarray]] = [[] for _ in range(len(self.body.outputs) - len(states))]
        for parts in zip(*slices, strict=True):
            found = run("body", [*states, *(np.array(p, order="C") for p in parts)])
            states = found[: len(states)]
            for rows, value in zip(kept, found[len(states) :], strict=True):
                rows.append(np.array(value))
        axes, directions = self._ways(self.scan_output_axes, self.scan_output_directions, len(kept), "output")
        specs = [*self.body.outputs.values()][len(states) :]
        done = [stacked(r[:: -1 if d else 1], s) for r, s, d in zip(kept, specs, directions, strict=True)]
        return [*states, *(np.ascontiguousarray(np.moveaxis(y, 0, a)) for y, a in zip(done, axes, strict=True))]


class BatchedScan(Control):
    """Scan of opset 8: over samples, along their first axis, and for each along the next one, as far as its length says.
    What was scanned has zeros beyond."""

    domain = "nbconv"
    own = 1

    body: Graph
    num_scan_inputs: int
    directions: tuple[int, ...] | None = None

    def infer(self, lengths: Spec | None, *values: Spec) -> tuple[Spec, ...]:
        given = values[: len(values) - len(self.named(values))]
        if not 1 <= self.num_scan_inputs <= len(given) or len(self.body.inputs) != len(given):
            raise ModelError(
                f"{len(given)} inputs of which {self.num_scan_inputs} are scanned, its body has {len(self.body.inputs)}"
            )
        if any(spec.rank < 1 for spec in given) or any(spec.rank < 2 for spec in given[-self.num_scan_inputs :]):
            raise ModelError(
                f"its inputs are {', '.join(map(str, given))}: wanted a batch, and a sequence of what is scanned"
            )
        batch = {spec.shape[0] for spec in given}
        if len(batch) > 1:
            raise ModelError(f"its inputs are {', '.join(map(str, given))}: wanted one size of the batch")
        steps = {spec.shape[1] for spec in given[-self.num_scan_inputs :]}
        if len(steps) > 1:
            raise ModelError(f"the scanned inputs have {sorted(steps)} steps, wanted one number")
        if lengths is not None:
            want.kind("i", sequence_lens=lengths)
            want.vector(batch.pop(), f"a batch of {given[-1]}", sequence_lens=lengths)
        return self.done((lengths, *values), "its body runs for each slice")

    def interpret(self, inputs: list[Any], run: Run) -> list[Any]:
        lengths, *values = inputs
        states = len(values) - self.num_scan_inputs
        scan = Scan(body=self.body, num_scan_inputs=self.num_scan_inputs, scan_input_directions=self.directions)
        most = values[states].shape[1]
        rows = []
        for i in range(values[states].shape[0]):
            length = most if lengths is None else int(lengths[i])
            if not 0 <= length <= most:
                raise ModelError(f"sequence {i} has length {length} of {most}")
            found = scan.interpret([*(v[i] for v in values[:states]), *(v[i, :length] for v in values[states:])], run)
            padded = [np.concatenate([y, np.zeros((most - length, *y.shape[1:]), y.dtype)]) for y in found[states:]]
            rows.append([*found[:states], *padded])
        return [np.stack(column) for column in zip(*rows, strict=True)]


class SequenceMap(Control):
    """The results of ``body`` for each element of a sequence, with the elements of others, or with a tensor as it is:
    sequences."""

    body: Graph

    def infer(self, *values: Spec | None) -> tuple[Spec, ...]:
        raise DataDependentError("how often its body runs is known while it runs")

    def interpret(self, inputs: list[Any], run: Run) -> list[Any]:
        first, *others = inputs
        lengths = {len(x) for x in others if isinstance(x, list)}
        if not isinstance(first, list) or lengths > {len(first)}:
            raise ModelError(f"its sequences have {sorted({*lengths, len(first)})} elements, wanted one number")
        rows = [run("body", [x, *(o[i] if isinstance(o, list) else o for o in others)]) for i, x in enumerate(first)]
        return [[row[k] for row in rows] for k in range(len(self.body.outputs))]


def _flops(body: Graph, given: dict[str, Spec]) -> int:
    """Of a body once, for these Specs of what it reads."""
    specs = bodies.infer(body, given)
    return sum(
        node.op.flops(tuple(specs[n] if n else None for n in node.inputs), tuple(specs[n] for n in node.outputs if n))
        for node in body.nodes
    )


def stacked(parts: list[np.ndarray], spec: Spec | None) -> np.ndarray:
    """Values of one shape along a new first axis; ``spec``: what the body declares, for none."""
    if parts:
        shapes = {p.shape for p in parts}
        if len(shapes) > 1:
            raise ModelError(f"scanned values have shapes {' and '.join(str(list(s)) for s in sorted(shapes))}")
        return np.stack(parts)
    shape = () if spec is None else tuple(d if isinstance(d, int) else 0 for d in spec.shape)
    return np.zeros((0, *shape), np.float32 if spec is None else spec.dtype)
