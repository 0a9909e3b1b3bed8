"""Teach a face detector to find circles, squares and triangles: BlazeFace's layers, and a new head with anchors (SSD).

    python examples/detect_shapes.py [STEPS [OUT.png]]

Prints mAP@50 on pictures not seen before, and the time: about a minute; OUT.png shows what was found in some.
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

    return net.load(boxes=head(), scores=net.add("Softmax", head(), axis=2))


def main(argv: list[str]) -> None:
    steps, begin, rng, losses = int(argv[0]) if argv else 400, time.perf_counter(), np.random.default_rng(1), []
    loss, optimizer = {("boxes", "scores"): "ssd"}, nbconv.Adam(lr=1e-3, clip_norm=10.0)
    trainer = nbconv.Trainer(network(), loss, optimizer, schedule=schedules.one_cycle(steps))
    for _ in range(steps):
        pictures, boxes, kinds = zip(*(shapes(rng) for _ in range(16)), strict=True)
        losses.append(trainer.step(np.stack(pictures), np.stack([*map(ssd_targets, boxes, kinds, [ANCHORS] * 16)])))
    pictures, boxes, kinds = zip(*(shapes(np.random.default_rng([2, k])) for k in range(200)), strict=True)
    told = trainer.predict(np.stack(pictures)).values()
    found = [ssd(b, p, ANCHORS, score=0.05) for b, p in zip(*told, strict=True)]
    figure, seconds = mean_average_precision(found, boxes, kinds), time.perf_counter() - begin
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; mAP@50 {figure:.3f}, in {seconds:.0f} s")
    if len(argv) > 1:
        sheet = Image.fromarray((127.5 + 127.5 * np.concatenate(pictures[:6], 2)).astype(np.uint8).transpose(1, 2, 0))
        for k, detections in enumerate(found[:6]):
            for box, _, kind in (row for row in detections.rows() if row[1] > 0.5):
                ImageDraw.Draw(sheet).rectangle(tuple(box + [k * SIZE, 0] * 2), outline=("red", "lime", "cyan")[kind - 1])
        sheet.save(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
