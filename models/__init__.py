"""Small pretrained models that nbconv carries, with the names of their classes and a photograph; see README.md here for
where each comes from and its licence."""

from __future__ import annotations

import os
from pathlib import Path

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
        if file in _listing() and file.endswith((".onnx", ".txt", ".png")):
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
