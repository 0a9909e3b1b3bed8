"""Losses of several outputs: their sum, metrics of each, targets by output; and what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.train import losses
from nbconv.train.readings import Adds
from tests.train.models import F32, batch, mlp, model, node

X, Y = batch()
SIZES = np.random.default_rng(3).standard_normal((12, 2)).astype(np.float32)


def two() -> Graph:
    """A classifier, and a regression from the same features."""
    graph, rng = mlp(), np.random.default_rng(5)
    constants = {**graph.constants, "w3": (0.3 * rng.standard_normal((2, 8))).astype(F32), "b3": np.zeros(2, F32)}
    nodes = [*graph.nodes, node("Gemm", "r w3 b3", "size", "fc3", transB=1)]
    return Graph(nodes, graph.inputs, {**graph.outputs, "size": Spec(("n", 2), F32)}, constants)


def trained(graph: Graph, steps: int = 3, targets: object = None, **options: object) -> tuple[list[float], nbconv.Trainer]:
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1), **options)  # pyright: ignore[reportArgumentType]
    return [trainer.step(X, Y if targets is None else targets) for _ in range(steps)], trainer


BOTH = {"y": Y, "size": SIZES}


def test_the_sum_of_both() -> None:
    """The first loss is the weighted sum of each one's own; a weight of 0 leaves the other one's training."""
    (alone, *_), _ = trained(two(), loss="cross_entropy", output="y")
    (other, *_), _ = trained(two(), loss="mse", output="size", targets=SIZES)
    pair: dict = {"loss": {"y": "cross_entropy", "size": ("mse", {"reduction": "mean"})}, "targets": BOTH}
    (whole, *_), trainer = trained(two(), **pair, loss_weights={"size": 0.5})
    assert whole == pytest.approx(alone + 0.5 * other, rel=1e-6)
    assert set(trainer.predict(X)) == {"y", "size"}
    first, one = trained(two(), loss="cross_entropy", output="y")
    second, both = trained(two(), **pair, loss_weights={"size": 0.0})
    np.testing.assert_allclose(second, first, rtol=1e-6)
    for name in ("w1", "w2", "b2"):
        np.testing.assert_allclose(both.state[name], one.state[name], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(both.state["w3"], two().constants["w3"])


def test_fit_evaluate_and_files(tmp_path: Path) -> None:
    def made() -> nbconv.Trainer:
        loss = {"y": "cross_entropy", "size": "mse"}
        return nbconv.Trainer(model(two()), loss, nbconv.Adam(0.03), loss_weights={"y": 2.0})

    trainer = made()
    history = trainer.fit((X, BOTH), validation=(X, BOTH), epochs=10, batch_size=5)
    assert history["loss"][-1] < history["loss"][0] / 2
    found = trainer.evaluate((X, BOTH), 5)
    assert found["loss"] == pytest.approx(2 * found["y_loss"] + found["size_loss"], rel=1e-6)
    assert history["val_loss"][-1] == found["loss"] and history["val_y_accuracy"][-1] == found["y_accuracy"]
    assert found["y_confusion"].sum() == 12 and "size_accuracy" not in found
    made_of_batches = trainer.evaluate(
        [(X[:5], {n: a[:5] for n, a in BOTH.items()}), (X[5:], {n: a[5:] for n, a in BOTH.items()})]
    )
    assert made_of_batches["loss"] == pytest.approx(found["loss"], rel=1e-6)
    trainer.save_checkpoint(tmp_path / "c.safetensors")
    again = made()
    again.load_checkpoint(tmp_path / "c.safetensors")
    assert again.step(X, BOTH) == trainer.step(X, BOTH)
    trainer.save(tmp_path / "m.onnx")
    got = nbconv.load(tmp_path / "m.onnx").run({"x": X})
    for name, value in trainer.predict(X).items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)


def test_cached_features_are_the_same_training() -> None:
    loss, found = {"y": "cross_entropy", "size": "mse"}, []
    for cache in (True, False):
        trainer = nbconv.Trainer(model(two()), loss, nbconv.SGD(0.1), trainable="head")
        assert {p.name for p in trainer.parameters} == {"w2", "b2", "w3", "b3"}
        found.append(trainer.fit((X, BOTH), validation=0.25, epochs=3, batch_size=4, cache=cache))
        assert found[-1].report["cached"] is cache
    for name in ("loss", "val_y_loss", "val_size_loss"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)


def test_one_loss_of_two_outputs() -> None:
    """A function of a tuple of outputs gets both names, and the targets under the tuple."""

    def apart(to: Adds, logits: tuple[str, str], targets: str) -> str:
        scores, sizes = logits
        assert to.spec(scores).shape == (12, 3) and to.spec(sizes).shape == (12, 2)
        return losses.mse(to, sizes, targets)

    plain, _ = trained(two(), loss="mse", output="size", targets=SIZES)
    found, trainer = trained(two(), loss={("y", "size"): apart}, targets=SIZES)
    assert found == plain
    assert trained(two(), loss={("y", "size"): apart}, targets={("y", "size"): SIZES})[0] == plain
    assert trainer.evaluate((X, SIZES))["loss"] < plain[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, r"outputs y, size: say which is trained, output=… or loss="),
        ({"loss": {}}, "loss is an empty dict"),
        ({"loss": {"y": "mse", "other": "mse"}}, "no output 'other', its outputs are y, size"),
        ({"loss": {"y": "entropy"}}, "loss is 'entropy', wanted one of cross_entropy"),
        ({"loss": {"y": ("mse", 3)}}, "wanted a pair of a loss and a dict of its options"),
        ({"loss": {3: "mse"}}, "a loss is for 3, wanted the name of an output"),
        ({"loss": {"y": "mse"}, "output": "y"}, "output goes with a single loss"),
        ({"loss": {"y": "mse"}, "loss_options": {"reduction": "sum"}}, "loss_options goes with a single loss"),
        ({"loss": "mse", "output": "y", "loss_weights": {"y": 2}}, "loss_weights goes with a loss by output"),
        ({"loss": {"y": "mse"}, "loss_weights": {"size": 2}}, "loss_weights names 'size', losses are for 'y'"),
        ({"loss": {"y": "mse"}, "loss_weights": {"y": -1}}, "the weight of 'y' is -1"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nbconv.Trainer(model(two()), **options)


def test_wrong_targets() -> None:
    trainer = nbconv.Trainer(model(two()), {"y": "cross_entropy", "size": "mse"})
    for targets, message in (
        (Y, "losses for 'y', 'size': targets are a dict by these names"),
        ({"y": Y}, "targets are for 'y', losses for 'y', 'size'"),
        ({"y": Y, "size": SIZES[:5]}, "5 targets for 12 samples"),
        ({"y": Y + 1, "size": SIZES}, "labels from 1 to 3, there are 3 classes"),
        ({"y": Y.astype(str), "size": SIZES}, "targets of cross_entropy are <U21"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.step(X, targets)
    with pytest.raises(ValueError, match="12 for 'y', 5 for 'size': wanted one a sample"):
        trainer.fit((X, {"y": Y, "size": SIZES[:5]}))
    with pytest.raises(ValueError, match=r"targets are for 'y', losses for 'y', 'size'"):
        trainer.fit((X, {"y": Y}))
    assert trainer.steps == 0
