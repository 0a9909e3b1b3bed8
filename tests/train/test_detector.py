"""A detector's head on a model's features: anchors, the graph, training by call and by command, what `run` then says."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbconv
from nbconv import vision
from nbconv.cli import main
from nbconv.edit.detector import find_grids
from nbconv.edit.meaning import meaning
from nbconv.graph import Graph, Spec
from nbconv.train.confusion import Needed
from nbconv.train.data import Boxed
from nbconv.vision import Anchors
from nbconv.vision.anchors import dealt
from tests.train.models import F32, mlp, model, node

SIDE = 48


def classifier(layout: str = "NCHW", batch: int | str = "n", size: int | str = SIDE) -> Graph:
    """Pictures to (n, 4): six convolutions; every stride has its features, those of 8 and 16 pixels a second time."""
    rng, nodes, constants, x, channels = np.random.default_rng(3), [], {}, "x", 3
    shape: tuple = (batch, 3, size, size)
    if layout == "NHWC":
        shape, x = (batch, size, size, 3), "turned"
        nodes.append(node("Transpose", "x", "turned", perm=(0, 3, 1, 2)))
    for k, (out, stride) in enumerate([(6, 2), (8, 2), (12, 2), (12, 1), (16, 2), (16, 1)]):
        weight = rng.standard_normal((out, channels, 3, 3)) * (2 / channels / 9) ** 0.5
        constants |= {f"w{k}": weight.astype(np.float32), f"b{k}": np.zeros(out, np.float32)}
        pads, strides = (1, 1, 1, 1), (stride, stride)
        nodes += [node("Conv", f"{x} w{k} b{k}", f"c{k}", pads=pads, strides=strides), node("Relu", f"c{k}", f"r{k}")]
        x, channels = f"r{k}", out
    constants |= {
        "w": rng.standard_normal((4, 16)).astype(np.float32),
        "rows": np.array([batch, 16] if batch == 1 else [0, 16]),
    }
    nodes += [node("GlobalAveragePool", x, "p"), node("Reshape", "p rows", "flat"), node("Gemm", "flat w", "y", transB=1)]
    return Graph(nodes, {"x": Spec(shape, F32)}, {"y": Spec((batch, 4), F32)}, constants)


def squares(folder: Path, count: int = 12, side: int = SIDE) -> Path:
    """A COCO file of pictures, each with a bright square and a dark one, and one without; the categories' ids have gaps."""
    (folder / "images").mkdir(parents=True)
    rng, images, annotations = np.random.default_rng(5), [], []
    for i in range(count):
        picture = rng.integers(110, 140, (side, side + 16, 3), np.uint8)
        for k, at in enumerate(rng.permutation([2, side // 2]) if i else ()):
            wide, high, top = (int(v) for v in rng.integers(14, side // 2 - 2, 3))
            left, top = int(at), min(top, side - high)
            picture[top : top + high, left : left + wide] = (0, 255)[k]
            annotations.append({"image_id": 7 * i, "category_id": (90, 4)[k], "bbox": [left, top, wide, high]})
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        images.append({"id": 7 * i, "file_name": f"{i}.png"})
    categories = [{"id": 90, "name": "dark"}, {"id": 4, "name": "bright"}]
    told = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(told))
    return folder / "boxes.json"


def test_anchors_are_told_and_read() -> None:
    """Told as they are, the targets give back every box; anchors lie in rows, columns, shapes."""
    anchors = Anchors((32, 48), ((4, 6), (2, 3)), (((6, 10),), ((20, 20), (30, 12))))
    assert anchors.boxes().shape == (24 + 12, 4)
    np.testing.assert_allclose(anchors.boxes()[[0, 1, 6, 24, 25]], [
        [4, 4, 6, 10], [12, 4, 6, 10], [4, 12, 6, 10], [8, 8, 20, 20], [8, 8, 30, 12],
    ])  # fmt: skip
    boxes, labels = np.array([[1, 2, 9, 12], [20, 5, 45, 28]], np.float32), np.array([2, 1])
    target = anchors(boxes, labels)
    found = anchors.detections(target[:, :4], np.eye(3, dtype=np.float32)[target[:, 4].astype(int)], overlap=0.95)
    assert vision.mean_average_precision([found], [boxes], [labels], overlap=0.95) == 1
    same = vision.ssd_anchors((32, 48), (8, 16), [(6,), (20, 30)])
    np.testing.assert_allclose(Anchors((32, 48), ((4, 6), (2, 3)), (((6, 6),), ((20, 20), (30, 30)))).boxes(), same)


def test_shapes_of_anchors() -> None:
    rng = np.random.default_rng(0)
    sides = np.array([[10, 10], [40, 20], [20, 40]])[np.arange(90) % 3] * np.exp(0.05 * rng.standard_normal((90, 2)))
    corner = 50 * rng.random((90, 2))
    found = vision.anchor_shapes(np.concatenate([corner, corner + sides], 1), 3)
    np.testing.assert_allclose(sorted(found), [[10, 10], [20, 40], [40, 20]], rtol=0.05)
    assert vision.anchor_shapes([[0, 0, 5, 7]] * 4, 6) == [(5, 7)]
    with pytest.raises(ValueError, match="there are no boxes"):
        vision.anchor_shapes(np.zeros((0, 4)), 3)
    assert dealt((64, 64), ((8, 8), (4, 4)), [20, (90, 90), (4, 2)]) == (((20, 20), (4, 2)), ((90, 90),))
    with pytest.raises(ValueError, match="an anchor is 0, wanted a width and a height"):
        dealt((64, 64), ((8, 8),), [0])


def test_best_boxes() -> None:
    boxes = np.array([[[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]]], np.float32)
    scores = np.array([[[0.9, 0.1], [0.8, 0.6], [0.2, 0.7]]], np.float32)
    assert [(k, round(s, 2)) for _, s, k in vision.best_boxes(boxes, scores).rows()] == [(0, 0.9), (1, 0.7), (1, 0.6)]
    with pytest.raises(ValueError, match=r"boxes \(3, 4\), scores \(2, 2\): wanted"):
        vision.best_boxes(boxes, scores[:, :2])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", [1, "n"])
def test_a_head_on_features(layout: str, batch: int | str) -> None:
    """The last features of each stride are taken, and the outputs are what anchors make of the values that are learnt; a
    batch of one is opened where all but the old head takes more."""
    net = model(classifier(layout, batch))
    assert [(g.value, g.channels, g.rows) for g in find_grids(net.graph, (SIDE, SIDE))] == [("r3", 12, 6), ("r5", 16, 3)]
    anchors = net.add_detector(2, [(16, 24), 24, 50], seed=1)
    assert anchors.grids == ((6, 6), (3, 3)) and anchors.shapes == (((16, 24), (24, 24)), ((50, 50),))
    assert [(p.name, p.shape) for p in net.outputs] == [
        ("boxes", ("N" if batch == 1 else "n", 81, 4)), ("scores", ("N" if batch == 1 else "n", 81, 2)),
    ]  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    x = x.transpose(0, 2, 3, 1) if layout == "NHWC" else x
    moves, scores, boxes, told = net.run({"x": x}, ["detector/moves", "detector/scores", "boxes", "scores"]).values()
    e = np.exp(scores - scores.max(2, keepdims=True))
    wanted = anchors.detections(moves[1], e[1] / e[1].sum(1, keepdims=True), score=0.1)
    found = vision.best_boxes(boxes[1], told[1], score=0.1)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
    assert (found.classes + 1 == wanted.classes).all() and len(found.boxes) > 3
    assert not {"w", "y"} & {*net.graph.constants, *net.graph.values()}  # the classifier is gone


def test_a_head_is_put_on_again_and_where_it_is_told() -> None:
    net = model(classifier(size="h"))
    with pytest.raises(ValueError, match=r"does not say the size of its pictures: say size=\(height, width\)"):
        net.add_detector(2, [20])
    net.add_detector(2, [20, 60], size=(SIDE, 64))
    assert net.inputs[0].shape == ("n", 3, SIDE, 64) and net.outputs[0].shape[1] == 6 * 8 + 3 * 4
    again = net.add_detector(5, [8, 60])  # on the same features
    assert again.grids == ((6, 8), (3, 4)) and net.outputs[1].shape[2] == 5
    assert sum(name.startswith("detector/boxes0/") for name in net.graph.constants) == 2
    with pytest.raises(ValueError, match="size is 32x32, and the model takes pictures of 48x64 alone"):
        net.add_detector(5, [8], size=(32, 32))
    other = model(classifier())
    assert other.add_detector(1, [10], grids=["r1", "c2"]).grids == ((12, 12),)
    for names, what in ((["nothing"], "'nothing', which is no value"), (["flat"], r"'flat', which is float32\(1, 16\)")):
        with pytest.raises(ValueError, match=f"grids names {what}"):
            model(classifier()).add_detector(1, [10], grids=names)
    with pytest.raises(ValueError, match="the model has no grids of features"):
        model(mlp()).add_detector(1, [10])
    with pytest.raises(ValueError, match="classes is 0, wanted a positive integer"):
        other.add_detector(0, [10])


def test_what_a_batch_of_one_takes_is_told() -> None:
    graph = classifier(batch=1)
    at = next(i for i, n in enumerate(graph.nodes) if n.outputs == ("c3",))
    graph.nodes.insert(at, node("Reshape", "r2 one", "same"))
    graph.nodes[at + 1] = node("Conv", "same w3 b3", "c3", pads=(1, 1, 1, 1))
    graph.constants["one"] = np.array([1, 12, 6, 6])
    with pytest.raises(ValueError, match="the model takes one picture at a time, and several are wanted to train: same"):
        model(graph).add_detector(1, [20])


def test_the_command_and_what_run_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line alone: taught on few pictures, all of it is found in them; outputs are onnxruntime's."""
    data, out, drawn = squares(tmp_path / "d"), tmp_path / "m2.onnx", tmp_path / "found.png"
    nbconv.save(classifier(), tmp_path / "m.onnx")
    command = ["finetune", str(tmp_path / "m.onnx"), str(data), "-o", str(out), "--layers", "all", "--epochs", "50"]
    assert main([*command, "--batch", "4", "--lr", "0.01", "--schedule", "cosine"]) == 0
    said = re.search(r"held-out mAP@50 (\S+) before, (\S+) after", capsys.readouterr().out)
    assert said is not None and float(said[2]) > 0.3 > float(said[1])
    tuned = nbconv.load(out, threads=1)
    told = meaning(tuned.graph.metadata)
    assert told.task == "detect" and told.classes == ("bright", "dark")  # in the order of their ids
    assert told.input is not None and told.input.resize == "pad" and told.input.size == (SIDE, SIDE)
    assert {"map50", "map", "loss"} <= told.metrics.keys()
    assert main(["run", str(out), str(tmp_path / "d/images/3.png"), "--draw", str(drawn)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.fullmatch(r" *(0\.\d+) +(\d) +(\w+) +left (\S+), top (\S+), right (\S+), bottom (\S+)", r) for r in lines]
    assert len(rows) == 2 and all(rows)
    found = {r[3]: [float(v) for v in r.groups()[3:]] for r in rows if r}
    content = json.loads(data.read_text())
    for a in content["annotations"]:
        if a["image_id"] == 21:
            left, top, wide, high = a["bbox"]
            name = {4: "bright", 90: "dark"}[a["category_id"]]
            assert vision.iou(np.array(found[name]), np.array([[left, top, left + wide, top + high]]))[0, 0] > 0.5
    with Image.open(drawn) as picture, Image.open(tmp_path / "d/images/3.png") as before:
        assert picture.size == before.size and np.any(np.asarray(picture) != np.asarray(before))
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        x = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        for a, b in zip(session.run(None, {"x": x}), tuned.run({"x": x}).values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_options_of_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = model(classifier())
    net.add_detector(2, [20])
    net.graph.metadata["nbconv.task"] = '"detect"'
    nbconv.save(net, tmp_path / "m.onnx")
    Image.fromarray(np.zeros((30, 60, 3), np.uint8)).save(tmp_path / "p.png")
    command = ["run", str(tmp_path / "m.onnx"), str(tmp_path / "p.png")]
    assert main([*command, "--score", "0.9"]) == 0
    assert "no box has a probability of 0.9 or more; the best has 0." in capsys.readouterr().out
    assert main([*command, "--score", "0.1", "--top-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("left" in line for line in lines)
    (tmp_path / "names.txt").write_text("a\n")
    for options, what in (
        (["--softmax"], "--softmax is for one output"),
        (["--labels", str(tmp_path / "names.txt")], "--labels has 1 lines, the model 2 classes"),
        (["--draw", str(tmp_path / "o.txt")], "o.txt: .txt is no format of pictures that can be written"),
        ([str(tmp_path / "p.png"), "--draw", str(tmp_path / "o.png")], "--draw writes one picture: give one file"),
    ):
        assert main([*command, *options]) == 2
        assert what in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert main([*command[:2], str(tmp_path / "x.npy"), "--score", "0.1"]) == 0
    assert main([*command[:2], str(tmp_path / "x.npy"), "--draw", str(tmp_path / "o.png")]) == 2
    net.graph.metadata.clear()
    nbconv.save(net, tmp_path / "m.onnx")
    assert main([*command, "--draw", str(tmp_path / "o.png")]) == 2
    assert "--draw is for models that nbconv finetune taught boxes" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


def test_frozen_features_are_kept_and_judged_alike(tmp_path: Path) -> None:
    """`fit` keeps what the frozen part makes of the pictures; precision is of the same boxes with and without."""
    data = nbconv.coco(squares(tmp_path / "d"), resize="pad")
    told = []
    for cache in (True, False):
        net = model(classifier())
        data.encode = net.add_detector(2, [16, 20, 40])
        trainer = nbconv.Trainer(net, "ssd", nbconv.Adam(0.01), "head")
        history = trainer.fit(data, data, epochs=2, batch_size=4, cache=cache)
        assert history.report["cached"] is cache and len(trainer.parameters) == 8
        told.append((history["val_map50"], history["val_map"], history["loss"]))
    np.testing.assert_allclose(told[0], told[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given["annotations"].clear(), "10 pictures have no boxes: wanted some to learn from"),
        (lambda given: given["annotations"][0].update(bbox=[500, 5, 20, 20]), "outside the picture, which has 64×48 pixels"),
        (lambda given: given["annotations"][0].update(category_id=5), "an annotation of image 7 has category 5"),
        (lambda given: given["annotations"][0].update(image_id=5), "an annotation is of image 5, which is not among"),
        (lambda given: given["images"][2].update(file_name="gone.png"), "gone.png"),
        (lambda given: [v.clear() for v in (given["images"], given["annotations"])], "boxes.json has no images"),
    ],
)
def test_bad_annotations(change, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = squares(tmp_path / "d")
    given = json.loads(data.read_text())
    change(given)
    data.write_text(json.dumps(given))
    nbconv.save(classifier(), tmp_path / "m.onnx")
    assert main(["finetune", str(tmp_path / "m.onnx"), str(data), "-o", str(tmp_path / "m2.onnx"), "--epochs", "1"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.strip().count("\n") == 0, said
    assert not (tmp_path / "m2.onnx").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    x = [Image.new("RGB", (SIDE, SIDE))] * 4
    data = Boxed(x, [[[2, 2, 20, 20, 0]]] * 4, ["a", "b"], resize="pad")
    for options, message in (
        ({"loss": "mse"}, "loss is 'mse', and that of a detector is 'ssd': leave loss out"),
        ({"classes": 1}, "classes is 1, the data have 2: a, b"),
        ({"grids": ["q"]}, "grids names 'q'"),
        ({"task": "segment"}, "the targets are no masks"),
        ({"callbacks": [Needed()]}, "there is no confusion matrix of such targets"),
    ):
        with pytest.raises(ValueError, match=message):
            nbconv.finetune(model(classifier()), data, epochs=1, **options)
    with pytest.raises(ValueError, match="task is 'detect', and the targets are no boxes"):
        nbconv.finetune(model(classifier()), (np.zeros((4, 3, SIDE, SIDE)), np.arange(4) % 2), task="detect")
    with pytest.raises(ValueError, match="grids is r3, which a detector's head goes on, and the task is 'classify'"):
        nbconv.finetune(model(classifier()), (np.zeros((4, 3, SIDE, SIDE)), np.arange(4) % 2), grids=["r3"])
