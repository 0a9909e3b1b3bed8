"""Pretrained networks that wheels on PyPI carry agree with onnxruntime: silero-vad, ddddocr.

`make test` fetches the first (11 MB), `make test-real` both (87 MB), into build/real.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("onnxruntime")

from tests.real.compare import Pair, assert_close

WHEELS = Path(__file__).parents[2] / "build" / "real"
SPEECH = WHEELS / "silero_vad" / "data"
OCR = WHEELS / "ddddocr"

speech = pytest.mark.skipif(not SPEECH.exists(), reason="silero-vad is not in build/real: make test fetches it")
ocr = pytest.mark.skipif(not OCR.exists(), reason="ddddocr is not in build/real: make test-real fetches it")


def voice(samples: int, batch: int, rate: int) -> np.ndarray:
    """Buzzing vowels with pauses, and noise: float32 (batch, samples)."""
    t = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(6 * np.pi * t)) / rate
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(8 * np.pi * t) > -0.2)
    noise = np.random.default_rng(0).standard_normal((batch, samples))
    return (0.2 * buzz * np.arange(1, batch + 1)[:, None] / batch + 0.003 * noise).astype(np.float32)


BOTH_RATES = ("silero_vad", "silero_vad_op18_ifless")
VOICES = (*BOTH_RATES, "silero_vad_16k_op15", "silero_vad_half")


@speech
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name, rate", [(name, 16000) for name in VOICES] + [(name, 8000) for name in BOTH_RATES])
def test_voice_activity(name: str, rate: int, batch: int) -> None:
    """Over 20 chunks, each engine with the state that it gave before: If by the rate, LSTM, STFT as a convolution."""
    pair = Pair(str(SPEECH / f"{name}.onnx"))
    takes_rate = any(i.name == "sr" for i in pair.session.get_inputs())
    chunk, context = (512, 64) if rate == 16000 else (256, 32)
    x = np.pad(voice(20 * chunk, batch, rate), ((0, 0), (context, 0)))
    states = [np.zeros((2, batch, 128), np.float32)] * 2
    probabilities = []
    for first in range(0, 20 * chunk, chunk):
        feeds = {"input": x[:, first : first + chunk + context]}
        if takes_rate:
            feeds["sr"] = np.array(rate)
        got, want = pair.run(*({**feeds, "state": state} for state in states))
        assert_close(got, want)
        states = [got["stateN"], want["stateN"]]
        probabilities.append(want["output"][-1, 0])
    assert np.ptp(probabilities) > 0.1


@speech
def test_voice_activity_of_a_sequence() -> None:
    pair = Pair(str(SPEECH / "silero_vad_16k_sequence.onnx"))
    state = np.zeros((1, 1, 128), np.float32)
    for chunks in (1, 7, 20):
        windows = np.lib.stride_tricks.sliding_window_view(voice(512 * chunks + 64, 1, 16000)[0], 576)[::512]
        assert_close(*pair.run({"input": windows.copy(), "h": state, "c": state}))


def captcha(text: str, width: int) -> np.ndarray:
    """float32 (1, 1, 64, width) in 0…1."""
    image = Image.new("L", (width, 64), 230)
    ImageDraw.Draw(image).text((8, 8), text, fill=40, font=ImageFont.load_default(size=40))
    noise = 8 * np.random.default_rng(width).standard_normal((64, width))
    return np.clip((np.asarray(image) + noise) / 255, 0, 1).astype(np.float32)[None, None]


CAPTCHAS = [("4k7B", 120), ("x9", 64), ("hello8", 161), ("WmQ2pz", 251)]


@ocr
def test_recogniser() -> None:
    """LSTM in both directions, pictures of several widths."""
    pair = Pair(str(OCR / "common.onnx"))
    for text, width in CAPTCHAS:
        assert_close(*pair.run({"input1": captcha(text, width)}))


@ocr
def test_detector() -> None:
    pair = Pair(str(OCR / "common_det.onnx"))
    for text, _ in CAPTCHAS:
        x = np.pad(captcha(text, 251), ((0, 0), (0, 2), (200, 152), (100, 65)), mode="edge")
        assert_close(*pair.run({"images": np.ascontiguousarray(x[:, [0, 0, 0]] * 255)}))


QUANTISERS = ("DynamicQuantizeLinear", "DynamicQuantizeLSTM")


@ocr
def test_quantised_recogniser() -> None:
    """Each stretch between two quantisations agrees where it begins with the same integers, and so do quantisations.

    The whole net may not: a value in the middle of two steps is rounded up by one engine and down by the other, and what
    follows differs by such a step. Inputs that differ by one rounding make onnxruntime differ from itself as much.
    """
    whole = onnx.load(OCR / "common_old.onnx")
    quantisers = [n for n in whole.graph.node if n.op_type in QUANTISERS]
    assert {n.op_type for n in quantisers} == set(QUANTISERS)
    floats = list(dict.fromkeys(n.input[0] for n in quantisers if n.input[0] != "input1"))
    results = [o for n in quantisers for o in n.output if o]
    pair = Pair(str(OCR / "common_old.onnx"))
    watched = Pair(reaching(whole, [], [*floats, *results]))
    stretches = Pair(reaching(whole, results, [*floats, whole.graph.output[0].name]))
    steps = Pair(reaching(whole, floats, results))
    for text, width in CAPTCHAS:
        x = captcha(text, width)
        values = {"input1": x} | watched.theirs({"input1": x})
        assert_close(*stretches.run(stretches.of(values)))
        got, want = steps.run(steps.of(values))
        assert_close(got, want)
        for name in (n.output[0] for n in quantisers if n.op_type == "DynamicQuantizeLinear"):
            np.testing.assert_array_equal(got[name], want[name], err_msg=name)
        (read,), (expected,) = (list(y.values()) for y in pair.run({"input1": x}))
        np.testing.assert_array_equal(read.argmax(axis=-1), expected.argmax(axis=-1))
        assert np.abs(read - expected).mean() < 0.05 * np.abs(expected).mean()


def reaching(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Its nodes that lead to these outputs, from these values and what else of its inputs they read."""
    part = onnx.ModelProto.FromString(model.SerializeToString())
    graph, wanted, kept = part.graph, set(outputs), []
    typed = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    for node in reversed(graph.node):
        made = {o for o in node.output if o}
        if made & wanted and not made & set(inputs):
            kept.append(node)
            wanted |= set(node.input)
    given = [i for i in graph.input if i.name in wanted] + [typed[n] for n in inputs if n in wanted]
    for field, values in (("node", kept[::-1]), ("input", given)):
        values = [type(v).FromString(v.SerializeToString()) for v in values]
        del getattr(graph, field)[:]
        getattr(graph, field).extend(values)
    del graph.output[:], graph.value_info[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part
