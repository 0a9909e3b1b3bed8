"""Augmentation: the same whatever the layout; masks and boxes move with their pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from nbconv.edit.pictured import picture_input
from nbconv.graph import Graph, Spec
from nbconv.train.augment import geometry, rotated
from tests.train.models import F32, convolutional, model, node

EVERYTHING = {
    "resized_crop": (0.3, 1.0), "rotation": 20.0, "crop": 2, "flip": 0.5, "flip_vertical": 0.5, "brightness": 0.3,
    "contrast": 0.3, "saturation": 0.3, "cutout": 3, "fill": 5.0,
}  # fmt: skip


def dice(n: int, seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def channels_last(classes: int = 3, channels: int = 3, size: tuple[int, int] = (7, 9)) -> Graph:
    """(n, h, w, c) to (n, classes), as TensorFlow's exporters write it."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Transpose", "x", "t", "t", perm=(0, 3, 1, 2)), node("Conv", "t w1", "c1", "conv1", pads=(1, 1, 1, 1)),
        node("Relu", "c1", "r", "relu"), node("GlobalAveragePool", "r", "p", "pool"), node("Flatten", "p", "f", "flat"),
        node("Gemm", "f w2", "y", "fc", transB=1),
    ]  # fmt: skip
    constants = {"w1": rng.standard_normal((5, channels, 3, 3)), "w2": rng.standard_normal((classes, 5))}
    given = {"x": Spec(("n", *size, channels), F32)}
    return Graph(nodes, given, {"y": Spec(("n", classes), F32)}, {n: v.astype(np.float32) for n, v in constants.items()})


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.sampled_from(["f4", "f8", "u1", "f2"]),
    st.sets(st.sampled_from([n for n in EVERYTHING if n != "fill"])), st.integers(0, 99),
)  # fmt: skip
def test_augmenting_and_transposing_commute(n, c, h, w, dtype, names, seed) -> None:
    augment = nbconv.Augment(fill=5.0, **{name: EVERYTHING[name] for name in names})
    x = (np.random.default_rng(seed).random((n, c, h, w)) * 200).astype(dtype)
    y = np.arange(n)
    first, labels = augment(x, y, dice(n, seed), 3)
    last, same = augment(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), y, dice(n, seed), 3, layout="NHWC")
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))
    assert first.dtype == last.dtype == np.float32 and labels is same is y


@pytest.mark.parametrize("policy", [nbconv.Augment(**EVERYTHING), nbconv.RandAugment(magnitude=20)])
def test_a_model_of_channels_last_is_trained_on_the_same_pictures(policy: nbconv.Augment) -> None:
    """Losses of the model and of the one behind its Transpose agree, from arrays, from 8-bit pictures and from batches."""
    rng = np.random.default_rng(0)
    pictures, y = rng.integers(0, 255, (8, 7, 9, 3), np.uint8), np.arange(8) % 3
    last = channels_last()
    first = Graph(last.nodes[1:], {"t": Spec(("n", 3, 7, 9), F32)}, last.outputs, last.constants)
    assert [picture_input(g) for g in (last, first)] == [("NHWC", (7, 9), 3), ("NCHW", (7, 9), 3)]
    floats = pictures.astype(np.float32)

    def batches(x):
        return [(x[:4], y[:4]), (x[4:], y[4:])]

    losses = []
    for graph, data in [
        (last, (floats, y)), (first, (floats.transpose(0, 3, 1, 2), y)), (last, (pictures, y)), (first, (pictures, y)),
        (last, batches(floats)), (first, batches(floats.transpose(0, 3, 1, 2))),
    ]:  # fmt: skip
        trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(1e-5), seed=4)
        losses.append(trainer.fit(data, epochs=2, batch_size=4, augment=policy, shuffle=False)["loss"])
    for others in losses[1:]:
        np.testing.assert_allclose(others, losses[0], rtol=1e-5)
    tuned = [nbconv.finetune(model(g), (pictures, y), epochs=2, augment=policy).history["loss"] for g in (last, first)]
    np.testing.assert_allclose(*tuned, rtol=1e-5)
    plain = nbconv.Trainer(model(first), optimizer=nbconv.SGD(1e-5), seed=4)
    assert plain.fit((pictures, y), epochs=2, batch_size=4, shuffle=False)["loss"] != losses[0]


