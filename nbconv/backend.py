"""Another name of `nbconv.compat.onnx_backend`."""

import sys

from nbconv.compat import onnx_backend
from nbconv.compat.onnx_backend import *  # noqa: F403

sys.modules[__name__] = onnx_backend
