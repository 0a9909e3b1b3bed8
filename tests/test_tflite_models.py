"""TFLite files as models: names, types, orders of axes, what is refused, damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import nbconv
from nbconv import models
from nbconv.base.image import load_image
from nbconv.cli import main
from nbconv.converters.onnx import survey
from nbconv.converters.tflite import reader
from nbconv.converters.tflite.model import convert
from nbconv.converters.tflite.sparse import dense
from nbconv.converters.weights import Source
from nbconv.errors import ModelError, UnsupportedError
from tests.tflite_cases import C2, PLAIN, F, conv, depthwise, noise
from tests.tflite_files import O, Part, Quantised, T, constant, litert, write

X = noise(1, 8, 8, 3)
W, B, D, E = noise(4, 3, 3, 3), noise(4), noise(1, 3, 3, 4), noise(4, seed=1)
FC, G = noise(5, 4), noise(5)


def net(x: np.ndarray) -> np.ndarray:
    """What `small` computes."""
    y = np.maximum(conv((2, 2))(x, W, B), 0)
    return (y + np.maximum(depthwise()(y, D, E), 0)).mean((1, 2)) @ FC.T + G


def small(batch: int = 1, half: bool = False, **more: object) -> bytes:
    """A residual network: convolution, depthwise convolution, sum, mean, classifier."""
    kind = np.float16 if half else F
    weights = [constant(f"w{i}", a, kind) for i, a in enumerate((W, B, D, E, FC, G))]
    open_ = {"signature": (-1, 8, 8, 3)} if batch == -1 else {}
    tensors = [T("image", (abs(batch), 8, 8, 3), **open_), *weights, constant("axes", [1, 2], np.int32)]
    count = len(tensors)
    shapes = {"conv": (1, 4, 4, 4), "dw": (1, 4, 4, 4), "sum": (1, 4, 4, 4), "mean": (1, 4), "logits": (1, 5)}
    tensors += [T(n, s, signature=(-1, *s[1:]) if batch == -1 else None) for n, s in shapes.items()]
    c, d, s, m, y = range(count, count + 5)
    w, operators = [1, 2, 3, 4, 5, 6], []
    if half:
        w = list(range(len(tensors), len(tensors) + 6))
        tensors += [T(f"f{i}", t.shape) for i, t in enumerate(weights)]
        operators = [O("DEQUANTIZE", [i + 1], [t]) for i, t in enumerate(w)]
    fused = {**PLAIN, "FusedActivationFunction": 1}
    operators += [
        O("CONV_2D", [0, w[0], w[1]], [c], {**fused, "StrideH": 2, "StrideW": 2}, C2),
        O("DEPTHWISE_CONV_2D", [c, w[2], w[3]], [d], {**fused, "DepthMultiplier": 1}, "DepthwiseConv2DOptions"),
        O("ADD", [c, d], [s], {}, "AddOptions"),
        O("MEAN", [s, 7], [m], {}, "ReducerOptions"),
        O("FULLY_CONNECTED", [m, w[4], w[5]], [y], {}, "FullyConnectedOptions"),
    ]
    return write(tensors, operators, [0], [y], **more)  # type: ignore[arg-type]


def test_a_network() -> None:
    model = nbconv.load(small())
    assert [(p.name, p.shape) for p in model.inputs] == [("image", (1, 8, 8, 3))]
    assert [(p.name, p.shape) for p in model.outputs] == [("logits", (1, 5))]
    np.testing.assert_allclose(model(X), net(X), 1e-4, 1e-5)
    assert [n.op.type for n in model.graph.nodes].count("Transpose") == 1  # of the input, which costs nothing
    steps = [step.node.op.type for step in model.plan({"image": (1, 8, 8, 3)}).steps]
    assert not {"Transpose", "Reorder"} & set(steps), steps


def test_any_batch() -> None:
    model = nbconv.load(small(-1))
    assert model.inputs[0].shape == (None, 8, 8, 3) and model.outputs[0].shape == (None, 5)
    x = noise(3, 8, 8, 3)
    np.testing.assert_allclose(model(x), net(x), 1e-4, 1e-5)


def test_weights_of_float16() -> None:
    model, x = nbconv.load(small(half=True)), X
    np.testing.assert_allclose(model(x), net(x), 2e-2, 2e-2)
    kinds = {name: a.dtype for name, a in model.graph.constants.items() if a.size > 4}
    assert kinds and set(map(str, kinds.values())) == {"float16"}
    theirs = litert(small(half=True), [x])
    if theirs is not None:
        np.testing.assert_allclose(model(x), theirs[0], 1e-4, 1e-4)


def test_names_of_the_signature() -> None:
    model = nbconv.load(
        small(signature=("serving_default", {"x": 0}, {"classes": 12}), more=[Part([T("z", (1,))], [], [0], [0])])
    )
    assert model.inputs[0].name == "x" and model.outputs[0].name == "classes"
    np.testing.assert_allclose(model(X), net(X), 1e-4, 1e-5)
    assert model.graph.metadata == {"tflite": "the first of 2 subgraphs, signatures serving_default"}


def test_it_is_saved_as_onnx_and_trains(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "m.tflite").write_bytes(small(-1))
    model = nbconv.load(tmp_path / "m.tflite")
    nbconv.save(model, tmp_path / "m.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"image": X})[0]
    np.testing.assert_allclose(found, net(X), 1e-4, 1e-5)
    trainer = nbconv.Trainer(model, loss="cross_entropy", optimizer=nbconv.SGD(lr=0.05))
    x, labels = noise(6, 8, 8, 3), np.array([0, 1, 2, 3, 4, 0])
    losses = [float(trainer.step(x, labels)) for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]
    model.save(tmp_path / "trained.onnx")
    y = onnxruntime.InferenceSession(tmp_path / "trained.onnx").run(None, {"image": x})[0]
    np.testing.assert_allclose(y, model(x), 1e-4, 1e-4)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.tflite"
    file.write_bytes(small())
    for command in (["inspect"], ["check", "--against", "onnxruntime"], ["compare"], ["doctor"]):
        assert main([command[0], str(file), *command[1:]]) == 0, command
    assert "on compiled kernels" in capsys.readouterr().out


def test_int8_weights_of_a_float_model() -> None:
    """What TFLite calls dynamic range: the weights' numbers are used as they are."""
    w = np.array([[10, -20, 30], [127, 0, -128]], np.int8)
    tensors = [T("x", (1, 3)), constant("w", w, np.int8, Quantised([0.5], [0])), T("y", (1, 2))]
    content = write(tensors, [O("FULLY_CONNECTED", [0, 1, -1], [2], {}, "FullyConnectedOptions")], [0], [2])
    x = np.array([[1, 2, 3]], F)
    np.testing.assert_allclose(nbconv.load(content)(x), x @ (w * F(0.5)).T, 1e-6)


