"""Another name of `nbconv.compat.onnxruntime`."""

import sys

from nbconv.compat import onnxruntime
from nbconv.compat.onnxruntime import *  # noqa: F403

sys.modules[__name__] = onnxruntime
