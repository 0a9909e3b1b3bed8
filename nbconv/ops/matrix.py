"""Matrices in the last two axes: triangles, determinants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import Op

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion


class Trilu(Op):
    """The upper (``upper`` = 1) or lower triangle of each matrix, zeros elsewhere: where column - row is at least, or at
    most, ``k`` (by default 0)."""

    moves = True

    upper: int = 1

    def infer(self, x: Spec, k: Spec | None = None) -> Spec:
        want.kind("fiub", x=x)
        want.rank(x, 2)
        want.scalar(k, "k")
        if k is not None:
            want.kind("i", k=k)
        return Spec(x.shape, x.dtype)

    def triangle(self, shape: tuple[int, ...], k: np.ndarray | None) -> np.ndarray:
        """Where the matrix stays, as bools of its shape."""
        rows, columns = shape[-2:]
        least = 0 if k is None else int(k.reshape(()))
        least = min(max(least, -rows - 1), columns + 1)  # beyond, nothing changes
        lower = np.tri(rows, columns, least - 1 if self.upper else least, bool)
        return ~lower if self.upper else lower

    def reference(self, x: np.ndarray, k: np.ndarray | None = None) -> np.ndarray:
        return np.where(self.triangle(x.shape, k), x, np.zeros((), x.dtype))

    def expand(self, to: Expansion) -> str | None:
        """Where: kernels have it."""
        from nbconv.ops.logic import Where

        k = to.inputs[1] if to.has(1) else None
        if k is not None and k.value is None:
            return None
        mask = to.constant(self.triangle(to.inputs[0].shape, k and k.value))
        return to.add(Where(), mask, to.x(0), to.constant(np.zeros((), to.inputs[0].dtype)))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dx = to.add(Trilu(upper=self.upper), to.dy(), *([to.x(1)] if to.has(1) else []))
        return (dx, *[None] * (len(to.inputs) - 1))


class Det(Op):
    """The determinant of each square matrix."""

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.rank(x, 2)
        if x.shape[-1] != x.shape[-2]:
            raise ModelError(f"x is {x}, wanted square matrices in its last two axes")
        return Spec(x.shape[:-2], x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            wide = x if x.dtype == np.float64 else x.astype(np.float32)
            return np.asarray(np.linalg.det(wide), x.dtype)

    def flops(self, inputs, outputs) -> int:
        return 2 * inputs[0].size * inputs[0].shape[-1] // 3

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(DetGrad(), to.dy(), to.x()),)


class DetGrad(Op):
    """dy times the cofactors of each matrix x, which singular matrices have, too."""

    domain = "nbconv"

    def infer(self, dy: Spec, x: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, x=x)
        if dy.shape != x.shape[:-2]:
            raise ModelError(f"dy is {dy}, x is {x}: wanted a number a matrix")
        return Spec(x.shape, dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        """det(U) · det(V) · U · D · V' of x = U · S · V', where an element of D is the product of S's others."""
        if x.size == 0:
            return np.zeros(x.shape, x.dtype)
        with np.errstate(all="ignore"):
            u, s, v = np.linalg.svd(x.astype(np.float64))
            others = np.stack([np.delete(s, i, -1).prod(-1) for i in range(s.shape[-1])], -1)
            sign = np.linalg.det(u) * np.linalg.det(v) * dy
            return ((u * (sign[..., None] * others)[..., None, :]) @ v).astype(x.dtype)
