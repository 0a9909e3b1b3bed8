"""Sampling of images and volumes where a grid says: GridSample, AffineGrid, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels.params import Extents
from nbconv.kernels.sampling_params import Sampler, Volumes
from nbconv.lowering.context import Lowering
from nbconv.lowering.repack import channels_last
from nbconv.ops.linear import MatMul, reshape, turned
from nbconv.ops.resize import cubic

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("zeros", "border", "reflection")
CUBIC = -0.75
"""The free parameter of the cubic kernel."""
FAR = 2.0**24
"""Cells from x beyond which a place is moved to there."""


class Taps(NamedTuple):
    """What the samples read along one axis, an array of the samples' shape each."""

    cell: np.ndarray
    inside: np.ndarray
    weight: np.ndarray
    slope: np.ndarray
    """of the weight by the grid's coordinate"""


class Sampling(Op, abstract=True):
    """What GridSample and its gradients share: the attributes, and which cells each sample reads."""

    kernel_dtypes = ONLY_FLOAT32

    mode: str = "linear"
    padding_mode: str = "zeros"
    align_corners: int = 0

    def check(self, x: tuple[int, ...], grid: Spec) -> None:
        """ModelError unless the grid is one for an x of this shape."""
        for name, value, choice in (("mode", self.mode, MODES), ("padding_mode", self.padding_mode, PADDINGS)):
            if value not in choice:
                raise ModelError(f"{name} is {value!r}, wanted {', '.join(choice)}")
        if grid.rank != len(x) or grid.shape[0] != x[0] or grid.shape[-1] != len(x) - 2:
            raise ModelError(f"grid is {grid}, x {list(x)} wants [{x[0]}, …, {len(x) - 2}] of rank {len(x)}")
        if 0 in x[2:] and 0 not in grid.shape:
            raise ModelError(f"x is {list(x)}: nothing to sample along an empty axis")

    def along(self, g: np.ndarray, size: int) -> list[Taps]:
        """The taps along an axis of this size, of coordinates ``g``. NaN lies far before the first cell."""
        g, aligned = g.astype(np.result_type(g, np.float32)), bool(self.align_corners)
        slope = np.full(g.shape, (size - aligned) / 2, g.dtype)
        place = (g + 1) / 2 * (size - 1) if aligned else ((g + 1) * size - 1) / 2
        place = np.clip(np.where(np.isnan(place), -FAR, place), -FAR, FAR)
        if self.mode == "nearest":
            place = np.rint(place)
        low, span = (0.0, size - 1) if aligned else (-0.5, size)
        out = (place < low) | (place > low + span)
        if self.padding_mode == "border" and self.mode != "cubic":  # whose cells are moved, as PyTorch does
            place, slope = np.where(out, np.clip(place, 0, size - 1), place), np.where(out, 0, slope)
        elif self.padding_mode == "reflection":
            inner, sign = mirrored(place, low, span)
            place, slope = np.where(out, inner, place), np.where(out, sign * slope, slope)
        first = np.floor(place)
        t = place - first
        if self.mode == "nearest":
            weights, slopes = [np.ones_like(t)], [np.zeros_like(t)]
        elif self.mode == "linear":
            weights, slopes = [1 - t, t], [-slope, slope]
        else:
            first = first - 1
            weights, slopes = cubic_weights(t), [s * slope for s in cubic_slopes(t)]
        found = []
        for k, (weight, by) in enumerate(zip(weights, slopes, strict=True)):
            cell = first.astype(np.int64) + k
            inside = (cell >= 0) & (cell < size)
            if self.padding_mode == "reflection":
                cell, inside = np.where(inside, cell, mirrored_cell(cell, size, aligned)), np.ones_like(inside)
            elif self.padding_mode == "border":
                inside = np.ones_like(inside)
            found.append(Taps(np.clip(cell, 0, size - 1), inside, weight, by))
        return found

    def samples(self, size: tuple[int, ...], grid: np.ndarray) -> Iterator[tuple[Taps, ...]]:
        """Each combination of taps along the axes, outermost axis first."""
        axes = [self.along(grid[..., -1 - a], d) for a, d in enumerate(size)]
        yield from product(*axes)

    def layouts(self, inputs, outputs, given) -> Any:
        """Values channels last, the grid as ONNX has it."""
        if self.layout(inputs, outputs) == NUMPY:
            return None
        wide = [CHANNELS_LAST] * (len(inputs) - 1)
        return (*wide, CHANNELS_FIRST), (CHANNELS_LAST,)

    def has_kernel(self, inputs, outputs) -> bool:
        served = super().has_kernel(inputs, outputs) and inputs[0].rank in (4, 5)
        return served and all(s.dtype in self.kernel_dtypes and s.size > 0 for s in (*inputs, *outputs))

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def step(self, to: Lowering, kernel: str, shape: tuple[int, ...], units: int, writes: str, **arrays: Any) -> None:
        """One step of a kernel of `kernels/cpu/sample.py`, for an x of this shape; the grid is the last input."""
        grid, taps = to.inputs[-1], {"nearest": 1, "linear": 2, "cubic": 4}[self.mode] ** (len(shape) - 2)
        d, h, w = (1, *shape[2:])[-3:]
        to.step(
            f"sample.{kernel}",
            units,
            work=grid.size // grid.shape[-1] * taps * (40 + 4 * shape[1]),
            writes=(writes,),
            grid=to.input(len(to.inputs) - 1),
            volumes=Volumes(d, h, w, shape[1], prod(grid.shape[1:-2]), grid.shape[-2]),
            sampler=Sampler(
                len(shape) - 2, MODES.index(self.mode), PADDINGS.index(self.padding_mode), int(bool(self.align_corners))
            ),
            **arrays,
        )


