"""Models of QuantizeLinear and DequantizeLinear train as they will be used: quantised, straight through in the backward."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.edit.parameters import constants_of
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from tests.train.models import F32, batch, mlp, model, node


def stored(w: np.ndarray, scale: np.ndarray, axis: int = 0, kind: type = np.int8, zero: int = 0) -> np.ndarray:
    """The integers that stand for w."""
    by = scale if scale.ndim == 0 else scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)])
    return np.clip(np.rint(w / by) + zero, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)


def qdq(seed: int = 0, per_channel: bool = True, floats: bool = False) -> Graph:
    """(n, 1, 4, 4) to (n, 3): convolution, Relu, Gemm, each value quantised; weights of int8 (or of floats that the graph
    quantises), biases of int32. Scales of activations are so small that some values are out of range."""
    rng = np.random.default_rng(seed)
    w1, w2 = rng.standard_normal((5, 1, 3, 3)).astype(F32) * 0.4, rng.standard_normal((3, 20)).astype(F32) * 0.3
    c: dict[str, np.ndarray] = {"xs": np.array(0.02, F32), "xz": np.array(120, np.uint8), "hs": np.array(0.012, F32)}
    c |= {"hz": np.array(3, np.uint8), "ys": np.array(0.03, F32), "yz": np.array(-7, np.int8)}
    nodes = [node("QuantizeLinear", "x xs xz", "xq", "q_x"), node("DequantizeLinear", "xq xs xz", "xd", "dq_x")]
    for name, w, s in (("w1", w1, c["xs"]), ("w2", w2, c["hs"])):
        scale = np.abs(w).reshape(len(w), -1).max(axis=1) / 127 if per_channel else np.abs(w).max() / 100
        scale = np.asarray(scale, F32)
        c[f"{name}_scale"], c[f"{name}_zero"] = scale, np.zeros(scale.shape, np.int8)
        c[f"{name}_q"] = w if floats else stored(w, scale)
        ends = f"{name}_scale {name}_zero"
        if floats:
            nodes.append(node("QuantizeLinear", f"{name}_q {ends}", f"{name}_i", f"q_{name}", axis=0))
        nodes.append(node("DequantizeLinear", f"{name}_{'i' if floats else 'q'} {ends}", name, f"dq_{name}", axis=0))
        b, bs = f"b{name[1]}", np.asarray(scale * s * np.ones(len(w)), F32)
        c[f"{b}_scale"], c[f"{b}_q"] = bs, stored(rng.standard_normal(len(w)).astype(F32) * 0.1, bs, kind=np.int32)
        nodes.append(node("DequantizeLinear", f"{b}_q {b}_scale", b, f"dq_{b}", axis=0))
    nodes += [
        node("Conv", "xd w1 b1", "c1", "conv"), node("Relu", "c1", "r1", "relu"),
        node("QuantizeLinear", "r1 hs hz", "hq", "q_h"), node("DequantizeLinear", "hq hs hz", "hd", "dq_h"),
        node("Flatten", "hd", "flat", "flat"), node("Gemm", "flat w2 b2", "g", "fc", transB=1),
        node("QuantizeLinear", "g ys yz", "yq", "q_y"), node("DequantizeLinear", "yq ys yz", "y", "dq_y"),
    ]  # fmt: skip
    return Graph(nodes, {"x": Spec(("n", 1, 4, 4), F32)}, {"y": Spec(("n", 3), F32)}, c)


def fake(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """(x quantised and dequantised, where the gradient passes), in float64."""
    shape = [-1] + [1] * (x.ndim - 1)
    s, z = (v.astype(np.float64).reshape(shape if v.ndim else ()) for v in (scale, zero))
    q, (low, high) = np.rint(x / s) + z, (np.iinfo(kind).min, np.iinfo(kind).max)
    return (np.clip(q, low, high) - z) * s, (q >= low) & (q <= high)


def oracle(graph: Graph, x: np.ndarray, y: np.ndarray, lr: float, steps: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and masters of steps of SGD on `qdq`, written out in float64."""
    c = {n: a.astype(np.float64) for n, a in graph.constants.items()}
    p = {}
    for n in ("w1", "w2", "b1", "b2"):
        s = c[f"{n}_scale"]
        p[n] = c[f"{n}_q"] * (s.reshape([-1] + [1] * (c[f"{n}_q"].ndim - 1)) if s.ndim else s)
    losses = []
    for _ in range(steps):
        f = {n: fake(p[n], graph.constants[f"{n}_scale"], np.zeros(graph.constants[f"{n}_scale"].shape),
                     np.int8 if n[0] == "w" else np.int32) for n in p}  # fmt: skip
        xd, _ = fake(x.astype(np.float64), c["xs"], c["xz"], np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(xd[:, 0], (3, 3), axis=(1, 2))
        c1 = np.einsum("nijkl,okl->noij", windows, f["w1"][0][:, 0]) + f["b1"][0][:, None, None]
        hd, inside = fake(np.maximum(c1, 0), c["hs"], c["hz"], np.uint8)
        flat = hd.reshape(len(x), -1)
        g = flat @ f["w2"][0].T + f["b2"][0]
        out, kept = fake(g, c["ys"], c["yz"], np.int8)
        e = np.exp(out - out.max(axis=1, keepdims=True))
        share = e / e.sum(axis=1, keepdims=True)
        losses.append(float(-np.log(share[np.arange(len(y)), y]).mean()))
        dg = (share - np.eye(3)[y]) / len(y) * kept
        dh = (dg @ f["w2"][0]).reshape(c1.shape) * inside * (c1 > 0)
        d = {"w2": dg.T @ flat, "b2": dg.sum(axis=0), "w1": np.einsum("noij,nijkl->okl", dh, windows)[:, None],
             "b1": dh.sum(axis=(0, 2, 3))}  # fmt: skip
        for n in p:
            p[n] = p[n] - lr * d[n] * f[n][1]
    return losses, p


@pytest.mark.parametrize("per_channel", [True, False])
def test_steps_are_straight_through(per_channel: bool) -> None:
    graph = qdq(per_channel=per_channel)
    x, y = batch(12)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.05))
    losses, masters = oracle(graph, x, y, 0.05, 8)
    assert {p.value for p in trainer.parameters} == set(masters)
    for wanted in losses:
        np.testing.assert_allclose(trainer.step(x, y), wanted, rtol=1e-4)
    for name, value in masters.items():
        np.testing.assert_allclose(trainer.state[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("per_channel", [True, False])
def test_steps_are_torchs(per_channel: bool) -> None:
    import torch

    graph = qdq(per_channel=per_channel)
    x, y = batch(12)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.05))
    c = {n: torch.tensor(np.asarray(a)) for n, a in graph.constants.items()}
    p = {n: torch.tensor(trainer.state[n].copy(), requires_grad=True) for n in ("w1", "b1", "w2", "b2")}

    def weight(n: str):
        if per_channel:
            zero = torch.zeros(len(c[f"{n}_scale"]), dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(p[n], c[f"{n}_scale"], zero, 0, -128, 127)
        return torch.fake_quantize_per_tensor_affine(p[n], float(c[f"{n}_scale"]), 0, -128, 127)

    def value(v, n: str, low: int, high: int):
        return torch.fake_quantize_per_tensor_affine(v, float(c[f"{n}s"]), int(c[f"{n}z"]), low, high)

    def bias(n: str):  # of 32 bits, for which torch has no function
        return p[n] + (torch.round(p[n] / c[f"{n}_scale"]) * c[f"{n}_scale"] - p[n]).detach()

    optimizer = torch.optim.SGD(list(p.values()), lr=0.05)
    for _ in range(8):
        h = torch.relu(torch.nn.functional.conv2d(value(torch.tensor(x), "x", 0, 255), weight("w1"), bias("b1")))
        g = value(h, "h", 0, 255).flatten(1) @ weight("w2").T + bias("b2")
        loss = torch.nn.functional.cross_entropy(value(g, "y", -128, 127), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        np.testing.assert_allclose(trainer.step(x, y), loss.item(), rtol=1e-4)
        optimizer.step()
    for name, value_ in p.items():
        np.testing.assert_allclose(trainer.state[name], value_.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("floats", [False, True])
def test_saved_as_it_was_read(floats: bool, tmp_path: Path) -> None:
    """Integers and scales in the same nodes; the file's outputs are the trainer's, and onnxruntime's."""
    graph = qdq(floats=floats)
    nbconv.save(graph, tmp_path / "m.onnx")
    m = nbconv.load(tmp_path / "m.onnx", threads=1)
    x, y = batch(24)
    before = m(x)
    trainer = nbconv.Trainer(m, optimizer=nbconv.Adam(0.01))
    assert len(trainer.parameters) == 4
    np.testing.assert_array_equal(trainer.predict(x), before)
    losses = trainer.fit((x, y), epochs=15, batch_size=12)["loss"]
    assert losses[-1] < losses[0] / 2
    trainer.save(tmp_path / "t.onnx")
    again = nbconv.load(tmp_path / "t.onnx", threads=1)
    assert [(n.op.type, n.name, n.inputs) for n in again.graph.nodes] == [
        (n.op.type, n.name, n.inputs) for n in m.graph.nodes
    ]
    assert {n: a.dtype for n, a in again.graph.constants.items()} == {n: a.dtype for n, a in m.graph.constants.items()}
    np.testing.assert_array_equal(again(x), trainer.predict(x))
    assert not np.array_equal(again(x), before)
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(tmp_path / "t.onnx", options, providers=["CPUExecutionProvider"])
        apart = np.abs(session.run(None, {"x": x})[0] - trainer.predict(x))
        assert apart.max() <= 0.0301 and (apart > 1e-6).mean() <= 0.1  # a step of the output's scale, by rounding
    for name in ("w1", "w2", "b1", "b2"):
        old, new = m.graph.constants[f"{name}_q"], again.graph.constants[f"{name}_q"]
        assert old.dtype == new.dtype and not np.array_equal(old, new)
    score = trainer.evaluate((x, y))["accuracy"]
    assert score == np.mean(again(x).argmax(axis=1) == y)


def test_a_frozen_part_stays_quantised() -> None:
    x, y = batch(12)
    trainer = nbconv.Trainer(model(qdq()), optimizer=nbconv.SGD(0.05), trainable="last:1")
    assert {p.value for p in trainer.parameters} == {"w2", "b2"}
    losses = [trainer.step(x, y) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_weights_alone_may_be_quantised() -> None:
    """A scale for each channel; weights move by steps of quantisation in the forward, masters by less."""
    graph, (x, y) = mlp(), batch(12)
    scale = (np.abs(graph.constants["w1"]).max(axis=1) / 7).astype(F32)
    constants = {n: a for n, a in graph.constants.items() if n != "w1"}
    constants |= {"w1_q": stored(graph.constants["w1"], scale), "w1_scale": scale}
    dq = node("DequantizeLinear", "w1_q w1_scale", "w1", "dq", axis=0)
    graph = Graph([dq, *graph.nodes], graph.inputs, graph.outputs, constants)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.01))
    start = trainer.state["w1"].copy()
    trainer.step(x, y)
    assert not np.array_equal(trainer.state["w1"], start)
    np.testing.assert_array_equal(trainer.graph().constants["w1_q"], constants["w1_q"])
    trainer.recipe.optimizer.lr = 1.0
    for _ in range(5):
        trainer.step(x, y)
    assert (trainer.graph().constants["w1_q"] != constants["w1_q"]).any()


def test_channels_of_zeros() -> None:
    """Whose scale is 0, or denormal: they stay what they are, and nothing is NaN."""
    graph = qdq()
    constants = {n: a.copy() for n, a in graph.constants.items()}
    for k, scale in ((1, 0.0), (3, 1e-41)):
        constants["w1_scale"][k] = constants["b1_scale"][k] = scale
    graph = Graph(graph.nodes, graph.inputs, graph.outputs, constants)
    x, y = batch(12)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.05))
    losses = [trainer.step(x, y) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(a).all() for a in trainer.state.values())
    tuned = trainer.graph().constants
    np.testing.assert_array_equal(tuned["w1_q"][[1, 3]], constants["w1_q"][[1, 3]])
    assert (tuned["w1_q"][0] != constants["w1_q"][0]).any()


