"""What an op's `lower` works with: its Specs, where its values lie, and the steps it emits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.graph import CHANNELS_FIRST, CHANNELS_LAST, FLOAT32, Layout, Node, Spec
from nbconv.graph.symbolic import Symbol, apply
from nbconv.kernels.params import Clamp, Epilogue, Extents, Rows, RowStrides, Strides, flat
from nbconv.lowering.axes import merge, split, tiles
from nbconv.lowering.step import Impl, Ref, Step, Work
from nbconv.lowering.weights import Weights

if TYPE_CHECKING:
    from nbconv.graph.op import Op
    from nbconv.kernels.target import Target

WORK = 1 << 16
"""Work (about one floating-point operation, or a quarter byte moved, each) that is worth claiming at a time."""


_UNKNOWN = Work()
CHUNK = 1 << 14
"""Elements of other types than float32 that a unit fills."""


class Operand(NamedTuple):
    """An input broadcast to the output's shape: one element stride for each logical axis of it."""

    ref: Ref
    strides: tuple[int, ...]


class View(NamedTuple):
    """A strided view: a value within a wider one, ``pitch`` elements from one pixel to the next."""

    ref: Ref
    pitch: int


class Affine(NamedTuple):
    """A factor and a term a channel (float32), and the names of the constants they were made of."""

    key: str
    scale: np.ndarray
    shift: np.ndarray


