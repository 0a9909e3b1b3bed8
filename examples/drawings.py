"""Pictures to learn from, drawn by chance: captchas and shapes.

python examples/drawings.py OUT.png
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nbconv.vision import iou

LETTERS, MOST, HEIGHT, WIDTH, SIZE = "234678ABCDEFHKMNPRXY", 6, 32, 128, 128


def glyphs() -> list[list[np.ndarray]]:
    """Each letter, turned by nine angles."""
    font, canvas = ImageFont.load_default(24), [Image.new("L", (HEIGHT, HEIGHT)) for _ in LETTERS]
    for letter, image in zip(LETTERS, canvas, strict=True):
        ImageDraw.Draw(image).text((HEIGHT / 2, HEIGHT / 2), letter, 255, font, "mm")
    return [
        [np.float32(1 / 255) * np.asarray(c.rotate(a, Image.Resampling.BILINEAR)) for a in range(-20, 21, 5)] for c in canvas
    ]


def captchas(rng: np.random.Generator, letters: list[list[np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (count, 1, height, width) of letters, lines and noise; labels (count, most) from 1, then -1."""
    x, y = 0.3 * rng.random((count, 1, HEIGHT, WIDTH), np.float32), np.full((count, MOST), -1)
    for picture, labels in zip(x[:, 0], y, strict=True):
        at = int(rng.integers(0, 8))
        for j in range(int(rng.integers(4, MOST + 1))):
            labels[j] = 1 + rng.integers(len(LETTERS))
            glyph, part = letters[labels[j] - 1][rng.integers(9)], picture[:, at : at + HEIGHT]
            part += np.float32(0.5 + 0.5 * rng.random()) * np.roll(glyph, rng.integers(-4, 5), 0)[:, : part.shape[1]]
            at += int(rng.integers(15, 20))
        for _ in range(2):
            (a, b), across = rng.integers(0, HEIGHT, 2), np.arange(WIDTH)
            picture[np.linspace(a, b, WIDTH).astype(int), across] += 0.6
    return x.clip(0, 1) - 0.5, y


def shapes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture (3, size, size) from -1 to 1, the boxes in it, and what they hold: 1 a circle, 2 a square, 3 a triangle."""
    picture, boxes, kinds = Image.fromarray(rng.integers(0, 90, (SIZE, SIZE, 3), np.uint8)), np.zeros((0, 4)), []
    for _ in range(rng.integers(1, 6)):
        side, kind, pen = int(rng.integers(16, 64)), int(rng.integers(1, 4)), ImageDraw.Draw(picture)
        left, top = rng.integers(0, SIZE - side, 2).tolist()
        box, colour = (left, top, left + side, top + side), tuple(rng.integers(80, 256, 3).tolist())
        if len(boxes) and iou(np.array(box), boxes).max() > 0.05:
            continue
        corners = [(left, top + side), (left + side // 2, top), (left + side, top + side)]
        {1: pen.ellipse, 2: pen.rectangle, 3: pen.polygon}[kind](corners if kind == 3 else box, colour)
        boxes, kinds = np.concatenate([boxes, [box]]), [*kinds, kind]
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1, boxes, np.array(kinds)


if __name__ == "__main__":
    read = [np.repeat(captchas(np.random.default_rng(k), glyphs(), 1)[0][0] * 2, 3, 0) for k in range(4)]
    sheet = np.concatenate([np.concatenate(read, 1), shapes(np.random.default_rng(0))[0]], 2)
    Image.fromarray((127.5 + 127.5 * sheet).astype(np.uint8).transpose(1, 2, 0)).save(sys.argv[1])
