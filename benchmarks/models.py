"""The models that benchmarks run, with seeded weights where they have none: files in the user's cache, made on first use."""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

IMAGE = (1, 3, 224, 224)
SHAPES: dict[str, tuple[int, ...]] = {
    "resnet50": IMAGE, "squeezenet": IMAGE, "inception_v1": IMAGE, "densenet121": IMAGE, "shufflenet": IMAGE, "vgg19": IMAGE,
    "bvlc_alexnet": IMAGE, "detector": (1, 3, 320, 320), "ppocr_det": (1, 3, 320, 320), "ppocr_cls": (1, 3, 48, 192),
    "ppocr_rec": (1, 3, 48, 320),
}  # fmt: skip
"""The input of each model: onnx's light models with He-scaled weights, a detector like YOLOv8n, PP-OCRv4's three."""


def available() -> str:
    """Names of the models that can be had here, separated by commas: PP-OCR's come with rapidocr-onnxruntime."""
    import importlib.util

    ocr = importlib.util.find_spec("rapidocr_onnxruntime") is not None
    return ",".join(name for name in SHAPES if ocr or not name.startswith("ppocr_"))


def path(name: str) -> str:
    """The file of a model, made now if need be."""
    from tests import models

    if name.startswith("ppocr_"):
        return str(models.rapidocr(name.removeprefix("ppocr_")))
    source = inspect.getsource(models) + inspect.getsource(inspect.getmodule(path))  # type: ignore[arg-type]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbconv-benchmarks"
    file = folder / f"{name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}.onnx"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{name}-*.onnx"):
            old.unlink()
        aside = file.with_suffix(f".{os.getpid()}")
        aside.write_bytes(detector().SerializeToString() if name == "detector" else models.light_model(name))
        aside.replace(file)
    return str(file)


def shapes(name: str, file: str) -> dict[str, tuple[int, ...]]:
    """The shape of each input, by the input's own name."""
    from nbconv.converters.onnx import read

    return dict.fromkeys(read(file).inputs, SHAPES[name])


def detector(size: int = 320, classes: int = 80, seed: int = 0) -> onnx.ModelProto:
    """A detector with the layers of YOLOv8n (Ultralytics, 2023) and seeded He-scaled weights: images (1, 3, size, size) to
    (1, 4 + classes, anchors), boxes as centre and size, then a score for each class."""
    return _Net(seed).detector(size, classes)