@pytest.mark.parametrize(
    ("graph", "layout"),
    [
        (Graph([node("Transpose", "x", "y", "t", perm=(0, 2, 1))], {"x": Spec(("n", 8, 2), F32)}, {"y": None}, {}), "NHWC"),
        (Graph([node("Relu", "x", "y", "r")], {"x": Spec(("n", 8, 8, 4), F32)}, {"y": None}, {}), "NHWC"),
        (Graph([node("Relu", "x", "y", "r")], {"x": Spec(("n", 5, 8, 8), F32)}, {"y": None}, {}), "NCHW"),
        (convolutional(), "NCHW"),
        (channels_last(channels=10), "NHWC"),
    ],
)
def test_where_a_model_has_its_channels(graph: Graph, layout: str) -> None:
    assert picture_input(graph).layout == layout


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 999))
def test_masks_move_with_their_pictures(h: int, w: int, seed: int) -> None:
    """A picture that is its own mask, in blocks, still is, but where it lies between two of them."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 2, (2, h, w)), np.ones((1, 6, 6), np.int64))
    x = mask[:, None].astype(np.float32)
    moves = {"resized_crop": (0.5, 1.0), "rotation": 15.0, "crop": 2, "flip": 0.5, "flip_vertical": 0.5}
    got, moved = nbconv.Augment(**moves)(x, mask, dice(2, seed))
    assert moved.dtype == mask.dtype and moved.shape == mask.shape
    sure = (got[:, 0] < 0.02) | (got[:, 0] > 0.98)  # elsewhere it lies between pixels
    assert (moved[sure] == (got[:, 0] > 0.5)[sure]).mean() > 0.97
    exact, same = nbconv.Augment(crop=2, flip=0.5, flip_vertical=0.5)(x, mask, dice(2, seed))
    np.testing.assert_array_equal(exact[:, 0], same)


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 30), st.integers(12, 30), st.integers(0, 999))
def test_boxes_move_with_their_pictures(h: int, w: int, seed: int) -> None:
    """A box around the only bright thing is around it afterwards."""
    rng = np.random.default_rng(seed)
    x1, y1 = int(rng.integers(2, w - 6)), int(rng.integers(2, h - 6))
    x = np.zeros((1, 1, h, w), np.float32)
    x[0, 0, y1 : y1 + 5, x1 : x1 + 4] = 1
    boxes = np.array([[[-1.0] * 5, [x1, y1, x1 + 4, y1 + 5, 2]]], np.float32)
    augment = nbconv.Augment(rotation=15.0, crop=3, flip=0.5, flip_vertical=0.5, least_box=0.0)
    got, moved = augment(x, boxes, dice(1, seed), kind="boxes")
    assert moved.dtype == np.float32 and moved.shape == boxes.shape and (moved[0, 1] == -1).all()
    rows, columns = np.nonzero(got[0, 0] > 0.5)
    if len(rows):
        left, top, right, bottom, kind = moved[0, 0]
        assert kind == 2 and left <= columns.min() + 1 and top <= rows.min() + 1
        assert right >= columns.max() and bottom >= rows.max()
        assert (right - left) * (bottom - top) < 50


def test_a_box_that_leaves_the_picture_goes() -> None:
    boxes = np.array([[0, 0, 4, 4, 1], [6, 6, 10, 10, 2]], np.float32)
    left = geometry.warped_boxes(boxes, [geometry.shift(-3, -3)], (10, 10))
    np.testing.assert_array_equal(left, [[3, 3, 7, 7, 2], [-1] * 5])


def test_turning_goes_round() -> None:
    x = np.random.default_rng(0).random((2, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(rotated(x, 90), np.rot90(x, axes=(1, 2)), atol=1e-3)
    np.testing.assert_array_equal(rotated(x, 0.0), x)
    assert rotated(np.zeros((1, 9, 9), np.float32), 45, 7.0)[0, 0, 0] == 7


@pytest.mark.parametrize(
    ("shape", "targets", "options", "message"),
    [
        ((2, 3, 8), np.zeros(2), {"flip": 0.5}, r"samples have shape \[2, 3, 8\]: moves and cuts want pictures"),
        (
            (2, 3, 8, 8),
            np.full((2, 4), 0.3),
            {"crop": 1},
            r"targets have shape \[2, 4\]: what moves or mixes pictures wants",
        ),
        ((2, 3, 8, 8), np.zeros((2, 8, 8), int), {"mixup": 0.2}, "mixup wants labels"),
        ((2, 3, 8, 8), np.zeros((2, 8, 8), int), {"rotation": -1}, "rotation is -1, wanted 0 or more"),
        ((2, 3, 8, 8), np.zeros(2), {"resized_crop": (0, 1)}, "resized_crop is"),
    ],
)
def test_what_cannot_be_augmented(shape, targets, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nbconv.Augment(**options)(np.zeros(shape, np.float32), targets, dice(2, 0), 3)


def test_labels_of_several_classes_may_be_flipped_and_mixed() -> None:
    x, y = np.random.default_rng(0).random((2, 1, 4, 4), np.float32), np.array([[0, 1, 1], [1, 0, 1]], np.float32)
    _, mixed = nbconv.Augment(flip=1.0, mixup=0.4)(x, y, dice(2, 0))
    np.testing.assert_allclose(mixed[:, 2], 1)
    np.testing.assert_allclose(mixed[:, :2].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("white", [255.0, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_policy(channels: int, white: float) -> None:
    x = (np.random.default_rng(0).random((1, channels, 32, 40)) ** 2 * 0.8 * white).astype(np.float32)
    for name in nbconv.train.augment.OPS:  # type: ignore[attr-defined]
        policy = nbconv.RandAugment(1, 25, ops=[name], white=white)
        y, _ = policy(x, np.zeros(1, int), dice(1, 1))
        assert y.shape == x.shape and y.dtype == np.float32 and y.min() >= 0 and y.max() <= white
        assert (np.abs(y - x).max() < white / 255) == (name == "identity" or (name == "color" and channels == 1)), name
    with pytest.raises(ValueError, match="ops are blur, wanted some of identity, shear_x"):
        nbconv.RandAugment(ops=["blur"])


def test_targets_by_output_move_each_as_it_should() -> None:
    rng = np.random.default_rng(0)
    x, mask, label = rng.random((2, 1, 6, 5), np.float32), rng.integers(0, 3, (2, 6, 5)), np.array([0, 1])
    augment = nbconv.Augment(flip=1.0)
    _, wanted = augment(x, mask, dice(2, 0))
    _, got = augment(x, {"a": label, "b": mask}, dice(2, 0))
    np.testing.assert_array_equal(got["b"], wanted)
    assert got["a"] is label
    with pytest.raises(ValueError, match="targets are by output: mixup wants"):
        nbconv.Augment(mixup=0.2)(x, {"a": label}, dice(2, 0), 2)