class Lowering:
    """One node on its way to steps. `layout` says how a value lies, `out_shape` and `strides` what that means."""

    def __init__(
        self,
        node: Node,
        op: Op,
        inputs: tuple[Any, ...],
        outputs: tuple[Spec, ...],
        layouts: Mapping[str, Layout],
        constants: dict[str, np.ndarray],
        weights: Weights,
        target: Target,
        threads: int,
        views: dict[str, View],
    ) -> None:
        self.node, self.op, self.inputs, self.outputs = node, op, inputs, outputs
        self.target, self.threads, self.slots, self.views = target, threads, 0, views
        self.epilogue: Epilogue = Epilogue()
        self.affine: Affine | None = None
        self.residual: Ref | None = None
        self.ldres = 0
        self.choices: Mapping[Any, str] = {}
        """by problem the implementation found to be fastest here (see `nbconv.runtime.tuner`); costs decide what it lacks"""
        self.impl: Impl | None = None
        """the implementation whose steps are emitted now, where the op's problem has a list of them"""
        self.packed_limit = inf
        """bytes that transformed weights may take"""
        self.scratch_limit = inf
        """bytes of packed weights, or of sums of a gradient, that are wanted at a time: more are made one after another"""
        self.described = True
        """whether steps say how they work, for reports"""
        self.steps: list[Step] = []
        self.aliases: dict[str, str] = {}
        self.scratches: dict[str, int] = {}
        self._named = [name for name in node.outputs if name]
        self._layouts, self._constants, self._weights = layouts, constants, weights

    @property
    def columns(self) -> int:
        """Columns of a full panel of packed weights."""
        return self.target.columns

    def layout(self, name: str) -> Layout:
        """How a value lies."""
        return self._layouts.get(name, CHANNELS_FIRST)

    def out_shape(self, i: int = 0) -> tuple[int, ...]:
        """Output i's dimensions in the order in which they lie."""
        return self.layout(self._named[i]).physical(self.outputs[i].shape)

    def strides(self, i: int) -> tuple[int, ...]:
        """Element strides of input i, one for each dimension of its logical shape."""
        name = self.node.inputs[i]
        return self.layout(name).strides(self.inputs[i].shape, self._pitch(name))

    def out_strides(self, i: int = 0) -> tuple[int, ...]:
        """Element strides of output i, one for each dimension of its logical shape."""
        name = self._named[i]
        return self.layout(name).strides(self.outputs[i].shape, self._pitch(name))

    def has(self, i: int) -> bool:
        """Whether input i was given."""
        return i < len(self.node.inputs) and bool(self.node.inputs[i])

    def known(self, *which: int) -> str:
        """The names of the constants among these inputs (default: all), for the key of a constant that is made of them."""
        given = which or range(len(self.inputs))
        return ",".join(self.node.inputs[i] for i in given if self.has(i) and self.inputs[i].constant)

    def value(self, i: int) -> np.ndarray:
        """The array of input i, a constant, in its logical shape."""
        return self._constants[self.node.inputs[i]]

    def input(self, i: int) -> Ref:
        """Where input i lies."""
        return self._view(self.node.inputs[i], self.inputs[i].dtype).ref

    def ld(self, i: int) -> int:
        """Elements from one pixel of input i, which lies channels last, to the next."""
        return self._pitch(self.node.inputs[i]) or self.inputs[i].shape[1]

    def _view(self, name: str, dtype: np.dtype) -> View:
        return self.views.get(name) or View(Ref(name, 0, dtype), 0)

    def _pitch(self, name: str) -> int:
        return self.views[name].pitch if name in self.views else 0

    def is_view(self, name: str, ref: Ref, pitch: int) -> bool:
        """Whether a value lies there already: nothing is to be copied."""
        return self.views.get(name) == View(ref, pitch)

    def output(self, i: int = 0) -> Ref:
        """Where output i lies, counting only those that the node names."""
        return self._view(self._named[i], self.outputs[i].dtype).ref

    @property
    def pitch(self) -> int:
        """Elements from one pixel of the output to the next where it lies in the middle of a wider value, else 0."""
        return self._pitch(self._named[0])

    def constant(self, key: str, make: Callable[[], np.ndarray]) -> Ref:
        """A constant that this op derives; ``key`` must say all that it depends on (names of constants, geometry)."""
        self._constants[key] = found = self._weights.get(key, make)
        return Ref(key, 0, found.dtype)

    def drop(self) -> None:
        """Let go of the model file's pages that were read so far: they are read again where they are needed."""
        self._weights.drop()

    def table(self, name: str, values: np.ndarray) -> Ref:
        """A constant that input shapes decide: it belongs to this plan alone."""
        key = f"{self._named[0]}#{name}"
        self._constants[key] = values
        return Ref(key, 0, (values.value if type(values) is Symbol else values).dtype)

    def scratch(self, dtype: np.dtype, n: int) -> Ref:
        """Memory of n elements for this node's steps alone."""
        name = f"{self.node.outputs[0]}#scratch{len(self.scratches)}"
        self.scratches[name] = n * dtype.itemsize
        return Ref(name, 0, dtype)

    def wrongs(self, units: int) -> Ref:
        """Memory for the argument ``wrong`` of a step that checks indices: for each unit the size of the axis that one
        leaves, or 0, and that index, two int64. It is looked at when all steps are done, and an error says what stands
        there."""
        return self.scratch(np.dtype(np.int64), 2 * units)

    def floats(self, n: int) -> Ref:
        """Memory of n float32 for this node's steps alone."""
        return self.scratch(FLOAT32, n)

    def floats_per_thread(self, n: int) -> Ref:
        """Memory of n float32 for each thread that works on this node: a kernel finds its own by ``slot``."""
        self.slots = self.threads
        return self.floats(n * self.threads)

    def alias(self, output: int = 0, input: int = 0) -> None:
        """The output is the input's memory under another shape: no step, unless one of them lies in the middle of a third
        value."""
        name, source = self.node.outputs[output], self.node.inputs[input]
        if name in self.views or source in self.views:
            self.copy(self.input(input), self.output(self._named.index(name)), (self.inputs[input].size,), (1,), (1,))
        else:
            self.aliases[name] = source

    def unary(
        self, kernel: str, *, x: Ref | None = None, y: Ref | None = None, n: int | None = None, **parameters: Any
    ) -> None:
        """One elementwise step from input 0 to the output, or between the arrays given, of n elements."""
        n, chunk = self.outputs[0].size if n is None else n, self.target.chunk
        x, y = x or self.input(0), y or self.output()
        self.step(kernel, -(-n // chunk), work=8 * n, x=x, y=y, n=n, chunk=chunk, **parameters)

    def gpu_split(self, units: int, times: int) -> int:
        """The units of a step whose CUDA kernel cuts each of the processors' into this many."""
        return units * times if self.target.gpu else units

    def pieces(self, n: int, nbytes: int) -> list[tuple[int, int]]:
        """[first, last) of n columns of so many bytes, in whole panels, each of `scratch_limit` or little more."""
        step, most = n, self.scratch_limit
        if most < inf:
            step = int(max(1, most // max(nbytes * self.columns, 1))) * self.columns
        return [(i, min(n, i + step)) for i in range(0, n, step)]

    def columns_step(self, kernel: str, outer: int, n: int, inner: int, **more: Any) -> None:
        """One step of a kernel over the middle axis of (outer, n, inner), as those of `kernels/cpu/reduce.py`; from input 0
        to the output where ``more`` names no ``x`` and ``y``."""
        units = outer if inner == 1 else outer * -(-inner // self.target.lanes)
        arguments = {"x": self.input(0), "y": self.output(), "n": n, "inner": inner, **more}
        self.step(kernel, units, work=8 * outer * n * inner, **arguments)

    def turns(self, outer: int, n: int, inner: int) -> list[tuple[int, int, int]]:
        """A reduction over the middle axis of (outer, n, inner) as several, one after another, where few units would each do
        a long one."""
        lanes, found = self.target.lanes, []
        units, most = (outer, self.target.run * lanes) if inner == 1 else (outer * -(-inner // lanes), self.target.run)
        while units < self.target.units and n > 2 * most:
            part = next((k for k in range(int(most), int(most) // 4, -1) if n % k == 0), n)
            n //= part
            found.append((outer * n, part, inner))
        return [*found, (outer, n, inner)] if n > 1 or not found else found

    def copy(self, x: Ref, y: Ref, shape: tuple[int, ...], xs: tuple[int, ...], ys: tuple[int, ...]) -> None:
        """Copy elements of this shape between two strided arrays (strides in elements)."""
        axes = merge(sorted(zip(shape, xs, ys, strict=True), key=lambda t: (-t[2], -abs(t[1]))))
        line = [axes.pop()]
        if axes and (line[0][1:] != (1, 1) or line[0][0] < 4096):
            line.insert(0, axes.pop())
        if any(d < 1 for d, _, _ in line):
            return
        if len(axes) > 3:
            d, a, b = axes[0]
            rest = [*axes[1:], *line]
            for i in range(d):
                self.copy(x.at(i * a), y.at(i * b), *(tuple(t[k] for t in rest) for k in range(3)))
            return
        if len(line) > 1 and line[0][1] == line[1][2] == 1 and len(axes) < 3:  # a transpose: its longer axis is cut
            long = 1 if line[1][0] > line[0][0] else 0
            beside, line[long] = apply(split, line[long], 16384 // line[1 - long][0], self.target.lanes)
            axes += beside
        elif not axes:
            axes, line[0] = apply(split, line[0], 16384 // line[-1][0] if len(line) > 1 else 16384, self.target.lanes)
        five = [(1, 0, 0)] * (3 - len(axes)) + axes + [(1, 0, 0)] * (2 - len(line)) + line
        n0, n1, n2, n3, n4 = (t[0] for t in five)
        nbytes = x.dtype.itemsize * n0 * n1 * n2 * n3 * n4
        kernel = "move.copy" if x.dtype.itemsize == FLOAT32.itemsize else f"elements.copy_{x.dtype.itemsize}"
        self.step(
            kernel,
            self.gpu_split(n0 * n1 * n2, apply(tiles, n3, n4)),
            work=16 * n0 * n1 * n2 * n3 * n4,
            x=x,
            y=y,
            extents=Extents(n1, n2, n3, n4),
            x_strides=Strides(*(t[1] for t in five)),
            y_strides=Strides(*(t[2] for t in five)),
            does=Work(0, 0, nbytes, copies=True),
        )

    def fill(self, y: Ref, n: int, value: float = 0.0) -> None:
        """n elements of one value."""
        size, kernel, chunk = y.dtype.itemsize, "move.fill", 4 * self.target.chunk
        bits: int | float = value
        if y.dtype != FLOAT32:
            kernel, chunk, bits = f"elements.fill_{size}", CHUNK, int(np.array(value, y.dtype).view(f"i{size}"))
        done = Work(0, 0, size * n)
        self.step(kernel, -(-n // chunk), work=size * n, y=y, n=n, chunk=chunk, value=bits, does=done)

    def broadcast(
        self, kernel: str, a: Operand, b: Operand, y: Ref, clamp: bool = True, more: Mapping[str, Any] | None = None
    ) -> None:
        """One step of a kernel of `kernels/cpu/arithmetic.py` from two operands to ``y``, which lies as the output; or of
        another that takes ``more`` in the place of limits."""
        shape = self.outputs[0].shape
        order = self.layout(self.node.outputs[0]).order(len(shape))
        axes = [(shape[i], a.strides[i], b.strides[i]) for i in order]
        limits = self.epilogue.clamp() if clamp else Clamp(-inf, inf)
        axes = merge(axes)
        if not {*axes[-1][1:]} <= {0, 1}:  # one channel in the middle of others
            axes.append((1, 1, 1))
        self._broadcast(kernel, a.ref, b.ref, y, axes, {"clamp": limits} if more is None else more)

    def _broadcast(
        self, kernel: str, a: Ref, b: Ref, y: Ref, axes: list[tuple[int, int, int]], more: Mapping[str, Any]
    ) -> None:
        n, ai, bi = axes.pop()
        total = n
        for d, _, _ in axes:
            total *= d
        if len(axes) > 3:
            d, sa, sb = axes.pop(0)
            for i in range(d):
                self._broadcast(kernel, a.at(i * sa), b.at(i * sb), y.at(i * total // d), [*axes, (n, ai, bi)], more)
            return
        chunk = self.target.chunk
        if not axes and n > chunk:
            axes, n = [(-(-n // chunk), chunk * ai, chunk * bi)], chunk
        if len(axes) < 3 and n > self.target.line:
            outer, (n, ai, bi) = apply(split, (n, ai, bi), chunk, self.target.lanes)
            axes += outer
        (d0, a0, b0), (d1, a1, b1), (d2, a2, b2) = [(1, 0, 0)] * (3 - len(axes)) + axes
        self.step(
            kernel,
            d0 * d1 * d2,
            work=16 * total,
            a=a,
            b=b,
            y=y,
            rows=Rows(d1, d2, n, total),
            a_strides=RowStrides(a0, a1, a2, ai),
            b_strides=RowStrides(b0, b1, b2, bi),
            **more,
        )

    def rows(self, kernel: str, **operands: Operand) -> None:
        """One step of a kernel of `kernels/cpu/logic.py` from broadcast operands (by its arguments' names) to the output,
        which lies as ONNX has it."""
        shape, y = self.outputs[0].shape, self.output()
        axes: list[tuple[int, ...]] = []
        for d, *steps in zip(shape, *(o.strides for o in operands.values()), strict=True):
            if d == 1:
                continue
            if axes and all(a == d * s for a, s in zip(axes[-1][1:], steps, strict=True)):
                axes[-1] = (axes[-1][0] * d, *steps)
            else:
                axes.append((d, *steps))
        axes = axes or [(1, *[0] * len(operands))]
        if len(axes) == 1 and axes[0][0] > self.target.chunk:
            (d, *steps), n = axes[0], self.target.chunk
            axes = [(-(-d // n), *(n * s for s in steps)), (n, *steps)]
        n, *inner = axes.pop()
        if len(axes) < 3 and n > self.target.line and n % self.target.lanes == 0:
            axes.append((n // self.target.lanes, *(self.target.lanes * s for s in inner)))
            n = self.target.lanes
        total = self.outputs[0].size
        self._rows(kernel, {k: o.ref for k, o in operands.items()}, y, axes, n, inner, total)

    def _rows(self, kernel: str, refs: dict[str, Ref], y: Ref, axes: list, n: int, inner: list, total: int) -> None:
        if len(axes) > 3:
            (d, *steps), rest = axes[0], axes[1:]
            for i in range(d):
                moved = {k: r.at(i * s) for (k, r), s in zip(refs.items(), steps, strict=True)}
                self._rows(kernel, moved, y.at(i * (total // d)), rest, n, inner, total // d)
            return
        three = [(1, *[0] * len(refs))] * (3 - len(axes)) + axes
        apart: dict[str, Any] = {
            f"{k}_strides": RowStrides(*(axis[1 + j] for axis in (*three, (n, *inner)))) for j, k in enumerate(refs)
        }
        d0, d1, d2 = (axis[0] for axis in three)
        self.step(kernel, d0 * d1 * d2, work=16 * total, **refs, y=y, rows=Rows(d1, d2, n, total), **apart)

    def operand(self, i: int) -> Operand:
        """Input i broadcast to the output: 0 strides along its missing and unit axes. A constant whose innermost
        axis is not contiguous is turned first."""
        shape, spec = self.outputs[0].shape, self.inputs[i]
        ref, steps = self.input(i), self.strides(i)
        missing = len(shape) - spec.rank
        full, steps = (1,) * missing + spec.shape, (0,) * missing + steps
        last = self.layout(self.node.outputs[0]) is CHANNELS_LAST
        if last and spec.constant and full[1] > 1 and sum(d > 1 for d in full) > 1:
            name = self.node.inputs[i]
            ref = self.constant(f"{name}#last{len(full)}", lambda: np.moveaxis(self.value(i).reshape(full), 1, -1).copy())
            steps = CHANNELS_LAST.strides(full)
        return Operand(ref, tuple(0 if d == 1 else s for d, s in zip(full, steps, strict=True)))

    def step(
        self,
        kernel: str,
        units: int,
        *,
        work: int,
        kind: str = "other",
        algorithm: str | Callable[[], str] = "",
        slow: str = "",
        does: Work = _UNKNOWN,
        writes: tuple[str, ...] = ("y",),
        zeros: Ref | None = None,
        **arguments: int | float | Ref | tuple | None,
    ) -> None:
        """Emit ``family.kernel`` over this many units. Arguments go by the kernel's names, NamedTuples of
        `nbconv.kernels.params` among them; ``writes`` says which it writes to, and ``zeros`` is read in place of what lies
        outside of an image. ``work`` is the step's in all: flops, or four a byte moved; ``kind``, ``algorithm``, ``does``
        and ``slow`` are what a profile and a report say of it."""
        if units <= 0:
            return
        chunk = apply(_claimed, units, work)
        words = flat(arguments)
        refs = [(name, value.name) for name, value in words.items() if isinstance(value, Ref)]
        if zeros is not None:
            words["zeros"] = zeros
        said = algorithm if isinstance(algorithm, str) else algorithm() if self.described else ""
        impl = (self.impl or Impl(kernel))._replace(kind=kind, algorithm=said or described(kernel), slow=slow)
        self.steps.append(
            Step(
                self.node,
                kernel,
                units,
                chunk,
                words,
                impl,
                does,
                tuple(value for name, value in refs if name not in writes),
                tuple(value for name, value in refs if name in writes),
            )
        )

    def zeros(self, n: int) -> Ref:
        """A row of n zeros."""
        return self.constant(f"#zeros{n}", lambda: np.zeros(n, np.float32))


def _claimed(units: int, work: int) -> int:
    """Units of a step that are worth claiming at a time."""
    return min(units, max(1, -(-WORK * units // max(work, 1))))


def described(kernel: str) -> str:
    """A kernel's name, as a reader wants it."""
    family, _, name = kernel.partition(".")
    return family if family == name else kernel