def test_an_output_that_is_an_input_and_one_given_twice() -> None:
    content = write([T("x", (2,)), T("y", (2,))], [O("NEG", [0], [1])], [0], [0, 1, 1])
    model = nbconv.load(content)
    found = list(model.run({"x": np.array([1, 2], F)}).values())
    assert [v.tolist() for v in found] == [[1, 2], [-1, -2], [-1, -2]]
    assert [p.name for p in model.outputs] == ["x", "y", "y_1"]


def test_an_inner_value_has_its_tensors_name() -> None:
    model = nbconv.load(small())
    found = model.run({"image": X}, fetch=["mean", "conv:nchw"])
    np.testing.assert_allclose(found["conv:nchw"].transpose(0, 2, 3, 1), np.maximum(conv((2, 2))(X, W, B), 0), 1e-4, 1e-5)
    assert found["mean"].shape == (1, 4)


def test_lstm() -> None:
    x, h, steps = 3, 2, 4
    w, r, b = noise(4, h, x), noise(4, h, h), noise(4, h)
    given = noise(2, steps, x)

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    state, cell, want = np.zeros((2, h)), np.zeros((2, h)), []
    for t in range(steps):
        i, f, c, o = (given[:, t] @ w[g].T + state @ r[g].T + b[g] for g in range(4))
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        state = sigmoid(o) * np.tanh(cell)
        want.append(state)
    tensors = [T("x", given.shape), *(constant(f"p{i}", v) for i, v in enumerate((*w, *r, *b)))]
    tensors += [T("h", (2, h), variable=True), T("c", (2, h), variable=True), T("y", (2, steps, h))]
    slots = [0, *range(1, 9), -1, -1, -1, *range(9, 13), -1, -1, 13, 14, -1, -1, -1, -1]
    options = {"FusedActivationFunction": 4}
    content = write(tensors, [O("UNIDIRECTIONAL_SEQUENCE_LSTM", slots, [15], options, "UnidirectionalSequenceLSTMOptions")],
                    [0], [15])  # fmt: skip
    np.testing.assert_allclose(nbconv.load(content)(given), np.stack(want, 1), 1e-5, 1e-5)
    theirs = litert(content, [given])
    if theirs is not None:
        np.testing.assert_allclose(theirs[0], np.stack(want, 1), 1e-4, 1e-4)


