"""Sums, means and extremes of any number of arrays, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, NUMPY, Op
from nbconv.lowering.context import Lowering, Operand
from nbconv.ops.pointwise import INTEGERS, Div, Mul, Same, broadcast_layout

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Nary(Op, abstract=True):
    """One or more arrays of one type, broadcast together, type unchanged. A subclass writes its ``formula``."""

    accepts: ClassVar[str] = "f"
    kernel: ClassVar[str] = ""
    """The float32 kernel of two arrays, in `kernels/cpu/arithmetic.py`."""
    integers: ClassVar[str] = ""
    """That of `kernels/cpu/integers.py`, without the element type."""
    processor_dtypes = INTEGERS

    def infer(self, *inputs: Spec) -> Spec:
        dtype = want.one_type(self.accepts, **{f"input {i}": x for i, x in enumerate(inputs)})
        return want.make(want.broadcast(*(x.shape for x in inputs)), dtype)

    def formula(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        total = inputs[0]
        with np.errstate(all="ignore"):
            for x in inputs[1:]:
                total = self.formula(total, x)
        return np.asarray(total, dtype=inputs[0].dtype)

    def layout(self, inputs, outputs) -> str:
        if self.whole(inputs):
            return CHANNELS_FIRST if outputs[0].size else NUMPY
        return broadcast_layout(inputs, outputs) if self.kernel else NUMPY

    def whole(self, inputs) -> bool:
        """Whether a kernel of integers does it."""
        return bool(self.integers) and inputs[0].dtype in INTEGERS

    def absorbs(self, inputs, outputs) -> str:
        return "clamp" if self.kernel and len(inputs) == 2 and not self.whole(inputs) else ""

    def lower(self, to: Lowering) -> None:
        count = len(to.node.inputs)
        if count == 1:
            to.alias()
            return
        total = to.operand(0)
        for i in range(1, count):
            if self.whole(to.inputs):
                to.rows(f"integers.{self.integers}_{to.inputs[0].dtype}", a=total, b=to.operand(i))
            else:
                to.broadcast(f"arithmetic.{self.kernel}", total, to.operand(i), to.output(), clamp=i == count - 1)
            total = Operand(to.output(), to.out_strides())


class Max(Nary):
    """NaN where any input is NaN."""

    accepts = "fiu"
    kernel = integers = "max"

    def formula(self, a, b):
        return np.maximum(a, b)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return shared(to)


class Min(Nary):
    """NaN where any input is NaN."""

    accepts = "fiu"
    kernel = integers = "min"

    def formula(self, a, b):
        return np.minimum(a, b)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return shared(to)


def shared(to: Backward) -> tuple[str | None, ...]:
    """The gradient of an extreme of several arrays: the arrays that have it share dy equally, as in PyTorch's `maximum`
    and `amax`."""
    y, count = to.y(), len(to.inputs)
    if count == 1:
        return (to.dy(),)
    masks = [to.add(Same(), to.x(i), y) for i in range(count)]
    share = to.add(Div(), to.dy(), to.add(Sum(), *masks))
    return tuple(to.reduced(to.add(Mul(), share, masks[i]), i) if to.wants(i) else None for i in range(count))


class Sum(Nary):
    kernel = "add"

    def formula(self, a, b):
        return a + b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return tuple(to.reduced(to.dy(), i) if to.wants(i) else None for i in range(len(to.inputs)))


class Mean(Nary):
    kernel = "add"

    def formula(self, a, b):
        return a + b

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(super().reference(*inputs) / len(inputs), dtype=inputs[0].dtype)

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def lower(self, to: Lowering) -> None:
        super().lower(to)
        if len(to.inputs) > 1:
            to.unary("activation.scaled", x=to.output(), factor=1 / len(to.inputs))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        part = to.add(Mul(), to.dy(), to.constant(np.array(1 / len(to.inputs), to.inputs[0].dtype)))
        return tuple(to.reduced(part, i) if to.wants(i) else None for i in range(len(to.inputs)))
