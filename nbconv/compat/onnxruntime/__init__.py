"""onnxruntime's Python names: an application written for onnxruntime changes its import and works.

``import nbconv.ort as onnxruntime``, ``from nbconv.ort import InferenceSession``; or, where the application cannot be
changed, ``nbconv.ort.install()`` before it is imported. What an application meets is as onnxruntime has it: arguments,
results, names and shapes of inputs and outputs, the warning for a provider that is not there, the names of exceptions (which
here are ValueErrors, too). Options that nbconv has no use for are accepted with a warning and change nothing:
`SessionOptions` says which.
"""

from nbconv.compat.onnxruntime import capi as capi
from nbconv.compat.onnxruntime.capi import _pybind_state, onnxruntime_inference_collection, onnxruntime_pybind11_state  # noqa: F401
from nbconv.compat.onnxruntime.modules import install as install
from nbconv.compat.onnxruntime.names import *  # noqa: F403
from nbconv.compat.onnxruntime.names import __version__ as __version__
