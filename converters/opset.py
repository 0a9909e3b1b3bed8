"""Older (and newer) operators as those of the inner opset, rewritten when a model is read, node by node.

Each rule is named for what it does and bound in `RULES` to the opsets it serves. What a rule gives must mean exactly
what the original node meant at its own opset: the texts are onnx's operator changelog (docs/Changelog.md); where it is
silent (Upsample's rounding), what onnxruntime does.
"""

from __future__ import annotations

import numpy as np

from nbconv.converters import legacy
from nbconv.converters.draft import Draft, OpsetContext, Rule, drop_outputs, to_input
from nbconv.errors import ModelError, UnsupportedError

OLDEST = 1
"""The first opset that is read; `nbconv.converters.legacy` has the rules of those below 7."""


def rewrite(draft: Draft, context: OpsetContext) -> list[Draft]:
    """The nodes of the inner opset that mean what ``draft`` means in the model's. UnsupportedError: there are none."""
    before: list[Draft] = []
    if context.opset < legacy.CONSUMED and draft.domain == "":
        draft.attributes.pop("consumed_inputs", None)
    rules = (*legacy.RULES.get(draft.type, ()), *RULES.get(draft.type, ())) if draft.domain == "" else ()
    for below, rule in rules:
        replaced = rule(draft, context) if context.opset < below else None
        if replaced is not None:
            before += replaced
            if before.pop() is not draft:
                return [*before, replaced[-1]]
    while draft.inputs and not draft.inputs[-1]:
        draft.inputs.pop()
    return [*before, draft]


# Attributes that became inputs


def axes_input(draft: Draft, context: OpsetContext) -> None:
    """Squeeze-13, Unsqueeze-13, ReduceSum-13, the other reductions 18: axes is an input."""
    to_input(draft, context, "axes", 1)


def split_input(draft: Draft, context: OpsetContext) -> None:
    """Split-13: split is an input."""
    to_input(draft, context, "split", 1)


def split_count(draft: Draft, context: OpsetContext) -> None:
    """Split-18: where split is left out, num_outputs says that the parts are equal."""
    if not draft.input(1) and "num_outputs" not in draft.attributes:
        draft.attributes["num_outputs"] = len(draft.outputs)


def clip_inputs(draft: Draft, context: OpsetContext) -> None:
    """Clip-11: min and max are inputs of x's type."""
    dtype = context.dtype(draft.input(0))
    to_input(draft, context, "min", 1, dtype)
    to_input(draft, context, "max", 2, dtype)


def pad_inputs(draft: Draft, context: OpsetContext) -> None:
    """Pad-11: pads and value are inputs."""
    to_input(draft, context, "pads", 1)
    to_input(draft, context, "value", 2, context.dtype(draft.input(0)))


def slice_inputs(draft: Draft, context: OpsetContext) -> None:
    """Slice-10: starts, ends and axes are inputs."""
    for slot, attribute in enumerate(("starts", "ends", "axes"), 1):
        to_input(draft, context, attribute, slot)


def batched_scan(draft: Draft, context: OpsetContext) -> None:
    """Scan-9 has no batch axis and no lengths of sequences any more."""
    draft.type, draft.domain = "BatchedScan", "nbconv"


def top_k_input(draft: Draft, context: OpsetContext) -> None:
    """TopK-10: k is an input."""
    draft.set_input(1, context.constant(f"{draft.name}_k", np.array([draft.attributes.pop("k")])))


def dropout_input(draft: Draft, context: OpsetContext) -> None:
    """Dropout-12: ratio is an input. What an inference's mask holds was not said before."""
    to_input(draft, context, "ratio", 1, np.float32)
    if not draft.input(2):
        drop_outputs(draft, context, "masks")


def dft_input(draft: Draft, context: OpsetContext) -> None:
    """DFT-20: axis is an input, by default -2 (before: 1)."""
    axis = draft.attributes.pop("axis", 1)
    draft.set_input(2, context.constant(f"{draft.name}_axis", np.array(axis, np.int64)))


# Changed defaults and removed attributes


