"""Operators of opsets 1 to 6 as those of 7, from which `nbconv.converters.opset` goes on.

Before opset 7 broadcasting was an attribute, whether a node trains was one too, and much that is an input today. The texts
are onnx's operator changelog (docs/Changelog.md).
"""

from __future__ import annotations

import numpy as np

from nbconv.converters.draft import Draft, OpsetContext, Rule, drop_outputs, to_input
from nbconv.errors import ModelError, UnsupportedError

CONSUMED = 6
"""Below it any operator may say that it works in place (``consumed_inputs``), which is the planner's to decide."""

_TYPES = {
    "FLOAT": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "STRING": 8, "BOOL": 9,
    "FLOAT16": 10, "DOUBLE": 11, "UINT32": 12, "UINT64": 13,
}  # fmt: skip
"""TensorProto.DataType by name."""


def _rank(draft: Draft, context: OpsetContext, slot: int, why: str) -> int:
    shape = context.shape(draft.input(slot))
    if shape is None:
        raise UnsupportedError(f"at this opset the rank of {draft.input(slot)!r} must be known, {why}")
    return len(shape)


def _unsqueezed(draft: Draft, context: OpsetContext, slot: int, axes: list[int]) -> list[Draft]:
    """The draft with ones among the dimensions of an input: what it takes before it."""
    if not axes:
        return [draft]
    name = context.unique(f"{draft.name}_{draft.input(slot)}_broadcast")
    where = context.constant(f"{name}_axes", np.array(axes))
    before = Draft("Unsqueeze", [draft.input(slot), where], [name], {}, name)
    draft.set_input(slot, name)
    return [before, draft]


def broadcast(draft: Draft, context: OpsetContext) -> list[Draft] | None:
    """Add-7 and others broadcast as NumPy does; before, B only, where ``broadcast`` says so, from ``axis`` of A on or, by
    default, at A's end."""
    wanted = draft.attributes.pop("broadcast", 0)
    axis = draft.attributes.pop("axis", None)
    if not wanted or axis is None or context.shape(draft.input(1)) == ():
        return None
    rank, own = (_rank(draft, context, slot, "where axis says how to broadcast") for slot in (0, 1))
    shape = context.shape(draft.input(1)) or ()
    if all(d == 1 for d in shape) and own <= rank:
        return None
    first = axis + rank if axis < 0 else axis
    if not 0 <= first <= rank - own:
        raise ModelError(f"{draft.name} ({draft.type}): axis {axis} with {own} dimensions on {rank} dimensions")
    return _unsqueezed(draft, context, 1, list(range(own, rank - first)))


def prelu(draft: Draft, context: OpsetContext) -> list[Draft] | None:
    """PRelu-7 broadcasts its slope as NumPy does; before, it was one for each channel, or one for all."""
    shape = context.shape(draft.input(1))
    if shape is None:
        raise UnsupportedError("at this opset the shape of the slope must be known")
    if len(shape) != 1 or shape == (1,):
        return None
    rank = _rank(draft, context, 0, "to which a slope for each channel is broadcast")
    return _unsqueezed(draft, context, 1, list(range(1, rank - 1)))


def gemm(draft: Draft, context: OpsetContext) -> None:
    """Gemm-7 always broadcasts C."""
    draft.attributes.pop("broadcast", None)


def batch_normalization(draft: Draft, context: OpsetContext) -> None:
    """BatchNormalization-7 trains where it has further outputs; before, ``is_test`` said too that it does not."""
    if draft.attributes.pop("is_test", 0):
        drop_outputs(draft, context, "training outputs")


def dropout(draft: Draft, context: OpsetContext) -> None:
    """Dropout-7 has no ``is_test``: what is 0 there drops at random, as ``training_mode`` of Dropout-12 has it."""
    ratio = draft.attributes.pop("ratio", 0.5)
    if draft.attributes.pop("is_test", 0):
        return
    dtype = context.dtype(draft.input(0))
    draft.set_input(1, context.constant(f"{draft.name}_ratio", np.array(ratio, dtype)))
    draft.set_input(2, context.constant(f"{draft.name}_training_mode", np.array(True)))


