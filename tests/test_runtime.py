"""Running models: inputs and outputs, threads, errors. Processes of their own stand in test_processes.py."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nbconv
import nbconv.model
import nbconv.runtime.executor
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.ops.pointwise import Unary
from tests.check import sampler
from tests.models import small_model

F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def small() -> Model:
    return nbconv.load(small_model().SerializeToString())


def layers(threads: int | None = None, channels: int = 24, size: int = 12, nodes: int = 4) -> Model:
    """Convolutions and sums of many units each, to be shared by threads."""
    r = sampler(3)
    steps, constants, name = [], {}, "x"
    for i in range(nodes):
        constants[f"w{i}"], constants[f"b{i}"] = 0.1 * r(channels, channels, 3, 3), r(channels)
        steps.append(Node(lookup("Conv")(pads=(1, 1, 1, 1)), (name, f"w{i}", f"b{i}"), (f"c{i}",)))
        steps.append(Node(lookup("Sigmoid")(), (f"c{i}",), (f"s{i}",)))
        steps.append(Node(lookup("Softmax")(axis=1), (f"s{i}",), (f"m{i}",)))
        steps.append(Node(lookup("Add")(), (f"s{i}", f"m{i}"), (f"y{i}",)))
        name = f"y{i}"
    return Model(Graph(steps, {"x": Spec(("N", channels, size, size), F32)}, {name: None}, constants), threads=threads)


X = sampler(1)(2, 3, 9, 7)


def python(code: str, timeout: float = 60) -> str:
    """What a new interpreter prints for this code; it must end well."""
    script = "import sys; sys.path[:0] = " + repr(sys.path) + "\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Inputs and outputs


def test_strides(small: Model) -> None:
    want = small(X)
    for same in (
        X[:, :, :, ::1],
        np.asfortranarray(X),
        np.ascontiguousarray(X[::-1])[::-1],
        np.repeat(X, 2, axis=3)[..., ::2],
    ):
        np.testing.assert_array_equal(small(same), want)
    raw = np.zeros(X.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(X.shape)
    odd[...] = X
    assert not odd.flags.aligned
    np.testing.assert_array_equal(small(odd), want)
    locked = X.copy()
    locked.setflags(write=False)
    np.testing.assert_array_equal(small(locked), want)
    np.testing.assert_array_equal(small(X.astype(">f4").astype("f4")), want)


def test_casts(small: Model) -> None:
    half = X.astype(np.float16)
    np.testing.assert_array_equal(small(half), small(half.astype(np.float32)))
    np.testing.assert_array_equal(small(X.astype(np.float64)), small(X))
    for kind in (np.uint8, np.int64, np.bool_):
        with pytest.raises(ValueError, match=r"input 'x' is .*, wanted float32.*/ 255"):
            small(np.zeros(X.shape, kind))
    with pytest.raises(ValueError, match="complex64, wanted float32"):
        small(X.astype(np.complex64))
    with pytest.raises(ValueError, match=r"'x' is .*, wanted float32"):
        small(np.array([["a"]]))
    with pytest.raises(ValueError, match=r"input 'x' is no array, wanted float32"):
        small([[1, 2], [3]])


def test_what_does_not_fit(small: Model) -> None:
    with pytest.raises(ValueError, match="no input 'z', its inputs are 'x'"):
        small.run({"z": X})
    with pytest.raises(ValueError, match="no input 'z'"):
        small.run({"x": X, "z": X})
    with pytest.raises(ValueError, match="input 'x' is missing"):
        small.run({})
    with pytest.raises(ValueError, match="dict of arrays by name"):
        small.run(X)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"shape \[3, 9, 7\], wanted 4 dimensions"):
        small(X[0])
    with pytest.raises(ValueError, match=r"shape \[2, 3, 9, 6\], wanted float32\(N, 3, 9, 7\)"):
        small(X[..., :6])
    with pytest.raises(ValueError, match="no value 'what'"):
        small.run({"x": X}, fetch=["what"])
    with pytest.raises(ValueError, match="twice"):
        small.run({"x": X}, fetch=["y", "y"])
    with pytest.raises(ValueError, match="threads"):
        Model(small.graph, threads=0)
    with pytest.raises(ValueError, match="device 'gpu'"):
        nbconv.load(b"", device="gpu")


def test_symbols_agree() -> None:
    shape = Spec(("N", 3), F32)
    graph = Graph([Node(lookup("Add")(), ("a", "b"), ("y",))], {"a": shape, "b": shape}, {"y": None}, {})
    with pytest.raises(ValueError, match="dimension 'N' is 2 in input 'a' and 1 in 'b'"):
        Model(graph).run({"a": np.zeros((2, 3), F32), "b": np.zeros((1, 3), F32)})


def test_out(small: Model) -> None:
    want = small(X)
    y = np.empty_like(want)
    found = small.run({"x": X}, out={"y": y})
    assert found["y"] is y
    np.testing.assert_array_equal(y, want)
    for bad, message in (
        (np.empty((2, 4), F32), r"out\['y'\] is float32\[2, 4\], wanted float32\(2, 5\)"),
        (np.empty((2, 5)), "float64"),
        (np.empty((5, 2), F32).T, "C-contiguous"),
        ([0.0], "list"),
    ):
        with pytest.raises(ValueError, match=message):
            small.run({"x": X}, out={"y": bad})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="out names 'z'"):
        small.run({"x": X}, out={"z": y})
    shared = X.copy()
    with pytest.raises(ValueError, match="shares memory with an input"):
        small.run({"x": shared}, out={"y": shared.reshape(-1)[:10].reshape(2, 5)})


def test_results_are_the_callers(small: Model) -> None:
    """Neither the next run nor a write to them changes anything."""
    first = small.run({"x": X}, fetch=["act", "y", "x"])
    kept = {k: v.copy() for k, v in first.items()}
    small.run({"x": 2 * X}, fetch=["act", "y", "x"])
    for name in first:
        np.testing.assert_array_equal(first[name], kept[name])
        assert not np.shares_memory(first[name], X)
        first[name][...] = 7
    again = small.run({"x": X}, fetch=["act", "y", "x"])
    for name in first:
        np.testing.assert_array_equal(again[name], kept[name])


def test_fetch_of_constants_and_inputs(small: Model) -> None:
    found = small.run({"x": X}, fetch=["w", "flat", "pool"])
    np.testing.assert_array_equal(found["w"], small.graph.constants["w"])
    np.testing.assert_array_equal(found["flat"], found["pool"].reshape(2, 4))


def test_empty_batch(small: Model) -> None:
    assert small(X[:0]).shape == (0, 5)
    assert small.run({"x": X[:0]}, fetch=["conv", "y"])["conv"].shape == (0, 4, 5, 7)


def test_async(small: Model) -> None:
    want = small(X)
    futures = [small.run_async({"x": X}) for _ in range(8)]
    for future in futures:
        np.testing.assert_array_equal(future.result(30)["y"], want)
    with pytest.raises(ValueError, match="missing"):
        small.run_async({}).result(30)


def test_copies(small: Model) -> None:
    want = small(X)
    for other in (pickle.loads(pickle.dumps(small)), copy.copy(small), copy.deepcopy(small)):
        assert other is not small
        assert other.threads == small.threads
        np.testing.assert_array_equal(other(X), want)


def test_copies_are_set_up_alike() -> None:
    model = nbconv.load(small_model().SerializeToString(), threads=1, tune=True)
    names = model.freeze(until="w")
    assert names
    for other in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        assert sorted(other.frozen) == names
        assert other._tune and other.threads == 1
    plain = nbconv.load(small_model().SerializeToString())
    assert not any(m._tune for m in (pickle.loads(pickle.dumps(plain)), copy.copy(plain), copy.deepcopy(plain)))


def test_plans_are_bounded(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.copy(small)
    model(X)
    one = sum(r.program.nbytes for r in model._plans.values())
    monkeypatch.setattr(nbconv.runtime.planned, "PLAN_BYTES", 4 * one)
    for n in range(1, 40):
        np.testing.assert_array_equal(model(np.repeat(X[:1], n, 0))[0], small(X[:1])[0])
        assert sum(r.program.nbytes for r in list(model._plans.values())[:-1]) <= 4 * one
    monkeypatch.setattr(nbconv.runtime.planned, "PLAN_BYTES", 0)
    model(X)
    assert len(model._plans) == 1
    np.testing.assert_array_equal(model(X), small(X))


# Threads


def test_threads_give_the_same_bits() -> None:
    model = layers()
    for n in (1, 2, 5):
        x = sampler(n)(n, 24, 12, 12)
        want = model.run({"x": x}, threads=1)["y3"]
        for threads in (2, 3, 8):
            assert model.run({"x": x}, threads=threads)["y3"].tobytes() == want.tobytes()


def test_concurrent_runs(small: Model) -> None:
    """8 threads × 500 runs, half of them asking for helpers."""
    feeds = [sampler(i)(2, 3, 9, 7) for i in range(8)]
    want = [small.run({"x": x}, threads=1)["y"].tobytes() for x in feeds]

    def many(i: int) -> int:
        return sum(small.run({"x": feeds[i]}, threads=1 + i % 2)["y"].tobytes() != want[i] for _ in range(500))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(many, range(8))) == [0] * 8


@pytest.mark.parametrize("threads", [2, 4])
def test_no_race(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short jobs, with workers that arrive late, more of them than processors."""
    monkeypatch.setattr(nbconv.runtime.executor, "available_threads", lambda: threads)
    model = layers(channels=5, size=5, nodes=2)
    x = sampler(0)(2, 5, 5, 5)
    want = model.run({"x": x}, threads=1)["y1"].tobytes()
    y = np.empty((2, 5, 5, 5), F32)
    end = time.monotonic() + 5
    for i in range(20000):
        y.fill(-1)
        model.run({"x": x}, out={"y1": y}, threads=threads)
        assert y.tobytes() == want, f"run {i}"
        if i % 1000 == 0:
            time.sleep(0.002)  # long enough for workers to fall asleep
            if time.monotonic() > end:
                break


