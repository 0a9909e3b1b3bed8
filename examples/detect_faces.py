"""Find faces in a picture, and draw them.

python examples/detect_faces.py PICTURE [OUT.png]
"""

import sys

import numpy as np
from PIL import Image, ImageDraw

import nbconv
from nbconv.models import path
from nbconv.vision import blazeface, letterbox


def main(argv: list[str]) -> None:
    if not argv:
        sys.exit(__doc__)
    picture = Image.open(argv[0]).convert("RGB")
    small, way = letterbox(np.asarray(picture), (128, 128), fill=0)
    x = (small.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 127.5
    model = nbconv.load(path("blazeface_short_128"))
    found = model.run({"input": x})
    faces = way.undo(blazeface(found["regressors"][0], found["classificators"][0]))
    draw = ImageDraw.Draw(picture)
    for (left, top, right, bottom), score, _ in faces.rows():
        print(f"{score:.2f}  left {left:.0f}, top {top:.0f}, right {right:.0f}, bottom {bottom:.0f}")
        draw.rectangle((left, top, right, bottom), outline="red", width=3)
    for left, top in faces.points.reshape(-1, 2) if faces.points is not None else ():
        draw.ellipse((left - 3, top - 3, left + 3, top + 3), fill="red")
    if len(argv) > 1:
        picture.save(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
