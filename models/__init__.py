"""Small pretrained models that nbconv carries, with the names of their classes, a photograph, a set of small pictures and
one under a microscope; see README.md here for where each comes from and its licence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nbconv.base.root import check

if TYPE_CHECKING:
    import numpy as np

check(__name__)
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def names() -> list[str]:
    """Names of the models, as `path` takes them."""
    return sorted(name[:-5] for name in _listing() if name.endswith(".onnx"))


def path(name: str) -> Path:
    """The file of a model, ``path("efficientnet_lite0")``, or any file of this package by its whole name.

    Raises ValueError for a name that the package does not have. A package inside a zip archive is unpacked into a
    temporary folder, file by file, which lasts as long as the process.
    """
    for file in (f"{name}.onnx", name):
        if file in _listing() and file.endswith((".onnx", ".txt", ".png", ".npz")):
            return _file(file)
    raise ValueError(f"there is no bundled model {name!r}: there are {', '.join(names())}")


def efficientnet_lite0() -> Path:
    """EfficientNet-Lite0 for the 1000 classes of ImageNet: float32 (N, 3, 224, 224) RGB, (pixel - 127) / 128, to logits
    (N, 1000); weights stored as float16."""
    return path("efficientnet_lite0")


def imagenet_classes() -> list[str]:
    """The 1000 classes of ImageNet in the order of a classifier's outputs; synonyms are separated by commas."""
    return path("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()


def photograph() -> Path:
    """A photograph of a cat, 451 x 300 RGB ("chelsea" of scikit-image)."""
    return path("chelsea.png")


class Pictures(NamedTuple):
    """A labelled set of small pictures, split in two."""

    x: np.ndarray
    """uint8 (n, h, w, 3) RGB"""
    y: np.ndarray
    """int64 (n,) labels"""
    classes: tuple[str, ...]
    held_out: np.ndarray
    """bool (n,): kept from training, to test with"""


def emoji() -> Pictures:
    """500 of Twitter's emoji, 32 x 32 on white, a hundred of each of five kinds, every one another emoji; 20 of each kind
    are held out. Twemoji graphics, copyright Twitter, Inc and other contributors, CC BY 4.0: who passes them on names
    them."""
    import numpy as np

    with np.load(path("emoji.npz"), allow_pickle=False) as file:
        return Pictures(file["x"], file["y"].astype(np.int64), tuple(map(str, file["classes"])), file["held_out"])


def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """Nuclei of cells under a fluorescence microscope, uint8 (512, 512), and the number of the nucleus that each pixel
    belongs to, uint8 (512, 512), 0 where there is none (BBBC038, the Data Science Bowl of 2018)."""
    import numpy as np

    with np.load(path("nuclei.npz"), allow_pickle=False) as file:
        return file["x"], file["instances"]


def _listing() -> list[str]:
    try:
        return os.listdir(_FOLDER)
    except OSError:  # in a zip archive
        from importlib.resources import files

        return [file.name for file in files(__name__).iterdir()]


def _file(name: str) -> Path:
    found = Path(_FOLDER, name)
    return found if found.is_file() else _unpacked(name)


def _unpacked(name: str) -> Path:
    import atexit
    import contextlib
    from importlib.resources import as_file, files

    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(as_file(files(__name__) / name))
