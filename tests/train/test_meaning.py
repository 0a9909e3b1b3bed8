"""What is written carries its meaning: classes, pictures, task and metrics in the metadata, and who reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nbconv
from nbconv.cli import main
from nbconv.edit.meaning import Meaning, Picture, meaning
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from tests.train.models import F32, batch, convolutional, mlp, model, node

COLOURS = {"blue": (20, 20, 200), "green": (20, 180, 20), "red": (200, 20, 20)}


def coloured(folder: Path, count: int = 6, size: tuple[int, int] = (17, 23)) -> Path:
    """Pictures of one colour each, with noise, in folders of their names."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            x = np.array(colour, np.float32) + rng.normal(0, 15, (*size, 3))
            Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def averaging(end: str = "", layout: str = "NCHW") -> Graph:
    """(n, 3, h, w), or (n, h, w, 3), to (n, 2): a 1×1 convolution, a mean, a linear layer."""
    rng = np.random.default_rng(0)
    nodes = [
        *([node("Transpose", "x", "t", "turn", perm=(0, 3, 1, 2))] if layout == "NHWC" else []),
        node("Conv", "x w" if layout == "NCHW" else "t w", "c", "conv"),
        node("GlobalAveragePool", "c", "p", "pool"),
        node("Flatten", "p", "f", "flat"),
        node("Gemm", "f v b", "z" if end else "y", "fc", transB=1),
        *([node(end, "z", "y", "end")] if end else []),
    ]
    constants = {"w": rng.standard_normal((8, 3, 1, 1)), "v": rng.standard_normal((2, 8)), "b": np.zeros(2)}
    shape = ("n", 3, "h", "w") if layout == "NCHW" else ("n", "h", "w", 3)
    constants = {k: v.astype(np.float32) for k, v in constants.items()}
    return Graph(nodes, {"x": Spec(shape, F32)}, {"y": Spec(("n", 2), F32)}, constants)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("end", ["", "Softmax"])
def test_run_names_the_class(end: str, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coloured(tmp_path / "data")
    nbconv.save(averaging(end, layout), tmp_path / "m.onnx")
    options: dict[str, Any] = {"mean": (124, 116, 104), "std": 60, "size": (12, 16)}
    tuned = tmp_path / "tuned.onnx"
    report = nbconv.finetune(
        tmp_path / "m.onnx", data, tuned, epochs=30, batch_size=6, optimizer=nbconv.Adam(0.1), layers="all", **options
    )
    assert report.after == 1.0
    told = meaning(nbconv.load(tuned).graph.metadata)
    assert (told.task, told.classes, told.output) == ("classify", tuple(COLOURS), "probabilities" if end else "logits")
    assert told.input == Picture((12, 16), 3, (124.0, 116.0, 104.0), (60.0,), "RGB", layout)
    assert told.metrics["accuracy"] == report.after
    proto = onnx.load(tuned)
    assert json.loads({p.key: p.value for p in proto.metadata_props}["nbconv.classes"]) == list(COLOURS)
    pictures = nbconv.image_folder(data, **options, layout=layout)
    scores = nbconv.load(tuned)(pictures.batch(np.arange(0, 18, 6))[0])
    scores = scores if end else np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    capsys.readouterr()
    for k, name in enumerate(COLOURS):
        assert main(["run", str(tuned), str(data / name / "0.png")]) == 0
        first = capsys.readouterr().out.splitlines()[0].split()
        assert first[2] == name and first[1] == str(k)
        assert float(first[0]) == pytest.approx(scores[k, k], abs=2e-4)
    # options say otherwise
    (tmp_path / "names").write_text("a\nb\nc\n")
    red = str(data / "red" / "0.png")
    assert main(["run", str(tuned), red, "--labels", str(tmp_path / "names"), "--bgr", "--no-softmax"]) == 0
    out = capsys.readouterr().out
    assert "blue" not in out and "a" in out.split()
    # what is taught further is read as the model says
    again = tmp_path / "again.onnx"
    nbconv.finetune(tuned, data, again, epochs=1)
    assert meaning(nbconv.load(again).graph.metadata).input == told.input
    nbconv.finetune(tuned, data, again, epochs=1, std=255)
    found = meaning(nbconv.load(again).graph.metadata).input
    assert found is not None and found.std == (255.0,)


def test_meaning_goes_where_it_does_not_hold() -> None:
    graph = convolutional()
    graph.metadata = {
        **Meaning("classify", ("a", "b", "c"), Picture(mean=(1.0,)), "logits", {"accuracy": 0.5}).written(), "author": "me",
    }  # fmt: skip
    x, y = batch(12, (2, 7, 9), classes=4)
    m = model(graph)
    m.replace_head(4)
    assert meaning(m.graph.metadata) == Meaning(input=Picture(mean=(1.0,)))
    trainer = nbconv.Trainer(m, optimizer=nbconv.SGD(0.01))
    trainer.fit((x, y), (x, y), epochs=1)
    told = meaning(trainer.graph().metadata)
    assert told.metrics["accuracy"] == trainer.run.history["val_accuracy"][-1] and told.task == "classify"
    trainer.step(x, y)
    assert not meaning(trainer.graph().metadata).metrics  # they were of other weights
    assert trainer.graph().metadata["author"] == "me"
    graph = mlp()
    graph.metadata = {"nbconv.classes": "[1", "nbconv.task": '"classify"'}
    trainer = nbconv.Trainer(model(graph))
    trainer.fit(batch(), epochs=1)
    assert meaning(trainer.graph().metadata).classes == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("size", "mean", "std", "channels", "a")), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(values=st.dictionaries(st.sampled_from(Meaning._fields), JSON | st.text()), raw=st.booleans())
