"""Changes of type."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import FLOAT32, OBJECT, Spec
from nbconv.graph import infer as want
from nbconv.graph.dtypes import BITS, is_added, is_half, kind_of
from nbconv.graph.op import CHANNELS_FIRST, NUMPY, Op
from nbconv.lowering.context import Lowering

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)


def _table(rows: dict[str, str]) -> dict[tuple[np.dtype, np.dtype], str]:
    """{"kernel": "sources > targets"} by the pairs of types."""
    found = {}
    for kernel, pairs in rows.items():
        sources, targets = (side.split() for side in pairs.split(">"))
        found |= {(np.dtype(a), np.dtype(b)): kernel for a in sources for b in targets}
    return found


SHARED = _table({"logic.from_bytes": "? u1 > f4", "logic.from_ints": "i8 > f4", "logic.to_booleans": "f4 > ?"})
"""Kernels that a GPU has too, by the types from and to which they change."""
KERNELS = SHARED | _table({
    "cast.int8_to_float32": "i1 > f4", "cast.int32_to_float32": "i4 > f4",
    "cast.float16_to_float32": "f2 > f4", "cast.float32_to_float16": "f4 > f2",
    "cast.float64_to_float32": "f8 > f4", "cast.float32_to_float64": "f4 > f8", "cast.int64_to_float64": "i8 > f8",
    "cast.float32_to_8": "f4 > i1 u1", "cast.float32_to_int32": "f4 > i4", "cast.float32_to_int64": "f4 > i8",
    "cast.float64_to_int32": "f8 > i4", "cast.float64_to_int64": "f8 > i8",
    "cast.int8_to_32": "i1 > i4 u4", "cast.uint8_to_32": "? u1 > i4 u4",
    "cast.int16_to_32": "i2 > i4 u4", "cast.uint16_to_32": "u2 > i4 u4",
    "cast.int32_to_64": "i4 > i8 u8", "cast.uint32_to_64": "u4 > i8 u8",
    "cast.int32_to_8": "i4 u4 > i1 u1", "cast.int32_to_16": "i4 u4 > i2 u2", "cast.int64_to_32": "i8 u8 > i4 u4",
    "cast.int8_to_bool": "i1 u1 > ?", "cast.int32_to_bool": "i4 u4 > ?", "cast.int64_to_bool": "i8 u8 > ?",
    "cast.float64_to_bool": "f8 > ?",
})  # fmt: skip


def _added(source: np.dtype, target: np.dtype) -> tuple[tuple[str, np.dtype], ...] | None:
    """`route` from or to bfloat16, by way of float32; None for others that NumPy lacks."""
    if is_added(source):
        rest = route(FLOAT32, target) if kind_of(source) == "f" else None
        first = ("cast.bfloat16_to_float32", FLOAT32)
        return None if rest is None else (first,) if target == FLOAT32 else (first, *rest)
    if kind_of(target) != "f" or (source.itemsize > 2 and source != FLOAT32):  # which float32 would round first
        return None
    rest = () if source == FLOAT32 else route(source, FLOAT32)
    return None if rest is None else (*rest, ("cast.float32_to_bfloat16", target))


def _between(source: np.dtype, target: np.dtype) -> np.dtype | None:
    """A type to go through where no kernel joins two, None where a value would be rounded twice or lost."""
    if np.dtype(np.float16) in (source, target):
        return None if source == np.dtype(np.float64) else FLOAT32
    if np.dtype(np.uint64) in (source, target) and "f" in (source.kind, target.kind):
        return None
    if source.kind == "f":
        return INT64 if target == np.dtype(np.uint32) else INT32
    return INT64 if source.itemsize == 4 else INT32


@cache
def route(source: np.dtype, target: np.dtype) -> tuple[tuple[str, np.dtype], ...] | None:
    """(kernel, the type that it makes) one after another, "copy" where the bits stay; None where NumPy does it."""
    if source == target or (source.itemsize == target.itemsize and source.kind in "iub" and target.kind in "iu"):
        return None if is_added(source) else (("copy", target),)
    if is_added(source) or is_added(target):
        return _added(source, target)
    if (source, target) in KERNELS:
        return ((KERNELS[source, target], target),)
    between = _between(source, target)
    if between is None or between in (source, target):
        return None
    first, then = route(source, between), route(between, target)
    return None if first is None or then is None else first + then


def converted(x: np.ndarray, dtype: np.dtype, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """x in another element type. A float becomes an int64 (for int64 and uint32) or int32 toward zero, of which the
    target's low bits are kept; one that has no such integer, NaN too, becomes the lowest, as x86 has it. ``saturate``: what
    is beyond a float8's range, infinities too, becomes its greatest number; ``round_mode``: see `power_of_two`."""
    x = np.asarray(x)
    if dtype == OBJECT:
        return np.array([str(v) for v in x.flat], OBJECT).reshape(x.shape)
    with np.errstate(all="ignore"):
        if is_added(x.dtype) and x.dtype != dtype:
            x = x.astype(FLOAT32)  # which holds all that they can
        if is_added(dtype):
            return narrowed(x, dtype, saturate, round_mode)
        if x.dtype.kind != "f" or dtype.kind not in "iu" or dtype == np.dtype(np.uint64):
            return x.astype(dtype)
        wide = INT64 if dtype in (INT64, np.dtype(np.uint32)) else INT32
        x, lowest = x.astype(np.promote_types(x.dtype, FLOAT32)), float(np.iinfo(wide).min)
        return np.where((x >= lowest) & (x < -lowest), x, x.dtype.type(lowest)).astype(wide).astype(dtype)


