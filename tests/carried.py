"""The bundled models on a machine that has neither onnx nor numba, against what onnxruntime answered on another.

There, `python -m tests.carried FOLDER` saves onnxruntime's outputs, and the models' structures in the cache. Here the cache
is that one, FOLDER is its `expected`, and pytest runs this file (make test-aarch64 does all of it).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv import models
from nbconv.kernels.store import cache_dir

BOUND = 1e-4
"""Of the largest value of an array."""


def example(name: str, shape: tuple[int | str, ...]) -> np.ndarray:
    """An input for a bundled model; named dimensions of pictures become 47, 64."""
    sizes = iter((47, 64))
    given = [d if isinstance(d, int) else 1 if i == 0 else next(sizes) for i, d in enumerate(shape)]
    return np.random.default_rng(len(name)).standard_normal(given, np.float32)


@pytest.mark.parametrize("name", models.names())
def test_bundled_model(name: str) -> None:
    with np.load(Path(str(cache_dir())) / "expected" / f"{name}.npz") as saved:
        want = dict(saved)
    x = want.pop("input")
    model = nbconv.load(models.path(name))
    assert not model.plan({"input": x.shape}).numpy_steps()
    got = model.run({"input": x})
    assert set(got) == set(want)
    for output, y in want.items():
        assert np.abs(y).max() > 0
        np.testing.assert_allclose(got[output], y, rtol=0, atol=BOUND * np.abs(y).max(), err_msg=f"{name}: {output}")
    assert not {"onnx", "numba", "llvmlite"} & set(sys.modules)


def main(folder: Path) -> None:
    import onnxruntime

    folder.mkdir(mode=0o700, parents=True)
    for name in models.names():
        path = models.path(name)
        x = example(name, nbconv.load(path).inputs[0].shape or ())
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"input": x}), strict=True))
        np.savez(folder / f"{name}.npz", input=x, **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