def mirrored(place: np.ndarray, low: float, span: float) -> tuple[np.ndarray, np.ndarray]:
    """Places outside of [low, low + span] as reflections bring them inside, and the signs of their slopes."""
    away = np.where(place < low, low - place, place - low - span)
    times = np.floor(away / span) if span else np.zeros_like(away)
    rest = away - times * span if span else np.zeros_like(away)
    even = times % 2 == 0
    return np.where((place < low) == even, low + rest, low + span - rest), np.where(even, -1, 1)


def mirrored_cell(cell: np.ndarray, size: int, aligned: bool) -> np.ndarray:
    """Cells outside of [0, size) as reflections bring them inside."""
    away = np.where(cell < 0, -cell, cell - size + 1) - (not aligned)
    span = max(size - aligned, 1)
    times, rest = away // span, away % span
    return np.where((cell < 0) == (times % 2 == 0), rest, size - 1 - rest)


def cubic_weights(t: np.ndarray) -> list[np.ndarray]:
    """Weights of four cells around a place t behind the second of them."""
    return [cubic(d, CUBIC) for d in (t + 1, t, 1 - t, 2 - t)]


def cubic_slopes(t: np.ndarray, a: float = CUBIC) -> list[np.ndarray]:
    """The weights' slopes by t."""
    outer = [(3 * a * d - 10 * a) * d + 8 * a for d in (t + 1, 2 - t)]
    inner = [(3 * (a + 2) * d - 2 * (a + 3)) * d for d in (t, 1 - t)]
    return [outer[0], inner[0], -inner[1], -outer[1]]


def read(x: np.ndarray, taps: tuple[Taps, ...]) -> np.ndarray:
    """What a tap reads of x (n, c, *size): (n, *samples, c), 0 outside."""
    n = np.arange(len(x)).reshape(-1, *[1] * (taps[0].cell.ndim - 1))
    seen = x[(n, slice(None), *(t.cell for t in taps))]
    return np.where(np.all([t.inside for t in taps], axis=0)[..., None], seen, 0)


