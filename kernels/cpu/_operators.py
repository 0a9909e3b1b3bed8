"""The types of vectors and masks of W lanes, and their operators."""

import operator

from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import models, register_model

from nbconv.kernels._numba import f32

from ._ir import VM, VT, W, splat_ir


class Vec(types.Type):
    """W float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"f32x{W}")


class Mask(types.Type):
    """W truth values."""

    def __init__(self) -> None:
        super().__init__(name=f"i1x{W}")


vec, mask = Vec(), Mask()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, VT)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, VM)


def to_vec(b, kind, value):
    """A vector, or a number in all lanes, as IR."""
    if kind is vec:
        return value
    if isinstance(kind, types.Integer):
        return splat_ir(b, b.sitofp(value, f32))
    return splat_ir(b, b.fptrunc(value, f32) if kind == types.float64 else value)


def _operators() -> None:
    """a + b, a - b, a * b, a / b and comparisons between vectors, or a vector and a number."""
    arithmetic = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}
    comparison = {
        operator.lt: "<",
        operator.le: "<=",
        operator.gt: ">",
        operator.ge: ">=",
        operator.eq: "==",
        operator.ne: "!=",
    }
    for op in (*arithmetic, *comparison):
        result = vec if op in arithmetic else mask

        @infer_global(op)
        class _Template(AbstractTemplate):
            _result = result

            def generic(self, args, kws):
                if len(args) == 2 and vec in args and all(a is vec or isinstance(a, types.Number) for a in args):
                    return signature(self._result, *args)
                return None

        def lower(ctx, b, sig, args, op=op):
            x, y = (to_vec(b, k, a) for k, a in zip(sig.args, args))
            if op in arithmetic:
                return getattr(b, arithmetic[op])(x, y, flags=("contract",))
            return (b.fcmp_unordered if op is operator.ne else b.fcmp_ordered)(comparison[op], x, y)

        for left, right in ((Vec, Vec), (Vec, types.Number), (types.Number, Vec)):
            lower_builtin(op, left, right)(lower)


_operators()


@infer_global(operator.neg)
class _Neg(AbstractTemplate):
    def generic(self, args, kws):
        return signature(vec, vec) if args == (vec,) else None


@lower_builtin(operator.neg, Vec)
def _neg(ctx, b, sig, args):
    return b.fneg(args[0])


for _op, _method in ((operator.or_, "or_"), (operator.and_, "and_")):

    @infer_global(_op)
    class _Logic(AbstractTemplate):
        def generic(self, args, kws):
            return signature(mask, mask, mask) if args == (mask, mask) else None

    lower_builtin(_op, Mask, Mask)(lambda ctx, b, sig, args, _method=_method: getattr(b, _method)(*args))
