"""Half precision: arithmetic on float16 and bfloat16 is float32's, and what comes out is rounded once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph.dtypes import is_half
from nbconv.graph.spec import FLOAT32, Spec, spec_of

SMALL = 1 << 14
"""Bytes of a value up to which it may decide a shape."""


def any_half(specs: Sequence[Spec | None]) -> bool:
    """Whether one of them is of half precision."""
    return any(spec is not None and is_half(spec.dtype) for spec in specs)


def takes_float32(infer: Callable[..., Any], given: Sequence[Spec | None], found: Sequence[Spec]) -> bool:
    """Whether ``infer``, which has ``found`` for ``given``, has float32 for float32 in the place of half precision, all else
    being as it was. An op whose result's type is an attribute, or another input's, has not."""
    wide = (s and (Spec(s.shape, FLOAT32, _value(s), s.constant) if is_half(s.dtype) else s) for s in given)
    try:
        made = infer(*wide)
    except (ModelError, ValueError, IndexError, TypeError):
        return False
    made = (made,) if isinstance(made, Spec) else made
    return all(a.dtype == (FLOAT32 if is_half(b.dtype) else b.dtype) for a, b in zip(made, found, strict=True))


def _value(spec: Spec) -> np.ndarray | None:
    return None if spec.value is None or spec.nbytes > SMALL else spec.value.astype(FLOAT32)


def in_float32(reference: Callable[..., Any]) -> Callable[..., Any]:
    """An op's `reference` that computes half precision in float32, and rounds what it returns; what has kernels for float16,
    or only moves values, it does as they are."""

    @wraps(reference)
    def evaluated(op: Any, *inputs: Any, **named: Any) -> Any:
        half = {i for i, x in enumerate(inputs) if isinstance(x, (np.ndarray, np.generic)) and is_half(x.dtype)}
        if not half or op.moves or op.control or _asked.op is op:
            return reference(op, *inputs, **named)
        made = _wanted(op, inputs)
        if made is None:
            return reference(op, *inputs, **named)
        wide = (np.asarray(x).astype(FLOAT32) if i in half else x for i, x in enumerate(inputs))
        results = reference(op, *wide, **named)
        with np.errstate(all="ignore"):
            if isinstance(made, Spec):
                return _rounded(results, made)
            return tuple(_rounded(y, spec) for y, spec in zip(results, made, strict=True))

    return evaluated


class _Asked(threading.local):
    """The op whose `infer` is asked: it may evaluate the op, for a shape that depends on values."""

    op: Any = None


_asked = _Asked()


def _wanted(op: Any, inputs: Sequence[Any]) -> Spec | tuple[Spec, ...] | None:
    """What the op makes of these arrays, where it is to compute it in float32; else None."""
    given = tuple(spec_of(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else None for x in inputs)
    before, _asked.op = _asked.op, op
    try:
        made = op.infer(*given)
        found = (made,) if isinstance(made, Spec) else tuple(made)
        if op.layout(given, found[:1]) != "numpy" or not takes_float32(op.infer, given, found):
            return None
        return made if isinstance(made, Spec) else found
    except (ModelError, ValueError, IndexError, TypeError):
        return None
    finally:
        _asked.op = before


def _rounded(y: np.ndarray, spec: Spec) -> np.ndarray:
    return np.asarray(y).astype(spec.dtype) if is_half(spec.dtype) else y
