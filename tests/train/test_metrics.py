"""Metrics: of training, from what steps compute anyway; by name and of the caller's own; of whole epochs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.train import metrics
from nbconv.train.asked import asked
from nbconv.train.data import order
from tests.train.models import F32, batch, convolutional, mlp, model, node


def pixels() -> Graph:
    """(n, 2, 6, 8) to a class a pixel, (n, 3, 6, 8)."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w1", "c", "conv1", pads=(1, 1, 1, 1)),
        node("Relu", "c", "r"),
        node("Conv", "r w2", "y", "conv2"),
    ]
    constants = {"w1": rng.standard_normal((4, 2, 3, 3)).astype(F32), "w2": rng.standard_normal((3, 4, 1, 1)).astype(F32)}
    return Graph(nodes, {"x": Spec(("n", 2, 6, 8), F32)}, {"y": Spec(("n", 3, 6, 8), F32)}, constants)


def task(kind: str) -> tuple[Graph, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    if kind == "pixels":
        return pixels(), rng.standard_normal((13, 2, 6, 8)).astype(F32), rng.integers(0, 3, (13, 6, 8))
    if kind == "shares":
        x, y = batch(13)
        return mlp(), x, np.eye(3, dtype=F32)[y]
    return (mlp(), *batch(13)) if kind == "mlp" else (convolutional(norm=False), *batch(13, (2, 7, 9)))


@pytest.mark.parametrize("kind", ["mlp", "convolutional", "pixels", "shares"])
@pytest.mark.parametrize("options", [{}, {"memory_mb": 0.05}, {"trainable": "last:1"}], ids=["plain", "parts", "cached"])
def test_of_training(kind: str, options: dict) -> None:
    """They are those of the outputs before each step, over the whole epoch; the bits are those of steps alone."""
    graph, x, y = task(kind)
    if options.get("memory_mb") and kind in ("pixels", "convolutional"):
        options = {"memory_mb": 0.2}
    made = [nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1), seed=2, **options) for _ in range(2)]
    history = made[0].fit((x, y), epochs=2, batch_size=4, cache=bool(options.get("trainable")) and "auto")
    for epoch in range(2):
        labels, told = [], []
        numbers = order(nbconv.Arrays(x, y), epoch, 2)
        for k in range(0, len(x), 4):
            mine = numbers[k : k + 4]
            labels.append(y[mine].argmax(axis=1) if kind == "shares" else y[mine])
            told.append(made[1].predict(x[mine]).argmax(axis=1))
            made[1].step(x[mine], y[mine])
        right = np.concatenate(labels).ravel() == np.concatenate(told).ravel()
        assert history["accuracy"][epoch] == pytest.approx(right.mean(), abs=1e-9)
    for name, value in made[1].state.items():
        if not options.get("trainable"):
            np.testing.assert_array_equal(made[0].state[name], value, err_msg=name)


def test_values() -> None:
    """Named metrics are those of definitions, written out, and of the whole data in unequal batches."""
    x, y = batch(23, classes=5)
    trainer = nbconv.Trainer(model(mlp(classes=5)))
    names = ["accuracy", "precision", "recall", "f1", "iou", "top2", "auc"]
    found = trainer.evaluate((x, y), 4, names)
    scores = trainer.predict(x)
    told, classes = scores.argmax(axis=1), range(5)
    both = [int(((told == c) & (y == c)).sum()) for c in classes]
    of, true = [int((told == c).sum()) for c in classes], [int((y == c).sum()) for c in classes]
    assert found["accuracy"] == pytest.approx(sum(both) / 23)
    assert found["precision"] == pytest.approx(np.mean([b / o if o else 0 for b, o in zip(both, of)]))
    assert found["recall"] == pytest.approx(np.mean([b / t for b, t in zip(both, true)]))
    assert found["f1"] == pytest.approx(np.mean([2 * b / (o + t) for b, o, t in zip(both, of, true)]))
    assert found["iou"] == pytest.approx(np.mean([b / (o + t - b) for b, o, t in zip(both, of, true)]))
    assert found["top2"] == pytest.approx(np.mean([y[i] in np.argsort(-scores[i])[:2] for i in range(23)]))
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    areas = [np.mean([(a > b) + (a == b) / 2 for a in shares[y == c, c] for b in shares[y != c, c]]) for c in classes]
    assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert {*found} == {"loss", "confusion", *names}