def reshape(draft: Draft, context: OpsetContext) -> None:
    """Reshape-5: shape is an input."""
    to_input(draft, context, "shape", 1)


def pad(draft: Draft, context: OpsetContext) -> None:
    """Pad-2 renames ``paddings``."""
    if "paddings" in draft.attributes:
        draft.attributes["pads"] = draft.attributes.pop("paddings")


def concat(draft: Draft, context: OpsetContext) -> None:
    """Concat-4 has no default axis; before it was 1."""
    draft.attributes.setdefault("axis", 1)


def split(draft: Draft, context: OpsetContext) -> list[Draft] | None:
    """Split-2: axis is 0 by default (1 leaves it open), and lengths are no input (they were, as floats)."""
    if "axis" not in draft.attributes:
        raise UnsupportedError("Split of opset 1 without an axis: its text does not say which is meant")
    if not draft.input(1):
        return None
    name = context.unique(f"{draft.name}_lengths")
    before = Draft("Cast", [draft.input(1)], [name], {"to": _TYPES["INT64"]}, name)
    draft.set_input(1, name)
    return [before, draft]


def cast(draft: Draft, context: OpsetContext) -> None:
    """Cast-6 has a number for the type, 1 its name."""
    name = draft.attributes.get("to")
    if str(name).upper() not in _TYPES:
        raise ModelError(f"{draft.name} (Cast): {name!r} is no element type")
    draft.attributes["to"] = _TYPES[str(name).upper()]


def tile(draft: Draft, context: OpsetContext) -> None:
    """Tile-6 has a number of repeats for each axis, 1 one number and the axis."""
    tiles, axis = (context.value(draft.input(slot)) for slot in (1, 2))
    if tiles is None or axis is None:
        raise UnsupportedError("Tile of opset 1 with computed tiles or axis is not supported")
    repeats = np.ones(_rank(draft, context, 0, "of which one axis is repeated"), np.int64)
    repeats[int(axis.reshape(()))] = int(tiles.reshape(()))
    draft.inputs = [draft.input(0), context.constant(f"{draft.name}_repeats", repeats)]


def upsample(draft: Draft, context: OpsetContext) -> None:
    """Upsample-7 has a scale for each axis, 1 those of images, and says linear for what was bilinear."""
    scales = [draft.attributes.pop(name, 1.0) for name in ("height_scale", "width_scale")]
    draft.attributes["scales"] = (1.0, 1.0, *scales)
    if draft.attributes.get("mode") == "bilinear":
        draft.attributes["mode"] = "linear"


def lp(draft: Draft, context: OpsetContext) -> None:
    """LpPool-2: p is an integer."""
    p = draft.attributes.get("p", 2.0)
    if p != int(p):
        raise UnsupportedError(f"p={p:g}, wanted a whole number")
    draft.attributes["p"] = int(p)


def selu(draft: Draft, context: OpsetContext) -> None:
    """Selu-6 has more digits in its defaults."""
    draft.attributes.setdefault("alpha", 1.6732)
    draft.attributes.setdefault("gamma", 1.0507)


def recurrent(draft: Draft, context: OpsetContext) -> None:
    """RNN-7, LSTM-7 and GRU-7 have no ``output_sequence``: the output is named or it is not."""
    draft.attributes.pop("output_sequence", None)


_BINARY = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")

RULES: dict[str, list[tuple[int, Rule]]] = {
    "BatchNormalization": [(7, batch_normalization)],
    "Cast": [(6, cast)],
    "Concat": [(4, concat)],
    "Dropout": [(7, dropout)],
    "Gemm": [(7, gemm)],
    "GRU": [(7, recurrent)],
    "GlobalLpPool": [(2, lp)],
    "LSTM": [(7, recurrent)],
    "LpPool": [(2, lp)],
    "PRelu": [(7, prelu)],
    "Pad": [(2, pad)],
    "RNN": [(7, recurrent)],
    "Reshape": [(5, reshape)],
    "Selu": [(6, selu)],
    "Split": [(2, split)],
    "Tile": [(6, tile)],
    "Upsample": [(7, upsample)],
    **{name: [(7, broadcast)] for name in _BINARY},
}
"""type → rules, as in `nbconv.converters.opset`."""