STATE = [T("i", (), "int32"), T("x", (2,))]
BELOW = Part([*STATE, constant("n", 5, np.int32), T("on", (), "bool")], [O("LESS", [0, 2], [3])], [0, 1], [3])
STEP = Part(
    [*STATE, constant("one", 1, np.int32), T("next", (), "int32"), T("twice", (2,)), T("out", (2,))],
    [O("ADD", [0, 2], [3], {}, "AddOptions"), O("ADD", [1, 1], [4], {}, "AddOptions"), O("NEG", [4], [5])], [0, 1], [3, 5],
)  # fmt: skip


def test_while() -> None:
    """x becomes -2x while i < 5."""
    tensors = [T("i", (), "int32"), T("x", (2,)), T("j", (), "int32"), T("y", (2,))]
    options = {"CondSubgraphIndex": 1, "BodySubgraphIndex": 2}
    content = write(tensors, [O("WHILE", [0, 1], [2, 3], options, "WhileOptions")], [0, 1], [2, 3], more=[BELOW, STEP])
    model, x = nbconv.load(content), np.array([1, -3], F)
    for i in (2, 7):
        feeds = [np.array(i, np.int32), x]
        found = model.run(dict(zip("ix", feeds, strict=True)))
        assert found["j"] == max(i, 5) and found["y"].tolist() == (x * (-2) ** max(5 - i, 0)).tolist()
        for y, theirs in zip(found.values(), litert(content, feeds) or ()):
            assert y.tolist() == theirs.tolist()


def test_if() -> None:
    branches = [Part([T("x", (2,)), T("y", (2,))], [O(op, [0], [1])], [0], [1]) for op in ("NEG", "SQUARE")]
    tensors = [T("c", (), "bool"), T("x", (2,)), T("y", (2,))]
    options = {"ThenSubgraphIndex": 1, "ElseSubgraphIndex": 2}
    content = write(tensors, [O("IF", [0, 1], [2], options, "IfOptions")], [0, 1], [2], more=branches)
    model, x = nbconv.load(content), np.array([2, -3], F)
    for c, want in ((True, -x), (False, x * x)):
        assert model.run({"c": np.array(c), "x": x})["y"].tolist() == want.tolist()


