"""Small models for tests of training, as graphs."""

from __future__ import annotations

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup

F32 = np.dtype(np.float32)


def node(op: str, inputs: str, outputs: str, name: str = "", **fields) -> Node:
    return Node(lookup(op)(**fields), tuple(inputs.split()), tuple(outputs.split()), name)


def mlp(seed: int = 0, classes: int = 3, end: str = "") -> Graph:
    """(n, 1, 4, 4) to (n, classes) through two layers."""
    rng = np.random.default_rng(seed)
    nodes = [
        node("Flatten", "x", "flat", "flat"),
        node("Gemm", "flat w1 b1", "h", "fc1", transB=1),
        node("Relu", "h", "r", "relu"),
        node("Gemm", "r w2 b2", "y" if not end else "z", "fc2", transB=1),
    ]  # fmt: skip
    if end:
        nodes.append(node(end, "z", "y", "end"))
    constants = {
        "w1": rng.standard_normal((8, 16)) * 0.3, "b1": np.zeros(8), "w2": rng.standard_normal((classes, 8)) * 0.3,
        "b2": np.zeros(classes),
    }  # fmt: skip
    return Graph(
        nodes, {"x": Spec(("n", 1, 4, 4), F32)}, {"y": Spec(("n", classes), F32)},
        {k: v.astype(np.float32) for k, v in constants.items()},
    )  # fmt: skip


def convolutional(seed: int = 0, classes: int = 3, norm: bool = True) -> Graph:
    """(n, 2, 7, 9) to (n, classes): a convolution, its batch normalisation, a depthwise one, a mean, a 1×1 head."""
    rng = np.random.default_rng(seed)
    nodes = [
        node("Conv", "x w1 b1", "c1", "conv1", pads=(1, 1, 1, 1), strides=(2, 1)),
        *([node("BatchNormalization", "c1 scale shift mean var", "n1", "bn1")] if norm else []),
        node("Relu", "n1" if norm else "c1", "r1", "relu1"),
        node("Conv", "r1 w2", "c2", "conv2", group=6),
        node("GlobalAveragePool", "c2", "pool", "pool"),
        node("Conv", "pool w3 b3", "c3", "head"),
        node("Flatten", "c3", "y", "flat"),
    ]
    constants = {
        "w1": rng.standard_normal((6, 2, 3, 3)) * 0.3, "b1": rng.standard_normal(6) * 0.1, "scale": rng.random(6) + 0.5,
        "shift": rng.standard_normal(6) * 0.1, "mean": rng.standard_normal(6) * 0.1, "var": rng.random(6) + 0.5,
        "w2": rng.standard_normal((6, 1, 2, 3)) * 0.3, "w3": rng.standard_normal((classes, 6, 1, 1)),
        "b3": np.zeros(classes),
    }  # fmt: skip
    return Graph(
        nodes, {"x": Spec(("n", 2, 7, 9), F32)}, {"y": Spec(("n", classes), F32)},
        {k: v.astype(np.float32) for k, v in constants.items()},
    )  # fmt: skip


def batch(n: int = 12, shape: tuple[int, ...] = (1, 4, 4), classes: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Samples of which each class has its own mean."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    means = rng.standard_normal((classes, *shape))
    return (means[y] + 0.5 * rng.standard_normal((n, *shape))).astype(np.float32), y


def model(graph: Graph) -> Model:
    return Model(graph, threads=1)