def test_values_of_numbers() -> None:
    x, _ = batch(23)
    y = np.random.default_rng(1).standard_normal((23, 3)).astype(F32) + 100
    trainer = nbconv.Trainer(model(mlp()), "mse")
    found = trainer.evaluate((x, y), 4, ["mae", "mse", "rmse", "r2"])
    error = trainer.predict(x).astype(np.float64) - y
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert found["mse"] == pytest.approx(found["loss"], rel=1e-5)
    spread = ((y - y.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)
    assert found["r2"] == pytest.approx((1 - (error**2).sum(axis=0) / spread).mean(), rel=1e-6)


@pytest.mark.parametrize("end", ["", "Sigmoid"])
def test_yes_and_no(end: str) -> None:
    x, y = batch(23, classes=2)
    y = (y + (np.arange(23) > 14)) % 2
    trainer = nbconv.Trainer(model(mlp(classes=1, end=end)), "binary_cross_entropy")
    found = trainer.evaluate((x, y.astype(F32)), 4, "accuracy,precision,recall,f1,auc")
    scores = trainer.predict(x)[:, 0]
    told = scores > (0.5 if end else 0)
    both = (told & (y == 1)).sum()
    assert 0 < both < 12
    assert found["accuracy"] == pytest.approx((told == y).mean())
    assert found["precision"] == pytest.approx(both / told.sum())
    assert found["recall"] == pytest.approx(both / y.sum())
    assert found["f1"] == pytest.approx(2 * both / (told.sum() + y.sum()))
    pairs = [(a > b) + (a == b) / 2 for a in scores[y == 1] for b in scores[y == 0]]
    assert found["auc"] == pytest.approx(np.mean(pairs))


def test_own_functions() -> None:
    """Their means count samples; they see scores and targets."""
    x, y = batch(13)

    def largest(outputs: np.ndarray, targets: np.ndarray) -> float:
        assert outputs.shape == (len(targets), 3)
        return float(outputs.max(axis=1).mean())

    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    expected = trainer.predict(x).max(axis=1).mean()
    history = trainer.fit((x, y), (x, y), batch_size=13, metrics=[largest, ("again", largest), "accuracy"])
    assert history["largest"] == history["again"] == [pytest.approx(expected, rel=1e-6)]
    assert list(history) == [
        "loss", "accuracy", "largest", "again", "lr", "val_loss", "val_accuracy", "val_largest", "val_again",
    ]  # fmt: skip
    assert trainer.evaluate((x, y), 4, [largest])["largest"] == pytest.approx(history["val_largest"][0], rel=1e-6)


def test_wrong_ones() -> None:
    trainer = nbconv.Trainer(model(mlp()))
    x, y = batch(12)
    with pytest.raises(ValueError, match="metric 'acuracy': wanted accuracy, precision, recall, f1, iou"):
        trainer.fit((x, y), metrics=["acuracy"])
    with pytest.raises(ValueError, match=r"metric 'mae' is none of cross_entropy: wanted .*top5, auc or a function"):
        trainer.evaluate((x, y), metrics=["mae"])
    with pytest.raises(ValueError, match="metric 'accuracy' is there already"):
        asked(["accuracy", "accuracy"])
    with pytest.raises(ValueError, match="metric 'top0'"):
        asked("top0")
    with pytest.raises(ValueError, match=r"metric odd gave \(12, 3\), wanted a number"):
        trainer.evaluate((x, y), metrics=[("odd", lambda outputs, targets: outputs)])
    for name in ("epoch", "val_loss", "map"):
        with pytest.raises(ValueError, match=f"metric '{name}' is there already"):
            trainer.fit((x, y), metrics=[(name, lambda outputs, targets: 0.0)])
    assert trainer.steps == 0


@pytest.mark.parametrize("name", ["iou", "top2", "auc"])
def test_masks_are_no_labels(name: str) -> None:
    """Metrics of classes are refused, not left out, where targets are a mask for each class; at the first batch."""
    graph, x, y = task("pixels")
    masks = np.moveaxis(np.eye(3, dtype=F32)[y], -1, 1)
    trainer = nbconv.Trainer(model(graph), "dice")
    with pytest.raises(ValueError, match=rf"metric {name}: targets \[4, 3, 6, 8\] are no labels of classes"):
        trainer.fit((x, masks), batch_size=4, metrics=[name])
    assert trainer.steps == 1
    with pytest.raises(ValueError, match=f"metric {name}: targets"):
        trainer.evaluate((x, masks), 4, [name])


def test_batches_that_are_used_again() -> None:
    """Evaluation counts a batch before it asks for the next one, whose arrays may be the same."""
    x, _ = batch(24)
    y = np.random.default_rng(1).integers(0, 3, 24)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        mine, labels = x[:6].copy(), y[:6].copy()
        for k in range(0, 24, 6):
            mine[:], labels[:] = x[k : k + 6], y[k : k + 6]
            yield mine, labels
        yield x[:0], y[:0]

    trainer = nbconv.Trainer(model(mlp()))
    found, wanted = trainer.evaluate(batches()), trainer.evaluate((x, y), 6)
    assert {**found, "confusion": found["confusion"].tolist()} == {**wanted, "confusion": wanted["confusion"].tolist()}


@pytest.mark.parametrize("kind", ["labels", "shares", "steps first", "yes and no", "numbers"])
def test_many_batches(kind: str) -> None:
    """Batches that are counted together give what each gives alone."""
    x, y = batch(23)
    graph, loss, options, names = mlp(), "cross_entropy", {}, "accuracy,f1,top2,auc"
    if kind == "shares":
        y = np.eye(3, dtype=F32)[y]
    elif kind == "steps first":
        nodes = [node("Transpose", "x", "t", perm=(2, 0, 1)), node("MatMul", "t w", "y", "fc")]
        specs = {"x": Spec(("n", 3, 5), F32)}, {"y": Spec((5, "n", 3), F32)}
        graph = Graph(nodes, *specs, {"w": np.eye(3, dtype=F32)})
        x, y = np.random.default_rng(0).standard_normal((23, 3, 5)).astype(F32), np.arange(115).reshape(23, 5) % 3
        options, names = {"class_axis": 2, "batch_axis": 1}, "accuracy,f1,top2"
    elif kind == "yes and no":
        graph, loss, y, names = mlp(classes=1), "binary_cross_entropy", (y > 0).astype(F32), "accuracy,f1,auc"
    elif kind == "numbers":
        loss, y, names = "mse", np.eye(3, dtype=F32)[y], "mae,r2"
    trainer = nbconv.Trainer(model(graph), loss, optimizer=nbconv.SGD(1e-30), loss_options=options)
    history = trainer.fit((x, y), (x, y), batch_size=4, shuffle=False, metrics=names)
    for name in names.split(","):
        assert history[name][0] == pytest.approx(history[f"val_{name}"][0], rel=1e-12), name


def test_not_a_number() -> None:
    """Scores that are none are never right."""
    labels = np.array([0, 1, 2, 1])
    scores = np.full((4, 3), np.nan)
    assert metrics.top_k(scores, labels, 2) == 0
    scores[1] = 0, 1, 2
    scores[3] = np.nan, 1, 0
    assert [metrics.top_k(scores, labels, k) for k in (1, 2)] == [0, 0.5]
    assert np.isnan(metrics.auc(scores, labels[:, None] == np.arange(3)))
    assert np.isnan(metrics.auc(metrics.softmax(scores), labels[:, None] == np.arange(3)))
    x, _ = batch(4)
    x[2] = np.nan
    trainer = nbconv.Trainer(model(mlp()), "mse")
    assert np.isnan(trainer.evaluate((x, np.ones((4, 3), F32)), metrics="r2")["r2"])


def test_several_losses() -> None:
    rng = np.random.default_rng(5)
    graph = mlp()
    constants = {**graph.constants, "w3": (0.3 * rng.standard_normal((2, 8))).astype(F32), "b3": np.zeros(2, F32)}
    nodes = [*graph.nodes, node("Gemm", "r w3 b3", "size", "fc3", transB=1)]
    graph = Graph(nodes, graph.inputs, {**graph.outputs, "size": Spec(("n", 2), F32)}, constants)
    x, y = batch(13)
    targets = {"y": y, "size": rng.standard_normal((13, 2)).astype(F32)}
    trainer = nbconv.Trainer(model(graph), loss={"y": "cross_entropy", "size": "mse"}, optimizer=nbconv.SGD(0.01))
    before = trainer.evaluate((x, targets), 13, ["accuracy", "rmse"])
    history = trainer.fit((x, targets), batch_size=13, metrics=["accuracy", "rmse"])
    assert {n: v[0] for n, v in history.items() if n != "lr"} == {
        "loss": pytest.approx(before["loss"], rel=1e-5),
        "y_accuracy": before["y_accuracy"],
        "size_rmse": pytest.approx(before["size_rmse"], rel=1e-5),
    }


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_go_on_in_an_epoch(loss: str, tmp_path: Path) -> None:
    """Metrics of an epoch that was interrupted are those of the whole epoch, to the bit."""
    x, y = batch(20)
    y = y if loss == "cross_entropy" else np.random.default_rng(0).standard_normal((20, 3)).astype(F32)
    names: list = ["accuracy", "f1", "top2", "auc"] if loss == "cross_entropy" else ["mae", "rmse", "r2"]
    path, names = tmp_path / "c.safetensors", [*names, ("mine", lambda outputs, targets: outputs.mean())]

    class Stop(nbconv.ModelCheckpoint):
        def batch_end(self, trainer, logs) -> None:
            super().batch_end(trainer, logs)
            if trainer.steps == 5:
                raise KeyboardInterrupt

    def fitted(*callbacks: nbconv.Callback, names: list = names) -> nbconv.Trainer:
        trainer = nbconv.Trainer(model(mlp()), loss, optimizer=nbconv.SGD(0.1))
        trainer.fit((x, y), epochs=3, batch_size=6, metrics=names, callbacks=callbacks, resume=path)
        return trainer

    whole = fitted()
    with pytest.raises(KeyboardInterrupt):
        fitted(Stop(path, every=5))
    with pytest.raises(ValueError, match=r"written in an epoch with metrics .*, mine, these are (mae|top1)$"):
        fitted(names=["mae" if loss == "mse" else "top1"])
    assert dict(fitted().run.history) == dict(whole.run.history)


def test_many_classes() -> None:
    """No matrix of classes is made where it would be huge."""
    x, y = batch(12)
    trainer = nbconv.Trainer(model(mlp(classes=5000)), optimizer=nbconv.SGD(0.1))
    assert [*trainer.fit((x, y), (x, y), epochs=2)] == ["loss", "accuracy", "lr", "val_loss", "val_accuracy"]
    found = trainer.evaluate((x, y))
    assert found["accuracy"] == (trainer.predict(x).argmax(axis=1) == y).mean()
    steps = trainer.steps
    with pytest.raises(ValueError, match="metric f1: there are more than 4096 classes, wanted accuracy, top5 or auc"):
        trainer.fit((x, y), batch_size=4, metrics=["accuracy", "f1"])
    assert trainer.steps == steps + 1


def test_labels_that_do_not_count() -> None:
    x, _ = batch(23)
    y = np.random.default_rng(2).integers(0, 3, 23)
    trainer = nbconv.Trainer(model(mlp()), loss_options={"ignore_index": 9})
    kept = np.arange(23) % 3 > 0
    names = ["accuracy", "f1", "iou", "top2", "auc"]
    found, wanted = trainer.evaluate((x, np.where(kept, y, 9)), 4, names), trainer.evaluate((x[kept], y[kept]), 4, names)
    for name in names:
        assert found[name] == pytest.approx(wanted[name], rel=1e-12), name
    nothing = trainer.evaluate((x, np.full(23, 9)), 4, names)
    assert [nothing[name] for name in names[:4]] == [0, 0, 0, 0] and np.isnan(nothing["auc"])
