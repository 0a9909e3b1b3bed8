"""A confusion matrix as a page or a picture."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.train.asked import Meters
from nbconv.train.callbacks import Callback
from nbconv.train.meters import MOST, Confusion

BLUE = np.array([40, 120, 200])
"""The colour of the most frequent cell; others are between it and white."""


class Needed(Callback):
    """Refuses what has no confusion matrix before it is trained: boxes, numbers, more classes than one is made of."""

    def begin(self, trainer: Any, logs: dict[str, Any]) -> None:
        if not any(isinstance(meter, Confusion) for _, meter in Meters(trainer.goals).meters):
            raise ValueError("there is no confusion matrix of such targets: one is of a class a sample, or a pixel")
        if (trainer.classes or 0) > MOST:
            raise ValueError(f"there is no confusion matrix of {trainer.classes} classes, but of {MOST} at most")


def page(matrix: np.ndarray, classes: Sequence[str], title: str) -> str:
    """The matrix (rows are labels, columns predictions) as HTML."""
    names = [html.escape(n) for n in classes]
    most = max(int(matrix.max(initial=0)), 1)
    colour = ",".join(map(str, BLUE))
    rows = [
        f"<tr><th>{name}</th>"
        + "".join(f'<td style="background:rgba({colour},{v / most:.2f})">{v}</td>' for v in row)
        + "</tr>"
        for name, row in zip(names, matrix, strict=True)
    ]
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<!doctype html><meta charset=utf-8><title>nbconv finetune</title><style>td,th{padding:4px;font:13px sans-serif}"
        f"</style><p>{html.escape(title)}</p><p>Rows: labels. Columns: predictions.</p>"
        f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>\n"
    )


def need_pillow() -> None:
    """ImportError that says what to do, unless Pillow is there."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise ImportError("drawing a confusion matrix as PNG wants Pillow: pip install Pillow (HTML does not)") from None


def png(matrix: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """The matrix (rows are labels, columns predictions) as a PNG. Counts and names are written where they fit; a cell is 48
    pixels wide for few classes, down to 2. ImportError without Pillow."""
    need_pillow()
    from PIL import Image, ImageDraw

    n = len(matrix)
    cell = max(min(48, 1200 // max(n, 1)), 2)
    text = _Text()
    names = [text.cut(name, 200) for name in classes] if cell >= 14 else []
    beside = max([text.width(name) for name in names], default=0) + 16
    said = [*title.split("; "), "Rows: labels. Columns: predictions."]
    above = 8 + 18 * len(said) + beside
    width = max(beside + n * cell + 8, max(map(text.width, said)) + 16)
    picture = Image.new("RGB", (width, above + n * cell + 8), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(said):
        text.write(draw, (8, 8 + 18 * i), line)
    picture.paste(_cells(matrix, cell), (beside, above))
    for i, name in enumerate(names):
        text.write(draw, (beside - 8 - text.width(name), above + i * cell + cell // 2 - 7), name)
        upright = Image.new("RGB", (beside - 8, 16), "white")
        text.write(ImageDraw.Draw(upright), (0, 0), name)
        picture.paste(upright.rotate(90, expand=True), (beside + i * cell + cell // 2 - 8, above - beside))
    most = int(matrix.max(initial=0))
    for i, j in np.argwhere(matrix) if names else ():
        v = matrix[i, j]
        if text.width(str(v)) < cell:
            at = beside + j * cell + (cell - text.width(str(v))) // 2, above + i * cell + cell // 2 - 7
            text.write(draw, at, str(v), "white" if v > 0.6 * most else "black")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _cells(matrix: np.ndarray, cell: int) -> Any:
    """One coloured square a count, a grey line between them where they are wide enough."""
    from PIL import Image

    share = matrix[..., None] / max(int(matrix.max(initial=0)), 1)
    pixels = np.repeat(np.repeat((255 + (BLUE - 255) * share).astype(np.uint8), cell, 0), cell, 1)
    if cell >= 8:
        pixels[::cell] = pixels[:, ::cell] = 220
    return Image.fromarray(pixels)


class _Text:
    """Pillow's own font; without FreeType its bitmaps, which have Latin letters only."""

    def __init__(self) -> None:
        from PIL import ImageFont

        try:
            self.font, self.latin = ImageFont.load_default(size=12), False
        except (TypeError, ImportError, OSError):  # Pillow 10.0, or one built without FreeType
            self.font, self.latin = ImageFont.load_default(), True

    def width(self, text: str) -> int:
        return int(np.ceil(self.font.getlength(self._safe(text))))

    def write(self, draw: Any, at: tuple[int, int], text: str, fill: str = "black") -> None:
        draw.text(at, self._safe(text), fill=fill, font=self.font)

    def cut(self, text: str, width: int) -> str:
        """The start of a name, on one line of at most that many pixels."""
        text = " ".join(text.split())
        while self.width(text) > width:
            text = text.rstrip(".")[:-1] + "..."
        return text

    def _safe(self, text: str) -> str:
        return text.encode("latin-1", "replace").decode("latin-1") if self.latin else text
