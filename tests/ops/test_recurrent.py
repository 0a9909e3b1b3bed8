"""RNN, GRU, LSTM, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import nbconv
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops.recurrent import GRU, LSTM, RNN, GRUGrad, Longest, LSTMGrad, Recurrent, RNNGrad
from nbconv.ops.recurrent_quantized import DynamicQuantizeLSTM
from tests.check import Case, case, run_cases, sampler

r = sampler(15)


def call(op: Recurrent, steps: int, batch: int, inputs: int, hidden: int, given: str = "", **options: Any) -> Case:
    """A case with random inputs; ``given`` names those that may be left out: B, L (lengths), h, c, P."""
    ways, rows = len(op.ways), op.gates * hidden
    lengths = np.random.default_rng(steps).integers(0, steps + 1, batch).astype(np.int32)
    states = r(ways, batch, hidden), r(ways, batch, hidden)
    w, rec, x = r(ways, rows, inputs), r(ways, rows, hidden), r(steps, batch, inputs)
    optional = zip("BLhcP", (r(ways, 2 * rows), lengths, *states, r(ways, 3 * hidden)), strict=True)
    rest = [v if name in given else None for name, v in optional]
    made = (x, w / np.float32(inputs**0.5), rec / np.float32(hidden**0.5), *rest)
    op.hidden_size = hidden
    while made[-1] is None:
        made = made[:-1]
    return case(op, *made, outputs=1 + op.states, **options)


def both(kind: type[Recurrent], **attributes: Any) -> Recurrent:
    return kind(direction="bidirectional", **attributes)


def grad(op: Recurrent, steps: int, batch: int, inputs: int, hidden: int, given: str = "") -> Case:
    """A case of a gradient's op, with all gradients of the outputs."""
    made = call(op, steps, batch, inputs, hidden, given)
    ways = len(op.ways)
    dy = r(steps, ways, batch, hidden), *(r(ways, batch, hidden) for _ in range(op.states))
    made = (*made.inputs, *[None] * (8 - len(made.inputs)), *dy)
    return case(op, *made, outputs=len(op.parts("P" in given)))


def quantised(op: Recurrent, steps: int, batch: int, inputs: int, hidden: int, given: str = "", **options: Any) -> Case:
    """A case of DynamicQuantizeLSTM; "u" among ``given``: unsigned weights, "." one scale for all of a direction."""
    made = call(op, steps, batch, inputs, hidden, given, **options)
    x, w, rec, *rest = (*made.inputs, *[None] * (8 - len(made.inputs)))
    scales: list[Any] = []
    stored = []
    for v in (w, rec):
        turned = v.swapaxes(1, 2)  # pyright: ignore[reportOptionalMemberAccess]
        scale = np.abs(turned).max((1, 2) if "." in given else 1) / np.float32(127)
        of, zero = (np.uint8, 128) if "u" in given else (np.int8, 0)
        spread = scale.reshape(len(turned), 1, -1)
        stored.append(np.ascontiguousarray((np.rint(turned / spread) + zero).astype(of)))
        scales += [scale, np.full(scale.shape, zero, of)]
    return Case(op, (x, *stored, *rest, *scales), made.options)


