"""`nbconv gradcheck`: right gradients pass, wrong ones are found, whichever side is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nbconv.cli import main
from nbconv.errors import UnsupportedError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.model import save
from nbconv.ops import lookup
from nbconv.ops.activation import Sigmoid
from nbconv.ops.rectifier import ReluGrad
from nbconv.tools.gradcheck import check_model
from tests import fuzz


def graph() -> Graph:
    """Relu, a learned slope, Sigmoid, a mean over the image, Softmax; ArgMax has no gradient to check."""
    nodes = [
        Node(lookup("Relu")(), ("x",), ("a",), "relu"),
        Node(lookup("PRelu")(), ("x", "slope"), ("b",), "prelu"),
        Node(lookup("Add")(), ("a", "b"), ("c",), "add"),
        Node(lookup("Sigmoid")(), ("c",), ("d",), "sigmoid"),
        Node(lookup("ReduceMean")(keepdims=0), ("d", "axes"), ("e",), "mean"),
        Node(lookup("Softmax")(), ("e",), ("y",), "softmax"),
        Node(lookup("ArgMax")(axis=1), ("e",), ("k",), "argmax"),
    ]
    constants = {"slope": np.full((3, 1, 1), 0.25, np.float32), "axes": np.array([2, 3])}
    return Graph(nodes, {"x": Spec((2, 3, 40, 30), np.dtype(np.float32))}, {"y": None, "k": None}, constants)


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal((2, 3, 40, 30)).astype(np.float32)}


def test_right() -> None:
    found = list(check_model(graph(), feeds()))
    assert [f.node for f in found] == ["relu", "prelu", "add", "sigmoid", "mean", "softmax"]
    assert found[1].wrt == ("x", "slope")
    assert all(f.ok and not f.numpy and not f.note for f in found)
    assert all(f.slope is not None and f.slope < 1e-9 for f in found)
    assert all(f.kernel is not None and f.kernel < 1e-6 for f in found)


def test_a_wrong_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sigmoid, "gradient", lambda self, to: (to.dy(),))
    wrong = [f for f in check_model(graph(), feeds()) if not f.ok]
    assert [f.node for f in wrong] == ["sigmoid"]
    assert wrong[0].slope is not None
    assert wrong[0].slope > 1e-3
    assert "along a random direction" in wrong[0].note


def test_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReluGrad, "lower", lambda self, to: self.pair(to, "leaky_relu_grad", alpha=0.01))
    wrong = [f for f in check_model(graph(), feeds()) if not f.ok]
    assert [f.node for f in wrong] == ["relu"]
    assert wrong[0].slope is not None
    assert wrong[0].slope < 1e-9
    assert wrong[0].kernel == pytest.approx(0.01, rel=0.5)


def test_command(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    save(graph(), path)
    assert main(["gradcheck", str(path)]) == 0
    assert "the gradients of all 6 nodes are right" in capsys.readouterr().out
    monkeypatch.setattr(Sigmoid, "gradient", Op.gradient)
    assert main(["gradcheck", str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [n["note"] for n in told["nodes"] if not n["ok"]] == ["Sigmoid has no gradient"]
    assert main(["gradcheck", str(path)]) == 1
    out = capsys.readouterr().out
    assert "1 of 6 nodes fail" in out
    assert "Sigmoid has no gradient" in out
    assert main(["gradcheck", str(path), "--shape", "1,3,8,8"]) == 2
    assert main(["gradcheck", str(tmp_path / "none.onnx")]) == 2


def test_what_is_not_finite_is_said() -> None:
    bad = feeds()
    bad["x"][0, 0, 0, 0] = np.nan
    assert "its inputs are not finite" in {f.note for f in check_model(graph(), bad)}


def test_missing_gradients_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbconv.lowering.weights import Weights
    from nbconv.passes.autodiff import backprop
    from nbconv.passes.fold import fold

    for name in ("Sigmoid", "PRelu"):
        monkeypatch.setattr(lookup(name), "gradient", Op.gradient)
    derived, specs, _ = fold(graph(), {"x": Spec((2, 3, 40, 30), np.dtype(np.float32))}, Weights())
    with pytest.raises(UnsupportedError, match=r"sigmoid \(Sigmoid\): .*; prelu \(PRelu\)"):
        backprop(derived, specs, {"y": "y"}, ["x"])


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_random_graphs(first: int) -> None:
    """More of them: python -m tests.fuzz SEED COUNT."""
    for seed in range(first, first + 100):
        try:
            fuzz.check_gradients(seed)
        except Exception:
            print(f"python -m tests.fuzz {seed} 1")
            raise


def test_doctor_names_missing_gradients(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    save(graph(), path)
    assert main(["doctor", str(path)]) == 0
    assert "training: 1 weight can train, all gradients are there" in capsys.readouterr().out
    for name in ("Sigmoid", "Softmax"):
        monkeypatch.setattr(lookup(name), "gradient", Op.gradient)
    assert main(["doctor", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["training"]
    assert told["trainable"] == 1
    assert [m["node"] for m in told["missing_gradients"]] == ["softmax", "sigmoid"]
    assert told["batch_norm_folded"]["likely"] is False
    assert main(["doctor", str(path)]) == 0
    assert "2 nodes on the way to its weights have no gradient" in capsys.readouterr().out
