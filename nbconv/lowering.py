"""What an op's `lower` works with: its Specs, where its values lie, and the steps it emits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbconv.graph import Node, Spec

if TYPE_CHECKING:
    from nbconv.kernels.target import Target
    from nbconv.ops.op import Epilogue, Op

WORK = 1 << 16
"""Work (about one floating-point operation, or a quarter byte moved, each) that is worth claiming at a time."""


class Ref(NamedTuple):
    """An address in a plan: a value's or a constant's memory, ``offset`` bytes in."""

    name: str
    offset: int = 0

    def at(self, elements: int) -> Ref:
        """The address of the float32 that lies this many further."""
        return Ref(self.name, self.offset + 4 * elements)


class Step(NamedTuple):
    """One kernel call of a plan, or (``kernel`` "") one op that NumPy runs."""

    node: Node
    kernel: str
    units: int
    chunk: int
    arguments: dict[str, int | float | Ref | None]


class Weights:
    """Constants derived from a model's constants (folded, packed), made once and shared by all its plans."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, made now if it is new. Two threads may both make it; one array stays."""
        found = self.arrays.get(key)
        if found is None:
            found = self.arrays.setdefault(key, make())
        return found

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays.values())


class Lowering:
    """One node on its way to steps. Values of rank ≥ 3 may lie channels last; `shape` and `strides` say how."""

    def __init__(
        self, node: Node, op: Op, inputs: tuple[Spec | None, ...], outputs: tuple[Spec, ...], last: dict[str, bool],
        constants: dict[str, np.ndarray], weights: Weights, target: Target,
    ) -> None:  # fmt: skip
        from nbconv.ops.op import Epilogue

        self.node, self.op, self.inputs, self.outputs = node, op, inputs, outputs
        self.target = target
        self.epilogue: Epilogue = Epilogue()
        self.residual: int | None = None
        self.steps: list[Step] = []
        self.aliases: dict[str, str] = {}
        self.scratches: dict[str, int] = {}
        self._last, self._constants, self._weights = last, constants, weights

    @property
    def columns(self) -> int:
        """Columns of a full panel of packed weights."""
        return self.target.lanes * self.target.vectors

    def last(self, name: str) -> bool:
        """Whether a value lies channels last."""
        return self._last.get(name, False)

    def shape(self, i: int) -> tuple[int, ...]:
        """Input i's dimensions in the order in which they lie."""
        spec = self.inputs[i]
        assert spec is not None
        return physical(spec.shape, self.last(self.node.inputs[i]))

    def out_shape(self, i: int = 0) -> tuple[int, ...]:
        """Output i's dimensions in the order in which they lie."""
        return physical(self.outputs[i].shape, self.last(self.node.outputs[i]))

    def strides(self, i: int) -> tuple[int, ...]:
        """Element strides of input i, one for each dimension of its logical shape."""
        spec = self.inputs[i]
        assert spec is not None
        return strides(spec.shape, self.last(self.node.inputs[i]))

    def out_strides(self, i: int = 0) -> tuple[int, ...]:
        """Element strides of output i, one for each dimension of its logical shape."""
        return strides(self.outputs[i].shape, self.last(self.node.outputs[i]))

    def value(self, i: int) -> np.ndarray | None:
        """Input i's array where it is a constant (in its logical shape)."""
        return self._constants.get(self.node.inputs[i]) if i < len(self.node.inputs) else None

    def input(self, i: int) -> Ref | None:
        """Where input i lies; None when it was left out."""
        if i >= len(self.node.inputs) or not self.node.inputs[i]:
            return None
        return Ref(self.node.inputs[i])

    def output(self, i: int = 0) -> Ref:
        return Ref(self.node.outputs[i])

    def constant(self, key: str, make: Callable[[], np.ndarray]) -> Ref:
        """A constant that this op derives; ``key`` must say all that it depends on (names of constants, geometry)."""
        self._constants[key] = self._weights.get(key, make)
        return Ref(key)

    def scratch(self, nbytes: int) -> Ref:
        """Memory for this node's steps alone."""
        name = f"{self.node.outputs[0]}#scratch{len(self.scratches)}"
        self.scratches[name] = nbytes
        return Ref(name)

    def alias(self, output: int = 0, input: int = 0) -> None:
        """The output is the input's memory under another shape: no step."""
        self.aliases[self.node.outputs[output]] = self.node.inputs[input]

    def step(self, kernel: str, units: int, *, work: int, **arguments: int | float | Ref | None) -> None:
        """Emit ``family.kernel`` over this many units. ``work`` is the step's in all: flops, or four a byte moved."""
        if units <= 0:
            return
        chunk = min(units, max(1, -(-WORK * units // max(work, 1))))
        self.steps.append(Step(self.node, kernel, units, chunk, arguments))


def physical(shape: tuple[int, ...], last: bool) -> tuple[int, ...]:
    """(n, c, *size) → (n, *size, c) when ``last``."""
    return (shape[0], *shape[2:], shape[1]) if last else tuple(shape)


def strides(shape: tuple[int, ...], last: bool) -> tuple[int, ...]:
    """Element strides for each logical dimension."""
    lying, step = [], 1
    for d in reversed(physical(shape, last)):
        lying.append(step)
        step *= d
    lying.reverse()
    return (lying[0], lying[-1], *lying[1:-1]) if last else tuple(lying)
