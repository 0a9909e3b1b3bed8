"""A detector's head on a model's features: boxes and classes on grids (SSD, Liu et al., 2016), decoded in the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nbconv.edit.initializers import xavier_uniform
from nbconv.edit.meaning import without
from nbconv.edit.pictured import picture_input
from nbconv.errors import ModelError
from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.dtypes import kind_of
from nbconv.graph.op import Op
from nbconv.lowering.weights import Weights
from nbconv.ops.cast import Cast
from nbconv.ops.conv import Conv
from nbconv.ops.pointwise import Add, Exp, Mul, Sub
from nbconv.ops.shape import Concat, Reshape, Slice, Transpose
from nbconv.ops.softmax import Softmax
from nbconv.passes.fold import fold, live
from nbconv.vision.anchors import Anchors, dealt

PREFIX = "detector/"
"""What names of the head's nodes and values begin with."""
MOVES, SCORES = f"{PREFIX}moves", f"{PREFIX}scores"
"""The values of which a loss is computed: (n, anchors, 4) as `nbconv.vision.ssd` reads them, and (n, anchors, 1 + classes)
before the softmax."""
BOXES, PROBABILITIES = "boxes", "scores"
"""The outputs: (n, anchors, 4), left, top, right, bottom in pixels of the input, and (n, anchors, classes)."""
STRIDES = (8, 16, 32)
PLAIN = {
    "AveragePool", "Cast", "Conv", "ConvTranspose", "DequantizeLinear", "Einsum", "Identity", "MatMul", "MaxPool", "Pad",
    "QuantizeLinear", "Reshape", "Resize", "Slice", "Softmax", "Split", "Transpose",
}  # fmt: skip
"""Operators that end no block: what they make is not what a head is put on, unless it is named."""


class Grid(NamedTuple):
    """Features (n, channels, rows, columns), of any type of floats."""

    value: str
    channels: int
    rows: int
    columns: int
    dtype: np.dtype = FLOAT32


def find_grids(graph: Graph, size: tuple[int, int], names: Iterable[str] = ()) -> list[Grid]:
    """The features to find things on in pictures of ``size``: the last of a block for each stride of about 8, 16 and 32
    pixels, the finest first; those of a detector's head that this file made; or the values ``names``. ValueError where there
    are none."""
    specs = _specs(graph, size)
    names = list(names) or _heads(graph)
    if names:
        return [_grid(graph, name, specs) for name in names]
    found: dict[int, Grid] = {}
    for node in graph.nodes:
        spec = specs.get(node.outputs[0]) if node.outputs else None
        if spec is not None and node.op.type not in PLAIN and spec.rank == 4 and kind_of(spec.dtype) == "f":
            stride = _stride(size, spec.shape[2:])
            if stride and spec.shape[1] > 1:
                found[stride] = _of(node.outputs[0], spec)
    if not found:
        raise ValueError(
            f"the model has no grids of features: no value (n, channels, rows, columns) with a cell for 8, 16 or 32 pixels "
            f"of the input's {size[0]}x{size[1]}; name values to put a detector on, grids=[…]"
        )
    return [found[stride] for stride in sorted(found)]


