"""onnxruntime as what results and times are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np


def need_onnxruntime() -> Any:
    """The module; ImportError says how to get it."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("onnxruntime is not installed: pip install nbconv[bench]") from None
    return onnxruntime


def session(model: str | bytes, threads: int = 1, optimise: bool = True) -> Any:
    """An InferenceSession on the CPU; ValueError where onnxruntime refuses the model."""
    ort = need_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = model if isinstance(model, bytes) else _onnx(model)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ValueError(f"onnxruntime does not take the model: {' '.join(str(error).split())}") from None


def _onnx(path: str) -> str | bytes:
    """What onnxruntime reads of a file: the file, or a TFLite model as ONNX."""
    from nbconv.converters.tflite.kind import is_tflite
    from nbconv.converters.weights import Source

    source = Source(path)
    if not is_tflite(source.data):
        return path
    from nbconv.converters.complete import complete

    return complete(source).SerializeToString()


class Difference(NamedTuple):
    """How far a value is from the peer's."""

    absolute: float
    scale: float
    """the peer's greatest finite magnitude"""
    where: tuple[int, ...]
    problem: str = ""

    @property
    def ratio(self) -> float:
        """The difference as a fraction of `scale`; infinite for another shape or type, or NaN in one only."""
        if self.problem:
            return float("inf")
        return 0.0 if self.absolute == 0 else self.absolute / self.scale if self.scale else float("inf")

    def __str__(self) -> str:
        return (
            self.problem
            or f"{self.absolute:.3g}, {self.ratio:.1e} of the greatest value {self.scale:.3g}, at {list(self.where)}"
        )


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """The greatest difference of two values. NaN equals NaN, infinity itself."""
    import numpy as np

    if a.shape != b.shape or a.dtype != b.dtype:
        problem = f"{a.dtype}{list(a.shape)} where onnxruntime has {b.dtype}{list(b.shape)}"
        return Difference(0.0, 0.0, (), problem)
    if a.size == 0:
        return Difference(0.0, 0.0, ())
    x, y = (v.astype(np.float64) if v.dtype.kind != "c" else v for v in (a, b))
    with np.errstate(all="ignore"):
        d = np.abs(x - y)
    d[(x == y) | (np.isnan(x) & np.isnan(y))] = 0
    finite = np.abs(y[np.isfinite(y)])
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(np.isnan(d), np.inf, d))), d.shape))
    if not np.isfinite(d[at]):
        return Difference(0.0, 0.0, at, f"{a[at]} where onnxruntime has {b[at]}, at {list(at)}")
    return Difference(float(d[at]), float(finite.max()) if finite.size else 0.0, at)
