"""What `infer` asks of shapes and types, once each: element types, broadcasting, axes, values that must be known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nbconv.errors import DataDependentError, ModelError, UnsupportedError
from nbconv.graph.dtypes import ADDED, added, is_added, kind_of
from nbconv.graph.spec import Spec
from nbconv.graph.symbolic import apply, settled, whole

MAX_ELEMENTS = 2**40
"""A value with more elements is taken for a broken model."""

DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    8: np.dtype(object),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
}
"""NumPy's types by ONNX's TensorProto.DataType numbers (`dtype_of` knows others, too): strings are Python objects."""

BOOL, INT64 = DTYPES[9], DTYPES[7]

_KNOWN = frozenset(DTYPES.values()) - {DTYPES[8]}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()} | {name: number for number, name in ADDED.items()}
_NAMES = {14: "complex64", 15: "complex128"}
_KINDS = {"f": "floating point", "i": "signed integer", "u": "unsigned integer", "b": "bool", "n": "float8 or of few bits"}


def dtype_of(number: int) -> np.dtype:
    """The NumPy type of a TensorProto.DataType number; UnsupportedError for those that nbconv lacks."""
    if number in DTYPES:
        return DTYPES[number]
    if number in ADDED:
        return added(ADDED[number])
    raise UnsupportedError(f"element type {number} ({_NAMES.get(number, 'unknown')}) is not supported")


def number_of(dtype: np.dtype) -> int:
    """The TensorProto.DataType number of a type; UnsupportedError where there is none."""
    number = _NUMBERS.get(dtype) or _NUMBERS.get(dtype.name)
    if number is None:
        raise UnsupportedError(f"element type {dtype.name} is not supported")
    return number


def make(shape: Sequence[int], dtype: np.dtype) -> Spec:
    """A Spec whose size is sane: ModelError for a negative dimension or more than `MAX_ELEMENTS` elements."""
    shape = tuple(whole(d) for d in shape)
    size = 1
    for d in shape:
        if d < 0:
            raise ModelError(f"the result's shape {list(shape)} has a negative dimension")
        size *= max(d, 1)  # NumPy, too, has no array whose other dimensions multiply to too much
    if size > MAX_ELEMENTS:
        raise ModelError(f"the result's shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return Spec(shape, dtype)


def kind(kinds: str, **named: Spec | None) -> None:
    """UnsupportedError unless every Spec's type is of these kinds ("f", "iu", "fiub" …; see `kind_of`)."""
    for name, spec in named.items():
        known = spec is None or spec.dtype in _KNOWN or is_added(spec.dtype)
        if spec is not None and not (known and kind_of(spec.dtype) in kinds):
            raise UnsupportedError(f"{name} is {spec.dtype.name}, wanted {' or '.join(_KINDS[k] for k in kinds)}")


def one_type(kinds: str, **named: Spec | None) -> np.dtype:
    """The one element type of these Specs: ModelError where they differ, UnsupportedError for another kind."""
    kind(kinds, **named)
    given = [(name, spec.dtype) for name, spec in named.items() if spec is not None]
    first, dtype = given[0]
    for name, other in given[1:]:
        if other != dtype:
            raise ModelError(f"{first} is {dtype.name}, {name} is {other.name}: wanted one type")
    return dtype


def rank(spec: Spec, least: int, most: int | None = None, name: str = "x") -> None:
    """ModelError unless the rank is from ``least`` to ``most`` (None: any)."""
    if spec.rank < least or (most is not None and spec.rank > most):
        want = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise ModelError(f"{name} is {spec} of rank {spec.rank}, wanted rank {want}")


def vector(length: int, why: str, **named: Spec | None) -> None:
    """ModelError unless each is a vector of this length."""
    for name, spec in named.items():
        if spec is not None and spec.shape != (length,):
            raise ModelError(f"{name} is {spec}, {why} wants shape [{length}]")


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's (ONNX's multidirectional) broadcast of shapes; ModelError where they do not fit."""
    out = list(max(shapes, key=len, default=()))
    for shape in shapes:
        for i in range(1, len(shape) + 1):
            d = shape[-i]
            if out[-i] == 1:
                out[-i] = d
            elif d not in (1, out[-i]):
                raise ModelError(f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast")
    return tuple(out)


def broadcast_to(shape: tuple[int, ...], target: tuple[int, ...], name: str) -> None:
    """ModelError unless ``shape`` broadcasts to exactly ``target`` (ONNX's unidirectional broadcast)."""
    fits = len(shape) <= len(target) and all(d in (1, t) for d, t in zip(shape[::-1], target[::-1], strict=False))
    if not fits:
        raise ModelError(f"{name} of shape {list(shape)} does not broadcast to {list(target)}")


def axis(value: int, rank: int, name: str = "axis") -> int:
    """An axis counted from the front; ModelError when there is none such."""
    if not -rank <= value < rank:
        raise ModelError(f"{name} {value} is out of range for rank {rank}")
    return value % rank


def axes(values: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in the order given; ModelError for one out of range or given twice."""
    found = tuple(axis(int(v), rank, "axes entry") for v in values)
    if len(set(found)) < len(found):
        raise ModelError(f"axes {[int(v) for v in values]} name an axis twice (rank {rank})")
    return found


def rising(places: Sequence[int], size: int, name: str) -> int:
    """How many places of an axis these are; ModelError where they do not rise, or leave it."""
    if any(b <= a for a, b in pairwise(places)) or not (places and places[0] >= 0 and places[-1] < size):
        raise ModelError(f"{name} {list(places)} are not in rising order, from 0 to below {size}")
    return len(places)


def known(spec: Spec, name: str) -> np.ndarray:
    """The value of an input that decides a shape; DataDependentError when it is only known at run time."""
    return settled(_there(spec, name))


def _there(spec: Spec, name: str) -> Any:
    if spec.value is None:
        raise DataDependentError(f"{name} is computed while running; nbconv needs it when planning")
    return spec.value


def entries(array: np.ndarray) -> tuple[int, ...]:
    """The entries of an integer vector or scalar."""
    return tuple(int(v) for v in np.atleast_1d(array))


def integers(spec: Spec, name: str) -> tuple[int, ...]:
    """The entries of a known integer vector (or scalar), as `known`."""
    kind("iu", **{name: spec})
    if spec.rank > 1:
        raise ModelError(f"{name} is {spec}, wanted a vector")
    return apply(entries, _there(spec, name))


def scalar(spec: Spec | None, name: str) -> None:
    """ModelError unless it has exactly one element (or is absent)."""
    if spec is not None and (spec.rank > 1 or spec.size != 1):
        raise ModelError(f"{name} is {spec}, wanted a scalar")
