"""A step that runs one program in turns: Loop and Scan whose body gives the same shapes each turn.

What a turn makes is written where the next one reads it, and what is scanned where it stays: nothing is copied between
turns, only addresses change.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbconv.plan.host import Binding
from nbconv.plan.program import Program


class Carried(NamedTuple):
    """A value that each turn hands to the next: the body's input of this name and its result of this number."""

    name: str
    result: int
    first: Binding
    """what the first turn reads"""
    last: Binding
    """where the last turn's value is wanted"""
    other: Binding
    """where that of every other turn lies"""


class Scanned(NamedTuple):
    """An array of which each turn reads (``key`` is the body's input) or writes (``key`` is the number of its result) one
    slice along ``axis``, from the end where ``backwards``. ``part``: where the body has it, if slices do not lie in one
    piece."""

    key: str | int
    whole: Binding
    axis: int
    backwards: bool
    part: Binding | None


class RepeatStep:
    """Runs ``program`` in turns, of which there are ``count``, or, where that is None, ``most`` (none: any number) while the
    body's result ``again`` holds.

    ``around``: the program's inputs that are the same in all turns. ``start``: whether there is a first turn; ``number``:
    the name and the memory of the input that counts turns; ``again``: the number and the memory of the result.
    """

    def __init__(
        self, program: Program, around: dict[str, Binding], arena: Binding, carried: list[Carried], scanned: list[Scanned],
        count: int | None = None, most: Binding | None = None, start: Binding | None = None,
        number: tuple[str, Binding] | None = None, again: tuple[int, Binding] | None = None,
    ) -> None:  # fmt: skip
        self.program, self.around, self.arena, self.carried, self.scanned = program, around, arena, carried, scanned
        self.count, self.most, self.start, self.number, self.again = count, most, start, number, again

    @property
    def bodies(self) -> list[RepeatStep]:
        """What has the program that it runs: itself."""
        return [self]

    @property
    def portable(self) -> bool:
        """Whether another process can make its body again."""
        return self.program.portable

    def run(self, space: Any, threads: int) -> None:
        with space.inner((id(self), 0), self.program, self.arena) as inner:
            _Run(self, space, inner).go(self._turns(space), threads)

    def _turns(self, space: Any) -> float:
        """Turns that there are, at most."""
        if self.count is not None:
            return self.count
        if self.start is not None and not self.start.array(space).reshape(-1)[0]:
            return 0
        return float("inf") if self.most is None else int(self.most.array(space).reshape(-1)[0])

    def encode(self, tables: list[np.ndarray]) -> dict[str, Any]:
        def several(*values: Any) -> list:
            return [v.encode() if isinstance(v, Binding) else v for v in values]

        return {
            "turns": self.count, "body": self.program.encode(tables), "arena": self.arena.encode(),
            "around": {n: b.encode() for n, b in self.around.items()},
            "carried": [several(*c) for c in self.carried], "scanned": [several(*s) for s in self.scanned],
            "most": several(self.most), "start": several(self.start),
            "number": self.number and several(*self.number), "again": self.again and several(*self.again),
        }  # fmt: skip

    @classmethod
    def decode(cls, kept: dict[str, Any], body: Program, outer: Program) -> RepeatStep:
        """`encode` undone, with its body's program, for a step of ``outer``; ValueError, TypeError and their like for what
        does not fit."""

        def binding(value: Any) -> Binding | None:
            return None if value is None else Binding.decode(value, outer)

        def sure(value: Any) -> Binding:
            return Binding.decode(value, outer)

        carried = [Carried(n, k, *map(sure, rest)) for n, k, *rest in kept["carried"]]
        scanned = [Scanned(k, sure(w), axis, bool(back), binding(part)) for k, w, axis, back, part in kept["scanned"]]
        most, start = binding(*kept["most"]), binding(*kept["start"])
        number, again = (v and (v[0], sure(v[1])) for v in (kept["number"], kept["again"]))
        around = {n: sure(b) for n, b in kept["around"].items()}
        step = cls(body, around, sure(kept["arena"]), carried, scanned, kept["turns"], most, start, number, again)
        step._check()
        return step

    def _check(self) -> None:
        """ValueError where the parts do not fit each other."""
        program, count = self.program, self.count
        given = [*self.around, *(c.name for c in self.carried), *(s.key for s in self.scanned if type(s.key) is str)]
        given += [self.number[0]] if self.number else []
        made = [c.result for c in self.carried] + [s.key for s in self.scanned if type(s.key) is int]
        made += [self.again[0]] if self.again else []
        if sorted(given) != sorted(program.inputs) or sorted(made) != list(range(len(program.results))):
            raise ValueError("a body that does not fit the step")
        if self.arena.kind != "arena" or self.arena.dtype != np.uint8 or program.arena > self.arena.nbytes:
            raise ValueError(f"a body in {self.arena}")
        if self.scanned if count is None else type(count) is not int or count < 0:
            raise ValueError(f"{count} turns")
        written = [(c.result, (c.first, c.last, c.other)) for c in self.carried]
        written += [(self.again[0], (self.again[1],))] if self.again else []
        for result, places in written:
            spec = program.spec(result)
            if any((b.shape, b.dtype) != (spec.shape, spec.dtype) for b in places):
                raise ValueError("a body's result that does not fit the value")
            if not all(b.writable for b in places[-2:]):
                raise ValueError("a body's result in what is not the step's own")
        for one in self.scanned:
            self._check_scanned(one)
        for value, kind in ((self.most, "i"), (self.start, "b"), (self.number and self.number[1], "i")):
            if value is not None and (value.dtype.kind != kind or value.nbytes != value.dtype.itemsize):
                raise ValueError(f"{value} for one number")
        if self.number and not self.number[1].writable:
            raise ValueError("a number in what is not the step's own")
        if self.again and (self.again[1].dtype != np.bool_ or self.again[1].nbytes != 1):
            raise ValueError("a condition that is none")

    def _check_scanned(self, one: Scanned) -> None:
        shape = list(one.whole.shape)
        if type(one.axis) is not int or not 0 <= one.axis < len(shape) or shape.pop(one.axis) != self.count:
            raise ValueError(f"slices along axis {one.axis} of {one.whole}")
        written = type(one.key) is int
        part = one.part or one.whole._replace(shape=tuple(shape))
        if (one.part is None and one.axis) or (part.shape, part.dtype) != (tuple(shape), one.whole.dtype):
            raise ValueError(f"slices in {one.part}")
        if written:
            spec = self.program.spec(one.key)  # type: ignore[arg-type]
            if (spec.shape, spec.dtype) != (part.shape, part.dtype) or not one.whole.writable:
                raise ValueError("a body's result that does not fit the slices")
        if one.part is not None and not one.part.writable:
            raise ValueError("slices in what is not the step's own")


