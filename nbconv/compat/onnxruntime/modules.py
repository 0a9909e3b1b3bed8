"""The package under other names: `nbconv.ort`, and `onnxruntime` for programs that import it."""

from __future__ import annotations

import sys
import warnings

PARTS = (
    "", ".capi", ".capi._pybind_state", ".capi.onnxruntime_inference_collection", ".capi.onnxruntime_pybind11_state",
)  # fmt: skip
"""The modules that programs import, by what stands behind the package's name."""


def register(name: str) -> None:
    """Make the package and its modules importable under another name."""
    assert __package__
    for part in PARTS:
        sys.modules[name + part] = sys.modules[__package__ + part]


def install() -> None:
    """Let ``import onnxruntime``, anywhere in this process and from now on, give `nbconv.ort`, whether or not onnxruntime is
    installed. Call it before the program's own imports: what has imported onnxruntime already keeps that, and a warning says
    so."""
    assert __package__
    there = sys.modules.get("onnxruntime")
    if there is not None and there is not sys.modules[__package__]:
        warnings.warn("onnxruntime was imported before nbconv.ort.install(): what imported it still uses it", stacklevel=2)
        for name in [n for n in sys.modules if n.startswith("onnxruntime.")]:
            del sys.modules[name]
    register("onnxruntime")