class GridSample(Sampling):
    """x (n, c, *size) sampled at the places that the grid (n, *out, axes) names as (x, y, z), from -1 to 1 → (n, c, *out).
    A coordinate that is NaN lies outside of x."""

    fixed = (1,)
    batch_inputs = (0, 1)

    def infer(self, x: Spec, grid: Spec) -> Spec:
        want.kind("fiu", x=x)
        want.kind("f", grid=grid)
        want.rank(x, 3)
        self.check(x.shape, grid)
        return want.make((*x.shape[:2], *grid.shape[1:-1]), x.dtype)

    def reference(self, x: np.ndarray, grid: np.ndarray) -> np.ndarray:
        y = np.zeros((len(x), *grid.shape[1:-1], x.shape[1]), np.result_type(x, np.float32))
        with np.errstate(all="ignore"):
            for taps in self.samples(x.shape[2:], grid) if y.size else ():
                y += np.prod([t.weight for t in taps], axis=0)[..., None].astype(y.dtype) * read(x, taps)
            return np.ascontiguousarray(np.moveaxis(y, -1, 1)).astype(x.dtype, copy=False)

    def flops(self, inputs, outputs) -> int:
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode] ** (inputs[0].rank - 2)
        return 2 * taps * outputs[0].size

    def lower(self, to: Lowering) -> None:
        x, grid = to.inputs
        self.step(to, "grid_sample", x.shape, prod(grid.shape[:-2]), "y", x=channels_last(to, 0), y=to.output())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, fields = to.inputs[0], {name: getattr(self, name) for name in Sampling.fields}
        dx = to.add(GridSampleGrad(size=x.shape[2:], **fields), to.dy(), to.x(1)) if to.wants(0) else None
        moves = to.wants(1) and self.mode != "nearest"
        return dx, to.add(GridSampleGradGrid(**fields), to.dy(), to.x(0), to.x(1)) if moves else None


