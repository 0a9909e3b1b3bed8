"""Teach a face detector to find circles, squares and triangles: BlazeFace's layers, and a new head with anchors (SSD).

    python examples/detect_shapes.py [STEPS [OUT.png]]

Prints mAP@50 on pictures not seen before, and the time: about a minute; OUT.png shows what was found in some. Pictures in
files need no program: nbconv finetune MODEL FOLDER -o OUT.onnx teaches the boxes that COCO, VOC or YOLO have there.
"""

import sys
import time

import numpy as np
from drawings import SIZE, shapes
from PIL import Image, ImageDraw

import nbconv
from nbconv.models import path
from nbconv.train import schedules
from nbconv.vision import best_boxes, mean_average_precision


def main(argv: list[str]) -> None:
    steps, begin, rng, losses = int(argv[0]) if argv else 400, time.perf_counter(), np.random.default_rng(1), []
    model = nbconv.load(path("blazeface_short_128"))
    anchors = model.add_detector(3, [20, 28, 40, 56])  # for boxes of about these sides
    optimizer = nbconv.Adam(lr=1e-3, clip_norm=10.0)
    trainer = nbconv.Trainer(model, "ssd", optimizer, schedule=schedules.one_cycle(steps))
    for _ in range(steps):
        pictures, boxes, kinds = zip(*(shapes(rng) for _ in range(16)), strict=True)
        losses.append(trainer.step(np.stack(pictures), np.stack([*map(anchors, boxes, kinds)])))
    trainer.commit()
    pictures, boxes, kinds = zip(*(shapes(np.random.default_rng([2, k])) for k in range(200)), strict=True)
    told = model.run({"input": np.stack(pictures)}).values()
    found = [best_boxes(b, s, score=0.05) for b, s in zip(*told, strict=True)]
    figure = mean_average_precision(found, boxes, [k - 1 for k in kinds])
    seconds = time.perf_counter() - begin
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; mAP@50 {figure:.3f}, in {seconds:.0f} s")
    if len(argv) > 1:
        sheet = Image.fromarray((127.5 + 127.5 * np.concatenate(pictures[:6], 2)).astype(np.uint8).transpose(1, 2, 0))
        for k, detections in enumerate(found[:6]):
            for box, _, kind in (row for row in detections.rows() if row[1] > 0.5):
                ImageDraw.Draw(sheet).rectangle(tuple(box + [k * SIZE, 0] * 2), outline=("red", "lime", "cyan")[kind])
        sheet.save(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
