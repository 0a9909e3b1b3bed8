"""Which parts train: biases, normalisations, and what a step then takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.cli import main
from nbconv.edit.selection import select
from nbconv.graph import Graph, Spec
from nbconv.passes import masks
from nbconv.train import auto
from nbconv.train.choosing import Choice
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
        node("Reshape", "g1 shape", "g2", "join"), node("Mul", "g2 gamma", "g3", "gamma"),
        node("Add", "g3 beta", "g4", "beta"), node("Relu", "g4", "r", "relu"), node("Mul", "r scale", "s", "scale"),
        node("Add", "s places", "t", "places"), node("ReduceMean", "t axes", "m", "mean", keepdims=0),
        node("ReduceMean", "m last", "mu", "mu"), node("Sub", "m mu", "d", "centre"), node("Mul", "d d", "sq", "square"),
        node("ReduceMean", "sq last", "var", "var"), node("Add", "var eps", "ve", "safe"),
        node("Sqrt", "ve", "root", "root"), node("Div", "d root", "n", "divide"), node("Mul", "n gain", "n1", "gain"),
        node("Add", "offset n1", "n2", "offset"), node("MatMul", "n2 w2", "p", "fc"),
        node("Sub", "p minus", "q", "minus"), node("Unsqueeze", "q first", "q1", "seq"),
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
    assert names(exported(), "bias") == ["b", "beta", "offset", "minus", "bi", *head]
    assert names(exported(), "norm") == ["gamma", "beta", "gain", "offset", *head]
    assert names(convolutional(), "bias") == ["b1", "shift", *head]
    assert names(convolutional(), "norm") == ["scale", "shift", *head]
    assert names(mlp(), "bias") == ["b1", "w2", "b2"]


def test_a_kind_that_a_model_lacks_is_told() -> None:
    with pytest.raises(ValueError, match=r"no normalisation .* trainable='bias'"):
        names(convolutional(norm=False), "norm")
    graph = mlp()
    graph.nodes[1] = node("Gemm", "flat w1", "h", "fc1", transB=1)
    with pytest.raises(ValueError, match=r"no parameter to channels.* trainable='head'"):
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


def net(seed: int = 0, channels: int = 16, size: int = 20) -> Graph:
    """(n, 3, size, size) to (n, 3): three convolutions with rectifiers, one of them depthwise, a wide layer and a head."""
    rng = np.random.default_rng(seed)
    same = {"pads": (1, 1, 1, 1)}
    nodes = [
        node("Conv", "x w1 b1", "c1", "conv1", **same), node("Relu", "c1", "r1", "relu1"),
        node("Conv", "r1 w2 b2", "c2", "depthwise", group=channels, **same), node("Clip", "c2 low high", "r2", "clip2"),
        node("Conv", "r2 w3 b3", "c3", "conv3", **same), node("Relu", "c3", "r3", "relu3"),
        node("GlobalAveragePool", "r3", "p", "pool"), node("Flatten", "p", "f", "flat"),
        node("Gemm", "f w4 b4", "g", "wide", transB=1), node("Relu", "g", "r4", "relu4"),
        node("Gemm", "r4 w5 b5", "y", "head", transB=1),
    ]  # fmt: skip
    shapes = {
        "w1": (channels, 3, 3, 3), "w2": (channels, 1, 3, 3), "w3": (channels, channels, 3, 3), "w4": (24, channels),
        "w5": (3, 24),
    }  # fmt: skip
    constants = {n: rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5 for n, s in shapes.items()}
    constants |= {f"b{n[1]}": rng.standard_normal(s[0]) * 0.1 for n, s in shapes.items()}
    constants |= {"low": np.array(0.0), "high": np.array(6.0)}
    return Graph(
        nodes, {"x": Spec(("n", 3, size, size), F32)}, {"y": Spec(("n", 3), F32)},
        {n: np.asarray(a, F32) for n, a in constants.items()},
    )  # fmt: skip


def dense(wide: int = 200) -> Graph:
    """(n, 1, 4, 4) to (n, 3) through two wide layers, whose weights are most of what it takes to train."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Flatten", "x", "f", "flat"), node("Gemm", "f w1 b1", "g1", "fc1", transB=1), node("Relu", "g1", "r1"),
        node("Gemm", "r1 w2 b2", "g2", "fc2", transB=1), node("Relu", "g2", "r2"),
        node("Gemm", "r2 w3 b3", "y", "head", transB=1),
    ]  # fmt: skip
    shapes = {"w1": (wide, 16), "w2": (wide, wide), "w3": (3, wide)}
    constants = {n: (rng.standard_normal(s) * (2 / s[1]) ** 0.5).astype(F32) for n, s in shapes.items()}
    constants |= {f"b{n[1]}": np.zeros(s[0], F32) for n, s in shapes.items()}
    return Graph(nodes, {"x": Spec(("n", 1, 4, 4), F32)}, {"y": Spec(("n", 3), F32)}, constants)


