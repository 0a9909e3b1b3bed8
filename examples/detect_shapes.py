"""Teach a face detector to find circles, squares and triangles: BlazeFace's layers, and a new head with anchors (SSD).

    python examples/detect_shapes.py [STEPS [OUT.png]]

Prints mAP@50 on pictures not seen before and the time it took, about a minute; OUT.png shows what was found.
"""

import sys
import time

import numpy as np
import onnx
from drawings import SIZE, shapes
from layers import Network
from onnx.utils import Extractor
from PIL import Image, ImageDraw

import nbconv
from nbconv.models import path
from nbconv.train import schedules
from nbconv.vision import mean_average_precision, ssd, ssd_anchors, ssd_targets

ANCHORS = ssd_anchors((SIZE, SIZE), (8, 16), [(20, 28), (40, 56)])


def network() -> nbconv.Model:
    """Boxes and scores, (n, anchors, 4) both, from the two grids on which BlazeFace looks for faces."""
    faces = onnx.shape_inference.infer_shapes(onnx.load(path("blazeface_short_128")))
    net = Network(Extractor(faces).extract_model(["input"], ["relu_114", "relu_157"]))
    grids, rows = (("relu_114", 88), ("relu_157", 96)), net.constant(np.array([0, -1, 4]))

    def head() -> str:
        parts = [net.add("Transpose", net.conv(x, channels, 2 * 4), perm=[0, 2, 3, 1]) for x, channels in grids]
        return net.add("Concat", *(net.add("Reshape", part, rows) for part in parts), axis=1)

    return net.load(boxes=head(), scores=head())


def ready(pictures: tuple[np.ndarray, ...]) -> np.ndarray:
    return (np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5


def main(argv: list[str]) -> None:
    steps, begin, rng, losses = int(argv[0]) if argv else 400, time.perf_counter(), np.random.default_rng(1), []
    optimizer, schedule = nbconv.Adam(lr=1e-3, clip_norm=10.0), schedules.one_cycle(steps)
    trainer = nbconv.Trainer(network(), {("boxes", "scores"): "ssd"}, optimizer, schedule=schedule)
    for _ in range(steps):
        pictures, boxes, kinds = zip(*(shapes(rng) for _ in range(16)), strict=True)
        losses.append(trainer.step(ready(pictures), np.stack([*map(ssd_targets, boxes, kinds, [ANCHORS] * 16)])))
    pictures, boxes, kinds = zip(*(shapes(np.random.default_rng([2, k])) for k in range(200)), strict=True)
    told = trainer.predict(ready(pictures))
    odds = np.exp(told["scores"]) / np.exp(told["scores"]).sum(axis=2, keepdims=True)
    found = [ssd(b, p, ANCHORS, score=0.05) for b, p in zip(told["boxes"], odds, strict=True)]
    figure, seconds = mean_average_precision(found, boxes, kinds), time.perf_counter() - begin
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; mAP@50 {figure:.3f}, in {seconds:.0f} s")
    if len(argv) > 1:
        picture = Image.fromarray(np.concatenate(pictures[:6], 1))
        for k in range(6):
            for box, score, kind in found[k].rows():
                colour = ("red", "lime", "cyan")[kind - 1] if score > 0.5 else None
                ImageDraw.Draw(picture).rectangle(tuple(box + np.float32([k * SIZE, 0] * 2)), outline=colour)
        picture.save(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