def test_plans_made_by_many_threads_at_once() -> None:
    model, x = layers(), sampler(2)(3, 24, 12, 12)
    want = layers().run({"x": x}, threads=1)["y3"].tobytes()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: model.run({"x": x}, fetch=["y3", f"s{i % 4}"])["y3"].tobytes(), range(16)))
    assert set(found) == {want}


class Fragile(Unary):
    """Raises when it meets a negative number."""

    domain = "tests"

    def formula(self, x: np.ndarray) -> np.ndarray:
        if (x < 0).any():
            raise ArithmeticError("negative")
        return x


def test_exception_in_a_numpy_step() -> None:
    nodes = [
        Node(lookup("Relu")(), ("x",), ("a",)), Node(lookup("Sub")(), ("a", "one"), ("b",)), Node(Fragile(), ("b",), ("c",)),
        Node(lookup("Exp")(), ("c",), ("y",)),
    ]  # fmt: skip
    model = Model(Graph(nodes, {"x": Spec((3,), F32)}, {"y": None}, {"one": np.ones(3, F32)}))
    good, bad = np.array([1, 2, 3], F32), np.zeros(3, F32)
    for _ in range(3):
        with pytest.raises(ArithmeticError, match="negative"):
            model(bad)
        np.testing.assert_allclose(model(good), np.exp([0, 1, 2]), rtol=1e-6)
    (ready,) = model._plans.values()
    assert len(ready._spaces) == 1


def test_threads_are_daemons() -> None:
    layers(threads=2).run({"x": np.zeros((1, 24, 12, 12), F32)})
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("nbconv"))


def test_ever_larger_inputs_hold_one_block(monkeypatch):
    model, made = layers(threads=1, nodes=1), []

    def make(nbytes):
        block = nbconv.runtime.executor.aligned(nbytes)
        made.append(weakref.ref(block))
        return block

    monkeypatch.setattr(model._arenas, "_make", make)
    for n in (1, 2, 3, 4, 2):
        model.run({"x": np.zeros((n, 24, 12, 12), np.float32)})
    assert [block() is not None for block in made] == [False, False, False, True]
