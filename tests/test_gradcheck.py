"""`nbconv gradcheck`: right gradients pass, wrong ones are found, whichever side is wrong."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.cli import main
from nbconv.commands._examine import examine
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


def constants_at_work() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32), "mean": rng.random((1, 3, 1, 1)).astype(np.float32),
        "half": np.array(0.5, np.float32), "gain": rng.random((4, 1, 1)).astype(np.float32),
        "scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8),
    }  # fmt: skip


def told_of(path: Path, nodes: list[tuple[str, str, str, dict]], type: type = np.float32) -> dict:
    """What doctor says of training a graph of these nodes, by (type, inputs, output, attributes)."""
    made = [Node(lookup(op)(**fields), tuple(x.split()), (y,), y) for op, x, y, fields in nodes]
    dtype = np.dtype(type)
    constants = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in constants_at_work().items()}
    used = {n: a for n, a in constants.items() if any(n in node.inputs for node in made)}
    save(Graph(made, {"x": Spec((2, 3, 4, 5), dtype)}, {nodes[-1][2]: None}, used), path)
    return examine(str(path), [], [])["training"]


CONV = ("Conv", "x w", "a", {})
STATES: dict[str, tuple[list[tuple[str, str, str, dict]], list[str], str]] = {
    "all": ([("Sub", "x mean", "p", {}), ("Conv", "p w", "a", {}), ("Mul", "a gain", "b", {}), ("Mul", "b half", "y", {})],
            ["w", "gain"], ""),
    "none": ([("Relu", "x", "y", {})], [], "it has no parameters"),
    "floor": ([CONV, ("Floor", "a", "y", {})], [], "no parameter gets a gradient"),
    "argmax": ([CONV, ("ArgMax", "a", "y", {"axis": 1})], [], "it has no parameters"),
    "quantised": ([CONV, ("QuantizeLinear", "a scale zero", "q", {}), ("DequantizeLinear", "q scale zero", "y", {})],
                  ["w"], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", list(STATES))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_doctor_says_what_a_step_changes(name: str, dtype: type, tmp_path: Path, capsys) -> None:
    """Its claim is what a step of SGD does; gradcheck fails where nothing trains."""
    nodes, trains, refused = STATES[name]
    told = told_of(tmp_path / "m.onnx", nodes, dtype)
    assert [row["name"] for row in told["parameters"]] == trains
    assert told["refused"] == refused
    known = {row["name"]: row["why"] for row in (*told["untrained"], *(r | {"why": ""} for r in told["parameters"]))}
    assert all(known[n] or n in trains for n in known)
    m = nbconv.load(tmp_path / "m.onnx", threads=1)
    assert main(["gradcheck", str(tmp_path / "m.onnx")]) == (1 if refused else 0)
    said = capsys.readouterr().out
    assert ("nothing can train" in said) == bool(refused)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(dtype)
    try:
        trainer = nbconv.Trainer(m, loss="mse", optimizer=nbconv.SGD(0.5))
    except ValueError:
        assert refused and not trains
        return
    before = {p.name: trainer.state[p.value].copy() for p in trainer.parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.step(x, np.zeros(m.run({"x": x})["y"].shape, np.float32))
    assert [p.name for p in trainer.parameters if (trainer.state[p.value] != before[p.name]).any()] == trains


def test_doctor_names_operators_on_integers(tmp_path: Path, capsys) -> None:
    nodes = [
        Node(lookup("QuantizeLinear")(), ("x", "scale", "zero"), ("q",), "q"),
        Node(lookup("ConvInteger")(), ("q", "v"), ("i",), "conv"),
        Node(lookup("Cast")(to=1), ("i",), ("y",), "cast"),
    ]
    constants = {n: constants_at_work()[n] for n in ("scale",)} | {
        "zero": np.array(7, np.uint8),
        "v": np.ones((2, 3, 1, 1), np.int8),
    }
    save(Graph(nodes, {"x": Spec((2, 3, 4, 5), np.dtype(np.float32))}, {"y": None}, constants), tmp_path / "m.onnx")
    assert main(["doctor", str(tmp_path / "m.onnx")]) == 0
    said = capsys.readouterr().out
    assert "nothing can train: ConvInteger compute with integers" in said and "QDQ" in said
    assert main(["gradcheck", str(tmp_path / "m.onnx")]) == 1
    assert "QDQ" in capsys.readouterr().out