def narrowed(x: np.ndarray, dtype: np.dtype, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """`converted` to a type that NumPy lacks. Integers of few bits keep the low bits."""
    name = dtype.name
    if x.dtype == dtype or is_half(dtype):
        return x.astype(dtype)
    if name in BITS and not name.startswith("float"):
        bits = BITS[name]
        low = converted(x, INT64) & (1 << bits) - 1
        return (low - ((low >> bits - 1) << bits) if name.startswith("int") else low).astype(np.int8).astype(dtype)
    if x.dtype.kind != "f":
        x = x.astype(FLOAT32)
    if name == "float8_e8m0fnu":
        return power_of_two(x, saturate, round_mode).view(dtype)
    if saturate and name.startswith("float8"):
        from ml_dtypes import finfo

        most = float(finfo(dtype).max)
        x = np.clip(x, -most, most)
    return x.astype(dtype)


def power_of_two(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """|x| rounded to a power of two, "up", "down" or to the "nearest" (halves up): its exponent's bits, of which 255 is NaN
    (an infinity, too). Beyond the greatest: that, if it shall ``saturate``, else NaN."""
    bits = x.astype(FLOAT32).view(np.uint32)
    exponent, fraction = (bits >> 23 & 0xFF).astype(np.int32), bits & 0x7FFFFF
    least = np.where(exponent == 0, 0x400000, 0)  # of the numbers that round to this exponent: a denormal's is 2^-127
    most = np.uint32(0x800000)
    match round_mode:
        case "up":
            more = fraction > least
        case "nearest":
            more = fraction >= (least + most) // 2
        case "down":
            more = np.zeros(x.shape, np.bool_)
        case _:
            raise ModelError(f"round_mode is {round_mode!r}, wanted 'up', 'down' or 'nearest'")
    more &= exponent < (254 if saturate else 255)
    return (exponent + more).astype(np.uint8)


class Change(Op, abstract=True):
    """What Cast and CastLike share: the first input in the output's type."""

    moves = True

    def layout(self, inputs, outputs) -> str:
        return NUMPY if route(inputs[0].dtype, outputs[0].dtype) is None else CHANNELS_FIRST

    def on_processors(self, inputs, outputs) -> bool:
        return (inputs[0].dtype, outputs[0].dtype) not in SHARED

    def lower(self, to: Lowering) -> None:
        steps, n = route(to.inputs[0].dtype, to.outputs[0].dtype), to.outputs[0].size
        assert steps is not None
        x = to.input(0)
        for i, (kernel, dtype) in enumerate(steps):
            y = to.output() if i == len(steps) - 1 else to.scratch(dtype, n)
            if kernel == "copy":
                to.copy(x, y, (n,), (1,), (1,))
            else:
                to.unary(kernel, x=x, y=y, n=n)
            x = y


class Cast(Change):
    """Floats become integers toward zero, anything but 0 becomes True (NaN too). Out of range, and NaN: the low bits of an
    int32, which is -2^31 where that cannot be; for int64 and uint32 of an int64, or -2^63. ``saturate`` and ``round_mode``
    only concern 8-bit floats."""

    converts = True
    keeps_classes = True

    to: int
    saturate: int = 1
    round_mode: str = "up"

    def infer(self, x: Spec) -> Spec:
        want.kind("fiubn", x=x)
        return Spec(x.shape, want.dtype_of(self.to))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return converted(x, want.dtype_of(self.to), bool(self.saturate), self.round_mode)

    def bypass(self, inputs) -> bool:
        return inputs[0].dtype == want.dtype_of(self.to)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(CastLike(), to.dy(), to.x()) if to.inputs[0].dtype.kind == "f" else None,)


class CastLike(Change):
    """``x`` in the type of ``like``, as `Cast`."""

    fixed = (1,)

    saturate: int = 1
    round_mode: str = "up"

    def infer(self, x: Spec, like: Spec) -> Spec:
        want.kind("fiubn", x=x, like=like)
        return Spec(x.shape, like.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return converted(x, like.dtype, bool(self.saturate), self.round_mode)

    def bypass(self, inputs) -> bool:
        return inputs[0].dtype == inputs[1].dtype

    def known(self, *inputs: Spec) -> tuple[np.ndarray, ...] | None:
        x, like = inputs
        return None if x.value is None else (self.reference(x.value, np.empty(0, like.dtype)),)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.add(CastLike(), to.dy(), to.x()) if to.inputs[0].dtype.kind == "f" else None, None
