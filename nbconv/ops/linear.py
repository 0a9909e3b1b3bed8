"""Matrix products."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.gemm import PRODUCTS, Operands
from nbconv.lowering.gemm.problem import operand, problem
from nbconv.lowering.implementation import emit

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion


class Gemm(Op):
    """alpha · A' B' + beta · C, with A' (m, k) and B' (k, n) transposed as told; C broadcasts to (m, n)."""

    is_layer = True
    parameters = (1, 2)

    alpha: float = 1.0
    beta: float = 1.0
    transA: int = 0
    transB: int = 0

    def infer(self, a: Spec, b: Spec, c: Spec | None = None) -> Spec:
        dtype = want.one_type("f", A=a, B=b, C=c)
        want.rank(a, 2, 2, "A")
        want.rank(b, 2, 2, "B")
        m, k = a.shape[::-1] if self.transA else a.shape
        k2, n = b.shape[::-1] if self.transB else b.shape
        if k != k2:
            raise ModelError(f"A has {k} columns{' (transposed)' * bool(self.transA)}, B wants {k2}")
        if c is not None:
            want.broadcast_to(c.shape, (m, n), "C")
        return want.make((m, n), dtype)

    def reference(self, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):
            y = (a.T if self.transA else a) @ (b.T if self.transB else b)
            if self.alpha != 1:
                y = y * y.dtype.type(self.alpha)
            return y if c is None else y + c * y.dtype.type(self.beta)

    def flops(self, inputs, outputs) -> int:
        m, n = outputs[0].shape
        return 2 * m * n * inputs[0].shape[0 if self.transA else 1]

    def layout(self, inputs, outputs) -> str:
        a, c = inputs[0], inputs[2] if len(inputs) > 2 else None
        if a.dtype not in ONLY_FLOAT32 or 0 in a.shape:
            return NUMPY
        per_column = c is None or (c.size == c.shape[-1:][0] and (c.constant or c.size > 1) if c.shape else c.constant)
        return CHANNELS_FIRST if per_column else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return "residual"

    def lower(self, to: Lowering) -> None:
        (m, n), a = to.outputs[0].shape, to.inputs[0]
        k = a.shape[0] if self.transA else a.shape[1]
        found = problem(to, 1, m, k, n, (bool(self.transA), bool(self.transB)))
        c = operand(to, 2) if to.has(2) else None
        emit(to, PRODUCTS, found, Operands(to.input(0), operand(to, 1), c, self.alpha, self.beta))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        a, b, dy = to.x(0), to.x(1), to.dy()

        def product(left: str, right: str, turn_left: int, turn_right: int) -> str:
            return to.add(Gemm(alpha=self.alpha, transA=int(turn_left), transB=int(turn_right)), left, right)

        da = db = dc = None
        if to.wants(0):
            da = product(b, dy, self.transB, 1) if self.transA else product(dy, b, 0, not self.transB)
        if to.wants(1):
            if self.transB:
                db = product(to.taken(dy, to.rows(1), 1), a, 1, self.transA)
            else:
                db = product(a, dy, not self.transA, 0)
        if to.wants(2):
            dc = to.reduced(dy, 2)
            if self.beta != 1:
                from nbconv.ops.pointwise import Mul

                dc = to.add(Mul(), dc, to.constant(np.array(self.beta, to.inputs[2].dtype)))
        return (da, db, dc)[: len(to.inputs)]


class MatMul(Op):
    """NumPy's matmul: matrices in the last two axes, the others broadcast; a vector is a row on the left, a column on the
    right, and its axis is dropped from the result."""

    is_layer = True
    parameters = (1,)

    def infer(self, a: Spec, b: Spec) -> Spec:
        dtype = want.one_type("fiu", A=a, B=b)
        want.rank(a, 1, name="A")
        want.rank(b, 1, name="B")
        left = a.shape if a.rank > 1 else (1, *a.shape)
        right = b.shape if b.rank > 1 else (*b.shape, 1)
        if left[-1] != right[-2]:
            raise ModelError(f"A {list(a.shape)} has {left[-1]} columns, B {list(b.shape)} has {right[-2]} rows")
        rows = left[-2:-1] if a.rank > 1 else ()
        columns = right[-1:] if b.rank > 1 else ()
        return want.make((*want.broadcast(left[:-2], right[:-2]), *rows, *columns), dtype)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(a @ b)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * inputs[0].shape[-1]

    def matrices(self, a: Spec, b: Spec) -> tuple[int, int, int, int, int, int] | None:
        """(batch, m, k, n, batch stride of A, of B) of the product as equally spaced matrices; None where it is not."""
        left = a.shape if a.rank > 1 else (1, *a.shape)
        right = b.shape if b.rank > 1 else (*b.shape, 1)
        m, k, n = left[-2], left[-1], right[-1]
        size_a, size_b = prod(left[:-2]), prod(right[:-2])
        if size_b == 1:
            return 1, size_a * m, k, n, 0, 0
        if size_a == size_b == prod(want.broadcast(left[:-2], right[:-2])):
            return size_b, m, k, n, m * k, k * n
        return (size_b, m, k, n, 0, k * n) if size_a == 1 else None

    def layout(self, inputs, outputs) -> str:
        a, b = inputs[:2]
        return CHANNELS_FIRST if a.dtype in ONLY_FLOAT32 and a.size and self.matrices(a, b) is not None else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        found = self.matrices(*inputs[:2])
        return "" if found is None else "residual" if found[4:] == (0, 0) else "activation"

    def lower(self, to: Lowering) -> None:
        found = self.matrices(*to.inputs[:2])
        assert found is not None
        batch, m, k, n, *strides = found
        product = problem(to, batch, m, k, n, strides=(strides[0], strides[1]))
        emit(to, PRODUCTS, product, Operands(to.input(0), operand(to, 1)))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """Through matrices: a vector is given its axis back first."""
        a, b = to.inputs[:2]
        left, right, dy = to.x(0), to.x(1), to.dy()
        rows, columns = (1,) * (a.rank == 1), (1,) * (b.rank == 1)
        if rows:
            left = reshape(to, left, (1, *a.shape))
        if columns:
            right = reshape(to, right, (*b.shape, 1))
        if rows or columns:
            batch = want.broadcast(a.shape[:-2], b.shape[:-2])
            dy = reshape(to, dy, (*batch, *(rows or a.shape[-2:-1]), *(columns or b.shape[-1:])))
        da = db = None
        if to.wants(0):
            da = reshape(to, summed(to, to.add(MatMul(), dy, turned(to, right)), to.spec(left).shape), a.shape)
        if to.wants(1) and to.spec(right).rank == 2:  # one matrix for all rows of a: one product
            (k, n), flat = to.spec(right).shape, prod(to.spec(left).shape[:-1])
            db = to.add(Gemm(transA=1), reshape(to, left, (flat, k)), reshape(to, dy, (flat, n)))
            db = reshape(to, db, b.shape)
        elif to.wants(1):
            db = reshape(to, summed(to, to.add(MatMul(), turned(to, left), dy), to.spec(right).shape), b.shape)
        return da, db


class Linear(MatMul):
    """a · b + c: rows of a (…, k), a matrix b (k, n), which with ``transB`` lies as (n, k), and n addends c; what exporters
    write as Transpose, MatMul and Add."""

    domain = "nbconv"
    parameters = (1, 2)

    transB: int = 0

    def infer(self, a: Spec, b: Spec, c: Spec | None = None) -> Spec:
        want.one_type("f", A=a, B=b, C=c)
        want.rank(b, 2, 2, "B")
        factor = self._factor(b)
        want.vector(factor.shape[1], f"B with {factor.shape[1]} columns", C=c)
        return MatMul.infer(self, a, factor)

    def _factor(self, b: Spec) -> Spec:
        """b as the product takes it."""
        return Spec(b.shape[::-1], b.dtype) if self.transB else b

    def reference(self, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):
            y = a @ (b.T if self.transB else b)
            return np.asarray(y if c is None else y + c)

    def matrices(self, a: Spec, b: Spec) -> tuple[int, int, int, int, int, int] | None:
        return MatMul.matrices(self, a, self._factor(b))

    def lower(self, to: Lowering) -> None:
        found = self.matrices(*to.inputs[:2])
        assert found is not None
        _, m, k, n, *_ = found
        c, trans = operand(to, 2) if to.has(2) else None, (False, bool(self.transB))
        emit(to, PRODUCTS, problem(to, 1, m, k, n, trans), Operands(to.input(0), operand(to, 1), c))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dc = to.reduced(str(to.dy()), 2) if to.wants(2) else None
        if not self.transB:
            return (*MatMul.gradient(self, to), dc)[: len(to.inputs)]
        a, b = to.inputs[:2]
        dy, rows, da, db = to.dy(), prod(a.shape[:-1]), None, None
        if to.wants(0):
            da = to.add(MatMul(), dy, to.x(1))
        if to.wants(1):
            db = to.add(Gemm(transA=1), reshape(to, dy, (rows, b.shape[0])), reshape(to, to.x(0), (rows, b.shape[1])))
        return (da, db, dc)[: len(to.inputs)]


class FusedMatMul(MatMul):
    """alpha · A' B', onnxruntime's: the factors of MatMul with their last two axes exchanged (``transA``, ``transB``), after
    their first axis was put before the last one (``transBatchA``, ``transBatchB``)."""

    domain = "com.microsoft"

    alpha: float = 1.0
    transA: int = 0
    transB: int = 0
    transBatchA: int = 0
    transBatchB: int = 0

    def order(self, i: int, rank: int) -> tuple[int, ...]:
        """The axes of input i as the product takes them."""
        axes = tuple(range(rank))
        if rank < 2:
            return axes
        if (self.transBatchA, self.transBatchB)[i]:
            axes = (*axes[1:-1], 0, axes[-1])
        return (*axes[:-2], axes[-1], axes[-2]) if (self.transA, self.transB)[i] else axes

    def factors(self, a: Spec, b: Spec) -> tuple[Spec, Spec]:
        """A' and B'."""
        turned = (Spec(tuple(v.shape[k] for k in self.order(i, v.rank)), v.dtype) for i, v in enumerate((a, b)))
        return tuple(turned)  # pyright: ignore[reportReturnType]

    def infer(self, a: Spec, b: Spec) -> Spec:
        if a is None or b is None:
            raise ModelError("wants two inputs")
        want.one_type("f", A=a, B=b)
        return MatMul.infer(self, *self.factors(a, b))

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        y = MatMul.reference(self, a.transpose(self.order(0, a.ndim)), b.transpose(self.order(1, b.ndim)))
        with np.errstate(all="ignore"):
            return y if self.alpha == 1 else y * y.dtype.type(self.alpha)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * (self.factors(*inputs)[0].shape[-1] if inputs[0].rank else 1)

    def matrices(self, a: Spec, b: Spec) -> tuple[int, int, int, int, int, int] | None:
        if self.transBatchA or self.transBatchB:
            return None
        found = MatMul.matrices(self, *self.factors(a, b))
        batch = prod(a.shape[:-2])
        if found is None or not self.transA or batch == 1 or found[4:] != (0, 0):
            return found
        _, rows, k, n, *_ = found  # one B, but the matrices of A lie apart
        return batch, rows // batch, k, n, rows // batch * k, 0

    def lower(self, to: Lowering) -> None:
        found = self.matrices(*to.inputs[:2])
        assert found is not None
        batch, m, k, n, *strides = found
        trans = (bool(self.transA) and to.inputs[0].rank > 1, bool(self.transB) and to.inputs[1].rank > 1)
        product = problem(to, batch, m, k, n, trans, (strides[0], strides[1]))
        emit(to, PRODUCTS, product, Operands(to.input(0), operand(to, 1), alpha=self.alpha))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """MatMul's, of A' and B' and alpha · dy; turned back."""
        from nbconv.ops.shape import Transpose

        orders = [self.order(i, v.rank) for i, v in enumerate(to.inputs[:2])]
        found = MatMul.gradient(self, _Factors(self, to, orders))  # pyright: ignore[reportArgumentType]

        def back(i: int, dx: str | None) -> str | None:
            order = tuple(np.argsort(orders[i]).tolist())
            return dx if dx is None or order == (*range(len(order)),) else to.add(Transpose(perm=order), dx)

        return back(0, found[0]), back(1, found[1])


