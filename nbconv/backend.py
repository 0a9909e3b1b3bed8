from nbconv.compat.onnx_backend import *  # noqa: F403