def add_detector(
    graph: Graph,
    classes: int,
    shapes: Sequence[object],
    size: tuple[int, int] | None = None,
    grids: Sequence[Grid] = (),
    seed: int = 0,
) -> tuple[Graph, Anchors]:
    """(the graph with a fresh detector's head in the place of all that stands behind its features, its anchors).

    ``shapes``: of the boxes to find, see `nbconv.vision.anchors.dealt`. ``size``: of pictures, unless the model says it.
    ``grids``: as `find_grids` gives them, which is asked otherwise. The outputs are `BOXES` and `PROBABILITIES`.
    """
    if not isinstance(classes, (int, np.integer)) or classes < 1:
        raise ValueError(f"classes is {classes!r}, wanted a positive integer")
    size = picture_size(graph, size)
    grids = list(grids) or find_grids(graph, size)
    per = dealt(size, [(g.rows, g.columns) for g in grids], shapes)
    used = [(g, s) for g, s in zip(grids, per, strict=True) if s]
    if not used:
        raise ValueError("there are no shapes of boxes: wanted one or more")
    anchors = Anchors(size, tuple((g.rows, g.columns) for g, _ in used), tuple(s for _, s in used))
    base = Graph(graph.nodes, {}, {g.value: None for g, _ in used}, {})
    nodes = live(base)
    taken = {n for node in nodes for n in node.outputs} & {BOXES, PROBABILITIES}
    if taken:
        raise ValueError(f"a value before the detector is called {sorted(taken)[0]!r}, as its outputs are")
    head = _Head(np.random.default_rng([seed, 0x5D]))
    rows = [(g.value if g.dtype == FLOAT32 else head.add(Cast(to=1), g.value), g.channels, s) for g, s in used]
    moves = head.grids("boxes", rows, 4, MOVES)
    scores = head.grids("classes", rows, 1 + int(classes), SCORES)
    head.decode(moves, scores, anchors)
    constants = {n: graph.constants[n] for node in nodes for n in node.inputs if n in graph.constants}
    name, spec = next(iter(graph.inputs.items()))
    batch = "N" if isinstance(spec.shape[0], int) else spec.shape[0]
    count = len(anchors.boxes())
    outputs: dict[str, Spec | None] = {
        BOXES: Spec((batch, count, 4), FLOAT32),
        PROBABILITIES: Spec((batch, count, int(classes)), FLOAT32),
    }
    result = Graph(
        [*nodes, *head.nodes],
        {name: spec._replace(shape=(batch, *_input(graph, size).shape[1:]))},
        outputs,
        {**constants, **head.constants},
        graph.name,
        without(graph.metadata, "task", "classes", "output", "metrics"),
        None,
        graph.header,
    )
    try:
        _specs(result, size, 2)
    except ModelError as error:
        raise ValueError(f"the model takes one picture at a time, and several are wanted to train: {error}") from None
    return result, anchors


def picture_size(graph: Graph, size: tuple[int, int] | None) -> tuple[int, int]:
    """What pictures are of: ``size``, or what the model says. ValueError where neither does, or they differ."""
    fixed = picture_input(graph).size
    if size is None and fixed is None:
        raise ValueError("the model does not say the size of its pictures: say size=(height, width)")
    if size is not None and fixed is not None and tuple(size) != tuple(fixed):
        raise ValueError(f"size is {size[0]}x{size[1]}, and the model takes pictures of {fixed[0]}x{fixed[1]} alone")
    found = size or fixed
    assert found is not None
    return int(found[0]), int(found[1])


