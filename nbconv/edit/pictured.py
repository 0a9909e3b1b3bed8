"""What pictures a model takes: where their channels lie, how high and wide they are, how many channels they have."""

from __future__ import annotations

from typing import Any, NamedTuple

from nbconv.base.image import layout_of
from nbconv.graph import Graph

THROUGH = {
    "Add", "Cast", "Clip", "Div", "DequantizeLinear", "DynamicQuantizeLinear", "Dropout", "Identity", "Mul", "Pad",
    "QuantizeLinear", "Relu", "Sub",
}  # fmt: skip
"""Operators that leave axes where they are."""
FIRST = {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "PRelu"}
"""Operators beside convolutions and pools that take channels first."""


class PictureInput(NamedTuple):
    """``layout``: "NCHW" (channels after the samples, whatever the rank) or "NHWC" (channels last). ``size`` (h, w) and
    ``channels``: None where the model does not say."""

    layout: str = "NCHW"
    size: tuple[int, int] | None = None
    channels: int | None = None


def picture_input(graph: Graph, name: str | None = None) -> PictureInput:
    """What an input (by default the first) takes: by the first operator that knows where channels are, a convolution, a pool
    or a Transpose that brings channels to the front; where none does, by the declared shape."""
    name = next(iter(graph.inputs)) if name is None else name
    spec = graph.inputs.get(name)
    shape: tuple[Any, ...] = tuple(spec.shape or ()) if spec is not None else ()
    layout = _layout(graph, name) or layout_of(shape) or "NCHW"
    if len(shape) < 3:
        return PictureInput("NCHW")
    inner, channels = (shape[1:-1], shape[-1]) if layout == "NHWC" else (shape[2:], shape[1])
    whole = len(inner) == 2 and all(isinstance(d, int) for d in inner)
    return PictureInput(layout, (inner[0], inner[1]) if whole else None, channels if isinstance(channels, int) else None)


def _layout(graph: Graph, name: str) -> str | None:
    readers, front, seen = graph.readers(), [name], {name}
    while front:
        value = front.pop(0)
        for node in readers.get(value, ()):
            kind = node.op.type
            if kind == "Transpose":
                perm = tuple(getattr(node.op, "perm", None) or ())
                if len(perm) > 2 and perm == (0, len(perm) - 1, *range(1, len(perm) - 1)):
                    return "NHWC"
            elif ("Conv" in kind or kind.endswith("Pool") or kind in FIRST) and node.inputs[0] == value:
                return "NCHW"
            elif kind in THROUGH:
                fresh = [v for v in node.outputs if v and v not in seen]
                seen.update(fresh)
                front.extend(fresh)
    return None
