"""Matrix products."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops import spec as want
from nbconv.ops.op import Op


class Gemm(Op):
    """alpha · A' B' + beta · C, with A' (m, k) and B' (k, n) transposed as told; C broadcasts to (m, n)."""

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


class MatMul(Op):
    """NumPy's matmul: matrices in the last two axes, the others broadcast; a vector is a row on the left, a column on the
    right, and its axis is dropped from the result."""

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
