"""Values that may be there or not. One that is not is None, another is what it holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Spec
from nbconv.graph.op import Op


class Held(Op, abstract=True):
    """An op on a value that may be no tensor: it is done alone, when the value is there."""

    def infer(self, *inputs: Spec | None) -> Spec:
        raise DataDependentError("what it holds is known while it runs")


class Optional(Held):
    """The value, or none of the type (``of``, which is ONNX's ``type``)."""

    of: str | None = None

    def __init__(self, type: str | None = None) -> None:
        super().__init__(of=type)

    def attributes(self) -> dict[str, Any]:
        return {} if self.of is None else {"type": self.of}

    def reference(self, *held: Any) -> Any:
        return (held[0] if held else None,)


class OptionalGetElement(Held):
    """What the value holds."""

    def reference(self, held: Any) -> Any:
        if held is None:
            raise ModelError("there is no value")
        return (held,)


class OptionalHasElement(Held):
    """Whether there is a value."""

    def reference(self, *held: Any) -> np.ndarray:
        return np.array(bool(held) and held[0] is not None)