def test_models_of_integer_operators_are_refused() -> None:
    """By name, with what to do; layers on floats behind them train."""
    rng = np.random.default_rng(1)
    nodes = [
        node("QuantizeLinear", "x s z", "q", "quantise"), node("ConvInteger", "q w z", "i", "conv"),
        node("Cast", "i", "f", "cast", to=1), node("Flatten", "f", "flat", "flat"), node("Gemm", "flat w2 b2", "y", "fc"),
    ]  # fmt: skip
    constants = {
        "s": np.array(0.02, F32), "z": np.array(120, np.uint8), "w": rng.integers(-9, 9, (2, 1, 3, 3)).astype(np.int8),
        "w2": rng.standard_normal((8, 3)).astype(F32) * 0.01, "b2": np.zeros(3, F32),
    }  # fmt: skip
    graph = Graph(nodes, {"x": Spec(("n", 1, 4, 4), F32)}, {"y": Spec(("n", 3), F32)}, constants)
    with pytest.raises(ValueError, match=r"ConvInteger compute.*QDQ"):
        nbconv.Trainer(model(graph))
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(1e-5), trainable="head")
    x, y = batch(12)
    losses = [trainer.step(x, y) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_what_is_not_undone_is_told() -> None:
    """A QuantizeLinear whose DequantizeLinear has another scale: nothing before it trains, and the reason is named."""
    graph = qdq()
    constants = {**graph.constants, "other": np.array(0.5, F32)}
    nodes = [node("DequantizeLinear", "hq other hz", "hd", "dq_h") if n.name == "dq_h" else n for n in graph.nodes]
    changed = Graph(nodes, graph.inputs, graph.outputs, constants)
    why = {c.parameter.value: c.why for c in constants_of(changed)}
    assert why["w2"] == "" and "QuantizeLinear" in why["w1"]
    assert {p.value for p in nbconv.Trainer(Model(changed, threads=1)).parameters} == {"w2", "b2"}
