"""Integers bit by bit."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.pointwise import Binary, Unary


class BitShift(Binary):
    """a · 2^b (``direction`` LEFT) or a / 2^b rounded down (RIGHT). A shift by the type's width or more, or by less than 0,
    shifts all bits out."""

    accepts = "iu"

    direction: str

    def infer(self, a: Spec, b: Spec) -> Spec:
        if self.direction not in ("LEFT", "RIGHT"):
            raise ModelError(f"direction is {self.direction!r}, wanted LEFT or RIGHT")
        return super().infer(a, b)

    def formula(self, a, b):
        width = 8 * a.dtype.itemsize
        inside = (b >= 0) & (b < width)
        by = np.where(inside, b, 0).astype(a.dtype)
        if self.direction == "LEFT":
            return np.where(inside, np.left_shift(a, by), 0)
        return np.where(inside, np.right_shift(a, by), np.where(a < 0, -1, 0).astype(a.dtype))


class BitwiseAnd(Binary):
    accepts = "iu"

    def formula(self, a, b):
        return a & b


class BitwiseOr(Binary):
    accepts = "iu"

    def formula(self, a, b):
        return a | b


class BitwiseXor(Binary):
    accepts = "iu"

    def formula(self, a, b):
        return a ^ b


class BitwiseNot(Unary):
    accepts = "iu"

    def formula(self, x):
        return ~x