ONE = np.ones((1, 1, 1), np.float32)
HALF = 0.5 * np.ones((1, 4, 1), np.float32)
WRITTEN = np.tanh(np.full((1, 1, 1, 1), 1.5, np.float32))
HELD = 0.5 * np.tanh(np.ones((1, 1, 1, 1), np.float32))
CASES = [
    case(Longest(steps=5, of="y (LSTM)"), np.array([3, 5, 0], np.int32), expect=np.int32(5)),
    case(RNN(hidden_size=1), 0.5 * ONE, ONE, ONE, [[0.25, 0.25]], None, ONE / 2, outputs=2,
         expect=(WRITTEN, WRITTEN[0])),
    case(RNN(hidden_size=1, activations=("Affine", "Tanh"), activation_alpha=(2.0,), activation_beta=(1.0,)),
         np.array([[[1.0]], [[2.0]]], np.float32), ONE, ONE, outputs=2, expect=([[[[3]]], [[[11]]]], [[[11]]])),
    case(GRU(hidden_size=1), 0 * ONE, np.zeros((1, 3, 1), np.float32), np.zeros((1, 3, 1), np.float32), None, None, ONE,
         outputs=2, expect=([[[[0.5]]]], [[[0.5]]])),
    case(LSTM(hidden_size=1), 0 * ONE, HALF, 0 * HALF, None, None, None, 2 * ONE, outputs=3,
         expect=(HELD, HELD[0], [[[1]]])),
    call(RNN(), 5, 3, 4, 6),
    call(RNN(direction="reverse"), 5, 3, 4, 6, "BLh"),
    call(both(RNN, activations=("Relu", "Sigmoid")), 4, 2, 3, 17, "Bh"),
    call(both(RNN, clip=0.3), 4, 1, 3, 5, "B"),
    *(call(RNN(activations=(name,), activation_alpha=(0.6,), activation_beta=(0.3,)), 3, 2, 3, 4, "B") for name in
      ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus")),
    call(RNN(activations=("relu",)), 3, 2, 3, 4, "B", differs="it takes names by their letters' case"),
    call(GRU(), 6, 3, 4, 5),
    call(GRU(), 4, 9, 3, 37, "Bh"),
    call(GRU(direction="reverse", linear_before_reset=1), 5, 3, 4, 18, "BLh"),
    call(both(GRU, linear_before_reset=1), 7, 1, 5, 33, "Bh"),
    call(both(GRU), 5, 4, 2, 7, "BLh"),
    call(both(GRU, linear_before_reset=1, clip=0.5), 3, 2, 4, 5, "B"),
    call(both(GRU, activations=("HardSigmoid", "Softsign", "Sigmoid", "ScaledTanh"), activation_alpha=(0.3, 0.7),
              activation_beta=(0.4, 0.8)), 3, 2, 4, 5, "B"),
    call(LSTM(), 6, 3, 4, 5),
    call(LSTM(), 9, 1, 3, 48, "B"),
    call(LSTM(), 4, 11, 3, 35, "Bhc"),
    call(LSTM(direction="reverse"), 5, 3, 4, 18, "BLhcP"),
    call(both(LSTM), 7, 1, 5, 33, "B"),
    call(both(LSTM), 5, 4, 2, 7, "BLhcP"),
    call(both(LSTM), 3, 5, 6, 16, "BhcP"),
    call(both(LSTM, clip=0.5), 3, 2, 4, 5, "BhcP"),
    call(LSTM(input_forget=1), 4, 2, 3, 9, "Bhc"),
    call(LSTM(activations=("HardSigmoid", "Softsign", "Elu"), activation_alpha=(0.3, 0.7), activation_beta=(0.4,)),
         4, 2, 3, 5, "Bc"),
    call(LSTM(activations=("HardSigmoid", "Tanh", "Tanh")), 4, 2, 3, 17, "Bc"),
    call(both(LSTM, activations=("HardSigmoid", "Relu", "Relu") * 2, activation_alpha=(0.3,) * 2,
              activation_beta=(0.4,) * 2), 4, 2, 3, 17, "Bc"),
    call(both(GRU, activations=("HardSigmoid", "Tanh") * 2, linear_before_reset=1), 4, 2, 3, 17, "B"),
    call(GRU(activations=("HardSigmoid", "Relu")), 4, 2, 3, 17, "B"),
    call(RNN(activations=("Relu",)), 4, 2, 3, 17, "B"),
    call(both(LSTM), 1, 1, 1, 1),
    quantised(DynamicQuantizeLSTM(), 6, 1, 4, 18, "B"),
    quantised(both(DynamicQuantizeLSTM), 5, 1, 7, 9, "Bhcu"),
    quantised(both(DynamicQuantizeLSTM), 5, 1, 7, 33, "."),
    quantised(DynamicQuantizeLSTM(direction="reverse"), 4, 1, 3, 16, "Bu.P"),
    quantised(both(DynamicQuantizeLSTM), 5, 3, 7, 9, "BLhc", differs="it rounds the sequences of a thread together"),
    grad(RNNGrad(), 3, 2, 3, 4, "BLh"),
    grad(GRUGrad(linear_before_reset=1), 3, 2, 3, 4, "BLh"),
    grad(both(LSTMGrad), 4, 9, 3, 70, "BLhc"),
    grad(LSTMGrad(), 3, 2, 3, 4, "BLhcP"),
]  # fmt: skip
test_cases = run_cases(CASES)


def specs(op: Recurrent, *shapes: tuple[int, ...] | None) -> tuple[Spec, ...]:
    return op.infer(*(None if s is None else Spec(s, np.dtype(np.float32)) for s in shapes))


def test_what_does_not_fit() -> None:
    x, w, rec = (5, 2, 3), (1, 16, 3), (1, 16, 4)
    with pytest.raises(ModelError, match=r"W is float32\(1, 16, 3\), bidirectional LSTM wants shape \[2, 16, 3\]"):
        specs(LSTM(direction="bidirectional"), x, w, rec)
    with pytest.raises(ModelError, match=r"initial_c is float32\(2, 4\), forward LSTM wants shape \[1, 2, 4\]"):
        specs(LSTM(), x, w, rec, None, None, None, (2, 4))
    with pytest.raises(ModelError, match="hidden_size is 5"):
        specs(LSTM(hidden_size=5), x, w, rec)
    with pytest.raises(ModelError, match="activation 'Swish' is none of ONNX's"):
        specs(LSTM(activations=("Swish", "Tanh", "Tanh")), x, w, rec)
    with pytest.raises(ModelError, match="2 activations are given, forward LSTM wants 3"):
        specs(LSTM(activations=("Tanh", "Tanh")), x, w, rec)
    with pytest.raises(ModelError, match="direction is 'both'"):
        specs(LSTM(direction="both"), x, w, rec)


def test_lengths_that_cannot_be() -> None:
    """Whether they are known when the plan is made, or computed while running."""
    lengths, x, w, rec = np.array([3, 6], np.int32), r(5, 2, 3), r(1, 4, 3), r(1, 4, 4)
    with pytest.raises(ModelError, match="sequence_lens are 3 to 6, X has 5 steps"):
        RNN().reference(x, w, rec, None, lengths)
    given = [Spec(v.shape, v.dtype) for v in (x, w, rec)]
    with pytest.raises(ModelError, match="sequence_lens are 3 to 6, X has 5 steps"):
        RNN().infer(*given, None, Spec((2,), np.dtype(np.int32), lengths))


@pytest.mark.parametrize("op", [LSTM(), GRU(), GRU(linear_before_reset=1), RNN()], ids=str)
def test_lengths_that_cannot_be_while_running(op: Recurrent, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused; and a kernel that gets one all the same gives NaN, of that sequence alone, and reads and writes
    nowhere else."""
    x, w, rec = r(5, 3, 4), r(1, op.gates * 6, 4), r(1, op.gates * 6, 6)
    node = Node(op, ("x", "w", "r", "", "n"), ("y", "h"))
    inputs = {"x": Spec(x.shape, x.dtype), "n": Spec((3,), np.dtype(np.int32))}
    graph = Graph([node], inputs, {"y": None, "h": None}, {"w": w, "r": rec})
    model = Model(graph)
    for wrong in (-1, 6, 2**31 - 1):
        with pytest.raises(ModelError, match=rf"y \({op.type}\): sequence_lens are {min(3, wrong)} to .*, X has 5 steps"):
            model.run({"x": x, "n": np.array([3, wrong, 5], np.int32)})
    monkeypatch.setattr(Recurrent, "guard", lambda *_: None)
    model = Model(graph)
    for wrong in (-1, 6, 2**31 - 1):
        found = model.run({"x": x, "n": np.array([3, wrong, 5], np.int32)})
        want = op.reference(x, w, rec, None, np.array([3, 1, 5], np.int32))
        for name, exact in zip("yh", want, strict=False):
            assert np.isnan(found[name][..., 1, :]).all()
            np.testing.assert_allclose(found[name][..., ::2, :], exact[..., ::2, :], atol=1e-5)


def test_only_the_last_state_is_wanted() -> None:
    """As in a classifier of sequences: Y has no name in the file, where it stands first."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[5, 2, 3] x, float[1, 16, 3] w, float[1, 16, 4] r) =>
        (float[1, 2, 4] h) { y, h = LSTM <hidden_size = 4> (x, w, r) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.node[0].output[0] = ""
    x, w, rec = r(5, 2, 3), r(1, 16, 3), r(1, 16, 4)
    found = nbconv.load(proto.SerializeToString()).run({"x": x, "w": w, "r": rec})
    np.testing.assert_allclose(found["h"], LSTM().reference(x, w, rec)[1], atol=1e-5)
    again = nbconv.load(proto.SerializeToString()).run({"x": x, "w": w, "r": rec})
    assert found["h"].tobytes() == again["h"].tobytes()


def test_batch_first() -> None:
    """ONNX's layout 1."""
    text = """<ir_version: 10, opset_import: ["": 21]>
        g (float[2, 5, 3] x, float[2, 16, 3] w, float[2, 16, 4] r, float[2, 2, 4] h0) =>
        (float[2, 5, 2, 4] y, float[2, 2, 4] h, float[2, 2, 4] c)
        { y, h, c = LSTM <hidden_size = 4, layout = 1, direction = "bidirectional"> (x, w, r, , , h0) }"""
    x, w, rec, h0 = r(2, 5, 3), r(2, 16, 3), r(2, 16, 4), r(2, 2, 4)
    proto = onnx.parser.parse_model(text)
    found = nbconv.load(proto.SerializeToString()).run({"x": x, "w": w, "r": rec, "h0": h0})
    op = LSTM(direction="bidirectional")
    y, *states = op.reference(x.swapaxes(0, 1), w, rec, None, None, h0.swapaxes(0, 1))
    for name, exact in zip("yhc", (y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in states)), strict=True):
        np.testing.assert_allclose(found[name], exact, atol=1e-5)