DATA = batch(12, (3, 20, 20))


@pytest.mark.parametrize(
    "optimizer", [nbconv.SGD(0.1), nbconv.SGD(0.1, momentum=0.9), nbconv.Adam(1e-3), nbconv.RMSProp(1e-3)]
)
def test_some_channels_learn_what_they_would_learn_among_all(optimizer: nbconv.train.Optimizer) -> None:
    """Over steps in which nothing else moves; the other channels keep their bits, and the optimizer nothing for them."""
    rows = {"w1": (2, 3, 11), "w3": (0, 5, 6, 7, 15), "w4": (1, 22)}
    for name, places in rows.items():
        one, other = (nbconv.Trainer(model(net()), optimizer=optimizer, trainable=[name]) for _ in range(2))
        one.trainable = "auto"
        auto.adopt(one, Choice((name,), {name: places}, (), 0))
        before = one.state[name].copy()
        assert one.step(*DATA) == other.step(*DATA)
        place, rest = list(places), [k for k in range(len(before)) if k not in places]
        moved, whole = one.state[name], other.state[name]
        np.testing.assert_allclose(moved[place] - before[place], whole[place] - before[place], rtol=2e-3, atol=1e-6)
        assert np.array_equal(moved[rest], before[rest]) and not np.array_equal(moved[place], before[place])
        slots = [a for n, a in one.state.items() if n.startswith("slot")]
        assert all(len(a) == len(places) for a in slots) and len(slots) == optimizer.op.slots


