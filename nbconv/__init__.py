"""nbconv: a convolutional-network engine that a program can embed.

``nbconv.load("m.onnx")`` gives a `Model`; ``model.run({"x": x})`` its outputs. Logging goes to the logger "nbconv", quiet by
default.
"""

from __future__ import annotations

from nbconv.errors import ModelError, UnsupportedError
from nbconv.model import Model, load, save

__version__ = "0.1.0"
__all__ = ["Model", "ModelError", "UnsupportedError", "__version__", "load", "save"]
