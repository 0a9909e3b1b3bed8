"""Which parts train: biases, normalisations, and what a step then takes."""

from __future__ import annotations

import numpy as np
import pytest

import nbconv
from nbconv.edit.selection import select
from nbconv.graph import Graph, Spec
from tests.train.models import F32, batch, convolutional, mlp, model, node

WIDE = 4


def names(graph: Graph, kind: str) -> list[str]:
    return [p.name for p in select(graph, kind)]


def exported() -> Graph:
    """What exporters write in nodes: a bias behind a Reshape, a group norm, a layer norm, a gain and a table that are none,
    a recurrent layer, a head."""
    rng = np.random.default_rng(0)
    c = {
        "w": rng.standard_normal((WIDE, 3, 1, 1)), "b": rng.standard_normal(WIDE), "ones": np.ones(2), "zeros": np.zeros(2),
        "gamma": rng.random((WIDE, 1, 1)) + 0.7, "beta": rng.standard_normal((WIDE, 1, 1)),
        "scale": rng.random((WIDE, 1, 1)) + 0.7, "places": rng.standard_normal((WIDE, 2, 2)), "eps": np.array(1e-5),
        "gain": rng.random(WIDE) + 0.5, "offset": rng.standard_normal(WIDE), "w2": rng.standard_normal((WIDE, WIDE)),
        "minus": rng.standard_normal(WIDE), "wi": rng.standard_normal((1, 3 * WIDE, WIDE)),
        "wr": rng.standard_normal((1, 3 * WIDE, WIDE)), "bi": rng.standard_normal((1, 6 * WIDE)),
        "w3": rng.standard_normal((3, WIDE)), "b3": rng.standard_normal(3),
    }  # fmt: skip
    nodes = [
        node("Conv", "x w", "c", "conv"), node("Reshape", "b tall", "b4", "turn"), node("Add", "c b4", "c1", "bias"),
        node("Reshape", "c1 parts", "g", "split"), node("InstanceNormalization", "g ones zeros", "g1", "instances"),
        node("Reshape", "g1 shape", "g2", "join"), node("Mul", "g2 gamma", "g3", "gamma"), node("Add", "g3 beta", "g4", "beta"),
        node("Relu", "g4", "r", "relu"), node("Mul", "r scale", "s", "scale"), node("Add", "s places", "t", "places"),
        node("ReduceMean", "t axes", "m", "mean", keepdims=0),
        node("ReduceMean", "m last", "mu", "mu"), node("Sub", "m mu", "d", "centre"), node("Mul", "d d", "sq", "square"),
        node("ReduceMean", "sq last", "var", "var"), node("Add", "var eps", "ve", "safe"), node("Sqrt", "ve", "root", "root"),
        node("Div", "d root", "n", "divide"), node("Mul", "n gain", "n1", "gain"), node("Add", "offset n1", "n2", "offset"),
        node("MatMul", "n2 w2", "p", "fc"), node("Sub", "p minus", "q", "minus"), node("Unsqueeze", "q first", "q1", "seq"),
        node("GRU", "q1 wi wr bi", "o h", "gru", hidden_size=WIDE), node("Squeeze", "h first", "h1", "state"),
        node("Gemm", "h1 w3 b3", "y", "head", transB=1),
    ]  # fmt: skip
    constants = {n: np.asarray(a, F32) for n, a in c.items()}
    whole = {
        "tall": [1, WIDE, 1, 1], "parts": [0, 2, -1], "shape": [-1, WIDE, 2, 2], "axes": [2, 3], "last": [-1], "first": [0],
    }  # fmt: skip
    constants |= {n: np.array(v) for n, v in whole.items()}
    return Graph(nodes, {"x": Spec(("n", 3, 2, 2), F32)}, {"y": Spec(("n", 3), F32)}, constants)


def test_kinds_are_told_by_use() -> None:
    """Not by names: what is added to channels is a bias, whoever adds it; factors are of a norm only behind one."""
    head = ["w3", "b3"]
    assert names(exported(), "bias") == ["b", "zeros", "beta", "offset", "minus", "bi", *head]
    assert names(exported(), "norm") == ["ones", "zeros", "gamma", "beta", "gain", "offset", *head]
    assert names(convolutional(), "bias") == ["b1", "shift", *head]
    assert names(convolutional(), "norm") == ["scale", "shift", *head]
    assert names(mlp(), "bias") == ["b1", "w2", "b2"]


def test_a_kind_that_a_model_lacks_is_told() -> None:
    with pytest.raises(ValueError, match="no normalisation .* trainable='bias'"):
        names(convolutional(norm=False), "norm")
    graph = mlp()
    graph.nodes[1] = node("Gemm", "flat w1", "h", "fc1", transB=1)
    with pytest.raises(ValueError, match="no parameter to channels.* trainable='head'"):
        names(graph, "bias")
    kept = nbconv.Trainer(frozen := model(convolutional()), trainable="bias").parameters
    frozen.freeze("bn1")
    assert [p.name for p in nbconv.Trainer(frozen, trainable="bias").parameters] == [p.name for p in kept][2:]


@pytest.mark.parametrize("kind", ["bias", "norm"])
def test_only_these_change(kind: str) -> None:
    """A step moves what was chosen by what a step of all moves it, and nothing else."""
    x, y = batch(8, (3, 2, 2))
    one, other = (nbconv.Trainer(model(exported()), optimizer=nbconv.SGD(0.1), trainable=t) for t in (kind, "all"))
    assert one.step(x, y) == other.step(x, y)
    before, after, whole = exported().constants, one.graph().constants, other.graph().constants
    chosen = names(exported(), kind)
    for name, array in before.items():
        if name in chosen:
            np.testing.assert_allclose(after[name], whole[name], rtol=1e-5, atol=1e-7)
        else:
            assert np.array_equal(after[name], array), name
    assert any(not np.array_equal(after[n], before[n]) for n in chosen[:-2])
