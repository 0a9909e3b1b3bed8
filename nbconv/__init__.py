"""nbconv: a convolutional-network engine that a program can embed.

``nbconv.load("m.onnx")`` gives a `Model`; ``model.run({"x": x})`` its outputs. Logging goes to the logger "nbconv", quiet by
default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbconv.base.root  # noqa: F401 - first: it checks that all packages come from one root
from nbconv.errors import DeviceError, ModelError, UnsupportedError
from nbconv.model import Model, load, save

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nbconv.train.augment import Augment
    from nbconv.train.callbacks import (
        CSVLogger,
        EarlyStopping,
        LearningCurve,
        ModelCheckpoint,
        ReduceLROnPlateau,
        TerminateOnNaN,
    )
    from nbconv.train.data import Arrays, Pictures, image_folder, image_list, load_npz
    from nbconv.train.finetune import finetune
    from nbconv.train.learner import NonFiniteLoss
    from nbconv.train.optimizers import SGD, AdaDelta, AdaGrad, Adam, AdamW, RMSProp
    from nbconv.train.trainer import Trainer

_TRAINING = {
    "Augment": "augment", **dict.fromkeys(("CSVLogger", "EarlyStopping", "LearningCurve", "ModelCheckpoint"), "callbacks"),
    **dict.fromkeys(("ReduceLROnPlateau", "TerminateOnNaN"), "callbacks"),
    **dict.fromkeys(("Arrays", "Pictures", "image_folder", "image_list", "load_npz"), "data"),
    **dict.fromkeys(("SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "RMSProp"), "optimizers"),
    "finetune": "finetune", "NonFiniteLoss": "learner", "Trainer": "trainer",
}  # fmt: skip
"""Public names of training, and the module of `nbconv.train` that each is imported from when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _TRAINING:
        raise AttributeError(f"module 'nbconv' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"nbconv.train.{_TRAINING[name]}"), name)


__all__ = [
    "SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Arrays", "Augment", "CSVLogger", "DeviceError", "EarlyStopping",
    "LearningCurve", "Model", "ModelCheckpoint", "ModelError", "NonFiniteLoss", "Pictures", "RMSProp", "ReduceLROnPlateau",
    "TerminateOnNaN", "Trainer", "UnsupportedError", "__version__", "finetune", "image_folder", "image_list", "load",
    "load_npz", "save",
]  # fmt: skip
