"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels.params import Addends, ConvBlocking, ConvImage, DenseImage, Epilogue, Filtering, Scatter, Tiles
from nbconv.lowering import repack, split_k, winograd
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.packing import ceil, cut, epilogue, pack, pad_bias, padded
from nbconv.lowering.patches import pad, taps
from nbconv.lowering.repack import WeightStrides, varies
from nbconv.lowering.window import Window, flat, plane, resolve, sliding

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Image(NamedTuple):
    """What a convolution reads: where, rows, columns, floats a pixel, floats that one tap multiplies."""

    ref: Ref
    h: int
    w: int
    ldx: int
    cg: int


FEW = 16
"""Input channels below which a window's row, which lies in one piece, is multiplied at a time instead of its pixels."""


BAND = 16
"""Most rows of a unit of a depthwise convolution."""
GROUPS = 8
"""Most groups that Winograd's filtering does, one after another."""


class Convolution(Op, abstract=True):
    """What Conv and ConvTranspose share: the attributes, and checks on x, w and b."""

    parameters = (1, 2)
    kernel_dtypes = ONLY_FLOAT32

    kernel_shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    group: int = 1
    auto_pad: str = "NOTSET"

    def layout(self, inputs, outputs) -> str:
        weights = all(spec is None or spec.constant for spec in inputs[1:3])
        served = inputs[0].rank < 5 and (weights or not inputs[0].constant)  # constants do not lie channels last
        return CHANNELS_LAST if served and inputs[0].dtype in self.kernel_dtypes else NUMPY

    def layouts(self, inputs, outputs, given) -> Any:
        """Weights that are no constants are read as ONNX has them."""
        if self.layout(inputs, outputs) == NUMPY:
            return None
        return (CHANNELS_LAST, *[CHANNELS_FIRST] * (len(inputs) - 1)), (CHANNELS_LAST,)

    def absorbs(self, inputs, outputs) -> str:
        return "residual"

    def writes_strided(self, inputs, outputs) -> bool:
        return True

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0

    def lower_taps(
        self, to: Lowering, key: str, weights, ws: WeightStrides, size, taps, down, across, scatter: Scatter,
        image: Image | None = None, wide: tuple[Ref, int] | None = None,
    ) -> None:  # fmt: skip
        """One step of `conv` in kernels/cpu/conv.py. ``weights()`` gives (group, taps, cg, og) matrices, or, where they are
        no constants, they are packed as they are ``ws``; ``down`` and ``across`` are (kernel, stride, dilation, begin);
        ``scatter`` says where in y the (oh, ow) = ``size`` results go. ``image`` is what is read where it is not x;
        ``wide`` = (where, how many) takes that many channels, the bias repeated, where the result is not y's channels.
        Weights that are packed here, of one group, may be packed some columns at a time, with a step each."""
        x, y = to.inputs[0], to.outputs[0]
        target, co = wide or (to.output(), y.shape[1])
        g, repeats = self.group, co // y.shape[1]
        (oh, ow), og = size, co // g
        source, h, w, ldx, cg = image or Image(to.input(0), *plane(x.shape), to.ld(0), x.shape[1] // g)
        lanes, columns, ldy = to.target.lanes, to.columns, co if wide else to.pitch or co
        m = x.shape[0] * oh * ow
        if down == across == (1, 1, 1, 0) and scatter == Scatter(oh, ow) and (oh, ow) == (h, w):
            h, w, oh, ow, scatter = 1, m, 1, m, Scatter(1, m)  # one row of pixels: one sequence of addresses
        parted = varies(to, 1) and ws.kh and g == 1 and not wide
        for first, last in to.pieces(og, 4 * taps * cg) if parted else [(0, og)]:
            n, part = last - first, slice(first, last)
            how = cut(to, m, cg, n, taps, g)
            if not ws.kh:  # no tap meets these cells
                packed = to.constant(
                    f"#zeros{g}x{cg}x{og}", lambda: np.zeros(g * cg * padded(og, lanes, columns), np.float32)
                )
            elif varies(to, 1):
                packed = repack.panels(to, to.input(1).at(first * ws.co), ws, g, n)
            else:
                packed = to.constant(
                    f"{to.node.inputs[1]}#{key}", lambda: pack(weights().reshape(g, taps * cg, og), lanes, columns, to.drop)
                )
            wanted = split_k.Results(
                m, n, g, True, target.at(first), ldy, n,
                Addends(
                    self.bias(to, g, n, repeats, part if n < og else None),
                    to.residual and to.residual.at(first), to.ldres,
                ),
                epilogue(to, g, n, lanes, columns, part if n < og else None), (oh, ow), scatter,
            )  # fmt: skip
            found = split_k.sums(to, how, wanted)
            to.step(
                "conv.conv", how.units, work=2 * m * g * n * cg * taps,
                x=source, y=found.y, w=packed, addends=found.addends,
                zeros=to.constant(f"#zeros{cg}", lambda: np.zeros(cg, np.float32)),
                image=ConvImage(m, h, w, ldx, cg, oh, ow, found.ldy, n), window=sliding(down, across),
                scatter=found.scatter, epilogue=found.epilogue,
                blocking=ConvBlocking(how.rows, how.panels, how.tap_chunk, how.channel_chunk, padded(n, lanes, columns)),
            )  # fmt: skip
            split_k.finish(to, how, found, wanted)

    def bias(self, to: Lowering, g: int, og: int, repeats: int = 1, part: slice | None = None) -> Ref:
        """The bias of g groups of og channels as panels have it; y's channels, or this part of them, so many times over."""
        if varies(to, 2):
            return repack.bias(to, to.input(2).at(part.start if part else 0), g, og // repeats, repeats)
        name = to.node.inputs[2] if to.has(2) else ""

        def make() -> np.ndarray:
            values = np.tile(to.value(2) if part is None else to.value(2)[part], repeats) if name else None
            return pad_bias(values, g, og, to.target.lanes, to.columns)

        return to.constant(f"{name}#{g}x{og}" + (f".{part.start}" if part and name else ""), make)

    def lower_winograd(self, to: Lowering, size: int, ph: int, pw: int, turned: bool = False) -> None:
        """Steps of kernels/cpu/winograd.py, a group after another, in tiles of ``size``; on a GPU those of `_transformed`.
        ``turned``: w is (ci, co, 3, 3), its taps from last to first. Weights that are transformed here may be so some
        columns at a time."""
        if to.target.gpu:
            self._transformed(to, size, ph, pw, turned)
            return
        for i in range(self.group):
            for first, last in self._pieces(to, size):
                self._winograd(to, size, ph, pw, i, turned, first, last - first)

    def _pieces(self, to: Lowering, size: int) -> list[tuple[int, int]]:
        """The output channels of a group, those whose weights are transformed at a time."""
        ci, co = to.inputs[0].shape[1] // self.group, to.outputs[0].shape[1] // self.group
        return to.pieces(co, 4 * (size + 2) ** 2 * ci) if varies(to, 1) else [(0, co)]

    def _filters(self, to: Lowering, size: int, i: int, turned: bool, first: int, count: int) -> Ref:
        """The transformed weights of channels ``first`` … of group i."""
        ci, co = to.inputs[0].shape[1] // self.group, to.outputs[0].shape[1] // self.group
        at = i * co + first

        def filters() -> np.ndarray:
            if not turned:
                return to.value(1)[at : at + count]
            return to.value(1)[i * ci : (i + 1) * ci].swapaxes(0, 1)[..., ::-1, ::-1]

        if varies(to, 1):
            steps = (9 * co, 9) if turned else (9, 9 * ci)
            return repack.winograd(to, to.input(1).at(9 * i * ci * co + first * steps[1]), size, ci, count, *steps, turned)
        return to.constant(
            f"{to.node.inputs[1]}#winograd{size}.{i}.{self.group}{'turned' * turned}",
            lambda: winograd.weights(filters(), size, to.target.lanes, to.columns),
        )

    def _winograd(
        self, to: Lowering, size: int, ph: int, pw: int, i: int, turned: bool, first: int, count: int
    ) -> None:  # fmt: skip
        """Channels ``first`` … of group i."""
        x, y = to.inputs[0], to.outputs[0]
        (n, channels, h, w), (_, out, oh, ow) = x.shape, y.shape
        ci, co, lanes, columns = channels // self.group, out // self.group, to.target.lanes, to.columns
        tiling = winograd.tiling(to, size, n, oh, ow, ci, count)
        points, inner = (size + 2) ** 2, ceil(ci, lanes) * lanes
        area = points * (tiling.tiles * (inner + tiling.columns) + 2 * winograd.SKEW)
        bias, at = to.node.inputs[2] if to.has(2) else "", i * co + first
        mine = slice(at, at + count)
        packed = self._filters(to, size, i, turned, first, count)
        if varies(to, 2):
            b = repack.bias(to, to.input(2).at(at), 1, count)
        else:
            b = to.constant(
                f"{bias}#{i}.{self.group}x{co}" + (f".{first}" if count < co else ""),
                lambda: pad_bias(to.value(2)[mine] if bias else None, 1, count, lanes, columns),
            )
        to.step(
            "winograd.winograd", ceil(tiling.total, tiling.tiles) * ceil(count, tiling.group),
            work=2 * points * tiling.total * ci * count, x=to.input(0).at(i * ci), y=to.output().at(at),
            addends=Addends(b, to.residual and to.residual.at(at), to.ldres), scratch=to.floats_per_thread(area),
            w=packed, zeros=to.constant(f"#zeros{ci}", lambda: np.zeros(ci, np.float32)),
            image=ConvImage(n * oh * ow, h, w, to.ld(0), ci, oh, ow, to.pitch or out, count),
            filtering=Filtering(
                ph, pw, size, tiling.tiles, tiling.columns, tiling.group, inner, padded(count, lanes, columns), area
            ), epilogue=epilogue(to, 1, count, lanes, columns, mine),
        )  # fmt: skip

    def _transformed(self, to: Lowering, size: int, ph: int, pw: int, turned: bool) -> None:
        """Steps of kernels/cuda/winograd.py: all of x is transformed, multiplied by points, a group after another, and
        transformed back."""
        (n, channels, h, w), (_, out, oh, ow) = to.inputs[0].shape, to.outputs[0].shape
        ci, co, lanes, columns = channels // self.group, out // self.group, to.target.lanes, to.columns
        points, down, across = (size + 2) ** 2, ceil(oh, size), ceil(ow, size)
        total = n * down * across
        tiles = Tiles(down, across, total, size)
        v, m = to.floats(points * total * channels), to.floats(points * total * out)
        to.step(
            "winograd.transform_input", total * ceil(channels, lanes), work=32 * points * total * channels,
            x=to.input(0), v=v, h=h, width=w, ldx=to.ld(0), c=channels, ph=ph, pw=pw, tiles=tiles,
        )  # fmt: skip
        for i in range(self.group):
            for first, last in self._pieces(to, size):
                count = last - first
                full = padded(count, lanes, columns)
                wanted = split_k.Results(
                    total, count, points, False, m.at(i * co + first), out, total * out,
                    Addends(to.constant(f"#zeros{full}", lambda full=full: np.zeros(full, np.float32))),
                    Epilogue(), (1, total), Scatter(1, total),
                )  # fmt: skip
                packed = self._filters(to, size, i, turned, first, count)
                how = cut(to, total, ci, count, 1, batch=points)
                split_k.gemm(to, how, wanted, ci, v.at(i * ci), channels, total * channels, packed, ci * full)
        to.step(
            "winograd.transform_output", total * ceil(out, lanes), work=32 * points * total * out, m=m,
            addends=Addends(self.bias(to, 1, out), to.residual, to.ldres), y=to.output(), oh=oh, ow=ow, c=out,
            ldy=to.pitch or out, tiles=tiles, epilogue=epilogue(to, 1, out, lanes, columns),
        )  # fmt: skip

    def check(self, x: Spec, w: Spec, b: Spec | None, co: int) -> np.dtype:
        """The element type of a well-formed call with ``co`` output channels; ModelError or UnsupportedError else."""
        dtype = want.one_type("f", x=x, w=w, b=b)
        want.rank(x, 3, 5)
        want.rank(w, x.rank, x.rank, "w")
        if self.kernel_shape is not None and self.kernel_shape != w.shape[2:]:
            raise ModelError(f"kernel_shape {list(self.kernel_shape)} is not that of w {list(w.shape)}")
        if self.group < 1:
            raise ModelError(f"group is {self.group}, must be positive")
        want.vector(co, f"with {co} output channels it", b=b)
        return dtype


class Conv(Convolution):
    """x (n, ci, *size), w (co, ci/group, *kernel), b (co) → y (n, co, *out)."""

    batch_inputs = (0,)
    is_layer = True

    def window(self, x: tuple[int, ...], w: tuple[int, ...]) -> Window:
        """The geometry for inputs of these shapes."""
        return resolve(x[2:], w[2:], self.strides, self.dilations, self.pads, self.auto_pad)

    def infer(self, x: Spec, w: Spec, b: Spec | None = None) -> Spec:
        dtype = self.check(x, w, b, w.shape[0] if w.shape else 0)
        ci, co = w.shape[1] * self.group, w.shape[0]
        if x.shape[1] != ci:
            raise ModelError(f"x has {x.shape[1]} channels, w wants {ci}" + (f" ({self.group} groups)" * (self.group > 1)))
        if co % self.group:
            raise ModelError(f"w has {co} output channels, not a multiple of {self.group} groups")
        return want.make((x.shape[0], co, *self.window(x.shape, w.shape).out), dtype)

    def reference(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
        window, g = self.window(x.shape, w.shape), self.group
        n, co, ci = x.shape[0], w.shape[0] // g, w.shape[1]
        y = np.zeros((n, g, co, prod(window.out)), x.dtype)
        kernel = w.reshape(g, co, *w.shape[1:])
        with np.errstate(all="ignore"):
            for tap, seen in taps(pad(x, window), window):
                y += kernel[(..., *tap)] @ seen.reshape(n, g, ci, prod(window.out))
            if b is not None:
                y += b.reshape(g, co, 1)
        return y.reshape(n, g * co, *window.out)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * prod(inputs[1].shape[1:])

    def depthwise(self, w: Spec) -> bool:
        """Whether each channel has a filter of its own, and one only."""
        return self.group > 1 and w.shape[:2] == (self.group, 1)

    def writes_strided(self, inputs, outputs) -> bool:
        return not self.depthwise(inputs[1])

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and not self.depthwise(inputs[1])

    def absorbs(self, inputs, outputs) -> str:
        return "activation" if self.depthwise(inputs[1]) else "residual"

    def lower(self, to: Lowering) -> None:
        x, w, y = to.inputs[0], to.inputs[1], to.outputs[0]
        down, across = flat(self.window(x.shape, w.shape))
        if self.depthwise(w):
            self.lower_depthwise(to, down, across)
            return
        if self.group <= GROUPS and down[:3] == across[:3] == (3, 1, 1) and x.rank == 4 and not self.few(x.shape, w.shape):
            g = self.group
            side = winograd.choose(to, x.shape[0], *plane(y.shape), x.shape[1] // g, y.shape[1] // g, g)
            if side:
                self.lower_winograd(to, side, down[3], across[3])
                return
        g, taps, size = self.group, down[0] * across[0], plane(y.shape)

        def weights() -> np.ndarray:
            return to.value(1).reshape(g, w.shape[0] // g, w.shape[1], taps).transpose(0, 3, 2, 1)

        cg = w.shape[1]
        ws = WeightStrides(0, w.size // g, across[0], 1, taps, cg * taps, down[0], across[0], cg)
        if self.few(x.shape, w.shape):
            image = self.padded_image(to, down, across)
            down, across = (*down[:3], 0), (1, across[1], 1, 0)
            self.lower_taps(to, f"conv{g}", weights, ws, size, down[0], down, across, Scatter(*size), image)
        else:
            self.lower_taps(to, f"conv{g}", weights, ws, size, taps, down[:4], across[:4], Scatter(*size))

    def few(self, x: tuple[int, ...], w: tuple[int, ...]) -> bool:
        """Whether rows of a window are multiplied at a time: its channels are few and all its taps neighbours."""
        across = 1 if self.dilations is None else self.dilations[-1]
        return self.group == 1 and x[1] < FEW and w[-1] > 1 and across == 1

    def layouts(self, inputs, outputs, given):
        """An image of few channels is padded first, and turned with that."""
        found = super().layouts(inputs, outputs, given)
        if found is None or not self.few(inputs[0].shape, inputs[1].shape):
            return found
        return (given[0], *found[0][1:]), found[1]

    def padded_image(self, to: Lowering, down, across) -> Image:
        """Steps that copy x into a zero-filled image with room for the padding, channels last."""
        x = to.inputs[0]
        (n, c), (h, w) = x.shape[:2], plane(x.shape)
        hp, wp = h + down[3] + down[4], w + across[3] + across[4]
        size = n * hp * wp * c
        image = to.floats(size)
        to.fill(image, size)
        here = to.strides(0)
        here = here if x.rank == 4 else (*here[:2], 0, here[2])
        to.copy(to.input(0), image.at((down[3] * wp + across[3]) * c), (n, c, h, w), here, (hp * wp * c, 1, wp * c, c))
        return Image(image, hp, wp, c, across[0] * c)

    def lower_depthwise(self, to: Lowering, down, across) -> None:
        """One step of kernels/cpu/depthwise.py."""
        x, y = to.inputs[0], to.outputs[0]
        (h, w), (oh, ow), c, lanes = plane(x.shape), plane(y.shape), x.shape[1], to.target.lanes
        full = -(-c // lanes) * lanes
        vectors = ceil(c, lanes)
        pieces = min(vectors, to.target.units // 2)
        band = min(BAND, ceil(oh, ceil(to.target.units // 2, pieces)))
        piece = ceil(vectors, pieces) * lanes

        def weights() -> np.ndarray:
            packed = np.zeros((taps, full), np.float32)
            packed[:, :c] = to.value(1).reshape(c, taps).T
            return packed

        taps, bias = down[0] * across[0], to.node.inputs[2] if to.has(2) else ""
        if varies(to, 1):
            packed = repack.rows(to, to.input(1), taps, c, 1, taps, full)
        else:
            packed = to.constant(f"{to.node.inputs[1]}#depthwise", weights)
        if varies(to, 2):
            b = repack.rows(to, to.input(2), 1, c, 0, 1, full)
        else:
            b = to.constant(f"{bias}#lanes{c}", lambda: pad_bias(to.value(2) if bias else None, 1, c, lanes, lanes))
        to.step(
            "depthwise.depthwise", y.shape[0] * ceil(oh, band) * ceil(c, piece),
            work=4 * self.flops(to.inputs, to.outputs), x=to.input(0), y=to.output(), w=packed, b=b,
            image=DenseImage(h, w, c, oh, ow), window=sliding(down, across), padded=full, band=band, piece=piece,
            epilogue=epilogue(to, 1, c, lanes, lanes),
        )  # fmt: skip

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        from nbconv.ops.conv_grad import conv_gradient

        return conv_gradient(self, to)