class _Head:
    """The nodes of a head, and their constants."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.nodes = rng, list[Node]()
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[f"{PREFIX}{name}"] = value
        return f"{PREFIX}{name}"

    def add(self, op: Op, *inputs: str, name: str = "") -> str:
        name = name or f"{PREFIX}{op.type}{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (name,), name if name.startswith(PREFIX) else f"{PREFIX}{name}"))
        return name

    def grids(self, what: str, grids: Sequence[tuple[str, int, Sequence[object]]], numbers: int, name: str) -> str:
        """(n, anchors, numbers): a convolution on each grid."""
        shape, parts = self.constant(f"{what}/shape", np.array([0, -1, numbers])), []
        for k, (value, channels, shapes) in enumerate(grids):
            weight = xavier_uniform((len(shapes) * numbers, channels, 3, 3), self.rng)
            stored = self.constant(f"{what}{k}/weight", weight)
            bias = self.constant(f"{what}{k}/bias", np.zeros(len(weight), np.float32))
            x = self.add(Conv(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), value, stored, bias, name=f"{PREFIX}{what}{k}")
            parts.append(self.add(Reshape(), self.add(Transpose(perm=(0, 2, 3, 1)), x), shape))
        return self.add(Concat(axis=1), *parts, name=name)

    def decode(self, moves: str, scores: str, anchors: Anchors) -> None:
        """The outputs."""
        boxes, (middle, side) = anchors.boxes(), np.array(anchors.variances, np.float32)
        by = self.add(Mul(), self._part(moves, 0, 2), self.constant("anchors/steps", boxes[:, 2:] * middle))
        centre = self.add(Add(), by, self.constant("anchors/centres", boxes[:, :2]))
        grown = self.add(Exp(), self.add(Mul(), self._part(moves, 2, 4), self.constant("anchors/growth", np.array(side))))
        wide = self.add(Mul(), grown, self.constant("anchors/halves", boxes[:, 2:] / 2))
        self.add(Concat(axis=2), self.add(Sub(), centre, wide), self.add(Add(), centre, wide), name=BOXES)
        self._part(self.add(Softmax(axis=2), scores), 1, 2**31 - 1, PROBABILITIES)

    def _part(self, x: str, begin: int, end: int, name: str = "") -> str:
        numbers = (self.constant(f"number{k}", np.array([k])) for k in (begin, end, 2))
        return self.add(Slice(), x, *numbers, name=name)


def _heads(graph: Graph) -> list[str]:
    """The features that a head of this file stands on, where the model has one."""
    mine = {id(node) for node in graph.nodes if node.name.startswith(PREFIX)}
    made = {name: node for name, node in graph.producers().items() if id(node) in mine}
    found: dict[str, None] = {}
    for node in graph.nodes:
        if id(node) in mine:
            found.update(dict.fromkeys(n for n in node.inputs if n and n not in made and n not in graph.constants))
    return list(found)


def _grid(graph: Graph, name: str, specs: dict[str, Spec]) -> Grid:
    name = next((n.outputs[0] for n in graph.nodes if n.name == name), name) if name not in specs else name
    if name not in specs:
        raise ValueError(f"grids names {name!r}, which is no value and no node of the model")
    spec = specs[name]
    if spec.rank != 4 or kind_of(spec.dtype) != "f":
        raise ValueError(f"grids names {name!r}, which is {spec}: wanted floats (n, channels, rows, columns)")
    return _of(name, spec)


def _of(name: str, spec: Spec) -> Grid:
    _, channels, rows, columns = spec.shape
    return Grid(name, channels, rows, columns, spec.dtype)


def _input(graph: Graph, size: tuple[int, int], batch: int = 1) -> Spec:
    """The first input for pictures of ``size``."""
    spec, told = next(iter(graph.inputs.values())), picture_input(graph)
    if len(graph.inputs) != 1 or len(spec.shape) != 4:
        have = ", ".join(f"{n} {s}" for n, s in graph.inputs.items())
        raise ValueError(f"the model's inputs are {have}: a detector wants one, of pictures")
    channels = told.channels or 3
    return spec._replace(shape=(batch, *size, channels) if told.layout == "NHWC" else (batch, channels, *size))


def _specs(graph: Graph, size: tuple[int, int], batch: int = 0) -> dict[str, Spec]:
    """The Specs of all values for pictures of ``size``, as many as the model declares unless ``batch`` says it."""
    name, spec = next(iter(graph.inputs.items()))
    batch = batch or (spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else 1)
    return fold(graph, {name: _input(graph, size, batch)}, Weights(), frozenset(graph.values()))[1]


def _stride(size: tuple[int, int], grid: tuple[int, ...]) -> int:
    """Which of `STRIDES` a grid has, to the cells that convolutions without padding lose; 0 for another one."""

    def fits(stride: int) -> bool:
        return min(grid) > 1 and all(0.75 * d / stride <= n <= -(-d // stride) for d, n in zip(size, grid, strict=True))

    return next(filter(fits, STRIDES), 0)
