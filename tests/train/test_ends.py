"""A last Softmax, LogSoftmax or Sigmoid, seen through whatever leaves its values as they are; and where classes lie."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nbconv
from nbconv.edit.head import class_axis
from nbconv.graph import Graph, Spec
from tests.train.models import F32, batch, convolutional, mlp, model, node

X, Y = batch(6, (2, 7, 9))


def tailed(seed: int, activation: str, flat: bool, moves: bool = True) -> tuple[Graph, int]:
    """(a classifier (n, 3), or one of pixels (n, 3, 4, 9), that ends in the activation and a random tail; where the output
    has its classes). Without an activation it has the same tail, and no Dropout, which would drop logits."""
    rng = np.random.default_rng(seed)
    graph = convolutional(norm=False)
    constants = {**graph.constants, "wp": np.random.default_rng(6).standard_normal((3, 6, 1, 1)).astype(F32)}
    nodes = [*graph.nodes[:-1], node("Flatten", "c3", "z", "flat")]
    if not flat:
        nodes = [*graph.nodes[:2], node("Conv", "r1 wp", "z", "head")]
    shape, axis, name = ([6, 3] if flat else [6, 3, 4, 9]), 1, "z"
    at = axis - (len(shape) if rng.random() < 0.5 else 0)
    if activation:
        nodes.append(node(activation, name, "a", "activation", **({} if activation == "Sigmoid" else {"axis": at})))
        name = "a"
    for k in range(rng.integers(0, 5)):
        made = f"t{k}"
        what = rng.choice(["Identity", "Cast", "Dropout", *(["Transpose", "Unsqueeze", "Reshape"] if moves else [])])
        if what == "Transpose":
            perm = [0, *(1 + int(p) for p in rng.permutation(len(shape) - 1))]
            shape, axis, fields = [shape[p] for p in perm], perm.index(axis), {"perm": tuple(perm)}
        elif what == "Unsqueeze" and len(shape) < 5:
            place = int(rng.integers(1, len(shape) + 1))
            shape.insert(place, 1)
            axis, fields, constants[f"{made}/c"] = axis + (place <= axis), {}, np.array([place], np.int64)
        else:
            what = "Reshape" if what == "Unsqueeze" else "Identity" if what == "Dropout" and not activation else str(what)
            fields, constants[f"{made}/c"] = ({"to": 1} if what == "Cast" else {}), np.array([-1, *shape[1:]], np.int64)
        nodes.append(node(what, f"{name} {made}/c" if what in ("Unsqueeze", "Reshape") else name, made, made, **fields))
        name = made
    nodes.append(node("Identity", name, "y", "last"))
    return Graph(nodes, graph.inputs, {"y": Spec(("n", *shape[1:]), F32)}, constants), axis


@pytest.mark.parametrize("seed", range(12))
def test_random_tails(seed: int) -> None:
    """The loss and the step are those of the network without the activation; the model keeps it."""
    flat, rng = seed % 2 == 0, np.random.default_rng(seed)
    name, activation = [
        ("cross_entropy", "Softmax"), ("cross_entropy", "LogSoftmax"), ("focal", "Softmax"), ("dice", "Softmax"),
        ("binary_cross_entropy", "Sigmoid"), ("binary_focal", "Sigmoid"), ("dice", "Sigmoid"),
    ][seed % 7]  # fmt: skip
    ended, axis = tailed(seed, activation, flat)
    plain, _ = tailed(seed, "", flat)
    spec = ended.outputs["y"]
    assert spec is not None and class_axis(ended, "y") in (axis, axis - spec.rank, None)
    labels = rng.integers(0, 3, (6, *(d for a, d in enumerate(spec.shape) if a not in (0, axis))))
    targets = labels if activation != "Sigmoid" else np.moveaxis(np.eye(3, dtype=F32)[labels], -1, axis)
    options = {} if name.startswith("binary") else {"loss_options": {"class_axis": axis}}
    if name == "dice":
        options["loss_options"] = {"class_axis": axis, "activation": "softmax" if activation == "Softmax" else "sigmoid"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = nbconv.Trainer(model(ended), name, nbconv.SGD(0.1))
        two = nbconv.Trainer(model(plain), name, nbconv.SGD(0.1), **options)  # pyright: ignore[reportArgumentType]
        first = [one.step(X, targets) for _ in range(3)]
    assert first == [two.step(X, targets) for _ in range(3)]
    for key, value in two.state.items():
        np.testing.assert_array_equal(one.state[key], value)
    assert one.evaluate((X, targets))["loss"] == two.evaluate((X, targets))["loss"]
    probabilities = one.predict(X)
    if activation == "Softmax":
        np.testing.assert_allclose(probabilities.sum(axis=axis), 1, rtol=1e-5)
    assert one.graph().nodes == ended.nodes


def ended(*nodes: str, axis: int = 1, logits: str = "z") -> Graph:
    """A classifier and further nodes, "Mul half" or "Softmax", one behind another."""
    graph = mlp(end="Identity")
    made = [node(n.op.type, " ".join(n.inputs), " ".join(n.outputs), n.name, **n.op.attributes()) for n in graph.nodes[:-1]]
    name = logits
    for k, text in enumerate(nodes):
        op, *more = text.split()
        to = "y" if k == len(nodes) - 1 else f"e{k}"
        made.append(node(op, " ".join((name, *more)), to, f"{op.lower()}{k}", **({"axis": axis} if "Softmax" in op else {})))
        name = to
    constants = {"half": np.array(0.5, F32), "row": np.array([0.5, 1, 2], F32)}
    return Graph(made, graph.inputs, graph.outputs, {**graph.constants, **constants})


X1, Y1 = batch()


def test_logarithm_of_a_softmax() -> None:
    """Softmax and Log are LogSoftmax."""
    plain, logs = (nbconv.Trainer(model(g)) for g in (mlp(), ended("Softmax", "Log", "Identity")))
    assert [plain.step(X1, Y1) for _ in range(2)] == [logs.step(X1, Y1) for _ in range(2)]


@pytest.mark.parametrize(
    "tail, loss, message",
    [
        (("Softmax", "Mul half"), "cross_entropy", r"computed of softmax0 \(Softmax\) by mul1 \(Mul\)"),
        (("Softmax", "Add half", "Log"), "cross_entropy", r"computed of softmax0 \(Softmax\) by log2 \(Log\)"),
        (("Softmax", "Clip half"), "focal", r"computed of softmax0 \(Softmax\) by clip1 \(Clip\)"),
        (
            ("Sigmoid", "Mul row", "Identity"),
            "binary_cross_entropy",
            r"sigmoid0 \(Sigmoid\) by mul1 \(Mul\), .* a sigmoid of",
        ),
        (("Sigmoid", "Log"), "binary_focal", r"computed of sigmoid0 \(Sigmoid\) by log1 \(Log\)"),
        (("Softmax", "Mul half"), "dice", r"give output='z', what goes into it"),
    ],
)
def test_values_that_are_changed_are_refused_by_name(tail: tuple[str, ...], loss: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nbconv.Trainer(model(ended(*tail)), loss)
    nbconv.Trainer(model(ended(*tail)), "mse")  # has no activation of its own
    targets = np.eye(3, dtype=F32)[Y1] if loss.startswith("binary") else Y1
    inside, plain = (nbconv.Trainer(model(ended(*tail)), loss, output="z"), nbconv.Trainer(model(mlp()), loss))
    assert inside.step(X1, targets) == plain.step(X1, targets)


def test_the_other_activation_is_told() -> None:
    with pytest.warns(UserWarning, match=r"ends in sigmoid0 \(Sigmoid\), and cross_entropy has a softmax of its own"):
        trainer = nbconv.Trainer(model(ended("Sigmoid")))
    assert trainer.step(X1, Y1) == nbconv.Trainer(model(mlp())).step(X1, Y1)
    with pytest.warns(UserWarning, match="cross_entropy is the loss that fits the model"):
        nbconv.Trainer(model(ended("Softmax")), "binary_cross_entropy")


def test_gates_are_no_endings() -> None:
    """A sigmoid inside of SiLU, or a softmax of attention, is a part of the network."""
    graph = ended("Sigmoid")
    nodes = [*graph.nodes[:-1], node("Sigmoid", "z", "g"), node("Mul", "z g", "y", "silu")]
    trainer = nbconv.Trainer(model(Graph(nodes, graph.inputs, graph.outputs, graph.constants)), "binary_cross_entropy")
    assert trainer.logits == ("y",)


def test_dice_has_the_activation_that_the_model_has() -> None:
    """Softmax for masks of a model that ends in one, sigmoid for labels of a model that ends in that; without either the
    softmax for labels and the sigmoid for masks."""
    hot = np.eye(3, dtype=F32)[Y1]
    for tail, activation in (("Softmax", "softmax"), ("Sigmoid", "sigmoid")):
        for targets in (Y1, hot):
            options = {"activation": activation}
            plain = nbconv.Trainer(model(mlp()), "dice", loss_options=options)
            assert nbconv.Trainer(model(ended(tail)), "dice").step(X1, targets) == plain.step(X1, targets)
            other = {"activation": "softmax" if activation == "sigmoid" else "sigmoid"}
            assert nbconv.Trainer(model(mlp()), "dice", loss_options=other).step(X1, targets) != plain.step(X1, targets)
