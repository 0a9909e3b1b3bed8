"""Whether batch normalisation was folded away."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.edit.folded import folded_norms
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from tests.models import asset


def chain(count: int, *, bias: bool = True, residual: bool = False, weight: str = "w", norm: bool = False) -> Graph:
    """Convolutions one after the other, each with a Relu."""
    nodes, constants, x = [], {}, "x"
    for i in range(count):
        constants[f"{weight}{i}"], constants[f"b{i}"] = np.zeros((4, 4, 3, 3), np.float32), np.zeros(4, np.float32)
        inputs = (x, f"{weight}{i}", f"b{i}") if bias else (x, f"{weight}{i}")
        nodes.append(Node(lookup("Conv")(pads=(1, 1, 1, 1)), inputs, (f"c{i}",)))
        y = f"c{i}"
        if residual and i:
            nodes.append(Node(lookup("Add")(), (y, x), (f"s{i}",)))
            y = f"s{i}"
        nodes.append(Node(lookup("Relu")(), (y,), (f"r{i}",)))
        x = f"r{i}"
    if norm:
        nodes.append(Node(lookup("LRN")(size=3), (x,), ("n",)))
        x = "n"
    return Graph(nodes, {"x": Spec((1, 4, 8, 8), np.dtype(np.float32))}, {x: None}, constants)


def test_old_networks_never_had_it() -> None:
    found = folded_norms(chain(13))
    assert not found.likely
    assert (found.convolutions, found.with_bias, found.norms, found.evidence) == (13, 13, 0, ())


def test_residual_networks_had() -> None:
    found = folded_norms(chain(9, residual=True))
    assert found.likely
    assert found.evidence == ("8 sums join a convolution with what went round it, as in ResNet and its kin",)
    assert not folded_norms(chain(9, residual=True, bias=False)).likely
    assert not folded_norms(chain(9, residual=True, norm=True)).likely
    assert not folded_norms(chain(7, residual=True)).likely


def test_names() -> None:
    found = folded_norms(chain(8, weight="onnx::Conv_17"))
    assert found.likely
    assert "'onnx::Conv_170' of 'c0'" in found.evidence[0]
    assert not folded_norms(chain(8, weight="subnet")).likely


@pytest.mark.parametrize(("name", "likely"), [("efficientnet_lite0.onnx", True), ("mtcnn_pnet.onnx", False)])
def test_bundled_models(name: str, likely: bool) -> None:
    path = asset(name)
    if not path.exists():
        pytest.skip("the bundled model is not there")
    from nbconv.converters.onnx import read

    assert folded_norms(read(path)).likely is likely
