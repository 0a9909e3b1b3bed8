"""A model's inputs and outputs as it declares them, for callers and for the plan cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nbconv.graph import UNRANKED, Spec
from nbconv.graph.dtypes import from_text, text_of


class Port(NamedTuple):
    """An input or output as the model declares it: a dimension is an int, a name (symbolic) or None (unknown)."""

    name: str
    shape: tuple[int | str | None, ...] | None
    """None where not even the rank is declared"""
    dtype: np.dtype | None
    """that of Python objects for strings, and for what is no tensor"""
    type: str = ""
    """ONNX's type of what is no tensor, as "seq(tensor(float))": a list, or None for an optional value that is not there"""


def port(name: str, spec: Spec | None) -> Port:
    """What a Spec declares; None declares nothing."""
    if spec is None:
        return Port(name, None, None)
    return Port(name, None if spec.type or not spec.ranked else spec.shape, spec.dtype, spec.type)


def encode(specs: Mapping[str, Spec | None]) -> list[list]:
    """Specs by name as JSON has it."""
    return [[n, None, None] if s is None else [n, _dims(s), text_of(s.dtype), s.type] for n, s in specs.items()]


def decode(entries: list[list]) -> dict[str, Spec | None]:
    """`encode` undone."""
    found: dict[str, Spec | None] = {}
    for name, shape, dtype, *kind in entries:
        dims = UNRANKED if shape == ["..."] else tuple(shape or ())
        found[name] = None if shape is None else Spec(dims, from_text(dtype), type=kind[0])
    return found


def _dims(spec: Spec) -> list:
    return list(spec.shape) if spec.ranked else ["..."]