def test_a_body_that_runs_itself() -> None:
    again = O("WHILE", [0, 1], [3, 5], {"CondSubgraphIndex": 1, "BodySubgraphIndex": 2}, "WhileOptions")
    body = STEP._replace(operators=[again])
    tensors = [T("i", (), "int32"), T("x", (2,)), T("j", (), "int32"), T("y", (2,))]
    options = {"CondSubgraphIndex": 1, "BodySubgraphIndex": 2}
    content = write(tensors, [O("WHILE", [0, 1], [2, 3], options, "WhileOptions")], [0, 1], [2, 3], more=[BELOW, body])
    with pytest.raises(ModelError, match="deep"):
        nbconv.load(content)


def test_a_transform_of_a_signal() -> None:
    """Its magnitude, its imaginary part, and its real part as a cast gives it."""
    x = noise(3, 1, 8)
    tensors = [T("x", x.shape), constant("n", [1, 8], np.int32), T("c", (3, 1, 5), "complex64"),
               T("s", (3, 5), "complex64"), T("a", (3, 1, 5)), T("i", (3, 1, 5)), T("r", (3, 5))]  # fmt: skip
    operators = [O("RFFT2D", [0, 1], [2]), O("SQUEEZE", [2], [3], {"SqueezeDims": [-2]}, "SqueezeOptions"),
                 O("COMPLEX_ABS", [2], [4]), O("IMAG", [2], [5]), O("CAST", [3], [6])]  # fmt: skip
    content = write(tensors, operators, [0], [4, 5, 6])
    found, want = nbconv.load(content).run({"x": x}), np.fft.rfft(x)
    for name, y in (("a", abs(want)), ("i", want.imag), ("r", want.real[:, 0])):
        np.testing.assert_allclose(found[name], y, 1e-5, 1e-5)


def test_what_is_refused_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = [T("x", (1, 4)), T("a", (1, 4)), T("b", (1, 4)), T("y", (1, 4))]
    operators = [O("Fancy", [0], [1]), O("HASHTABLE_FIND", [1], [2]), O("ADD", [2, 0], [3],
                 {"FusedActivationFunction": 5}, "AddOptions")]  # fmt: skip
    content = write(tensors, operators, [0], [3])
    found = [(p.node, p.op) for p in survey(content)]
    assert found == [("a", "Fancy"), ("b", "HASHTABLE_FIND"), ("y", "ADD")]
    with pytest.raises(UnsupportedError, match=r"custom operator Fancy.*HASHTABLE_FIND.*activation 5"):
        nbconv.load(content)
    (tmp_path / "m.tflite").write_bytes(content)
    assert main(["doctor", str(tmp_path / "m.tflite")]) == 1
    assert "HASHTABLE_FIND" in capsys.readouterr().out


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ImportError, match=r"pip install 'nbconv\[tflite\]'"):
        nbconv.load(small(signature=("only here", {"x": 0}, {"y": 12})))


@pytest.mark.parametrize(
    ("tensors", "operators", "outputs", "message"),
    [
        ([T("x", (1, 2)), T("y", (1, 2))], [], [1], "an output reads tensor 'y', which is no input"),
        ([T("x", (1, 2)), T("y", (1, 2))], [O("NEG", [0], [7])], [1], "NEG makes a tensor that is not there"),
        ([T("x", (1, 2)), T("y", (1, 2))], [O("NEG", [0], [0])], [1], "makes tensor 'x', which is there already"),
        ([T("x", (1, 2)), T("w", (2, 2), data=np.zeros(3, F))], [], [0], "has 12 bytes, wanted 16"),
        ([T("x", (1, 2)), T("y", (1, 2), "int8", None, Quantised([-1.0], [0]))], [], [0], "scales that do not fit"),
        ([T("x", (1, 2)), T("y", (-3, 2))], [], [0], r"has the shape \[-3, 2\]"),
        ([T("x", (1, 2)), T("y", (1, 2))], [O("CONV_2D", [0], [1])], [1], "CONV_2D"),
        ([T("x", (1, 2)), T("y", (1, 2))], [O("CONV_2D", [0, 0, -1], [1])], [1], "filter has the shape"),
    ],
)
def test_a_broken_model(tensors: list, operators: list, outputs: list, message: str) -> None:
    with pytest.raises(ModelError, match=message) as found:
        nbconv.load(write(tensors, operators, [0], outputs))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("padding", [0, 1])
