"""Steps that run programs: control flow. A warm start imports this only for a program that has steps no kernel does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nbconv.plan.host import Binding, Check, HostStep
from nbconv.plan.program import Program
from nbconv.plan.repeat import RepeatStep


class Body(NamedTuple):
    """A program that a step of another runs: by its inputs' names and its results' numbers, the outer program's values."""

    program: Program
    inputs: dict[str, Binding]
    results: list[Binding]


class CallStep:
    """A step that runs other programs, its bodies.

    ``control``: how, the name of one of `CONTROLS`. ``operands``: the outer values that it works on itself, such as a
    condition. ``arena``: the part of the outer arena in which the bodies work, one at a time.
    """

    def __init__(self, control: str, bodies: list[Body], operands: list[Binding], arena: Binding) -> None:
        self.control, self.bodies, self.operands, self.arena = control, bodies, operands, arena

    def run(self, space: Any, threads: int) -> None:
        CONTROLS[self.control].run(Calls(self, space, threads))

    @property
    def portable(self) -> bool:
        """Whether another process can make its bodies again."""
        return all(body.program.portable for body in self.bodies)

    def encode(self, tables: list[np.ndarray]) -> dict[str, Any]:
        return {
            "control": self.control, "arena": self.arena.encode(), "operands": [b.encode() for b in self.operands],
            "bodies": [
                [b.program.encode(tables), {n: i.encode() for n, i in b.inputs.items()}, [r.encode() for r in b.results]]
                for b in self.bodies
            ],
        }  # fmt: skip

    @classmethod
    def decode(cls, kept: dict[str, Any], program: Program, words: np.ndarray) -> CallStep:
        arena = Binding.decode(kept["arena"], program)
        bodies = [_decode_body(body, program, arena, words) for body in kept["bodies"]]
        operands = [Binding.decode(b, program) for b in kept["operands"]]
        wanted = CONTROLS[kept["control"]]
        if (len(operands), len(bodies)) != wanted[1:] or arena.kind != "arena" or arena.dtype != np.uint8:
            raise ValueError(f"control {kept['control']!r} in {kept['arena']}")
        return cls(kept["control"], bodies, operands, arena)


def decode(head: dict[str, Any], words: np.ndarray) -> Program:
    """`Program.encode` undone, of all tables one behind the other; ValueError, TypeError and their like for what does not
    fit."""
    program = Program.decode(head, words)
    for i, kept in head["host_steps"]:
        if "control" in kept:
            program.host_steps[i] = CallStep.decode(kept, program, words)
        elif "turns" in kept:
            program.host_steps[i] = RepeatStep.decode(kept, decode(kept["body"], words), program)
        else:
            program.host_steps[i] = HostStep.decode(kept, program)
    copies = [(k, Binding.decode(binding, program)) for k, binding in head["copies"]]
    for k, binding in copies:
        if k < 0 or (program.spec(k).nbytes, program.spec(k).dtype) != (binding.nbytes, binding.dtype):
            raise ValueError(f"result {k} as a copy of {binding}")
    program.copies = copies
    program.checks = [Check.decode(kept, program) for kept in head["checks"]]
    ends = {0, *(end for _, end in program.segments)}
    if not all({i, i + 1} <= ends for i in program.host_steps):
        raise ValueError("a segment of what kernels do and others")
    return program


def _decode_body(kept: list, outer: Program, arena: Binding, words: np.ndarray) -> Body:
    head, inputs, results = kept
    program = decode(head, words)
    body = Body(
        program, {n: Binding.decode(b, outer) for n, b in inputs.items()}, [Binding.decode(b, outer) for b in results]
    )
    if program.arena > arena.nbytes or set(body.inputs) != set(program.inputs) or len(results) != len(program.results):
        raise ValueError("a body that does not fit the step")
    for k, binding in enumerate(body.results):
        spec = program.spec(k)
        if (spec.shape, spec.dtype) != (binding.shape, binding.dtype) or not binding.writable:
            raise ValueError("a body's result that does not fit the value")
    return body


class Calls:
    """One execution of a `CallStep`: what its control reads, and runs."""

    def __init__(self, step: CallStep, space: Any, threads: int) -> None:
        self.step, self.space, self.threads = step, space, threads

    def operand(self, i: int) -> np.ndarray:
        """The array of operand i."""
        return self.step.operands[i].array(self.space)

    def run(
        self, k: int, feeds: Mapping[str, np.ndarray] | None = None, results: Mapping[int, np.ndarray] | None = None
    ) -> None:
        """Run body k, on these arrays where they are given, such as those that a loop carries, else on the outer values."""
        body, feeds, results = self.step.bodies[k], feeds or {}, results or {}
        program, space = body.program, self.space
        given = {n: feeds[n] if n in feeds else body.inputs[n].array(space) for n in program.inputs}
        found = [results[i] if i in results else body.results[i].array(space) for i in range(len(program.results))]
        with space.inner((id(self.step), k), program, self.step.arena) as inner:
            inner.run(given, found, self.threads)


def choose(calls: Calls) -> None:
    """If: the first body where the one operand, a bool, holds, else the second."""
    calls.run(0 if calls.operand(0).reshape(-1)[0] else 1)


class Control(NamedTuple):
    """How a step runs its bodies, of which, and of operands, it has so many."""

    run: Callable[[Calls], None]
    operands: int
    bodies: int


CONTROLS = {"if": Control(choose, 1, 2)}
"""By the names that ops and files have for them."""
