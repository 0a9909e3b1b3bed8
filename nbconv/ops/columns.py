"""Col2Im: blocks, a column each, added into an image, and its gradient."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, Op
from nbconv.kernels.params import DenseImage
from nbconv.lowering.context import Lowering
from nbconv.lowering.patches import pad, reach, taps
from nbconv.lowering.step import Work
from nbconv.lowering.window import Window, along_space, depth, in_space, resolve, sliding

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Blocks(Op, abstract=True):
    """What Col2Im and its gradient share: the attributes, and where blocks lie."""

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower_columns(self, to: Lowering, kernel: str, image: Spec, block: tuple[int, ...]) -> None:
        """One step of a kernel of `kernels/cpu/columns.py`, between columns and volumes that lie as ``image``."""
        n, c, *size = image.shape
        window = self.window(image.shape[2:], block)
        (d, h, w), (od, oh, ow), axes = in_space(size), in_space(window.out), along_space(window)
        to.step(
            f"columns.{kernel}",
            n * c,
            work=8 * max(to.inputs[0].size, to.outputs[0].size),
            x=to.input(0),
            y=to.output(),
            image=DenseImage(h, w, c, oh, ow),
            window=sliding(axes[1], axes[2]),
            depth=depth(axes[0], d, od),
            does=Work(copies=True),
        )

    def window(self, image: tuple[int, ...], block: tuple[int, ...]) -> Window:
        """The blocks of an image of this size."""
        return resolve(image, block, self.strides, self.dilations, self.pads)


class Col2Im(Blocks):
    """x (n, c · cells of a block, blocks), image_shape, block_shape → (n, c, *image_shape): where blocks overlap, their
    cells are added; those in the padding are dropped."""

    batch_inputs = (0,)

    def infer(self, x: Spec, image_shape: Spec, block_shape: Spec) -> Spec:
        want.kind("fiu", x=x)
        want.rank(x, 3, 3)
        image, block = want.integers(image_shape, "image_shape"), want.integers(block_shape, "block_shape")
        window = self.window(image, block)
        if x.shape[1] % prod(block) or x.shape[2] != prod(window.out):
            raise ModelError(f"x is {x}: wanted a multiple of {prod(block)} rows of {prod(window.out)} blocks")
        return want.make((x.shape[0], x.shape[1] // prod(block), *image), x.dtype)

    def reference(self, x: np.ndarray, image_shape: np.ndarray, block_shape: np.ndarray) -> np.ndarray:
        image, block = (tuple(int(d) for d in v) for v in (image_shape, block_shape))
        window, n, c = self.window(image, block), len(x), x.shape[1] // prod(block)
        columns = x.reshape(n, c, *block, *window.out)
        wide = pad(np.zeros((n, c, *image), x.dtype), window)
        with np.errstate(all="ignore"):
            for tap in np.ndindex(*block):
                wide[(slice(None), slice(None), *reach(tap, window))] += columns[(slice(None), slice(None), *tap)]
        inner = tuple(slice(b, b + d) for b, d in zip(window.begin, image, strict=True))
        return np.ascontiguousarray(wide[(slice(None), slice(None), *inner)])

    def flops(self, inputs, outputs) -> int:
        return inputs[0].size

    def has_kernel(self, inputs, outputs) -> bool:
        known = all(s.value is not None for s in inputs[1:])
        return super().has_kernel(inputs, outputs) and known and outputs[0].rank < 6 and outputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        self.lower_columns(to, "col2im", to.outputs[0], want.integers(to.inputs[2], "block_shape"))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        block = want.integers(to.inputs[2], "block_shape")
        grad = Im2Col(block=block, **{name: getattr(self, name) for name in Blocks.fields})
        return to.add(grad, to.dy()), None, None


class Im2Col(Blocks):
    """x (n, c, *image) → (n, c · cells of a block, blocks): each block as a column, 0 in the padding."""

    domain = "nbconv"

    block: tuple[int, ...]

    def infer(self, x: Spec) -> Spec:
        out = self.window(x.shape[2:], self.block).out
        return want.make((x.shape[0], x.shape[1] * prod(self.block), prod(out)), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        window = self.window(x.shape[2:], self.block)
        y = np.stack([seen for _, seen in taps(pad(x, window), window)], axis=2)
        return y.reshape(len(x), -1, prod(window.out))

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].rank < 6 and outputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        self.lower_columns(to, "im2col", to.inputs[0], self.block)
