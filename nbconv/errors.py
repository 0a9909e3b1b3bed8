"""The errors nbconv raises for bad models and bad input."""

from __future__ import annotations


class ModelError(ValueError):
    """A model, or what was fed to it, is not what nbconv can run; the message names the node or input, what came and
    what was wanted."""


class UnsupportedError(ModelError):
    """The model is valid ONNX, but uses an operator, attribute or type that nbconv lacks."""


class DataDependentError(ModelError):
    """A shape depends on a value that is computed while running: planning goes no further before it is there."""


class DeviceError(RuntimeError):
    """A GPU is not there, is too small or failed; the message says which, and what the driver said."""
