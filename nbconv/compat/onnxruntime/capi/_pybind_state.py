"""Another name of `nbconv.compat.onnxruntime.names`, where programs for onnxruntime look."""

from nbconv.compat.onnxruntime.names import *  # noqa: F403
