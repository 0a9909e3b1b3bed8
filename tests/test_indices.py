"""Indices that a run computes: kernels move what they name, and an error names what is outside."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import Op
from nbconv.ops.gather import Gather, GatherElements, GatherElementsGrad, GatherGrad, GatherND
from nbconv.ops.optimizer import SGDUpdate
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.scatter import ScatterElements, ScatterND
from nbconv.plan.call import decode
from nbconv.plan.program import bind
from nbconv.runtime.executor import Workspace
from nbconv.train.step import TrainingStep

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
rng = np.random.default_rng(7)


def of(op: Op, *inputs: np.ndarray) -> Model:
    """A model of one node called "pick", all of whose inputs are fed."""
    names = tuple(f"x{i}" for i in range(len(inputs)))
    specs = {n: Spec(x.shape, x.dtype) for n, x in zip(names, inputs, strict=True)}
    return Model(Graph([Node(op, names, ("y",), "pick")], specs, {"y": None}, {}, "indices"), threads=1)


def x(*shape: int, dtype: str = "f4") -> np.ndarray:
    return (rng.random(shape) * 100).astype(dtype)


def at(*shape: int, below: int, dtype: str = "i8") -> np.ndarray:
    return rng.integers(-below, below, shape).astype(dtype)


CALLS = [
    (Gather(axis=1), (x(3, 5, 4), at(2, 3, below=5)), 5),
    (Gather(), (x(5, dtype="i2"), at(7, below=5, dtype="i4")), 5),
    (GatherND(), (x(4, 5, 3), at(6, 1, below=4)), 4),
    (GatherND(batch_dims=1), (x(2, 5, 3, dtype="?"), at(2, 4, 1, below=5)), 5),
    (GatherElements(axis=1), (x(3, 5, 4), at(2, 7, 3, below=5)), 5),
    (GatherElements(axis=-1), (x(3, 5, dtype="i8"), at(3, 2, below=5, dtype="i4")), 5),
    (ScatterND(), (x(4, 5), at(3, 1, below=4), x(3, 5)), 4),
    (ScatterND(reduction="max"), (x(4, 300), at(6, 1, below=4), x(6, 300)), 4),
    (ScatterND(), (x(4, 5, dtype="u1"), at(3, 2, below=4), x(3, dtype="u1")), 5),
    (ScatterElements(axis=1), (x(3, 5, 2), at(3, 4, 2, below=5), x(3, 4, 2)), 5),
    (ScatterElements(reduction="mul"), (x(4, 300), at(6, 299, below=4), x(6, 299)), 4),
    (ScatterElements(axis=1), (x(3, 5, dtype="f2"), at(2, 4, below=5), x(2, 4, dtype="f2")), 5),
    (GatherGrad(axis=1, shape=(3, 5, 4)), (x(3, 6, 4), at(6, below=5)), 5),
    (GatherElementsGrad(axis=0, shape=(5, 4)), (x(6, 3), at(6, 3, below=5, dtype="i4")), 5),
]


@pytest.mark.parametrize(("op", "given", "size"), CALLS, ids=[f"{i}-{op!r}" for i, (op, _, _) in enumerate(CALLS)])
def test_computed_indices(op: Op, given: tuple[np.ndarray, ...], size: int) -> None:
    model = of(op, *given)
    assert not model.plan({f"x{i}": v.shape for i, v in enumerate(given)}).numpy_steps()
    feeds = {f"x{i}": v for i, v in enumerate(given)}
    want = op.reference(*given)
    for threads in (1, 2):
        assert model.run(feeds, threads=threads)["y"].tobytes() == np.ascontiguousarray(want).tobytes()
    for wrong in (size, -size - 1, 1 << 30):
        there = given[1].copy()
        there.reshape(-1)[-1] = wrong
        with pytest.raises(ModelError, match=rf"pick \({op.type}\): index {wrong} leaves an axis of size {size}"):
            model.run({**feeds, "x1": there})
    np.testing.assert_array_equal(model.run(feeds)["y"], want)


def test_the_first_wrong_index_is_told_whoever_finds_it() -> None:
    given, indices = x(3, 2), np.zeros(100_000, np.int64)
    indices[[40_000, 40_001, 99_999]] = -4, 7, 8
    model = of(Gather(), given, indices)
    for threads in (1, 2):
        with pytest.raises(ModelError, match="index -4 leaves an axis of size 3"):
            model.run({"x0": given, "x1": indices}, threads=threads)


def test_nothing_to_take_from() -> None:
    with pytest.raises(ModelError, match=r"pick \(Gather\): indices from 0 to 0 leave an axis of size 0"):
        of(Gather(), x(0, 3), np.zeros(1, np.int64)).run({"x0": x(0, 3), "x1": np.zeros(1, np.int64)})


def test_a_kept_program_checks() -> None:
    given = x(3, 4), at(5, below=3)
    plan = of(Gather(), *given).plan({"x0": (3, 4), "x1": (5,)})
    tables: list[np.ndarray] = []
    head = plan.program.encode(tables)
    kept = bind(decode(head, np.concatenate(tables)), plan.target, plan.arrays)
    y = np.empty((5, 4), F32)
    Workspace(kept).run({"x0": given[0], "x1": given[1]}, [y], 1)
    np.testing.assert_array_equal(y, given[0][given[1]])
    with pytest.raises(ModelError, match="index 3 leaves an axis of size 3"):
        Workspace(kept).run({"x0": given[0], "x1": np.array([0, 1, 2, 3, 4])}, [y], 1)
    head["checks"][0][0][1] = plan.arena
    with pytest.raises(ValueError, match="binding"):
        decode(head, np.concatenate(tables))


def test_a_training_step_writes_no_state_for_a_wrong_index() -> None:
    """What steps found is looked at between the gradients and the updates."""
    nodes = [
        Node(GatherGrad(axis=0, shape=(5, 3)), ("dy", "i"), ("d",)),
        Node(Gather(), ("t", "i"), ("rows",)),
        Node(ReduceSum(keepdims=0), ("rows",), ("loss",)),
        Node(SGDUpdate(), ("t", "d", "lr"), ("new",)),
    ]
    feeds = {"dy": Spec((3, 3), F32), "i": Spec((3,), I64), "lr": Spec((), F32)}
    state = {"t": x(5, 3)}
    graph = Graph(nodes, {**feeds, "t": Spec((5, 3), F32)}, {"loss": None, "new": None}, {}, "lookup")
    step, before = TrainingStep(graph, feeds, state, {"t": "new"}, ("loss",)), state["t"].copy()
    given = {"dy": np.ones((3, 3), np.float32), "lr": np.float32(1)}
    for budget in (None, 1e3):
        with pytest.raises(ModelError, match="index 5 leaves an axis of size 5"):
            step.run({**given, "i": np.array([0, 5, 4])}, budget_ms=budget)
        np.testing.assert_array_equal(state["t"], before)
    step.run({**given, "i": np.array([0, 4, -1])})
    np.testing.assert_allclose(state["t"], before - np.array([[1], [0], [0], [0], [2]]), rtol=1e-6)


def test_many_sizes() -> None:
    """As plans are made from a template: kernels check there, too."""
    nodes = [Node(Gather(axis=1), ("x", "i"), ("g",), "pick"), Node(GatherElements(axis=1), ("g", "j"), ("y",), "again")]
    specs = {"x": Spec(("n", "d"), F32), "i": Spec(("k",), I64), "j": Spec(("n", "m"), I64)}
    model = Model(Graph(nodes, specs, {"y": None}, {}, "sizes"))
    for n, d, k, m in ((2, 5, 4, 3), (3, 6, 4, 3), (4, 7, 9, 2), (5, 8, 1, 7), (6, 9, 3, 4)):
        feeds = {"x": x(n, d), "i": at(k, below=d), "j": at(n, m, below=k)}
        np.testing.assert_array_equal(model.run(feeds)["y"], np.take_along_axis(feeds["x"][:, feeds["i"]], feeds["j"], 1))
        with pytest.raises(ModelError, match=rf"again \(GatherElements\): index {k} leaves an axis of size {k}"):
            model.run({**feeds, "j": np.full((n, m), k)})
        with pytest.raises(ModelError, match=rf"pick \(Gather\): index {-d - 1} leaves an axis of size {d}"):
            model.run({**feeds, "i": np.full(k, -d - 1)})
