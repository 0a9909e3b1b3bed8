"""Another name of `nbconv.compat.onnxruntime`."""

from nbconv.compat.onnxruntime import *  # noqa: F403
from nbconv.compat.onnxruntime.modules import register

register(__name__)