class _Net:
    """An ONNX graph as it grows; values are names, and ``channels`` says how many each has."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels: dict[str, int] = {"images": 3}

    def add(self, op: str, *inputs: str, channels: int = 0, outputs: int = 1, **attributes: Any) -> str:
        """A node; the name of its (first) output."""
        from onnx import helper

        names = [f"{op.lower()}{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, names[0], **attributes))
        self.channels.update(dict.fromkeys(names, channels or self.channels.get(inputs[0], 0)))
        return names[0]

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def plain(self, x: str, co: int, k: int = 1, s: int = 1) -> str:
        """A convolution with bias."""
        ci = self.channels[x]
        w = self.rng.standard_normal((co, ci, k, k), np.float32) * np.float32((2 / (ci * k * k)) ** 0.5)
        b = self.rng.standard_normal(co, np.float32) * np.float32(0.05)
        window: dict[str, Any] = {"kernel_shape": [k, k], "strides": [s, s], "pads": [k // 2] * 4}
        return self.add("Conv", x, self.constant(w), self.constant(b), channels=co, **window)

    def conv(self, x: str, co: int, k: int = 1, s: int = 1) -> str:
        """A convolution (its batch norm folded in) and SiLU."""
        y = self.plain(x, co, k, s)
        return self.add("Mul", y, self.add("Sigmoid", y))

    def concat(self, *xs: str, axis: int = 1) -> str:
        return self.add("Concat", *xs, channels=sum(self.channels[x] for x in xs), axis=axis)

    def c2f(self, x: str, co: int, n: int, shortcut: bool) -> str:
        """A cross-stage block: half of the channels go through n bottlenecks, and every stage is kept."""
        both, half = self.conv(x, co), co // 2
        first = self.add("Split", both, self.constant(np.array([half, half])), channels=half, outputs=2, axis=1)
        parts = [first, f"{first}_1"]
        for _ in range(n):
            y = self.conv(self.conv(parts[-1], half, 3), half, 3)
            parts.append(self.add("Add", parts[-1], y) if shortcut else y)
        return self.conv(self.concat(*parts), co)

    def sppf(self, x: str, co: int) -> str:
        parts = [self.conv(x, self.channels[x] // 2)]
        for _ in range(3):
            parts.append(self.add("MaxPool", parts[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2]))
        return self.conv(self.concat(*parts), co)

    def up(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        how: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", x, "", scales, **how)

    def detector(self, size: int, classes: int) -> onnx.ModelProto:
        import onnx
        from onnx import helper

        x = self.conv(self.conv("images", 16, 3, 2), 32, 3, 2)
        x = self.c2f(x, 32, 1, True)
        p3 = self.c2f(self.conv(x, 64, 3, 2), 64, 2, True)
        p4 = self.c2f(self.conv(p3, 128, 3, 2), 128, 2, True)
        p5 = self.sppf(self.c2f(self.conv(p4, 256, 3, 2), 256, 1, True), 256)
        n4 = self.c2f(self.concat(self.up(p5), p4), 128, 1, False)
        n3 = self.c2f(self.concat(self.up(n4), p3), 64, 1, False)
        n4 = self.c2f(self.concat(self.conv(n3, 64, 3, 2), n4), 128, 1, False)
        n5 = self.c2f(self.concat(self.conv(n4, 128, 3, 2), p5), 256, 1, False)
        self.heads([n3, n4, n5], size, classes)
        info, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
        anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
        graph = helper.make_graph(
            self.nodes, "detector", [info("images", kind, [1, 3, size, size])],
            [info(self.nodes[-1].output[0], kind, [1, 4 + classes, anchors])], self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def heads(self, levels: list[str], size: int, classes: int) -> None:
        """Boxes as distributions over 16 distances a side, whose means are decoded around the anchors; scores."""
        joined, total = [], 0
        for x in levels:
            box = self.plain(self.conv(self.conv(x, 64, 3), 64, 3), 64)
            score = self.plain(self.conv(self.conv(x, classes, 3), classes, 3), classes)
            joined.append(self.add("Reshape", self.concat(box, score), self.constant(np.array([1, 64 + classes, -1]))))
        y = self.add("Concat", *joined, channels=64 + classes, axis=2)
        box = self.add("Split", y, self.constant(np.array([64, classes])), outputs=2, axis=1)
        grids = [np.stack(np.meshgrid(*[np.arange(size // s) + 0.5] * 2), 0).reshape(2, -1) for s in (8, 16, 32)]
        centres = self.constant(np.concatenate(grids, 1).astype(np.float32)[None])
        total = sum(g.shape[1] for g in grids)
        strides = np.concatenate([np.full(g.shape[1], s, np.float32) for g, s in zip(grids, (8, 16, 32), strict=True)])
        bins = self.add("Transpose", self.add("Reshape", box, self.constant(np.array([1, 4, 16, total]))), perm=[0, 2, 1, 3])
        means = self.constant(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1))
        mean = self.add("Conv", self.add("Softmax", bins, axis=1), means, kernel_shape=[1, 1])
        sides = self.add("Reshape", mean, self.constant(np.array([1, 4, total])))
        near = self.add("Split", sides, self.constant(np.array([2, 2])), outputs=2, axis=1)
        low, high = self.add("Sub", centres, near), self.add("Add", centres, f"{near}_1")
        middle = self.add("Div", self.add("Add", low, high), self.constant(np.array(2, np.float32)))
        boxes = self.add("Concat", middle, self.add("Sub", high, low), axis=1)
        scaled = self.add("Mul", boxes, self.constant(strides.reshape(1, 1, -1)))
        self.add("Concat", scaled, self.add("Sigmoid", f"{box}_1"), axis=1)