class _Factors:
    """A `Backward` of the product of A' and B'."""

    def __init__(self, op: FusedMatMul, to: Backward, orders: list[tuple[int, ...]]) -> None:
        from nbconv.ops.pointwise import Mul
        from nbconv.ops.shape import Transpose

        self.inputs = op.factors(*to.inputs[:2])
        self.names = [
            name if order == (*range(len(order)),) else to.add(Transpose(perm=order), name)
            for name, order in zip((to.x(0), to.x(1)), orders, strict=True)
        ]
        self.slope = (
            to.dy() if op.alpha == 1 else to.add(Mul(), to.dy(), to.constant(np.array(op.alpha, to.inputs[0].dtype)))
        )
        self.wants, self.add, self.constant, self.spec = to.wants, to.add, to.constant, to.spec

    def x(self, i: int = 0) -> str:
        return self.names[i]

    def dy(self) -> str:
        return self.slope


def reshape(to: Expansion, x: str, shape: tuple[int, ...]) -> str:
    """x under another shape."""
    from nbconv.ops.shape import Reshape

    return x if to.spec(x).shape == shape else to.add(Reshape(allowzero=1), x, to.constant(np.array(shape, np.int64)))


def turned(to: Backward, x: str) -> str:
    """x with its last two axes exchanged."""
    from nbconv.ops.shape import Transpose

    rank = to.spec(x).rank
    return to.add(Transpose(perm=(*range(rank - 2), rank - 1, rank - 2)), x)


def summed(to: Backward, x: str, shape: tuple[int, ...]) -> str:
    """x summed over the axes along which an array of this shape was broadcast to it."""
    from nbconv.ops.reduce import ReduceSum

    found = to.spec(x).shape
    missing = len(found) - len(shape)
    axes = [i for i, d in enumerate(found) if i < missing or (shape[i - missing] == 1 and d != 1)]
    if axes:
        x = to.add(ReduceSum(keepdims=1), x, to.constant(np.array(axes, np.int64)))
    return reshape(to, x, shape)
