"""Teach a face detector to find circles, squares and triangles: BlazeFace's layers, and a new head with anchors (SSD).

    python examples/detect_shapes.py [OUT.png] [--steps N]

Prints mAP@50 on pictures not seen before and the time it took, about a minute; OUT.png shows what was found.
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--steps", type=int, default=400)
    args, begin, rng, losses = parser.parse_args(), time.perf_counter(), np.random.default_rng(1), []
    optimizer, schedule = nbconv.Adam(lr=1e-3, clip_norm=10.0), schedules.one_cycle(args.steps)
    trainer = nbconv.Trainer(network(), {("boxes", "scores"): "ssd"}, optimizer, schedule=schedule)
    for _ in range(args.steps):
        pictures, boxes, kinds = zip(*(shapes(rng) for _ in range(16)), strict=True)
        targets = [ssd_targets(b, k, ANCHORS) for b, k in zip(boxes, kinds, strict=True)]
        losses.append(trainer.step(ready(pictures), np.stack(targets)))
    pictures, boxes, kinds = zip(*(shapes(np.random.default_rng([2, k])) for k in range(200)), strict=True)
    told = trainer.predict(ready(pictures))
    odds = np.exp(told["scores"]) / np.exp(told["scores"]).sum(axis=2, keepdims=True)
    found = [ssd(b, p, ANCHORS, score=0.05) for b, p in zip(told["boxes"], odds, strict=True)]
    figure = mean_average_precision(found, boxes, kinds)
    print(
        f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; mAP@50 {figure:.3f}, in {time.perf_counter() - begin:.0f} s"
    )
    sheet = Image.new("RGB", (4 * SIZE, 3 * SIZE))
    for k in range(12 if args.out else 0):
        picture = Image.fromarray(pictures[k])
        for box, score, kind in found[k].rows():
            ImageDraw.Draw(picture).rectangle(tuple(box), outline=("red", "lime", "cyan")[kind - 1] if score > 0.5 else None)
        sheet.paste(picture, (k % 4 * SIZE, k // 4 * SIZE))
    if args.out:
        sheet.save(args.out)


if __name__ == "__main__":
    main()