def test_padding_before_a_convolution(padding: int) -> None:
    """It becomes the convolution's own where that has none."""
    around = np.array([[0, 0], [2, 1], [0, 3], [0, 0]], np.int32)
    want = conv((2, 2), same=padding == 0)(np.pad(X, around), W, B)
    tensors = [T("x", X.shape), constant("p", around, np.int32), T("padded", (1, 11, 11, 3)), constant("w", W),
               constant("b", B), T("y", want.shape)]  # fmt: skip
    options = {**PLAIN, "StrideH": 2, "StrideW": 2, "Padding": padding}
    content = write(tensors, [O("PAD", [0, 1], [2]), O("CONV_2D", [2, 3, 4], [5], options, C2)], [0], [5])
    model = nbconv.load(content)
    np.testing.assert_allclose(model(X), want, 1e-5, 1e-5)
    assert [n.op.type for n in model.graph.nodes].count("Pad") == 1 - padding


def test_an_onnx_file_that_looks_like_one() -> None:
    """The bytes of its producer's name stand where TFLite's identifier does."""
    node = helper.make_node("Neg", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    proto = helper.make_model(helper.make_graph([node], "g", [x], [y]), producer_name="TFL3", ir_version=8)
    content = proto.SerializeToString()
    assert content[4:8] == b"TFL3"
    assert nbconv.load(content)(np.array([1, 2], F)).tolist() == [-1, -2]


def test_random_damage() -> None:
    """Bytes that are changed, or missing: a model that loads, or one line that says that it does not."""
    from nbconv.converters.tflite.model import convert
    from nbconv.converters.weights import Source

    rng, content = np.random.default_rng(7), small(half=True, signature=("s", {"x": 0}, {"y": 12}))
    told = []
    for i in range(800):
        data = bytearray(content)
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(8, len(data)))
            data[at] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        if i % 10 == 0:
            data = data[: int(rng.integers(9, len(data)))]
        try:
            convert(Source(bytes(data)))
        except ModelError as error:
            told.append(str(error))
    assert 120 < len(told) < 760
    assert not [text for text in told if "\n" in text or len(text) > 600]


def test_blazeface() -> None:
    """MediaPipe's file beside the bundled ONNX model, which was made of it, and LiteRT where that is installed."""
    file = Path(__file__).parent / "data" / "face_detection_short_range.tflite"
    model, bundled = nbconv.load(file), nbconv.load(models.path("blazeface_short_128"))
    x = load_image(models.photograph(), (128, 128), 127.5, 127.5, layout="NHWC")
    assert [(p.name, p.shape) for p in model.inputs] == [("input", (1, 128, 128, 3))]
    assert not model.plan({"input": x.shape}).numpy_steps()
    found, want = model.run({"input": x}), bundled.run({"input": x.transpose(0, 3, 1, 2)})
    assert set(found) == {"regressors", "classificators"}
    for name, y in found.items():
        np.testing.assert_allclose(y, want[name], 1e-4, 1e-4)
    for y, theirs in zip(found.values(), litert(file.read_bytes(), [x]) or ()):
        np.testing.assert_allclose(y, theirs, 1e-3, 2e-4)


WARM = """
import subprocess
import sys
import numpy as np
import nbconv
model = nbconv.load(sys.argv[1])
print(model.run({"input": np.zeros((1, 128, 128, 3), np.float32)})["classificators"].shape)
print([name for name in ("onnx", "tflite", "flatbuffers", "nbconv.ops", "nbconv.passes") if name in sys.modules])
"""