def test_what_is_read_is_checked(values: dict[str, Any], raw: bool) -> None:
    metadata = {f"nbconv.{k}": v if raw and isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    message = ""
    try:
        found = meaning(metadata)
    except ModelError as error:
        message, found = str(error), Meaning()
    assert (message.startswith("the model's metadata nbconv.") and len(message) < 300) or not message
    assert meaning(found.written()) == found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("input", '{"std": [0]}', "std is 0"),
        ("input", '{"mean": [1, 2]}', r"mean is \[1, 2\], wanted a list of one number, or of 3"),
        ("input", '{"mean": [NaN]}', "NaN is no JSON number"),
        ("input", '{"size": [100000, 100000]}', "pixels at most"),
        ("input", '{"channels": 2}', "channels is 2, wanted 3 or 1"),
        ("classes", '{"0": "a"}', "wanted a list of names"),
        ("task", '"dance"', "wanted one of classify"),
        ("metrics", f'{{"accuracy": 1{"0" * 400}}}', "too large"),
        ("metrics", '{"accuracy": "good"}', "accuracy is 'good', wanted a number"),
        ("metrics", "[" * 100_000, "nested too deeply"),
    ],
)
def test_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        meaning({f"nbconv.{key}": value})


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = mlp()
    graph.metadata = Meaning("classify", ("a\x1b[31m\nb", "c", "d"), None, "logits").written()
    nbconv.save(graph, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 4, 4), np.float32))
    assert main(["run", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and len(out.splitlines()) == 3


def test_shares_of_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(
        [node("Conv", "x w b", "y", "conv")],
        {"x": Spec((1, 3, 4, 5), F32)},
        {"y": Spec((1, 2, 4, 5), F32)},
        {"w": np.array([[1, 0, 0], [-1, 0, 0]], np.float32).reshape(2, 3, 1, 1), "b": np.zeros(2, np.float32)},
        metadata=Meaning("segment", ("sky", "road"), Picture(mean=(100.0,), std=(1.0,))).written(),
    )
    nbconv.save(graph, tmp_path / "m.onnx")
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[:, :2] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    assert main(["run", str(tmp_path / "m.onnx"), str(tmp_path / "p.png")]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["60.00%", "1", "road"],
        ["40.00%", "0", "sky"],
    ]
