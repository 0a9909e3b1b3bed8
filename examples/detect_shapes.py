"""Teach a face detector to find circles, squares and triangles: BlazeFace's layers, and a new head with anchors (SSD).

    python examples/detect_shapes.py [OUT.png] [--steps N]

Prints mAP@50 on pictures not seen in training and the time it took, about two minutes; OUT.png shows what was found.
"""

import argparse
import time

import numpy as np
import onnx
from layers import Network
from onnx.utils import Extractor
from PIL import Image, ImageDraw

import nbconv
from nbconv.models import path
from nbconv.train import schedules
from nbconv.vision import iou, mean_average_precision, ssd, ssd_anchors, ssd_targets

SIZE, ANCHORS = 128, ssd_anchors((128, 128), (8, 16), [(20, 28), (40, 56)])


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture, the boxes of its shapes, and their kinds: 1 circle, 2 square, 3 triangle."""
    picture, boxes = Image.fromarray(rng.integers(0, 90, (SIZE, SIZE, 3), np.uint8)), np.zeros((0, 4))
    pen, kinds = ImageDraw.Draw(picture), []
    for _ in range(rng.integers(1, 6)):
        size = int(rng.integers(16, 64))
        left, top = (int(v) for v in rng.integers(0, SIZE - size, 2))
        box = (left, top, left + size, top + size)
        if len(boxes) and iou(np.array(box), boxes).max() > 0.05:
            continue
        kind, colour = int(rng.integers(1, 4)), tuple(int(v) for v in rng.integers(80, 256, 3))
        if kind == 3:
            pen.polygon([(left, top + size), (left + size // 2, top), (left + size, top + size)], colour)
        else:
            (pen.ellipse if kind == 1 else pen.rectangle)(box, colour)
        boxes, kinds = np.concatenate([boxes, [box]]), [*kinds, kind]
    return np.asarray(picture), boxes, np.array(kinds)


def ready(pictures: list[np.ndarray]) -> np.ndarray:
    return (np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5


def network() -> nbconv.Model:
    """Boxes (n, anchors, 4) and scores (n, anchors, 4) from the two grids that BlazeFace looks for faces in."""
    faces = onnx.shape_inference.infer_shapes(onnx.load(path("blazeface_short_128")))
    net = Network(Extractor(faces).extract_model(["input"], ["relu_114", "relu_157"]))
    rows = net.constant(np.array([0, -1, 4]))

    def head() -> str:
        grids = [net.add("Transpose", net.conv(x, c, 8), perm=[0, 2, 3, 1]) for x, c in (("relu_114", 88), ("relu_157", 96))]
        return net.add("Concat", *(net.add("Reshape", grid, rows) for grid in grids), axis=1)

    return net.load(boxes=head(), scores=head())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--steps", type=int, default=800)
    args, begin, rng = parser.parse_args(), time.perf_counter(), np.random.default_rng(1)
    optimizer = nbconv.Adam(lr=1e-3, clip_norm=10.0)
    trainer = nbconv.Trainer(network(), {("boxes", "scores"): "ssd"}, optimizer, schedule=schedules.one_cycle(args.steps))
    for k in range(args.steps):
        pictures, boxes, kinds = zip(*(draw(rng) for _ in range(16)), strict=True)
        l = trainer.step(ready(pictures), np.stack([ssd_targets(b, c, ANCHORS) for b, c in zip(boxes, kinds)]))
        if k % 50 == 0: print(k, l, time.perf_counter() - begin, flush=True)
    pictures, boxes, kinds = zip(*(draw(np.random.default_rng([2, k])) for k in range(200)), strict=True)
    told = trainer.predict(ready(pictures))
    odds = np.exp(told["scores"]) / np.exp(told["scores"]).sum(axis=2, keepdims=True)
    found = [ssd(b, p, ANCHORS, score=0.05) for b, p in zip(told["boxes"], odds, strict=True)]
    print(f"mAP@50: {mean_average_precision(found, boxes, kinds):.3f}; {time.perf_counter() - begin:.0f} s")
    if args.out:
        sheet = Image.new("RGB", (4 * SIZE, 3 * SIZE))
        for k in range(12):
            picture = Image.fromarray(pictures[k])
            for box, score, kind in found[k].rows():
                if score > 0.5:
                    ImageDraw.Draw(picture).rectangle(tuple(box), outline=("red", "lime", "cyan")[kind - 1])
            sheet.paste(picture, (k % 4 * SIZE, k // 4 * SIZE))
        sheet.save(args.out)


if __name__ == "__main__":
    main()