@pytest.mark.parametrize("trainable", ["bias", "last:2", ["b1", "w3"], "all"])
def test_masks_change_no_bit(trainable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a step of biases takes much less memory by them, for inputs of convolutions need not be kept."""
    graphs, found = [], {}
    for least in (0, 1 << 40):
        monkeypatch.setattr(masks, "LEAST", least)
        trainer = nbconv.Trainer(model(net()), optimizer=nbconv.Adam(1e-2), trainable=trainable)
        losses = [trainer.step(*DATA) for _ in range(3)]
        graphs.append(next(iter(trainer._works.values())).built.graph)
        found[least] = losses, {n: a.copy() for n, a in trainer.state.items()}, trainer.forecast()["activations_mb"]
    masked, plain = found.values()
    assert masked[0] == plain[0] and all(np.array_equal(masked[1][n], plain[1][n]) for n in plain[1])
    count = sum(n.op.type == "GradMask" for n in graphs[0].nodes)
    assert count == {"last:2": 0, "all": 1}.get(str(trainable), 3)
    assert masked[2] <= (0.8 if trainable == "bias" else 1.03) * plain[2]


def test_auto_wants_a_budget() -> None:
    for options, told in (
        ({"trainable": "auto"}, "wants a budget: memory_mb=, step_ms="),
        ({"step_ms": 3.0}, "step_ms is for trainable='auto'"),
        ({"trainable": "auto", "memory_mb": 1, "repair": True}, "repair"),
        ({"trainable": "auto", "step_ms": 0.0}, "positive"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            nbconv.Trainer(model(net()), **options)


def needs(trainer: nbconv.Trainer) -> float:
    """MiB of a step and of the optimizer's slots."""
    slots = sum(a.nbytes for n, a in trainer.state.items() if n.startswith("slot"))
    return trainer.forecast()["activations_mb"] + slots / 2**20


@pytest.mark.parametrize("graph, data", [(net(channels=32), DATA), (dense(), batch(12))])
def test_auto_keeps_its_budget(graph: Graph, data: tuple[np.ndarray, np.ndarray]) -> None:
    """More memory, more trains; what trains is the same for the same batch, is told, and includes the head."""
    whole = nbconv.Trainer(model(graph), optimizer=nbconv.Adam(1e-3))
    whole.step(*data)
    head = nbconv.Trainer(model(graph), optimizer=nbconv.Adam(1e-3), trainable="head")
    head.step(*data)
    counts = []
    for share in (0.3, 0.6, 1.0):
        most = needs(head) + share * (needs(whole) - needs(head)) + 0.01
        one, other = (
            nbconv.Trainer(model(graph), optimizer=nbconv.Adam(1e-3), trainable="auto", memory_mb=most) for _ in range(2)
        )
        assert one.chosen is None and one.step(*data) == other.step(*data)
        assert one.chosen == other.chosen == one.choose(*data) and one.chosen is not None
        assert needs(one) <= most and {p.name for p in head.parameters} <= {p.name for p in one.parameters}
        assert all(t.layer in str(one.chosen) for t in one.chosen.layers)
        counts.append(sum(len(one.recipe.rows.get(p.value, one.state[p.value])) for p in one.parameters))
        before, after = graph.constants, one.graph().constants
        for name, array in before.items():
            changed = (after[name] != array).reshape(len(array) if array.ndim else 1, -1).any(axis=1).nonzero()[0]
            trains = name in one.chosen.parameters
            assert not len(changed) or (trains and set(changed) <= set(one.recipe.rows.get(name, range(len(array)))))
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_a_budget_that_cannot_be_kept_names_the_least() -> None:
    def trainer(**budget: float) -> nbconv.Trainer:
        return nbconv.Trainer(model(net()), optimizer=nbconv.Adam(1e-3), trainable="auto", **budget)

    with pytest.raises(nbconv.ModelError, match=r"needs [0-9.]+ MiB.* memory_mb is 0\.001") as told:
        trainer(memory_mb=0.001).step(*DATA)
    least = float(str(told.value).split("needs ")[1].split()[0])
    with pytest.raises(nbconv.ModelError, match=f"needs {least}"):
        trainer(memory_mb=least - 0.001).step(*DATA)
    kept = trainer(memory_mb=least)
    kept.step(*DATA)
    assert needs(kept) <= least
    slow = trainer(step_ms=1e-4)
    with pytest.raises(ValueError, match=r"step_ms is 0\.0001: a step of the head alone takes"):
        slow.step(*DATA)
    assert slow.chosen is None and slow.undecided and slow.steps == 0
    assert trainer(step_ms=1e6).choose(*DATA).parameters  # type: ignore[union-attr]


def test_auto_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """With what was chosen, whatever batch comes first then; and of another training it is refused, and nothing changed."""
    file = tmp_path / "c.safetensors"

    def trainer() -> nbconv.Trainer:
        return nbconv.Trainer(model(dense()), optimizer=nbconv.Adam(1e-2), trainable="auto", memory_mb=0.5)

    whole, begun, data = trainer(), trainer(), batch(12)
    whole.fit(data, epochs=3, batch_size=5)
    begun.fit(data, epochs=1, batch_size=5, callbacks=[nbconv.ModelCheckpoint(file)])
    assert begun.recipe.rows, "some channels alone"
    resumed = trainer()
    resumed.fit(data, epochs=3, batch_size=5, resume=file)
    assert resumed.chosen == whole.chosen and resumed.recipe.rows == whole.recipe.rows
    assert all(np.array_equal(whole.state[n], a) for n, a in resumed.state.items())
    other = nbconv.Trainer(model(dense()), optimizer=nbconv.SGD(1e-2), trainable="auto", memory_mb=0.5)
    with pytest.raises(ValueError, match="another training"):
        other.load_checkpoint(file)
    assert other.undecided and other.chosen is None and {*other.state} == {"w3", "b3"}


def test_auto_does_not_go_on_from_a_head(tmp_path: Path) -> None:
    """What another trainer learnt would be gone once it chooses."""
    head, data = nbconv.Trainer(model(dense()), trainable="head"), batch(12)
    head.step(*data)
    head.save_checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match="another training"):
        nbconv.Trainer(model(dense()), trainable="auto", memory_mb=0.5).load_checkpoint(tmp_path / "c")


def test_the_command_line_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = batch(30)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    nbconv.save(dense(), tmp_path / "m.onnx")
    command = ["finetune", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "--trainable", "auto", "--batch", "6"]
    assert main([*command, "--memory-mb", "0.5", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "of 2 layers before it" in told and "fc2: " in told and "of 200 channels; Fisher information" in told
    assert main([*command, "-o", str(tmp_path / "m2.onnx"), "--step-ms", "1000", "--epochs", "2"]) == 0
    assert "fc1: 200 of 200 channels" in capsys.readouterr().out
    assert main([*command, "-o", str(tmp_path / "m3.onnx")]) == 2
    assert "wants a budget: memory_mb=, step_ms=" in capsys.readouterr().err and not (tmp_path / "m3.onnx").exists()
