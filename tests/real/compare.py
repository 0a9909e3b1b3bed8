"""Results of nbconv beside onnxruntime's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

import nbconv

ABSOLUTE, RELATIVE = 2e-4, 1e-3


Arrays = Mapping[str, np.ndarray]


class Pair:
    """A model in both engines."""

    def __init__(self, model: onnx.ModelProto | str) -> None:
        data = model if isinstance(model, str) else model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.model = nbconv.load(data)

    def run(self, feeds: Arrays, theirs: Arrays | None = None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(nbconv's, onnxruntime's): names to arrays, of equal types and shapes; onnxruntime may be given others."""
        got = self.model.run(feeds)
        want = self.theirs(feeds if theirs is None else theirs)
        assert list(got) == list(want)
        for name, y in want.items():
            assert (got[name].dtype, got[name].shape) == (y.dtype, y.shape), name
        return got, want

    def theirs(self, feeds: Arrays) -> dict[str, np.ndarray]:
        names = [o.name for o in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(feeds)), strict=True))

    def of(self, values: Arrays) -> dict[str, np.ndarray]:
        """Those that are its inputs."""
        return {i.name: values[i.name] for i in self.session.get_inputs()}


def close(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Element by element, bool; integers are equal or not."""
    if want.dtype.kind != "f":
        return got == want
    with np.errstate(invalid="ignore"):
        return (np.abs(got - want) <= ABSOLUTE + RELATIVE * np.abs(want)) | (got == want) | (np.isnan(got) & np.isnan(want))


def assert_close(got: Arrays, want: Arrays) -> None:
    for name, y in want.items():
        fits = close(got[name], y)
        if not fits.all():
            worst = np.abs(got[name].astype(np.float64) - y.astype(np.float64)).max()
            raise AssertionError(f"{name}: {(~fits).sum()} of {y.size} differ, by up to {worst:.3g}")


def assert_same_detections(got: Sequence[np.ndarray], want: Sequence[np.ndarray], scores: int) -> None:
    """Rows of all arrays agree, in order; two whose scores are equal but for rounding may stand either way round."""
    left = list(range(len(want[0])))
    for row, score in enumerate(want[scores]):
        fits = (i for i in left if all(np.all(close(g[i], w[row])) for g, w in zip(got, want, strict=True)))
        found = next(fits, None)
        assert found is not None, f"row {row} of {len(want[0])}, of score {score}, is not among nbconv's"
        passed = got[scores][[i for i in left if i < found]]
        assert np.all(close(passed, score)), f"row {row}, of score {score}, comes after rows of scores {passed}"
        left.remove(found)
