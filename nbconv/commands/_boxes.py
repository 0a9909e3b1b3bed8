"""Boxes that a detector found in a picture, told in the picture's own pixels, and drawn."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nbconv.commands._text import clip, style

if TYPE_CHECKING:
    import numpy as np

    from nbconv.vision.boxes import Detections

COLOURS = ("red", "lime", "cyan", "magenta", "yellow", "orange", "deepskyblue", "white")


class Shown(NamedTuple):
    """A picture that became a model's input."""

    path: str
    size: tuple[int, int] | None
    """what it was resized to"""
    resize: str


def is_found(results: Mapping[str, np.ndarray]) -> bool:
    """Whether a model's results are boxes and scores of one picture, as those of `nbconv.edit.detector` are."""
    boxes, scores = results.get("boxes"), results.get("scores")
    if boxes is None or scores is None or boxes.ndim != 3 or scores.ndim != 3:
        return False
    return boxes.shape == (1, scores.shape[1], 4) and scores.shape[2] > 0 and boxes.dtype.kind == scores.dtype.kind == "f"


def show_boxes(
    results: Mapping[str, np.ndarray], picture: Shown | None, labels: Sequence[str], args: argparse.Namespace
) -> None:
    """Print the boxes, best first, and draw them where ``--draw`` says so. ``picture``: in whose pixels they are told."""
    from nbconv.vision.detect import best_boxes

    if args.softmax:
        raise ValueError("--softmax is for one output (1, classes); this model gives boxes with probabilities")
    scores = results["scores"]
    if labels and len(labels) != scores.shape[2]:
        raise ValueError(f"--labels has {len(labels)} lines, the model {scores.shape[2]} classes")
    found = best_boxes(results["boxes"], scores, score=args.score, **({"most": args.top_k} if args.top_k else {}))
    image = None
    if picture is not None:
        from nbconv.base.image import open_image

        image = open_image(picture.path)
        found = in_picture(found, (image.height, image.width), picture)
    for box, score, kind in found.rows():
        name = f"{clip(labels[kind], 40):20}" if labels else ""
        left, top, right, bottom = (round(float(v), 1) for v in box)
        print(f"{score:9.4f}  {kind:5d}  {name}  left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}")
    if not len(found.boxes):
        best = float(scores.max()) if scores.size else 0.0
        print(style(f"(no box has a probability of {args.score:g} or more; the best has {best:.4f})", "dim"))
    if args.draw:
        if image is None:
            raise ValueError("--draw wants a picture")
        draw(image, found, labels, args.draw)


def in_picture(found: Detections, have: tuple[int, int], picture: Shown) -> Detections:
    """Detections in the pixels of a picture of ``have`` (height, width), cut at its edges."""
    import numpy as np

    from nbconv.base.image import placed

    if picture.size is None:
        return found
    source, to = placed(have, picture.size, picture.resize)
    origin, begin = np.array(source[:2] * 2, np.float32), np.array(to[:2] * 2, np.float32)
    scale = [(source[2 + k] - source[k]) / (to[2 + k] - to[k]) for k in (0, 1)] * 2
    boxes = (found.boxes - begin) * np.array(scale, np.float32) + origin
    return found._replace(boxes=boxes.clip(0, np.array([have[1], have[0]] * 2, np.float32)))


def draw(image: Any, found: Detections, labels: Sequence[str], path: str) -> None:
    """Write the picture with its boxes, whole or not at all; the format is that of the file's name."""
    from PIL import ImageDraw, ImageFont

    from nbconv.base.files import replace

    image = image.convert("RGB")
    pen, wide = ImageDraw.Draw(image), max(1, round(min(image.size) / 150))
    try:
        font: Any = ImageFont.load_default(size=max(10, min(image.size) / 30))
    except (TypeError, ImportError, OSError):  # Pillow 10.0, or one built without FreeType
        font = ImageFont.load_default()
    for (left, top, right, bottom), score, kind in list(found.rows())[::-1]:
        colour = COLOURS[kind % len(COLOURS)]
        pen.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=wide)
        text = f"{clip(labels[kind], 40) if labels else kind} {score:.2f}"
        width, height = pen.textbbox((0, 0), text, font)[2:]
        at = max(min(left, image.width - width), 0), max(top - height, 0)
        pen.rectangle(pen.textbbox(at, text, font), fill=colour)
        pen.text(at, text, "black", font)
    kind = format_of(path)
    replace(path, lambda file: image.save(file, format=kind))


def format_of(path: str) -> str:
    """Pillow's name of the format of a file. ValueError for a name that has none."""
    from pathlib import Path

    from nbconv.base.image import pillow

    image = pillow()
    image.init()
    ending = Path(path).suffix.lower()
    kind = image.EXTENSION.get(ending, "")
    if kind not in image.SAVE:
        raise ValueError(f"--draw {path}: {ending or 'a name without ending'} is no format of pictures that can be written")
    return kind
