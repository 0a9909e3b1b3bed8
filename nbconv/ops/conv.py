"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Node, Spec
from nbconv.lowering import Lowering, Ref
from nbconv.ops import repack, winograd
from nbconv.ops import spec as want
from nbconv.ops.op import CHANNELS_LAST, NUMPY, Op
from nbconv.ops.packing import ceil, cut, epilogue, pack, pad_bias, padded
from nbconv.ops.patches import pad, reach, taps
from nbconv.ops.repack import Lying, varies
from nbconv.ops.window import Window, flat, plane, resolve

if TYPE_CHECKING:
    from nbconv.backprop import Backward


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

    kernel_shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    group: int = 1
    auto_pad: str = "NOTSET"

    def layout(self, inputs, outputs) -> str:
        weights = all(spec is None or spec.constant for spec in inputs[1:3])
        served = inputs[0].rank < 5 and (weights or not inputs[0].constant)  # constants do not lie channels last
        return CHANNELS_LAST if served and inputs[0].dtype == np.float32 else NUMPY

    def place(self, inputs, outputs, last) -> Any:
        """Weights that are no constants are read as ONNX has them."""
        if not last or self.layout(inputs, outputs) == NUMPY or inputs[1].constant:
            return None
        return (True, *[False] * (len(inputs) - 1)), (True,)

    def absorbs(self, inputs, outputs) -> str:
        return "residual"

    def pitched(self, inputs, outputs) -> bool:
        return True

    def reads_pitched(self, inputs, outputs, i) -> bool:
        return i == 0

    def lower_taps(
        self, to: Lowering, key: str, weights, lying: Lying, size, taps, down, across, place, image: Image | None = None,
        wide: tuple[Ref, int] | None = None,
    ) -> None:  # fmt: skip
        """One step of `conv` in kernels/cpu/conv.py. ``weights()`` gives (group, taps, cg, og) matrices, or, where they are
        no constants, they are packed as they are ``lying``; ``down`` and ``across`` are (kernel, stride, dilation, begin);
        ``place`` says where in y the (oh, ow) = ``size`` results go: (full h, full w, steps down and across, first row
        and column). ``image`` is what is read where it is not x; ``wide`` = (where, how many) takes that many channels,
        the bias repeated, where the result is not y's channels."""
        x, y = to.inputs[0], to.outputs[0]
        target, co = wide or (to.output(), y.shape[1])
        n, g, repeats = x.shape[0], self.group, co // y.shape[1]
        (oh, ow), og = size, co // g
        source, h, w, ldx, cg = image or Image(to.input(0), *plane(x.shape), to.ld(0), x.shape[1] // g)
        lanes, columns = to.target.lanes, to.columns
        m = n * oh * ow
        rows, panels, tap_chunk, channel_chunk, units = cut(to, m, cg, og, taps, g)
        (kh, sh, dh, ph), (kw, sw, dw, pw) = down, across
        if down == across == (1, 1, 1, 0) and place == (oh, ow, 1, 1, 0, 0) and (oh, ow) == (h, w):
            h, w, oh, ow, place = 1, m, 1, m, (1, m, 1, 1, 0, 0)  # one row of pixels: one sequence of addresses
        if not lying.kh:  # no tap meets these cells
            packed = to.constant(f"#zeros{g}x{cg}x{og}", lambda: np.zeros(g * cg * padded(og, lanes, columns), np.float32))
        elif varies(to, 1):
            packed = repack.panels(to, to.input(1), lying, g, og)
        else:
            packed = to.constant(
                f"{to.node.inputs[1]}#{key}", lambda: pack(weights().reshape(g, taps * cg, og), lanes, columns, to.drop)
            )
        to.step(
            "conv.conv", units, work=2 * m * co * cg * taps,
            x=source, y=target, res=to.residual,
            w=packed, b=self.bias(to, g, og, repeats),
            zeros=to.constant(f"#zeros{cg}", lambda: np.zeros(cg, np.float32)),
            m=m, h=h, width=w, ldx=ldx, cg=cg, oh=oh, ow=ow, ldy=co if wide else to.pitch or co,
            ldres=to.ldres, og=og,
            kh=kh, kw=kw, sh=sh, sw=sw, dh=dh, dw=dw, ph=ph, pw=pw, full_h=place[0], full_w=place[1], osh=place[2],
            osw=place[3], oy0=place[4], ox0=place[5], rows=rows, panels=panels, tap_chunk=tap_chunk,
            channel_chunk=channel_chunk, padded=padded(og, lanes, columns), **epilogue(to, g, og, lanes, columns),
        )  # fmt: skip

    def bias(self, to: Lowering, g: int, og: int, repeats: int = 1) -> Ref:
        """The bias of g groups of og channels as panels have it; y's channels so many times over."""
        if varies(to, 2):
            return repack.bias(to, to.input(2), g, og // repeats, repeats)
        name = to.node.inputs[2] if to.has(2) else ""

        def make() -> np.ndarray:
            values = np.tile(to.value(2), repeats) if name else None
            return pad_bias(values, g, og, to.target.lanes, to.columns)

        return to.constant(f"{name}#{g}x{og}", make)

    def lower_winograd(self, to: Lowering, tiling: winograd.Tiling, ph: int, pw: int, i: int, turned: bool = False) -> None:
        """One step of kernels/cpu/winograd.py: group i. ``turned``: w is (ci, co, 3, 3), its taps from last to first."""
        x, y = to.inputs[0], to.outputs[0]
        (n, channels, h, w), (_, out, oh, ow) = x.shape, y.shape
        ci, co, lanes, columns = channels // self.group, out // self.group, to.target.lanes, to.columns
        points, inner = (tiling.size + 2) ** 2, ceil(ci, lanes) * lanes
        area = points * (tiling.tiles * (inner + tiling.columns) + 2 * winograd.SKEW)
        name, bias, mine = to.node.inputs[1], to.node.inputs[2] if to.has(2) else "", slice(i * co, (i + 1) * co)

        def filters() -> np.ndarray:
            if not turned:
                return to.value(1)[mine]
            return to.value(1)[i * ci : (i + 1) * ci].swapaxes(0, 1)[..., ::-1, ::-1]

        if varies(to, 1):
            steps = (9 * co, 9) if turned else (9, 9 * ci)
            packed = repack.winograd(to, to.input(1).at(9 * i * ci * co), tiling.size, ci, co, *steps, turned)
        else:
            packed = to.constant(
                f"{name}#winograd{tiling.size}.{i}.{self.group}{'turned' * turned}",
                lambda: winograd.weights(filters(), tiling.size, lanes, columns),
            )
        if varies(to, 2):
            b = repack.bias(to, to.input(2).at(i * co), 1, co)
        else:
            b = to.constant(
                f"{bias}#{i}.{self.group}x{co}",
                lambda: pad_bias(to.value(2)[mine] if bias else None, 1, co, lanes, columns),
            )
        to.step(
            "winograd.winograd", ceil(tiling.total, tiling.tiles) * ceil(co, tiling.group),
            work=2 * points * tiling.total * ci * co, x=to.input(0).at(i * ci), y=to.output().at(i * co),
            res=to.residual and to.residual.at(i * co), scratch=to.scratch_per_thread(4 * area), w=packed, b=b,
            zeros=to.constant(f"#zeros{ci}", lambda: np.zeros(ci, np.float32)),
            n=n, h=h, width=w, ldx=to.ld(0), ci=ci, oh=oh, ow=ow, co=co, ldy=to.pitch or out,
            ldres=to.ldres, ph=ph, pw=pw, size=tiling.size, tiles=tiling.tiles,
            columns=tiling.columns, group=tiling.group, inner=inner, padded=padded(co, lanes, columns), area=area,
            **epilogue(to, 1, co, lanes, columns, mine),
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

    def pitched(self, inputs, outputs) -> bool:
        return not self.depthwise(inputs[1])

    def reads_pitched(self, inputs, outputs, i) -> bool:
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
            tiling = winograd.choose(to, x.shape[0], *plane(y.shape), x.shape[1] // g, y.shape[1] // g)
            if tiling is not None:
                for i in range(g):
                    self.lower_winograd(to, tiling, down[3], across[3], i)
                return
        g, taps, size = self.group, down[0] * across[0], plane(y.shape)

        def weights() -> np.ndarray:
            return to.value(1).reshape(g, w.shape[0] // g, w.shape[1], taps).transpose(0, 3, 2, 1)

        cg = w.shape[1]
        lying = Lying(0, w.size // g, across[0], 1, taps, cg * taps, down[0], across[0], cg)
        if self.few(x.shape, w.shape):
            image = self.padded_image(to, down, across)
            down, across = (*down[:3], 0), (1, across[1], 1, 0)
            self.lower_taps(to, f"conv{g}", weights, lying, size, down[0], down, across, (*size, 1, 1, 0, 0), image)
        else:
            self.lower_taps(to, f"conv{g}", weights, lying, size, taps, down[:4], across[:4], (*size, 1, 1, 0, 0))

    def few(self, x: tuple[int, ...], w: tuple[int, ...]) -> bool:
        """Whether rows of a window are multiplied at a time: its channels are few and all its taps neighbours."""
        across = 1 if self.dilations is None else self.dilations[-1]
        return self.group == 1 and x[1] < FEW and w[-1] > 1 and across == 1

    def place(self, inputs, outputs, last):
        """An image of few channels is padded first, and turned with that."""
        x, w = inputs[:2]
        if not last or self.layout(inputs, outputs) == NUMPY or not self.few(x.shape, w.shape):
            return super().place(inputs, outputs, last)
        return (last[0], *[w.constant] * (len(inputs) - 1)), (True,)

    def padded_image(self, to: Lowering, down, across) -> Image:
        """Steps that copy x into a zero-filled image with room for the padding, channels last."""
        x = to.inputs[0]
        (n, c), (h, w) = x.shape[:2], plane(x.shape)
        hp, wp = h + down[3] + down[4], w + across[3] + across[4]
        size = n * hp * wp * c
        image = to.scratch(4 * size)
        to.step("move.fill", -(-size // 16384), work=4 * size, y=image, n=size, chunk=16384, value=0.0)
        here = to.strides(0)
        here = here if x.rank == 4 else (*here[:2], 0, here[2])
        to.copy(to.input(0), image.at((down[3] * wp + across[3]) * c), (n, c, h, w), here, (hp * wp * c, 1, wp * c, c))
        return Image(image, hp, wp, c, across[0] * c)

    def lower_depthwise(self, to: Lowering, down, across) -> None:
        """One step of kernels/cpu/depthwise.py."""
        x, y = to.inputs[0], to.outputs[0]
        (h, w), (oh, ow), c, lanes = plane(x.shape), plane(y.shape), x.shape[1], to.target.lanes
        (kh, sh, dh, ph, _), (kw, sw, dw, pw, _) = down, across
        full = -(-c // lanes) * lanes
        vectors = ceil(c, lanes)
        pieces = min(vectors, 8)
        band = min(BAND, ceil(oh, ceil(8, pieces)))
        piece = ceil(vectors, pieces) * lanes

        def weights() -> np.ndarray:
            packed = np.zeros((kh * kw, full), np.float32)
            packed[:, :c] = to.value(1).reshape(c, kh * kw).T
            return packed

        taps, bias = kh * kw, to.node.inputs[2] if to.has(2) else ""
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
            h=h, width=w, c=c, oh=oh, ow=ow, kh=kh, kw=kw, sh=sh, sw=sw, dh=dh, dw=dw, ph=ph, pw=pw, padded=full,
            band=band, piece=piece, **epilogue(to, 1, c, lanes, lanes),
        )  # fmt: skip

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        from nbconv.ops.conv_grad import conv_gradient

        return conv_gradient(self, to)


class ConvTranspose(Convolution):
    """x (n, ci, *size), w (ci, co/group, *kernel), b (co) → y (n, co, *out): every x cell adds its multiple of the kernel
    at steps of ``strides``; ``pads`` are cropped from the result."""

    output_shape: tuple[int, ...] | None = None
    output_padding: tuple[int, ...] | None = None

    def window(self, x: tuple[int, ...], w: tuple[int, ...]) -> Window:
        """The geometry for inputs of these shapes; ``begin`` and ``end`` are what is cropped (negative never: a larger
        ``output_shape`` than the kernel reaches is filled with b at the end), ``out`` the output's size."""
        n = len(x) - 2
        strides, dilations = self.strides or (1,) * n, self.dilations or (1,) * n
        pads, extra = self.pads or (0,) * (2 * n), self.output_padding or (0,) * n
        # Only the attributes' lengths and signs matter here: the window slides over a size that always fits.
        resolve((1 << 40,) * n, w[2:], strides, dilations, pads, self.auto_pad)
        if len(extra) != n or min(extra) < 0:
            raise ModelError(f"output_padding {list(extra)} wants {n} entries, none negative")
        natural = tuple(
            (size - 1) * s + d * (k - 1) + 1 + e
            for size, k, s, d, e in zip(x[2:], w[2:], strides, dilations, extra, strict=True)
        )
        same = self.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if self.output_shape is not None:
            out = self.output_shape[-n:]
            if len(self.output_shape) not in (n, n + 2) or min(out) < 1:
                raise ModelError(f"output_shape {list(self.output_shape)} wants {n} entries, all positive")
        elif same:
            out = tuple(size * s for size, s in zip(x[2:], strides, strict=True))
        else:
            pads = (0,) * (2 * n) if self.auto_pad == "VALID" else pads
            out = tuple(a - b - e for a, b, e in zip(natural, pads[:n], pads[n:], strict=True))
            if min(out) < 1:
                raise ModelError(f"pads {list(pads)} leave nothing of an output of size {list(natural)}")
            return Window(w[2:], tuple(strides), tuple(dilations), pads[:n], pads[n:], out)
        total = tuple(max(a - o, 0) for a, o in zip(natural, out, strict=True))
        half, rest = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (half, rest) if self.auto_pad == "SAME_UPPER" else (rest, half)
        return Window(w[2:], tuple(strides), tuple(dilations), begin, end, out)

    def infer(self, x: Spec, w: Spec, b: Spec | None = None) -> Spec:
        co = w.shape[1] * self.group if w.rank > 1 else 0
        dtype = self.check(x, w, b, co)
        if x.shape[1] != w.shape[0]:
            raise ModelError(f"x has {x.shape[1]} channels, w wants {w.shape[0]}")
        if x.shape[1] % self.group:
            raise ModelError(f"x has {x.shape[1]} channels, not a multiple of {self.group} groups")
        if 0 in x.shape[2:]:
            raise ModelError(f"x is {x}: a spatial axis is empty")
        return want.make((x.shape[0], co, *self.window(x.shape, w.shape).out), dtype)

    def reference(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
        window, g = self.window(x.shape, w.shape), self.group
        n, ci, co, size = x.shape[0], x.shape[1] // g, w.shape[1], x.shape[2:]
        # The whole canvas: what the kernel reaches, and what is cropped or filled up to `out`.
        span = tuple(
            max((i - 1) * s + d * (k - 1) + 1, b + o)
            for i, k, s, d, b, o in zip(size, window.kernel, window.strides, window.dilations, window.begin, window.out)
        )
        y = np.zeros((n, g * co, *span), x.dtype)
        kernel = w.reshape(g, ci, *w.shape[1:]).swapaxes(1, 2)
        columns = x.reshape(n, g, ci, prod(size))
        spread = window._replace(out=size)
        with np.errstate(all="ignore"):
            for tap in np.ndindex(*window.kernel):
                part = kernel[(..., *tap)] @ columns
                y[(slice(None), slice(None), *reach(tap, spread))] += part.reshape(n, g * co, *size)
            y = y[(slice(None), slice(None), *(slice(b, b + o) for b, o in zip(window.begin, window.out, strict=True)))]
            return y + (0 if b is None else b.reshape(-1, *[1] * len(size)))

    def flops(self, inputs, outputs) -> int:
        return 2 * inputs[0].size * prod(inputs[1].shape[1:])

    def apart(self, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> bool:
        """Whether the kernels that x's cells add do not overlap, and tile y."""
        axes = flat(self.window(x, w))
        fits = all(axis[0] == axis[1] and axis[2] == 1 and axis[3] == 0 for axis in axes)
        return fits and self.group == 1 and plane(y) == tuple(d * axis[0] for d, axis in zip(plane(x), axes, strict=True))

    def absorbs(self, inputs, outputs) -> str:
        if self.depthwise(inputs[1]):
            return ""
        return "activation" if self.apart(inputs[0].shape, inputs[1].shape, outputs[0].shape) else "residual"

    def pitched(self, inputs, outputs) -> bool:
        return not self.depthwise(inputs[1]) and not self.apart(inputs[0].shape, inputs[1].shape, outputs[0].shape)

    def reads_pitched(self, inputs, outputs, i) -> bool:
        return i == 0 and not self.depthwise(inputs[1])

    def lower_apart(self, to: Lowering, kh: int, kw: int) -> None:
        """One product that makes all cells of every kernel, which are then put in their places."""
        x, w, y = to.inputs[0], to.inputs[1], to.outputs[0]
        n, (h, width), co = x.shape[0], plane(x.shape), y.shape[1]
        cells = to.scratch(4 * n * h * width * kh * kw * co)

        def weights() -> np.ndarray:
            return to.value(1).reshape(w.shape[0], co, kh, kw).transpose(0, 2, 3, 1)

        one, ci = (1, 1, 1, 0), w.shape[0]
        lying = Lying(0, 0, 0, 0, kh * kw * co, 1, 1, 1, ci)
        if varies(to, 1):  # as (ci, kh, kw, co) first: columns are equally spaced then
            turned = to.scratch(4 * w.size)
            to.copy(to.input(1), turned, (ci, kh * kw, co), (w.size // ci, 1, kh * kw), (w.size // ci, co, 1))
            to.node = Node(to.node.op, (to.node.inputs[0], turned.name, *to.node.inputs[2:]), to.node.outputs, to.node.name)
        self.lower_taps(
            to, "apart", weights, lying, (h, width), 1, one, one, (h, width, 1, 1, 0, 0), wide=(cells, kh * kw * co)
        )
        there = to.out_strides() if y.rank == 4 else (*to.out_strides()[:2], 0, to.out_strides()[2])
        (yn, yc, yh, yw), here = there, kh * kw * co
        to.copy(
            cells, to.output(), (n, h, width, kh, kw, co), (h * width * here, width * here, here, kw * co, co, 1),
            (yn, yh * kh, yw * kw, yh, yw, yc),
        )  # fmt: skip

    def lower(self, to: Lowering) -> None:
        """Output cells whose row and column leave the same remainders by the strides meet the same taps, and read x at
        stride 1: each such phase is a convolution of its own."""
        x, w, y = to.inputs[0], to.inputs[1], to.outputs[0]
        down, across = flat(self.window(x.shape, w.shape))
        kernel, (oh, ow), g = (down[0], across[0]), plane(y.shape), self.group
        if self.apart(x.shape, w.shape, y.shape):
            self.lower_apart(to, *kernel)
            return
        if self.depthwise(w):
            self.lower_depthwise(to, down, across)
            return
        if g <= GROUPS and down[:3] == across[:3] == (3, 1, 1) and x.rank == 4:
            tiling = winograd.choose(to, x.shape[0], oh, ow, x.shape[1] // g, y.shape[1] // g)
            if tiling is not None:
                for i in range(g):
                    self.lower_winograd(to, tiling, 2 - down[3], 2 - across[3], i, turned=True)
                return

        for p in range(min(down[1], oh)):
            ky, vertical = _phase(p, down)
            for q in range(min(across[1], ow)):
                kx, horizontal = _phase(q, across)

                def weights(ky: list[int] = ky, kx: list[int] = kx) -> np.ndarray:
                    full = to.value(1).reshape(g, w.shape[0] // g, w.shape[1], *kernel)
                    some = full[:, :, :, ky][..., kx].transpose(0, 3, 4, 1, 2)
                    return some.reshape(g, len(ky) * len(kx), *full.shape[1:3])

                v, h = vertical, horizontal
                if not ky or not kx:  # no tap reaches these cells: a zero tap in the padding leaves the bias
                    v, h = (1, 1, 1, 1 << 30), (1, 1, 1, 0)
                size = -(-(oh - p) // down[1]), -(-(ow - q) // across[1])
                key = f"transposed{g}.{p}.{q}.{down[1:4]}.{across[1:4]}"
                place = (oh, ow, down[1], across[1], p, q)
                lying = _lying(w.shape, g, kernel, ky, kx)
                self.lower_taps(to, key, weights, lying, size, v[0] * h[0], v, h, place)

    def depthwise(self, w: Spec) -> bool:
        """Whether each channel has a filter of its own, and one only."""
        return self.group > 1 and w.shape[:2] == (self.group, 1)

    def lower_depthwise(self, to: Lowering, down, across) -> None:
        """One step of `depthwise_transposed` in kernels/cpu/conv_grad.py."""
        x, y, c = to.inputs[0], to.outputs[0], to.inputs[0].shape[1]
        (h, w), (oh, ow), lanes = plane(y.shape), plane(x.shape), to.target.lanes
        (kh, sh, dh, ph, _), (kw, sw, dw, pw, _) = down, across
        taps, full = kh * kw, ceil(c, lanes) * lanes
        zeros = to.constant(f"#zeros{full}", lambda: np.zeros(full, np.float32))
        to.step(
            "conv_grad.depthwise_transposed", y.shape[0] * h, work=4 * self.flops(to.inputs, to.outputs), dy=to.input(0),
            w=repack.rows(to, to.input(1), taps, c, 1, taps, full),
            b=repack.rows(to, to.input(2), 1, c, 0, 1, full) if to.has(2) else zeros, y=to.output(),
            h=h, width=w, c=c, oh=oh, ow=ow, kh=kh, kw=kw, sh=sh, sw=sw, dh=dh, dw=dw, ph=ph, pw=pw, padded=full,
        )  # fmt: skip

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        from nbconv.ops.conv_grad import transposed_gradient

        return transposed_gradient(self, to)


def _lying(w: tuple[int, ...], g: int, kernel: tuple[int, int], ky: list[int], kx: list[int]) -> Lying:
    """The taps ky × kx of a transposed convolution's weights (ci, co/group, kh, kw)."""
    taps = kernel[0] * kernel[1]
    if not ky or not kx:
        return Lying(0, 0, 0, 0, 0, 0, 0, 0, 0)
    down, across = (v[1] - v[0] if len(v) > 1 else 1 for v in (ky, kx))
    base, cg = ky[0] * kernel[1] + kx[0], w[0] // g
    return Lying(base, cg * w[1] * taps, down * kernel[1], across, w[1] * taps, taps, len(ky), len(kx), cg)


def _phase(p: int, axis: tuple[int, int, int, int, int]) -> tuple[list[int], tuple[int, int, int, int]]:
    """The taps of a transposed convolution that meet output cells p, p + stride, …, and the (kernel, stride, dilation,
    begin) with which they slide over x: cell p + stride·i and tap k meet x at i + (p + begin - k·dilation) / stride."""
    kernel, stride, dilation, begin, _ = axis
    taps = [k for k in range(kernel) if (p + begin - k * dilation) % stride == 0]
    if not taps:
        return taps, (1, 1, 1, 0)
    step = taps[1] - taps[0] if len(taps) > 1 else 1
    first = (p + begin - taps[0] * dilation) // stride
    return taps, (len(taps), 1, -(step * dilation // stride), -first)
