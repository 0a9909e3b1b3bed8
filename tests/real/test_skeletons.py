"""Networks that PyTorch exported, with drawn weights, agree with onnxruntime at several shapes.

`make test-real` adds more shapes. `python -m tests.real.export` makes the files.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.real import skeleton
from tests.real.pictures import picture

pytest.importorskip("onnxruntime")

from tests.real.compare import Pair, assert_close, assert_same_detections, close

ALL = bool(os.environ.get("NBCONV_REAL"))
HERE = Path(__file__).parent

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "crnn": [(1, 1, 32, 96), (3, 1, 32, 61), (2, 1, 32, 160), (1, 1, 32, 400)],
    "deeplabv3": [(1, 3, 96, 96), (2, 3, 65, 80), (1, 3, 33, 130), (1, 3, 224, 224)],
    "edgenext_xx_small": [(2, 3, 64, 96), (1, 3, 65, 80), (3, 3, 97, 33), (1, 3, 256, 256)],
    "levit_128s": [(1, 3, 224, 224), (2, 3, 224, 224), (3, 3, 224, 224), (5, 3, 224, 224)],
    "maxvit_t": [(1, 3, 224, 224), (2, 3, 224, 224), (3, 3, 224, 224)],
    "r3d_18": [(1, 3, 8, 48, 48), (2, 3, 5, 33, 40), (1, 3, 3, 65, 24), (1, 3, 16, 112, 112)],
    "raft_small": [(1, 3, 128, 128), (2, 3, 128, 128), (3, 3, 128, 128)],
    "swin_t": [(1, 3, 96, 96), (3, 3, 96, 96), (2, 3, 96, 96), (5, 3, 96, 96)],
}
"""Of each input."""

CHOSEN = {
    "rt_detr_v2": [(1, 3, 96, 128), (2, 3, 64, 96), (1, 3, 160, 160), (3, 3, 256, 192)],
    "yolo": [(1, 3, 96, 128), (2, 3, 64, 160), (1, 3, 224, 160), (3, 3, 320, 320)],
}
"""Detectors whose TopK chooses boxes, scores and labels, in this order: as many for each picture."""

SMALL = {"maxvit_t": 1, "raft_small": 2}
"""How many shapes are tried but by `make test-real`, where it is not three."""

DETECTORS = {"fasterrcnn": 3, "fcos": 2, "keypointrcnn": 2, "retinanet": 2, "ssdlite": 3}
"""And how many shapes of the next."""

PICTURES = [(3, 128, 160), (3, 200, 141), (3, 96, 120), (3, 320, 240), (3, 65, 64)]


def load(name: str) -> Pair:
    """With the weights that `calibrate` scaled: with others a network amplifies roundings, onnxruntime's too."""
    return Pair(skeleton.unpack((HERE / f"{name}.onnx.xz").read_bytes(), 0))


def test_every_file_is_tested() -> None:
    assert {p.name.removesuffix(".onnx.xz") for p in HERE.glob("*.xz")} == {*SHAPES, *CHOSEN, *DETECTORS}


@pytest.mark.parametrize("name", SHAPES)
def test_network(name: str) -> None:
    shapes, pair = SHAPES[name], load(name)
    for i, shape in enumerate(shapes if ALL else shapes[: SMALL.get(name, 3)]):
        feeds = {x.name: picture(shape, 10 * i + k) for k, x in enumerate(pair.session.get_inputs())}
        got, want = pair.run(feeds)
        assert all(y.std() > 0.1 for y in want.values())
        assert_close(got, want)


@pytest.mark.parametrize("name", CHOSEN)
def test_chosen_boxes(name: str) -> None:
    pair, seen = load(name), set()
    for i, shape in enumerate(CHOSEN[name] if ALL else CHOSEN[name][:3]):
        got, want = (list(outputs.values()) for outputs in pair.run({"image": picture(shape, i)}))
        for one in range(shape[0]):
            assert_same_detections([y[one] for y in got], [y[one] for y in want], 1)
            seen.add(want[2][one].tobytes())
    assert len(seen) > 1


@pytest.mark.parametrize("name", DETECTORS)
def test_detector(name: str) -> None:
    """Boxes, labels and scores (and keypoints) of pictures in which something is found, more or less of it."""
    counts = set()
    pair = load(name)
    for i, shape in enumerate(PICTURES if ALL else PICTURES[: DETECTORS[name]]):
        got, want = (list(all_outputs.values()) for all_outputs in pair.run({"image": picture(shape, i)}))
        counts.add(len(want[0]))
        scores = next(i for i, y in enumerate(want) if y.ndim == 1 and y.dtype == np.float32)
        if name == "keypointrcnn":
            same_keypoints(got, want)
        assert_same_detections([y for y in got if y.ndim < 3], [y for y in want if y.ndim < 3], scores)
    assert min(counts) > 0
    assert len(counts) > 1


def same_keypoints(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Where a heatmap has its greatest value; of two that are equal but for rounding, either.

    Their values are compared with the rows of the other arrays.
    """
    places = next(i for i, y in enumerate(want) if y.ndim == 3)
    moved = ~close(got[places], want[places]).all(axis=2)
    assert moved.mean() < 0.02
