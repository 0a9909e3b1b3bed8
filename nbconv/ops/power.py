"""Powers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ANY, ONLY_FLOAT32
from nbconv.lowering.context import Lowering
from nbconv.ops.cast import CastLike
from nbconv.ops.pointwise import Binary, Mul, broadcast_layout

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Pow(Binary):
    """The type is the base's; the exponent may have another."""

    def infer(self, a: Spec, b: Spec) -> Spec:
        want.kind("fiu", a=a, b=b)
        return want.make(want.broadcast(a.shape, b.shape), a.dtype)

    def formula(self, a, b):
        if a.dtype.kind in "iu" and b.dtype.kind == "i":
            a = a.astype(np.float64) if (b < 0).any() else a
        return np.power(a, b)

    kernels: ClassVar[dict[float, str]] = {2.0: "square", 0.5: "power_half", -1.0: "reciprocal"}
    """Exponents that have a kernel of their own."""

    def simple(self, a: Spec, b: Spec, y: Spec) -> bool:
        """Whether the exponent is one of those."""
        known = b.value is not None and b.size == 1 and float(b.value.reshape(())) in self.kernels
        return known and a.dtype in ONLY_FLOAT32 and a.shape == y.shape

    def layout(self, inputs, outputs) -> str:
        return ANY if self.simple(inputs[0], inputs[1], outputs[0]) else broadcast_layout(inputs, outputs)

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def lower(self, to: Lowering) -> None:
        if self.simple(to.inputs[0], to.inputs[1], to.outputs[0]):
            to.unary(f"activation.{self.kernels[float(to.value(1).reshape(()))]}")
        else:
            to.broadcast("power.power", to.operand(0), to.operand(1), to.output(), clamp=False)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        a, b = to.x(0), to.x(1) if to.inputs[0].dtype == to.inputs[1].dtype else to.add(CastLike(), to.x(1), to.x(0))
        da = to.reduced(to.add(Mul(), to.dy(), to.add(PowSlope(), a, b)), 0) if to.wants(0) else None
        db = to.reduced(to.add(Mul(), to.dy(), to.add(PowLog(), a, b)), 1) if to.wants(1) else None
        return da, db if db is None or b == to.x(1) else to.add(CastLike(), db, to.x(1))


class PowSlope(Binary):
    """b · a^(b - 1), the derivative of a^b by a; 0 where b is 0."""

    domain = "nbconv"
    accepts, kernel, family = "f", "power_slope", "power"

    def formula(self, a, b):
        return np.where(b == 0, 0, b * np.power(a, b - 1))


class PowLog(Binary):
    """a^b · ln a, the derivative of a^b by b; 0 where a is 0 and b not negative."""

    domain = "nbconv"
    accepts, kernel, family = "f", "power_log", "power"

    def formula(self, a, b):
        return np.where((a == 0) & (b >= 0), 0, np.power(a, b) * np.log(a))