class _Run:
    """One execution of a step, in the workspace ``inner`` of its body."""

    def __init__(self, step: RepeatStep, space: Any, inner: Any) -> None:
        self.step, self.inner = step, inner
        self.first, self.last, self.other = (
            [getattr(c, k).array(space) for c in step.carried] for k in ("first", "last", "other")
        )
        self.feeds = {n: b.array(space) for n, b in step.around.items()}
        self.results: list[Any] = [None] * len(step.program.results)
        self.number = self.again = None
        if step.number:
            self.feeds[step.number[0]] = self.number = step.number[1].array(space)
        if step.again:
            self.results[step.again[0]] = again = step.again[1].array(space)
            self.again = again.reshape(-1)
        self.moving: list[tuple[str | int, np.ndarray]] = []
        """arrays whose slices a turn reads or writes where they lie"""
        self.reads: list[tuple[np.ndarray, np.ndarray]] = []
        self.writes: list[tuple[np.ndarray, np.ndarray]] = []
        """(slices, where the body has one), for what is copied"""
        for one in step.scanned:
            slices = np.moveaxis(one.whole.array(space), one.axis, 0)[:: -1 if one.backwards else 1]
            if one.part is None:
                self.moving.append((one.key, slices))
                continue
            part = one.part.array(space)
            if isinstance(one.key, int):
                self.results[one.key] = part
                self.writes.append((slices, part))
            else:
                self.feeds[one.key] = part
                self.reads.append((slices, part))
        program = step.program
        self.in_python = bool(program.host_steps or program.copies or program.checks)

    def go(self, count: float, threads: int) -> None:
        """So many turns, or until the condition fails."""
        if count <= 0:
            for first, last in zip(self.first, self.last, strict=True):
                np.copyto(last, first)
            return
        inner, again, steps = self.inner, self.again, len(self.step.program.table)
        known = again is None and count != float("inf")
        at = int(count) % 2 if known else 1  # the parity of turns that write to ``last``
        ends = (self.other, self.last) if at else (self.last, self.other)
        turn, bound = 0, {}
        while turn < count:
            if self.number is not None:
                self.number[...] = turn
            for slices, part in self.reads:
                np.copyto(part, slices[turn, ...])
            self._bind(turn, self.first if turn == 0 else ends[turn % 2], ends[(turn + 1) % 2], bound)
            inner.span(0, steps, threads)
            if self.in_python:
                inner.copy_out(inner.results)
            for slices, part in self.writes:
                np.copyto(slices[turn, ...], part)
            turn += 1
            if again is not None and not again[0]:
                break
        if ends[turn % 2] is not self.last:
            for last, other in zip(self.last, self.other, strict=True):
                np.copyto(last, other)

    def _bind(self, turn: int, read: list[np.ndarray], written: list[np.ndarray], bound: dict[int, tuple]) -> None:
        """Say where the turn finds its values. From the third turn on, addresses are those of two turns ago, and go on."""
        carried, inner = self.step.carried, self.inner
        if turn < 3:
            feeds = {**self.feeds, **{c.name: x for c, x in zip(carried, read, strict=True)}}
            results = [*self.results]
            for c, y in zip(carried, written, strict=True):
                results[c.result] = y
            for key, slices in self.moving:
                if isinstance(key, int):
                    results[key] = slices[turn, ...]
                else:
                    feeds[key] = slices[turn, ...]
            inner.bind(feeds, results)
            if turn:
                bound[turn % 2] = (*self._words(), feeds, results)
            return
        slots, values, steps, feeds, results = bound[turn % 2]
        if steps is not None:
            values += steps
        inner.words[slots] = values
        if self.in_python:
            for key, slices in self.moving:
                (results if isinstance(key, int) else feeds)[key] = slices[turn, ...]  # type: ignore[index,call-overload]
            inner.feeds, inner.results = feeds, results

    def _words(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The words that turns change, what they are now, and by how much they grow in two turns."""
        program = self.step.program
        carried = [program.input_moves.get(c.name, ()) for c in self.step.carried]
        carried += [program.result_moves.get(c.result, ()) for c in self.step.carried]
        slots = [i for moves in carried for i, _ in moves]
        steps = [0] * len(slots)
        for key, slices in self.moving:
            moves = (program.result_moves if isinstance(key, int) else program.input_moves).get(key, ())  # type: ignore[arg-type]
            slots += [i for i, _ in moves]
            steps += [2 * slices.strides[0]] * len(moves)
        where = np.array(slots, np.int64)
        return where, self.inner.words[where], np.array(steps, np.int64) if any(steps) else None