def batch_normalization(draft: Draft, context: OpsetContext) -> None:
    """BatchNormalization-9 drops ``spatial`` (1: one mean a channel), 14 the training outputs of inference nodes."""
    if draft.attributes.pop("spatial", 1) != 1:
        raise UnsupportedError("spatial=0 (a mean for each position) is not supported")
    drop_outputs(draft, context, "training outputs")


def roi_align(draft: Draft, context: OpsetContext) -> None:
    """RoiAlign-16 has half-pixel offsets by default; before there were none."""
    draft.attributes.setdefault("coordinate_transformation_mode", "output_half_pixel")


def grid_sample(draft: Draft, context: OpsetContext) -> None:
    """GridSample-20 renames its modes."""
    mode = draft.attributes.get("mode", "bilinear")
    draft.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def scatter(draft: Draft, context: OpsetContext) -> None:
    """Scatter is called ScatterElements from 11 on."""
    draft.type = "ScatterElements"


def group_normalization(draft: Draft, context: OpsetContext) -> list[Draft]:
    """GroupNormalization-21 scales each channel, 18 each group: repeat scale and bias over a group's channels."""
    if len(draft.inputs) != 3 or not all(draft.inputs):
        raise ModelError(f"{draft.name} (GroupNormalization): wants 3 inputs, has {draft.inputs}")
    shape = context.shape(draft.input(0))
    groups = draft.attributes.get("num_groups")
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int) or not groups or shape[1] % groups:
        raise UnsupportedError("at this opset the number of channels must be known")
    before = []
    for slot in (1, 2):
        name = context.unique(f"{draft.name}_channel_{('scale', 'bias')[slot - 1]}")
        column = context.unique(f"{name}_column")
        tall = context.unique(f"{name}_groups")
        axes = context.constant(f"{name}_axes", np.array([1]))
        size = context.constant(f"{name}_size", np.array([groups, shape[1] // groups]))
        flat = context.constant(f"{name}_flat", np.array([-1]))
        before += [
            Draft("Unsqueeze", [draft.inputs[slot], axes], [column], {}, column),
            Draft("Expand", [column, size], [tall], {}, tall),
            Draft("Reshape", [tall, flat], [name], {}, name),
        ]
        draft.inputs[slot] = name
    return [*before, draft]


def swish(draft: Draft, context: OpsetContext) -> list[Draft]:
    """Swish (24) is x · Sigmoid(alpha · x): as the nodes from which exporters make it."""
    x, y, alpha = draft.input(0), draft.outputs[0], draft.attributes.get("alpha", 1.0)
    gate, inner, before = context.unique(f"{y}_gate"), x, []
    if alpha != 1:
        inner = context.unique(f"{y}_scaled")
        factor = context.constant(f"{y}_alpha", np.array(alpha, context.dtype(x)))
        before = [Draft("Mul", [x, factor], [inner], {}, inner)]
    return [*before, Draft("Sigmoid", [inner], [gate], {}, gate), Draft("Mul", [x, gate], [y], {}, draft.name)]


# Softmax on a matrix


def flat_softmax(draft: Draft, context: OpsetContext) -> list[Draft] | None:
    """Softmax-13 runs along one axis; before, over all axes from ``axis`` (by default 1) on as one.

    Where at most one of these is longer than 1 that axis will do; else the input becomes a matrix and back.
    """
    axis = draft.attributes.get("axis", 1)
    shape = context.shape(draft.input(0))
    if shape is not None and -len(shape) <= axis < len(shape):
        long = [i for i in range(axis % len(shape), len(shape)) if shape[i] != 1]
        if len(long) <= 1:
            draft.attributes["axis"] = long[0] if long else len(shape) - 1
            return None
    x, y = draft.input(0), draft.outputs[0]
    size, matrix, rows = (context.unique(f"{y}_{what}") for what in ("shape", "matrix", "rows"))
    return [
        Draft("Shape", [x], [size], {}, size),
        Draft("Flatten", [x], [matrix], {"axis": axis}, matrix),
        Draft(draft.type, [matrix], [rows], {"axis": -1}, draft.name),
        Draft("Reshape", [rows, size], [y], {"allowzero": 1}, f"{draft.name}_reshape"),
    ]


# Upsample and Resize


def upsample(draft: Draft, context: OpsetContext) -> None:
    """Upsample-7 (scales an attribute) and 9 (an input) → Resize, whose opset-10 form it is."""
    if context.opset < 9:
        to_input(draft, context, "scales", 1, np.float32)
    draft.type = "Resize"
    resize_scales(draft, context)


def resize_scales(draft: Draft, context: OpsetContext) -> None:
    """Resize-11 names its rounding: 10 knows scales alone, asymmetric; enlarging it rounds down, shrinking up."""
    scales_name = draft.input(1)
    mode = draft.attributes.get("mode", "nearest")
    nearest = "floor"
    if mode == "nearest":
        scales = context.value(scales_name)
        if scales is not None and scales.min(initial=1) < 1:
            if scales.max(initial=1) > 1:
                raise UnsupportedError("shrinks one axis and enlarges another by nearest neighbours")
            nearest = "ceil"
        draft.attributes["nearest_mode"] = nearest
    draft.attributes["coordinate_transformation_mode"] = "asymmetric"
    draft.inputs = [draft.input(0), "", scales_name]


def resize_inputs(draft: Draft, context: OpsetContext) -> None:
    """From 13 on an input that is not used is left out; before (and in many a newer model) it is an empty tensor, or a
    region of interest that no mode but one reads."""
    mode = draft.attributes.get("coordinate_transformation_mode", "half_pixel")
    for slot in (1, 2, 3):
        name = draft.input(slot)
        shape = context.shape(name) if name else None
        if name and ((slot == 1 and mode != "tf_crop_and_resize") or (shape is not None and 0 in shape)):
            draft.set_input(slot, "")


_NEWEST = 1 << 30
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def batch_first(draft: Draft, context: OpsetContext) -> list[Draft] | None:
    """The layout 1 of LSTM, GRU and RNN, with the batch first, as Transposes around one of layout 0."""
    if not draft.attributes.pop("layout", 0):
        return None
    before, after = [], []
    for slot in (0, 5, 6):
        if draft.input(slot):
            name = context.unique(f"{draft.name}_{slot}_steps_first")
            before.append(Draft("Transpose", [draft.input(slot)], [name], {"perm": (1, 0, 2)}, name))
            draft.set_input(slot, name)
    for slot, perm in enumerate(((2, 0, 1, 3), (1, 0, 2), (1, 0, 2))[: len(draft.outputs)]):
        if draft.outputs[slot]:
            name = context.unique(f"{draft.outputs[slot]}_steps_first")
            after.append(Draft("Transpose", [name], [draft.outputs[slot]], {"perm": perm}, name))
            draft.outputs[slot] = name
    return [*before, draft, *after]


RULES: dict[str, list[tuple[int, Rule]]] = {
    "BatchNormalization": [(14, batch_normalization)],
    "Clip": [(11, clip_inputs)],
    "DFT": [(20, dft_input)],
    "Dropout": [(12, dropout_input)],
    "GridSample": [(20, grid_sample)],
    "GroupNormalization": [(21, group_normalization)],
    "Hardmax": [(13, flat_softmax)],
    "LogSoftmax": [(13, flat_softmax)],
    "Pad": [(11, pad_inputs)],
    "ReduceSum": [(13, axes_input)],
    "Resize": [(11, resize_scales), (_NEWEST, resize_inputs)],
    "RoiAlign": [(16, roi_align)],
    "Scatter": [(11, scatter)],
    "Slice": [(10, slice_inputs)],
    "Softmax": [(13, flat_softmax)],
    "Split": [(13, split_input), (18, split_count)],
    "Squeeze": [(13, axes_input)],
    "Scan": [(9, batched_scan)],
    "Swish": [(_NEWEST, swish)],
    "TopK": [(10, top_k_input)],
    "Unsqueeze": [(13, axes_input)],
    "Upsample": [(10, upsample)],
    **{name: [(_NEWEST, batch_first)] for name in ("GRU", "LSTM", "RNN")},
    **{f"Reduce{name}": [(18, axes_input)] for name in _REDUCTIONS},
}
"""type → rules in order: a rule serves models whose opset is below the number beside it."""
