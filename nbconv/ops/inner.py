"""Ops that ONNX lacks: what passes put into a graph that is planned. They are never exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Node, Spec
from nbconv.graph.op import ANY, ONLY_FLOAT32, Op
from nbconv.kernels.params import Activation, Epilogue
from nbconv.lowering.context import Affine, Lowering
from nbconv.ops.grad import UnaryGrad

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Fused(Op):
    """An op whose kernel adds a residual (its last input, when ``residual``), applies an Epilogue to each result, and then,
    with ``affine``, a factor and a term a channel.

    ``tail`` holds the ops that were absorbed, in order.
    """

    domain = "nbconv"

    def __init__(
        self, inner: Op, tail: tuple[Op, ...], epilogue: Epilogue, residual: bool, affine: Affine | None = None
    ) -> None:
        super().__init__()
        self.inner, self.tail, self.fused, self.residual, self.affine = inner, tail, epilogue, residual, affine

    @property
    def label(self) -> str:
        return "+".join([self.inner.label, *(op.label for op in self.tail), *["Affine"] * (self.affine is not None)])

    def __repr__(self) -> str:
        return "+".join([repr(self.inner), *(op.type for op in self.tail)])

    def _own(self, inputs: tuple) -> tuple:
        return inputs[:-1] if self.residual else inputs

    def infer(self, *inputs: Any) -> Spec | tuple[Spec, ...]:
        return self.inner.infer(*self._own(inputs))

    def layout(self, inputs, outputs) -> str:
        return self.inner.layout(self._own(inputs), outputs)

    def layouts(self, inputs, outputs, given):
        found = self.inner.layouts(self._own(inputs), outputs, self._own(given))
        if found is None or not self.residual:
            return found
        return (*found[0], found[1][0]), found[1]

    def writes_strided(self, inputs, outputs) -> bool:
        return self.inner.writes_strided(self._own(inputs), outputs)

    def reads_strided(self, inputs, outputs, i) -> bool:
        own = self._own(inputs)
        return i >= len(own) or self.inner.reads_strided(own, outputs, i)

    def absorbs(self, inputs, outputs) -> str:
        can = self.inner.absorbs(self._own(inputs), outputs)
        if self.affine is not None:
            return ""
        if self.fused != Epilogue():
            return "affine" if can in ("activation", "residual") else ""
        return "activation" if can == "residual" and self.residual else can

    def lower(self, to: Lowering) -> None:
        to.epilogue, to.affine = self.fused, self.affine
        if self.residual:
            last = len(to.inputs) - 1
            to.residual = to.input(last)
            if to.inputs[last].rank > 1:  # else it is a vector, that of a product of vectors
                to.ldres = to.ld(last)
        to.node = Node(self.inner, self._own(to.node.inputs), to.node.outputs, to.node.name)
        to.inputs = self._own(to.inputs)
        self.inner.lower(to)

    def flops(self, inputs, outputs) -> int:
        return self.inner.flops(self._own(inputs), outputs)


class Silu(Op):
    """x · sigmoid(x) (Elfwing 2017; Swish with β = 1): what exporters write as Sigmoid and Mul."""

    is_cheap = True
    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32

    def infer(self, x: Spec) -> Spec:
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return x / (1 + np.exp(-x))

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.SILU)

    def lower(self, to: Lowering) -> None:
        to.unary("activation.silu")

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SiluGrad(), to.dy(), to.x()),)


class SiluGrad(UnaryGrad):
    """dy · s · (1 + x · (1 - s)) with s = sigmoid(x)."""

    kernel = "silu_grad"

    def formula(self, dy, x):
        s = 1 / (1 + np.exp(-x))
        return dy * (s * (1 + x * (1 - s)))


class ChannelShuffle(Op):
    """Channels of ``group`` groups dealt in turn (Zhang 2017, ShuffleNet): what exporters write as Reshape, Transpose,
    Reshape."""

    moves = True
    keeps_quantisation = True
    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32

    group: int

    def infer(self, x: Spec) -> Spec:
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        n, c, *size = x.shape
        return x.reshape(n, self.group, c // self.group, *size).swapaxes(1, 2).reshape(x.shape)

    def lower(self, to: Lowering) -> None:
        n, c, h, w = to.outputs[0].shape
        (xn, xc, xh, xw), (yn, yc, yh, yw), g = to.strides(0), to.out_strides(), self.group
        k = c // g
        to.copy(to.input(0), to.output(), (n, g, k, h, w), (xn, xc * k, xc, xh, xw), (yn, yc, yc * g, yh, yw))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(ChannelShuffle(group=to.inputs[0].shape[1] // self.group), to.dy()),)


class Reorder(Op):
    """The same value in another `Layout`, ``order`` by its name."""

    moves = True
    keeps_quantisation = True
    domain = "nbconv"

    order: str

    def kept_axis(self, axis, inputs, outputs) -> int:
        return axis

    def infer(self, x: Spec) -> Spec:
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x

    def layout(self, inputs, outputs) -> str:
        return ANY

    def reads_strided(self, inputs, outputs, i) -> bool:
        return not same_order(outputs[0].shape)

    def lower(self, to: Lowering) -> None:
        if same_order(to.outputs[0].shape):
            to.alias()
        else:
            to.copy(to.input(0), to.output(), to.outputs[0].shape, to.strides(0), to.out_strides())


class OfType(Op):
    """x, which must be of the type ``of``: folding refuses it, or leaves it out. It stands for a check that an op made
    whose place it takes."""

    moves = True
    domain = "nbconv"

    of: str

    def infer(self, x: Spec) -> Spec:
        if x.dtype.name != self.of:
            raise ModelError(f"x is {x}, its zero point is {self.of}")
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x

    def bypass(self, inputs) -> bool:
        return True


def same_order(shape: tuple[int, ...]) -> bool:
    """Whether (n, c, *size) lies in the same order channels last: one channel, or one pixel."""
    size = 1
    for d in shape[2:]:
        size *= d
    return shape[1] == 1 or size == 1
