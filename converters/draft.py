"""A node on its way from a model's opset to an op, and what the rules that rewrite it may ask of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbconv.errors import UnsupportedError


class Draft:
    """A node of the model on its way to an op: ONNX's type and attributes, as Python values."""

    __slots__ = ("attributes", "domain", "inputs", "name", "outputs", "type")

    def __init__(
        self, type: str, inputs: list[str], outputs: list[str], attributes: dict[str, Any], name: str, domain: str = ""
    ):
        self.type = type
        self.inputs = inputs
        self.outputs = outputs
        self.attributes = attributes
        self.name = name or next((output for output in outputs if output), type)
        self.domain = domain

    def input(self, slot: int) -> str:
        """The name of an input; "" when it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else ""

    def set_input(self, slot: int, name: str) -> None:
        self.inputs += [""] * (slot + 1 - len(self.inputs))
        self.inputs[slot] = name


class OpsetContext:
    """What rules may ask and add: constants, shapes, element types and names of the model being read."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.names: set[str] = set()
        self.read: set[str] = set()
        """values that some node or graph output reads"""

    def unique(self, hint: str) -> str:
        """A value name that the model does not use."""
        name, n = hint, 1
        while name in self.names:
            name, n = f"{hint}_{n}", n + 1
        self.names.add(name)
        return name

    def constant(self, hint: str, array: np.ndarray) -> str:
        """Add a constant; its name."""
        raise NotImplementedError

    def value(self, name: str) -> np.ndarray | None:
        """The constant of this name, None where the value is none (or lies outside the model's file)."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """What is known of a value's shape; None when not even its rank is."""
        raise NotImplementedError

    def dtype(self, name: str) -> np.dtype:
        """A value's element type, float32 where the model does not tell."""
        raise NotImplementedError


Rule = Callable[[Draft, OpsetContext], "list[Draft] | None"]
"""Changes a draft, or gives what stands for it; where that ends with the draft itself, later rules go on with it."""


def to_input(draft: Draft, context: OpsetContext, attribute: str, slot: int, dtype: Any = np.int64) -> None:
    """Move an attribute, where it is given, to an input."""
    value = draft.attributes.pop(attribute, None)
    if value is not None:
        draft.set_input(slot, context.constant(f"{draft.name}_{attribute}", np.array(value, dtype)))


def drop_outputs(draft: Draft, context: OpsetContext, what: str) -> None:
    """Leave out all outputs but the first, which nobody may read."""
    for name in draft.outputs[1:]:
        if name in context.read:
            raise UnsupportedError(f"its output {name!r} is read: {what} of this opset are not supported")
    draft.outputs = draft.outputs[:1]