class GridSampleGrad(Sampling):
    """dy (n, c, *out), grid → dx (n, c, *size): each dy goes to the cells that its sample read, times their weights."""

    domain = "nbconv"

    size: tuple[int, ...]

    def infer(self, dy: Spec, grid: Spec) -> Spec:
        want.kind("f", dy=dy, grid=grid)
        shape = (*dy.shape[:2], *self.size)
        self.check(shape, grid)
        if dy.shape[2:] != grid.shape[1:-1]:
            raise ModelError(f"dy is {dy}, grid {grid}: they are not of one GridSample")
        return Spec(shape, dy.dtype)

    def reference(self, dy: np.ndarray, grid: np.ndarray) -> np.ndarray:
        n, c = dy.shape[:2]
        dx, slope = np.zeros((n, *self.size, c), dy.dtype), np.moveaxis(dy, 1, -1)
        at = np.broadcast_to(np.arange(n).reshape(-1, *[1] * len(self.size)), grid.shape[:-1])
        for taps in self.samples(self.size, grid) if dx.size and dy.size else ():
            inside = np.all([t.inside for t in taps], axis=0)
            weight = np.prod([t.weight for t in taps], axis=0).astype(dy.dtype)[..., None]
            np.add.at(dx, (at[inside], *(t.cell[inside] for t in taps)), (weight * slope)[inside])
        return np.ascontiguousarray(np.moveaxis(dx, -1, 1))

    def lower(self, to: Lowering) -> None:
        n, c = to.outputs[0].shape[:2]
        units = n * -(-c // to.target.lanes)
        self.step(to, "grid_sample_grad", to.outputs[0].shape, units, "dx", dy=channels_last(to, 0), dx=to.output())


class GridSampleGradGrid(Sampling):
    """dy (n, c, *out), x, grid → dgrid, of the grid's shape: by how much the samples change with their places."""

    domain = "nbconv"

    def infer(self, dy: Spec, x: Spec, grid: Spec) -> Spec:
        want.one_type("f", dy=dy, x=x)
        self.check(x.shape, grid)
        if dy.shape != (*x.shape[:2], *grid.shape[1:-1]):
            raise ModelError(f"dy is {dy}, x {x}, grid {grid}: they are not of one GridSample")
        return grid._replace(value=None, constant=False)

    def reference(self, dy: np.ndarray, x: np.ndarray, grid: np.ndarray) -> np.ndarray:
        dgrid = np.zeros(grid.shape, grid.dtype)
        slope = np.moveaxis(dy, 1, -1)
        for taps in self.samples(x.shape[2:], grid) if dgrid.size else ():
            along = (read(x, taps) * slope).sum(axis=-1)
            for a, tap in enumerate(taps):
                others = [t.weight for t in taps if t is not tap]
                dgrid[..., -1 - a] += along * tap.slope * np.prod(others, axis=0)
        return dgrid

    def layouts(self, inputs, outputs, given) -> Any:
        found = super().layouts(inputs, outputs, given)
        return found and (found[0], (CHANNELS_FIRST,))

    def lower(self, to: Lowering) -> None:
        x, grid = to.inputs[1:]
        dy, there = channels_last(to, 0), channels_last(to, 1)
        self.step(to, "grid_sample_grad_grid", x.shape, prod(grid.shape[:-2]), "dgrid", dy=dy, x=there, dgrid=to.output())


class AffineGrid(Op):
    """theta (n, axes, axes + 1), size (n, c, *size) → grid (n, *size, axes): what theta makes of each cell's place (x, y, z,
    1), from -1 to 1 over the cells' centres where ``align_corners``, else over the image."""

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    align_corners: int = 0

    def infer(self, theta: Spec, size: Spec) -> Spec:
        want.kind("f", theta=theta)
        shape = want.integers(size, "size")
        axes = len(shape) - 2
        if axes not in (2, 3) or min(shape) < 0 or theta.shape != (shape[0], axes, axes + 1):
            raise ModelError(f"theta is {theta}, size {list(shape)}: wanted (n, 2, 3) and (n, c, h, w), or one axis more")
        return want.make((shape[0], *shape[2:], axes), theta.dtype)

    def along(self, size: int) -> np.ndarray:
        """The cells' places along an axis."""
        if self.align_corners:
            return np.linspace(-1, 1, size) if size > 1 else np.zeros(size)
        return (2 * np.arange(size) + 1) / max(size, 1) - 1

    def places(self, size: tuple[int, ...]) -> np.ndarray:
        """(cells, axes + 1): (x, y, z, 1) of each."""
        axes = np.meshgrid(*(self.along(d) for d in size), indexing="ij")
        return np.stack([*(a.reshape(-1) for a in reversed(axes)), np.ones(prod(size))], axis=1)

    def reference(self, theta: np.ndarray, size: np.ndarray) -> np.ndarray:
        shape = tuple(int(d) for d in size[2:])
        places = self.places(shape).astype(np.result_type(theta, np.float32))
        with np.errstate(all="ignore"):
            grid = np.matmul(places, theta.astype(places.dtype).swapaxes(1, 2))
        return grid.reshape(len(theta), *shape, len(shape)).astype(theta.dtype, copy=False)

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and outputs[0].size > 0

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        n, *size, axes = to.outputs[0].shape
        depth, h, w = (1, *size)[-3:]
        steps = [self.along(d) for d in (w, h, depth)]
        to.step(
            "sample.affine_grid",
            n * depth * h,
            work=8 * to.outputs[0].size,
            theta=to.input(0),
            y=to.output(),
            steps=to.table("steps", np.concatenate(steps).astype(np.float32)),
            extents=Extents(depth, h, w, 1),
            axes=axes,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        n, *size, axes = to.outputs[0].shape
        places = to.constant(self.places(tuple(size)).astype(to.outputs[0].dtype))
        slope = turned(to, reshape(to, to.dy(), (n, prod(size), axes)))
        return to.add(MatMul(), slope, places), None
