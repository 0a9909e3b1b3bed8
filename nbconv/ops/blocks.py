"""Blocks of pixels that become channels, and channels that become blocks of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ONLY_FLOAT32, STORED, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.shape import ALL

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Blocks(Op, abstract=True):
    """What SpaceToDepth and DepthToSpace share."""

    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    moves = True
    keeps_quantisation = True

    blocksize: int

    def check(self, x: Spec) -> int:
        want.kind(ALL, x=x)
        want.rank(x, 4, 4)
        if self.blocksize < 1:
            raise ModelError(f"blocksize is {self.blocksize}, must be positive")
        return self.blocksize


class SpaceToDepth(Blocks):
    """(n, c, h, w) → (n, bs·bs·c, h/bs, w/bs); in mode DCR the cell of the block comes before the channel, in CRD (from
    opset 28 on) after."""

    mode: str = "DCR"

    def infer(self, x: Spec) -> Spec:
        bs, (n, c, h, w) = self.check(x), x.shape
        if self.mode not in ("DCR", "CRD"):
            raise ModelError(f"mode is {self.mode!r}, wanted DCR or CRD")
        if h % bs or w % bs:
            raise ModelError(f"x is {x}: its size is no multiple of blocksize {bs}")
        return want.make((n, c * bs * bs, h // bs, w // bs), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        bs, (n, c, h, w) = self.blocksize, x.shape
        order = (0, 3, 5, 1, 2, 4) if self.mode == "DCR" else (0, 1, 3, 5, 2, 4)
        blocks = x.reshape(n, c, h // bs, bs, w // bs, bs).transpose(order)
        return blocks.reshape(n, c * bs * bs, h // bs, w // bs)

    def lower(self, to: Lowering) -> None:
        bs, (n, c, h, w) = self.blocksize, to.outputs[0].shape
        (xn, xc, xh, xw), (yn, yc, yh, yw) = to.strides(0), to.out_strides()
        c //= bs * bs
        shape = (n, bs, bs, c, h, w)
        row, column, channel = (bs * c, c, 1) if self.mode == "DCR" else (bs, 1, bs * bs)
        here, there = (xn, xh, xw, xc, xh * bs, xw * bs), (yn, yc * row, yc * column, yc * channel, yh, yw)
        to.copy(to.input(0), to.output(), shape, here, there)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(DepthToSpace(blocksize=self.blocksize, mode=self.mode), to.dy()),)


class DepthToSpace(Blocks):
    """(n, c, h, w) → (n, c/bs², h·bs, w·bs); in mode DCR the cell of the block comes before the channel, in CRD after."""

    mode: str = "DCR"

    def infer(self, x: Spec) -> Spec:
        bs, (n, c, h, w) = self.check(x), x.shape
        if self.mode not in ("DCR", "CRD"):
            raise ModelError(f"mode is {self.mode!r}, wanted DCR or CRD")
        if c % (bs * bs):
            raise ModelError(f"x has {c} channels, not a multiple of blocksize² = {bs * bs}")
        return want.make((n, c // (bs * bs), h * bs, w * bs), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        bs, (n, c, h, w) = self.blocksize, x.shape
        c //= bs * bs
        if self.mode == "DCR":
            cells = x.reshape(n, bs, bs, c, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            cells = x.reshape(n, c, bs, bs, h, w).transpose(0, 1, 4, 2, 5, 3)
        return cells.reshape(n, c, h * bs, w * bs)

    def lower(self, to: Lowering) -> None:
        bs, (n, c, h, w) = self.blocksize, to.inputs[0].shape
        (xn, xc, xh, xw), (yn, yc, yh, yw) = to.strides(0), to.out_strides()
        c //= bs * bs
        row, cell, channel = (xc * bs * c, xc * c, xc) if self.mode == "DCR" else (xc * bs, xc, xc * bs * bs)
        shape = (n, bs, bs, c, h, w)
        here, there = (xn, row, cell, channel, xh, xw), (yn, yh, yw, yc, yh * bs, yw * bs)
        to.copy(to.input(0), to.output(), shape, here, there)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SpaceToDepth(blocksize=self.blocksize, mode=self.mode), to.dy()),)
