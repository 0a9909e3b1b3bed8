from nbconv.compat.onnxruntime import *  # noqa: F403
