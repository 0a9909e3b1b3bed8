"""The types of vectors and masks of a warp's lanes, and their operators."""

from __future__ import annotations

import operator

from ._numba import (
    AbstractTemplate,
    ir,
    lowering_registry,
    models,
    register_model,
    signature,
    types,
    typing_registry,
)

f32, i1 = ir.FloatType(), ir.IntType(1)


class Vec(types.Type):
    """A float32 of each thread of a warp."""

    def __init__(self) -> None:
        super().__init__(name="f32xwarp")


class Mask(types.Type):
    """A truth value of each thread of a warp."""

    def __init__(self) -> None:
        super().__init__(name="i1xwarp")


vec, mask = Vec(), Mask()


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, f32)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, i1)


def to_vec(b, kind, value):
    """A vector, or a number, as the float32 of this thread."""
    if kind is vec or kind == types.float32:
        return value
    if isinstance(kind, types.Integer):
        return b.sitofp(value, f32)
    return b.fptrunc(value, f32)


def _operators() -> None:
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

        @typing_registry.register_global(op)
        class _Template(AbstractTemplate):
            _result = result
            key = op

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
            lowering_registry.lower(op, left, right)(lower)


_operators()


@typing_registry.register_global(operator.neg)
class _Neg(AbstractTemplate):
    key = operator.neg

    def generic(self, args, kws):
        return signature(vec, vec) if args == (vec,) else None


@lowering_registry.lower(operator.neg, Vec)
def _neg(ctx, b, sig, args):
    return b.fsub(ir.Constant(f32, -0.0), args[0])  # NVVM's IR has no fneg


for _op, _method in ((operator.or_, "or_"), (operator.and_, "and_")):

    @typing_registry.register_global(_op)
    class _Logic(AbstractTemplate):
        key = _op

        def generic(self, args, kws):
            return signature(mask, mask, mask) if args == (mask, mask) else None

    lowering_registry.lower(_op, Mask, Mask)(lambda ctx, b, sig, args, _method=_method: getattr(b, _method)(*args))
