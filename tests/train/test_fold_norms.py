"""save(fold=True): batch normalisations go into the layers before them, however exporters write those; outputs without a
declared shape are saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import nbconv
from nbconv.edit.fold_norms import folded
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from tests.train.models import F32, model, node

RNG = np.random.default_rng(0)


def norm(name: str, channels: int) -> tuple[str, dict[str, np.ndarray]]:
    """(the inputs of a batch normalisation, its constants)."""
    parts = {f"{name}.{k}": RNG.standard_normal(channels) for k in ("scale", "shift", "mean")}
    parts[f"{name}.var"] = RNG.random(channels) + 0.5
    return " ".join(parts), parts


@pytest.mark.parametrize("bias", ["none", "stored", "zeros that are computed", "behind Identity"])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "depthwise", "Gemm", "Gemm turned"])
def test_norms_of_every_layer(kind: str, bias: str) -> None:
    channels, inputs = (6, 6) if kind == "depthwise" else (6, 4)
    gemm = kind.startswith("Gemm")
    shape: dict[str, tuple[int, ...]] = {
        "Conv": (6, 4, 3, 3), "ConvTranspose": (4, 6, 3, 3), "depthwise": (6, 1, 3, 3), "Gemm": (4, 6),
        "Gemm turned": (6, 4),
    }  # fmt: skip
    rest, constants = norm("n", channels)
    constants |= {"w": RNG.standard_normal(shape[kind]), "b": RNG.standard_normal(channels), "zero": np.zeros(())}
    written = {k: v.astype(np.float32) for k, v in constants.items()} | {"one": np.array([channels])}
    nodes = {
        "none": [],
        "stored": [],
        "zeros that are computed": [  # as PyTorch's exporter writes a bias that there is not
            node("CastLike", "zero x", "z"),
            node("Expand", "z one", "bias"),
        ],
        "behind Identity": [node("Identity", "b", "bias")],
    }[bias]
    name = {"none": "", "stored": "b"}.get(bias, "bias")
    op = "Conv" if kind == "depthwise" else kind.split()[0]
    fields = {"transB": 1} if kind == "Gemm turned" else {"group": 6} if kind == "depthwise" else {}
    nodes += [
        node(op, f"x w {name}".strip(), "c", "layer", **fields),
        node("Identity", "c", "i"),
        node("BatchNormalization", f"i {rest}", "y", "norm", epsilon=1e-3),
    ]
    spec = Spec(("n", inputs) if gemm else ("n", inputs, 7, 5), F32)
    graph = Graph(nodes, {"x": spec}, {"y": None}, written)
    found = folded(graph)
    assert [n.op.type for n in found.nodes] == [op]
    x = RNG.standard_normal((3, *spec.shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    np.testing.assert_allclose(model(found)(x), model(graph)(x), rtol=1e-4, atol=1e-5)


def test_what_is_not_folded() -> None:
    rest, constants = norm("n", 6)
    constants = {k: v.astype(np.float32) for k, v in constants.items()}
    constants["w"] = RNG.standard_normal((6, 4, 1, 1)).astype(np.float32)
    inputs = {"x": Spec(("n", 4, 3, 3), F32)}

    def graph(*more, outputs: str = "y", **fields) -> Graph:
        nodes = [node("Conv", "x w", "c", "conv"), node("BatchNormalization", f"c {rest}", "y", "norm", **fields), *more]
        return Graph(nodes, inputs, dict.fromkeys(outputs.split()), constants)

    for kept in (graph(training_mode=1), graph(outputs="y c"), graph(node("Relu", "c", "r"), outputs="y r")):
        with pytest.raises(ModelError, match="nothing to fold"):
            folded(kept)
    assert len(folded(graph(node("Relu", "y", "q"), outputs="q")).nodes) == 2


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("declared", ["shape", "rank", "nothing"])
def test_outputs_as_they_are_declared(declared: str, head: bool, fold: bool, tmp_path: Path) -> None:
    rest, constants = norm("n", 6)
    constants |= {"w": RNG.standard_normal((6, 4, 1, 1)), "v": RNG.standard_normal((2, 6))}
    nodes = [
        node("Conv", "x w", "c", "conv"),
        node("BatchNormalization", f"c {rest}", "n", "norm"),
        node("GlobalAveragePool", "n", "p", "pool"),
        node("Flatten", "p", "f", "flat"),
        node("Gemm", "f v", "y", "fc", transB=1),
    ]
    output = {"shape": Spec(("n", 2), F32), "rank": Spec((None, None), F32), "nothing": None}[declared]
    whole = Graph(
        nodes, {"x": Spec(("n", 4, 3, 3), F32)}, {"y": Spec(("n", 2), F32)},
        {k: v.astype(np.float32) for k, v in constants.items()},
    )  # fmt: skip
    nbconv.save(whole, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    if output is None:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    elif declared == "rank":
        for dim in proto.graph.output[0].type.tensor_type.shape.dim:
            dim.Clear()
    m = nbconv.load(proto.SerializeToString(), threads=1)
    if head:
        m.replace_head(3)
    trainer = nbconv.Trainer(m, trainable="head")
    x = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32)
    trainer.step(x, np.arange(4) % 2)
    trainer.save(tmp_path / "m2.onnx", fold=fold)
    onnx.checker.check_model(onnx.load(tmp_path / "m2.onnx"), full_check=True)
    np.testing.assert_allclose(nbconv.load(tmp_path / "m2.onnx")(x), trainer.predict(x), rtol=1e-4, atol=1e-5)
