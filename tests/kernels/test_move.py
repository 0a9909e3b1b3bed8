"""Transposes by `copy`: whole squares of vectors, and all that is less."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup

SIZES = (1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 47, 260)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_size_is_transposed(threads: int) -> None:
    """Each element arrives, at sides up to a vector and around its multiples, batched or not."""
    for batch in (1, 3):
        for rows in SIZES:
            for columns in SIZES:
                x = np.arange(batch * rows * columns, dtype=np.float32).reshape(batch, rows, columns)
                nodes = [Node(lookup("Transpose")(perm=(0, 2, 1)), ("x",), ("y",))]
                model = Model(Graph(nodes, {"x": Spec(x.shape, x.dtype)}, {"y": None}, {}), threads=threads)
                np.testing.assert_array_equal(model.run({"x": x})["y"], x.transpose(0, 2, 1), err_msg=f"{x.shape}")


def test_a_long_transpose_is_cut_into_units() -> None:
    """Whichever of its axes is the long one, so that threads share it."""
    for shape in ((21, 9000), (9000, 21), (1, 4, 9000), (9000, 3)):
        graph = Graph(
            [Node(lookup("Transpose")(perm=(*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)), ("x",), ("y",))],
            {"x": Spec(shape, np.dtype(np.float32))},
            {"y": None},
            {},
        )
        model = Model(graph, threads=2)
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(model.run({"x": x})["y"], x.swapaxes(-1, -2))
        assert min(step.units for step in model.plan({"x": shape}).steps) >= 2, shape
