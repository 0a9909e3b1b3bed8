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
    from nbconv.compat.torch import from_torch
    from nbconv.train.augment import Augment, RandAugment
    from nbconv.train.callbacks import (
        Callback,
        CSVLogger,
        EarlyStopping,
        LearningCurve,
        ModelCheckpoint,
        ReduceLROnPlateau,
        TerminateOnNaN,
    )
    from nbconv.train.data import (
        Arrays,
        Pictures,
        Splits,
        coco,
        from_dataset,
        image_folder,
        image_list,
        image_splits,
        load_npz,
        mask_folder,
        voc,
        yolo_folder,
    )
    from nbconv.train.finetune import finetune
    from nbconv.train.learner import NonFiniteLoss
    from nbconv.train.loggers import MLflow, TensorBoard, WandB
    from nbconv.train.optimizers import SGD, AdaDelta, AdaGrad, Adam, AdamW, RMSProp
    from nbconv.train.trainer import Trainer

_MODULES = {
    "compat.torch": ("from_torch",),
    "train.augment": ("Augment", "RandAugment"),
    "train.callbacks": (
        "Callback", "CSVLogger", "EarlyStopping", "LearningCurve", "ModelCheckpoint", "ReduceLROnPlateau", "TerminateOnNaN",
    ),
    "train.data": (
        "Arrays", "Pictures", "Splits", "coco", "from_dataset", "image_folder", "image_list", "image_splits", "load_npz",
        "mask_folder", "voc", "yolo_folder",
    ),
    "train.finetune": ("finetune",),
    "train.learner": ("NonFiniteLoss",),
    "train.loggers": ("MLflow", "TensorBoard", "WandB"),
    "train.optimizers": ("SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "RMSProp"),
    "train.trainer": ("Trainer",),
}  # fmt: skip
_LATER = {name: module for module, names in _MODULES.items() for name in names}
"""Public names that are imported when they are asked for, and where from."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'nbconv' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"nbconv.{_LATER[name]}"), name)


__all__ = [
    "SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Arrays", "Augment", "CSVLogger", "Callback", "DeviceError",
    "EarlyStopping", "LearningCurve", "MLflow", "Model", "ModelCheckpoint", "ModelError", "NonFiniteLoss", "Pictures",
    "RMSProp", "RandAugment", "ReduceLROnPlateau", "Splits", "TensorBoard", "TerminateOnNaN", "Trainer",
    "UnsupportedError", "WandB", "__version__", "coco", "finetune", "from_dataset", "from_torch", "image_folder",
    "image_list", "image_splits", "load", "load_npz", "mask_folder", "save", "voc", "yolo_folder",
]  # fmt: skip
