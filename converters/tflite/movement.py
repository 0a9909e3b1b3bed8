"""What moves data: shapes, pieces, pads, blocks, sizes of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from nbconv.converters.tflite.builder import CHANNELS, Builder
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError, UnsupportedError

LARGEST = 1 << 62


def moved(to: Builder, node: Operator, *tensors: int) -> bool:
    """Whether numbers must move, not integers: the scale of the result is another."""
    return not to.alike(*(tensors or node.inputs[:1]), *node.outputs[:1])


def reshape(to: Builder, node: Operator) -> None:
    x, y = node.inputs[0], node.outputs[0]
    if len(node.inputs) > 1 and node.inputs[1] >= 0 and to.known(node.inputs[1]) is None:
        shape, zero = to.indices(node.inputs[1]), 0
    else:
        if len(node.inputs) > 1 and node.inputs[1] >= 0:
            sizes = to.whole(node.inputs[1], "shape")
        else:
            found = node.options("ReshapeOptions").NewShapeAsNumpy()
            sizes = [int(d) for d in found] if isinstance(found, np.ndarray) else []
            if not sizes and to.tensors[y].rank:
                sizes = [-1 if d is None else d for d in to.tensors[y].shape]
        shape, zero = to.integers(sizes), int(0 in sizes and -1 not in sizes)
    real = moved(to, node)
    to.put(y, to.add("Reshape", to.elements(x, real), shape, allowzero=zero), real=real)


def squeezed(node: Operator) -> list[int]:
    """The axes that a SQUEEZE drops; none where it drops all of size 1."""
    found = node.options("SqueezeOptions").SqueezeDimsAsNumpy()
    return [int(a) for a in found] if isinstance(found, np.ndarray) else []


def squeeze(to: Builder, node: Operator) -> None:
    axes, real = squeezed(node), moved(to, node)
    given = [to.integers(axes)] if axes else []
    to.put(node.outputs[0], to.add("Squeeze", to.get(node.inputs[0], real=real), *given), real=real)


def expand_dims(to: Builder, node: Operator) -> None:
    real, axes = moved(to, node), to.whole(node.inputs[1], "axis")
    to.put(node.outputs[0], to.add("Unsqueeze", to.get(node.inputs[0], real=real), to.integers(axes)), real=real)


def transpose(to: Builder, node: Operator) -> None:
    """The same value in another order: nothing is written here."""
    x, y = node.inputs[0], node.outputs[0]
    perm = tuple(to.axes(to.whole(node.inputs[1], "permutation"), to.tensors[x].rank, None))
    if sorted(perm) != list(range(to.tensors[x].rank)):
        raise ModelError(f"its permutation {list(perm)} is none of {to.tensors[x].rank} axes")
    order, real = to.order(x), moved(to, node)
    value = to.get(x, order, real)
    have = tuple(perm.index(a) for a in order or range(len(perm)))
    to.put(y, value, None if have == tuple(range(len(perm))) else have, real)


def concatenation(to: Builder, node: Operator) -> None:
    o, y = node.options("ConcatenationOptions"), node.outputs[0]
    order = to.order(*node.inputs)
    real = moved(to, node, *node.inputs) or o.FusedActivationFunction() != 0
    (axis,) = to.axes([o.Axis()], to.tensors[node.inputs[0]].rank, order)
    made = to.add("Concat", *(to.get(t, order, real) for t in node.inputs), axis=axis)
    to.put(y, to.activated(made, o.FusedActivationFunction()), order, real)


def pack(to: Builder, node: Operator) -> None:
    axis, real = node.options("PackOptions").Axis(), moved(to, node, *node.inputs)
    parts = [to.add("Unsqueeze", to.get(t, real=real), to.integers([axis])) for t in node.inputs]
    to.put(node.outputs[0], to.add("Concat", *parts, axis=axis), real=real)


def unpack(to: Builder, node: Operator) -> None:
    axis, real = node.options("UnpackOptions").Axis(), moved(to, node)
    parts = _split(to, to.get(node.inputs[0], real=real), axis, [1] * len(node.outputs))
    for t, part in zip(node.outputs, parts, strict=True):
        to.put(t, to.add("Squeeze", part, to.integers([axis])), real=real)


def _split(to: Builder, value: str, axis: int, sizes: Sequence[int]) -> list[str]:
    made = to.add("Split", value, to.integers(sizes), axis=axis, count=len(sizes))
    return [made] if len(sizes) == 1 else made


def split(to: Builder, node: Operator) -> None:
    """Equal pieces (SPLIT: axis, x), or pieces of given sizes (SPLIT_V: x, sizes, axis)."""
    equal = node.name == "SPLIT"
    at, x = (node.inputs[0], node.inputs[1]) if equal else (node.inputs[2], node.inputs[0])
    (given,) = to.whole(at, "axis")
    order, real, count = to.order(x), moved(to, node, x), len(node.outputs)
    (axis,) = to.axes([given], to.tensors[x].rank, order)
    value = to.get(x, order, real)
    if equal:
        made = to.add("Split", value, axis=axis, num_outputs=count, count=count)
        parts = [made] if count == 1 else made
    else:
        sizes = to.whole(node.inputs[1], "sizes")
        size = to.tensors[x].shape[given]
        if -1 in sizes:
            if size is None:
                raise UnsupportedError("a piece of what is left wants a known size")
            sizes[sizes.index(-1)] = size - sum(s for s in sizes if s != -1)
        if len(sizes) != count:
            raise ModelError(f"it has {count} outputs and {len(sizes)} sizes")
        parts = _split(to, value, axis, sizes)
    for t, part in zip(node.outputs, parts, strict=True):
        to.put(t, part, order, real)


def gather(to: Builder, node: Operator) -> None:
    o, real, (x, indices) = node.options("GatherOptions"), moved(to, node), node.inputs[:2]
    (axis,), value = to.axes([o.Axis()], to.tensors[x].rank, None), to.get(x, real=real)
    batch = o.BatchDims() + (to.tensors[indices].rank if o.BatchDims() < 0 else 0)
    if not batch:
        made = to.add("Gather", value, to.indices(indices), axis=axis)
    elif batch == axis:
        rows = to.add("Unsqueeze", to.indices(indices), to.integers([to.tensors[indices].rank]))
        made = to.add("GatherND", value, rows, batch_dims=batch)
    else:
        raise UnsupportedError(f"{batch} batch dimensions before axis {axis} are not supported")
    to.put(node.outputs[0], made, real=real)


def gather_nd(to: Builder, node: Operator) -> None:
    real = moved(to, node)
    made = to.add("GatherND", to.get(node.inputs[0], real=real), to.indices(node.inputs[1]))
    to.put(node.outputs[0], made, real=real)


def embedding_lookup(to: Builder, node: Operator) -> None:
    real = moved(to, node, node.inputs[1])
    made = to.add("Gather", to.get(node.inputs[1], real=real), to.indices(node.inputs[0]))
    to.put(node.outputs[0], made, real=real)


def scatter_nd(to: Builder, node: Operator) -> None:
    """Updates that are added up in zeros."""
    indices, updates, shape = node.inputs[:3]
    zero = to.constant(0, np.float32 if to.tensors[updates].quantised else to.tensors[updates].dtype)
    zeros = to.add("Expand", zero, to.indices(shape))
    to.put(node.outputs[0], to.add("ScatterND", zeros, to.indices(indices), to.get(updates), reduction="add"))


def pad(to: Builder, node: Operator) -> None:
    x, real = node.inputs[0], moved(to, node)
    tensor = to.tensors[x]
    around = to.whole(node.inputs[1], "paddings")
    if len(around) != 2 * tensor.rank:
        raise ModelError(f"it has {len(around)} paddings for rank {tensor.rank}")
    order = to.order(x)
    if order is None and tensor.rank == 4 and not any(around[:2]):  # as a convolution behind it wants it
        order = CHANNELS[4]
    pairs = np.array(around).reshape(-1, 2)[list(order or range(tensor.rank))]
    mode, fill = "constant", []
    if node.name == "MIRROR_PAD":
        mode = "edge" if node.options("MirrorPadOptions").Mode() == 1 else "reflect"
        if mode == "edge" and pairs.max(initial=0) > 1:
            raise UnsupportedError("SYMMETRIC padding by more than one is not supported")
    elif len(node.inputs) > 2:
        fill = [to.add("Reshape", to.get(node.inputs[2], real=real), to.integers([]))]
    elif tensor.zero is not None and not real:
        fill = [to.constant(tensor.zero[0], tensor.dtype)]
    if pairs.min(initial=0) < 0:
        raise ModelError(f"a padding is negative: {pairs.tolist()}")
    value = to.get(x, order, real)
    if order == CHANNELS[4] and node.name == "PAD" and not real and not pairs[:2].any():
        to.padded[node.outputs[0]] = (x, [int(v) for v in pairs[2:].T.reshape(-1)])
    to.put(node.outputs[0], to.add("Pad", value, to.integers(pairs.T.reshape(-1)), *fill, mode=mode), order, real)


def resize(mode: str):
    def rule(to: Builder, node: Operator) -> None:
        o = node.options("ResizeBilinearOptions" if mode == "linear" else "ResizeNearestNeighborOptions")
        x, order = node.inputs[0], CHANNELS[4]
        shape = to.tensors[x].shape
        sizes = to.whole(node.inputs[1], "size")
        if len(sizes) != 2 or len(shape) != 4 or min(sizes) < 1:
            raise ModelError(f"it resizes {list(shape)} to {sizes}, wanted rank 4 and two sizes")
        # As resize_bilinear.h and resize_nearest_neighbor.h have it: nearest takes floor((i + ½) · scale), which is x of
        # ONNX's half pixel, rounded.
        align, half = o.AlignCorners(), o.HalfPixelCenters()
        place = "align_corners" if align else "half_pixel" if half else "asymmetric"
        real = moved(to, node) or mode == "linear"
        batch, channels = shape[0], shape[3]
        if batch is None or channels is None:
            target = to.add("Concat", to.add("Shape", to.get(x, order, real), end=2), to.integers(sizes), axis=0)
        else:
            target = to.integers([batch, channels, *sizes])
        rounding: dict[str, Any] = {}
        if mode == "nearest":
            rounding["nearest_mode"] = "round_prefer_ceil" if align or half else "floor"
        made = to.add(
            "Resize", to.get(x, order, real), "", "", target, mode=mode, coordinate_transformation_mode=place, **rounding
        )
        to.put(node.outputs[0], made, order, real)

    return rule


def blocks(kind: str, table: str):
    def rule(to: Builder, node: Operator) -> None:
        size, order, real = node.options(table).BlockSize(), CHANNELS[4], moved(to, node)
        if size < 1 or to.tensors[node.inputs[0]].rank != 4:
            raise ModelError(f"its block is {size}, its input has the shape {list(to.tensors[node.inputs[0]].shape)}")
        to.put(node.outputs[0], to.add(kind, to.get(node.inputs[0], order, real), blocksize=size), order, real)

    return rule


def space_to_batch(to: Builder, node: Operator) -> None:
    """Pads, then deals pixels of each block to batches: (N, H, W, C) to (bh·bw·N, H / bh, W / bw, C)."""
    x, real = node.inputs[0], moved(to, node)
    shape, around = _spatial(to, x), to.whole(node.inputs[2], "paddings")
    block = to.whole(node.inputs[1], "block shape")
    m = len(block)
    if len(around) != 2 * m or not 1 <= m < len(shape) or min(block) < 1 or min(around) < 0:
        raise ModelError(f"its block {block} and paddings {around} do not fit a shape of {list(shape)}")
    before = [0, *around[::2], *[0] * (len(shape) - 1 - m)]
    after = [0, *around[1::2], *[0] * (len(shape) - 1 - m)]
    tensor = to.tensors[x]
    fill = [to.constant(tensor.zero[0], tensor.dtype)] if tensor.zero is not None and not real else []
    value = to.add("Pad", to.get(x, real=real), to.integers(before + after), *fill)
    padded = [d + a + b for d, a, b in zip(shape[1 : m + 1], around[::2], around[1::2], strict=True)]
    if any(d % b for d, b in zip(padded, block, strict=True)):
        raise ModelError(f"blocks of {block} do not divide {padded}")
    parts = [v for d, b in zip(padded, block, strict=True) for v in (d // b, b)]
    value = to.add("Reshape", value, to.integers([-1, *parts, *shape[m + 1 :]]))
    inner = [2 * i + 2 for i in range(m)]
    outer = [2 * i + 1 for i in range(m)]
    value = to.add("Transpose", value, perm=[*inner, 0, *outer, *range(2 * m + 1, len(shape) + m)])
    sizes = [-1, *(d // b for d, b in zip(padded, block, strict=True)), *shape[m + 1 :]]
    to.put(node.outputs[0], to.add("Reshape", value, to.integers(sizes)), real=real)


def batch_to_space(to: Builder, node: Operator) -> None:
    """`space_to_batch` undone, then cut."""
    x, real = node.inputs[0], moved(to, node)
    shape, cuts = _spatial(to, x), to.whole(node.inputs[2], "crops")
    block = to.whole(node.inputs[1], "block shape")
    m = len(block)
    if len(cuts) != 2 * m or not 1 <= m < len(shape) or min(block) < 1 or min(cuts) < 0:
        raise ModelError(f"its block {block} and crops {cuts} do not fit a shape of {list(shape)}")
    value = to.add("Reshape", to.get(x, real=real), to.integers([*block, -1, *shape[1:]]))
    dealt = [a for i in range(m) for a in (m + 1 + i, i)]
    value = to.add("Transpose", value, perm=[m, *dealt, *range(2 * m + 1, len(shape) + m)])
    whole = [d * b for d, b in zip(shape[1 : m + 1], block, strict=True)]
    value = to.add("Reshape", value, to.integers([-1, *whole, *shape[m + 1 :]]))
    ends = [d - c for d, c in zip(whole, cuts[1::2], strict=True)]
    value = to.add("Slice", value, to.integers(cuts[::2]), to.integers(ends), to.integers(range(1, m + 1)))
    to.put(node.outputs[0], value, real=real)


def _spatial(to: Builder, t: int) -> list[int]:
    """The shape of a tensor of which only the batch may be open, 0 for that."""
    shape = to.tensors[t].shape
    if None in shape[1:]:
        raise UnsupportedError(f"an input of shape {list(shape)} is not supported: its sizes must be known")
    return [d or 0 for d in shape]


def shape_of(to: Builder, node: Operator) -> None:
    y = node.outputs[0]
    kind = helper.np_dtype_to_tensor_dtype(to.tensors[y].dtype)
    to.put(y, to.add("Cast", to.add("Shape", to.get(node.inputs[0], real=False)), to=kind))


def rank_of(to: Builder, node: Operator) -> None:
    to.put(node.outputs[0], to.constant(to.tensors[node.inputs[0]].rank, np.int32))


def range_(to: Builder, node: Operator) -> None:
    to.put(node.outputs[0], to.add("Range", *(to.add("Squeeze", to.get(t)) for t in node.inputs[:3])))


def fill(to: Builder, node: Operator) -> None:
    to.put(node.outputs[0], to.add("Expand", to.get(node.inputs[1], real=False), to.indices(node.inputs[0])), real=False)


def broadcast_to(to: Builder, node: Operator) -> None:
    real = moved(to, node)
    to.put(node.outputs[0], to.add("Expand", to.get(node.inputs[0], real=real), to.indices(node.inputs[1])), real=real)


def tile(to: Builder, node: Operator) -> None:
    real = moved(to, node)
    to.put(node.outputs[0], to.add("Tile", to.get(node.inputs[0], real=real), to.indices(node.inputs[1])), real=real)


def reverse(to: Builder, node: Operator) -> None:
    real, axes = moved(to, node), to.whole(node.inputs[1], "axes")
    count = len(axes)
    cuts = (to.integers(v) for v in ([-1] * count, [-LARGEST] * count, axes, [-1] * count))
    to.put(node.outputs[0], to.add("Slice", to.get(node.inputs[0], real=real), *cuts), real=real)


def one_hot(to: Builder, node: Operator) -> None:
    indices, depth, on, off = node.inputs[:4]
    values = to.add("Concat", *(to.add("Reshape", to.get(t), to.integers([1])) for t in (off, on)), axis=0)
    axis, places = node.options("OneHotOptions").Axis(), to.indices(indices)
    # a negative index is none of the places, where ONNX counts it from the end
    places = to.add("Where", to.add("Less", places, to.constant(0, np.int64)), to.constant(LARGEST, np.int64), places)
    to.put(node.outputs[0], to.add("OneHot", places, to.indices(depth), values, axis=axis))


def where(to: Builder, node: Operator) -> None:
    """Places of what is not 0, a row each."""
    kind = helper.np_dtype_to_tensor_dtype(to.tensors[node.outputs[0]].dtype)
    rows = to.add("Transpose", to.add("NonZero", to.get(node.inputs[0])), perm=[1, 0])
    to.put(node.outputs[0], to.add("Cast", rows, to=kind))


RULES = {
    "RESHAPE": reshape,
    "EXPAND_DIMS": expand_dims,
    "TRANSPOSE": transpose,
    "CONCATENATION": concatenation,
    "PACK": pack,
    "UNPACK": unpack,
    "SPLIT": split,
    "SPLIT_V": split,
    "GATHER": gather,
    "GATHER_ND": gather_nd,
    "EMBEDDING_LOOKUP": embedding_lookup,
    "SCATTER_ND": scatter_nd,
    "PAD": pad,
    "PADV2": pad,
    "MIRROR_PAD": pad,
    "RESIZE_BILINEAR": resize("linear"),
    "RESIZE_NEAREST_NEIGHBOR": resize("nearest"),
    "DEPTH_TO_SPACE": blocks("DepthToSpace", "DepthToSpaceOptions"),
    "SPACE_TO_DEPTH": blocks("SpaceToDepth", "SpaceToDepthOptions"),
    "SPACE_TO_BATCH_ND": space_to_batch,
    "BATCH_TO_SPACE_ND": batch_to_space,
    "SHAPE": shape_of,
    "RANK": rank_of,
    "RANGE": range_,
    "FILL": fill,
    "BROADCAST_TO": broadcast_to,
    "TILE": tile,
    "REVERSE_V2": reverse,
    "ONE_HOT": one_hot,
    "WHERE": where,
}