def test_a_warm_start_reads_no_tflite() -> None:
    file = Path(__file__).parent / "data" / "face_detection_short_range.tflite"
    nbconv.load(file).run({"input": np.zeros((1, 128, 128, 3), F)})
    done = subprocess.run([sys.executable, "-c", WARM, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(1, 896, 1)", "[]"]


def test_weights_of_four_bits() -> None:
    """Two in a byte, the first in its low half."""
    packed = np.array([0x21, 0xF8, 0x07], np.uint8)
    tensors = [T("x", (1, 5)), T("w", (1, 5), "int4", packed, Quantised([0.5], [0])), T("y", (1, 1))]
    content = write(tensors, [O("FULLY_CONNECTED", [0, 1, -1], [2], {}, "FullyConnectedOptions")], [0], [2])
    x = np.array([[1, 10, 100, 1000, 10000]], F)
    assert nbconv.load(content)(x).tolist() == [[0.5 * (1 + 20 - 800 - 1000 + 70000)]]


def test_a_cast_takes_integers_as_they_are() -> None:
    """Whatever scale they have."""
    x = np.array([-3, 0, 100], np.int8)
    tensors = [T("x", (3,), "int8", None, Quantised([0.5], [7])), T("y", (3,))]
    content = write(tensors, [O("CAST", [0], [1])], [0], [1])
    np.testing.assert_array_equal(nbconv.load(content)(x), x.astype(F))
    for theirs in litert(content, [x]) or ():
        np.testing.assert_array_equal(theirs, x.astype(F))


def test_constants_that_share_their_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is written out in another order."""
    monkeypatch.setattr(reader, "ROOM", 0)
    for copies in (0, 1):
        monkeypatch.setattr(reader, "COPIES", copies)
        source = Source(small())
        if copies:
            convert(source)
        else:
            with pytest.raises(ModelError, match="far larger than its file"):
                convert(source)


def test_sparse_constants() -> None:
    """Rows of columns, and 2×2 blocks of them; levels that do not fit are errors."""
    rows = np.array([[0, 3, 0], [0, 0, 0], [5, 0, 7]], F)
    order, none = np.array([0, 1]), np.zeros(0, np.int64)
    levels = [3, (np.array([0, 1, 1, 3]), np.array([1, 0, 2]))]
    np.testing.assert_array_equal(dense(np.array([3, 5, 7], F), (3, 3), (order, none, levels), "w"), rows)
    block = [2, (np.array([0, 1, 1]), np.array([1])), 2, 2]
    found = dense(np.array([1, 2, 3, 4], F), (4, 4), (np.arange(4), np.array([0, 1]), block), "w")
    want = np.zeros((4, 4), F)
    want[:2, 2:] = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(found, want)
    for wrong in ([3, (np.array([0, 1, 1, 9]), np.array([1, 0, 2]))], [3, (np.array([0, 1, 1, 3]), np.array([1, 0, 3]))],
                  [2, (np.array([0, 1]), np.array([1]))], [9, levels[1]], [1 << 27, 2]):  # fmt: skip
        with pytest.raises(ModelError, match="its sparse levels do not fit"):
            dense(np.array([3, 5, 7], F), (3, 3), (order, none, wrong), "w")


def test_fine_tuning_with_channels_last(tmp_path: Path) -> None:
    """Pictures, and arrays as the model takes them, teach it the same."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = (rng.integers(0, 60, (24, 8, 8, 3)) + 150 * y[:, None, None, None]).astype(np.uint8)
    found = []
    for data in ((x, y), (x.astype(F), y)):
        options = {"mean": 0, "std": 255, "epochs": 2, "size": (8, 8), "seed": 1, "layers": "all"}
        report = nbconv.finetune(small(-1), data, tmp_path / "m.onnx", **options)
        found.append(nbconv.load(tmp_path / "m.onnx")(x.astype(F)))
        assert report.confusion.shape == (2, 2)
    np.testing.assert_array_equal(*found)
