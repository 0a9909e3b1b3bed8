"""Denormal numbers: zeros in what kernels compute, or kept, as each model is told, whichever thread runs it."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import pickle
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.infer import DTYPES
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.train.optimizers import SGD
from nbconv.train.trainer import Trainer
from tests.check import sampler

F16, F32, F64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
TINY = float(np.finfo(F32).tiny)
KEEP = pytest.mark.parametrize("flush", [True, False], ids=["flushed", "kept"])
THREADS = pytest.mark.parametrize("threads", [1, 2])

_X86 = platform.machine() == "x86_64"
try:
    _libm = ctypes.CDLL("libm.so.6") if _X86 or platform.machine() == "aarch64" else None
except OSError:  # another C library
    _libm = None
MODE = pytest.mark.skipif(_libm is None, reason="needs glibc's fegetenv")
FLUSH = 0x8040 if _X86 else 1 << 24


def _word(change: int | None = None) -> int:
    """The word that decides how this thread calculates, flags of what happened left out: MXCSR or FPCR. ``change``: bits
    that are set in it before."""
    environment = (ctypes.c_uint32 * 64)()
    assert _libm is not None
    _libm.fegetenv(environment)
    at = 7 if _X86 else 0
    if change is not None:
        environment[at] |= change
        _libm.fesetenv(environment)
    return environment[at] & ~0x3F if _X86 else environment[at]


@contextlib.contextmanager
def flushing() -> Iterator[None]:
    """This thread flushes, as that of a caller who called torch.set_flush_denormal(True)."""
    environment = (ctypes.c_uint32 * 64)()
    assert _libm is not None
    _libm.fegetenv(environment)
    _word(FLUSH)
    try:
        yield
    finally:
        _libm.fesetenv(environment)


def one(
    kind: str, *inputs: np.ndarray, weights: int = 0, flush: bool = True, **attributes: Any
) -> Callable[..., np.ndarray]:
    """A call of an op of which so many inputs, the last ones, are constants: for a number of threads, its result."""
    names = [f"x{i}" for i in range(len(inputs))]
    fed = dict(zip(names, inputs, strict=True))
    constants = {n: fed.pop(n) for n in names[len(names) - weights :]}
    graph = Graph(
        [Node(lookup(kind)(**attributes), tuple(names), ("y",))],
        {n: Spec(x.shape, x.dtype) for n, x in fed.items()}, {"y": None}, constants,
    )  # fmt: skip
    model = Model(graph, flush_denormals=flush)
    assert not model.plan({n: x.shape for n, x in fed.items()}).numpy_steps()
    return lambda threads=1: model.run(fed, threads=threads)["y"]


def small(*shape: int) -> np.ndarray:
    """Denormals of either sign."""
    x = sampler(3)(*shape) * np.float32(1e-39)
    assert (np.abs(x) < TINY).all() and np.count_nonzero(x) > 0.9 * x.size
    return x


R = sampler(1)
COMPUTED: dict[str, Callable[..., Callable[..., np.ndarray]]] = {
    "Conv": lambda **o: one("Conv", R(1, 24, 9, 9), small(20, 24, 3, 3), weights=1, pads=(1, 1, 1, 1), **o),
    "Conv of denormals": lambda **o: one("Conv", small(1, 24, 9, 9), R(20, 24, 3, 3), weights=1, pads=(1, 1, 1, 1), **o),
    "depthwise Conv": lambda **o: one("Conv", R(1, 20, 9, 9), small(20, 1, 3, 3), weights=1, group=20, **o),
    "MatMul": lambda **o: one("MatMul", R(9, 40), small(40, 33), weights=1, **o),
    "Mul": lambda **o: one("Mul", R(5, 70), small(5, 70), **o),
    "product that is denormal": lambda **o: one("Mul", R(5, 70) * np.float32(1e-20), R(5, 70) * np.float32(1e-20), **o),
    "Add": lambda **o: one("Add", small(5, 70), small(5, 70), **o),
    "ReduceSum": lambda **o: one("ReduceSum", small(5, 70), np.array([1]), weights=1, **o),
    "Cast to float64": lambda **o: one("Cast", small(5, 70), to=_number(F64), **o),
    "Cast from float64": lambda **o: one("Cast", small(5, 70).astype(F64), to=_number(F32), **o),
    "Cast of float64's": lambda **o: one("Cast", R(5, 70).astype(F64) * 1e-310, to=_number(F32), **o),
}  # fmt: skip


def _number(dtype: np.dtype) -> int:
    return next(n for n, d in DTYPES.items() if d == dtype)


@pytest.mark.parametrize("name", COMPUTED)
def test_kernels_flush_or_keep(name: str) -> None:
    """Zeros, or what NumPy computes in float64, with one thread and with two."""
    made = COMPUTED[name]
    flushed, kept = made(flush=True), made(flush=False)
    got = [kept(threads) for threads in (1, 2)]
    assert got[0].tobytes() == got[1].tobytes()
    for threads in (1, 2):
        assert not flushed(threads).any()
    if name != "Cast of float64's":
        assert got[0].any()


def test_what_is_kept_is_right() -> None:
    x, w = R(9, 40), small(40, 33)
    got = one("MatMul", x, w, weights=1, flush=False)()
    want = x.astype(F64) @ w.astype(F64)
    np.testing.assert_allclose(got, want, rtol=0, atol=45 * 2.0**-149)
    assert np.abs(want).max() > 1000 * 2.0**-149


@KEEP
def test_types_of_two_bytes_keep_theirs(flush: bool) -> None:
    """A float16's denormals are normal float32: nothing flushes them, in either direction."""
    x = np.arange(1, 1024, dtype=np.uint16).view(F16)
    wide = one("Cast", x, to=_number(F32), flush=flush)()
    np.testing.assert_array_equal(wide, x.astype(F32))
    np.testing.assert_array_equal(one("Cast", wide, to=_number(F16), flush=flush)(), x)


@KEEP
def test_what_only_moves_stays(flush: bool) -> None:
    x = small(5, 70)
    np.testing.assert_array_equal(one("Transpose", x, perm=(1, 0), flush=flush)(), x.T)
    np.testing.assert_array_equal(one("Gather", x, np.array([4, 0]), weights=1, flush=flush)(), x[[4, 0]])


def test_signs_of_zeros_stay() -> None:
    x = np.array([1e-40, -1e-40], F32)
    np.testing.assert_array_equal(np.signbit(one("Mul", x, np.ones(2, F32))()), [False, True])


@pytest.mark.parametrize("seed", range(12))
def test_any_products(seed: int) -> None:
    """Numbers of any size: bits do not depend on threads; flushing changes a sum by no more than what becomes 0, and nothing
    where no number on the way is denormal."""
    rng = np.random.default_rng(seed)
    m, k, n = (int(v) for v in rng.integers(1, 50, 3))
    low = float(rng.choice([-45.0, -38.0, -20.0, -3.0]))

    def numbers(*shape: int) -> np.ndarray:
        return (rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape) * 10.0 ** rng.uniform(low, 0, shape)).astype(F32)

    x, w = numbers(m, k), numbers(k, n)
    calls = [one("MatMul", x, w, weights=1, flush=flush) for flush in (True, False)]
    flushed, kept = (call(1) for call in calls)
    for call, y in zip(calls, (flushed, kept), strict=True):
        assert call(2).tobytes() == y.tobytes()
    assert not ((flushed != 0) & (np.abs(flushed) < TINY)).any()
    rounding = k * 2.0**-23 * (np.abs(x).astype(F64) @ np.abs(w).astype(F64))
    taken = 4 * k * TINY  # a term, of which neither factor is above 2, and a sum with it
    assert (np.abs(flushed.astype(F64) - kept) <= rounding + taken).all()
    if low == -3.0:
        assert flushed.tobytes() == kept.tobytes()


# The thread of the caller


def times(flush: bool, threads: int = 1) -> Model:
    """y = 1e-39 · x by a kernel, and z, which NumPy makes of it."""
    nodes = [Node(lookup("Mul")(), ("x", "w"), ("y",)), Node(lookup("Sign")(), ("y",), ("z",))]
    graph = Graph(nodes, {"x": Spec(("n",), F32)}, {"y": None, "z": None}, {"w": np.array(1e-39, F32)})
    return Model(graph, threads=threads, flush_denormals=flush)


@MODE
@KEEP
@THREADS
def test_the_callers_mode_is_as_before(flush: bool, threads: int) -> None:
    """Whatever the run does, and NumPy's steps run in that mode."""
    before = _word()
    found = times(flush).run({"x": np.ones(5000, F32)}, threads=threads)
    assert _word() == before
    assert found["y"].any() == (not flush)
    np.testing.assert_array_equal(found["z"], np.sign(found["y"]))


@MODE
@KEEP
@THREADS
def test_a_caller_that_flushes_itself(flush: bool, threads: int) -> None:
    model = times(flush)
    with flushing():
        before = _word()
        found = model.run({"x": np.ones(5000, F32)}, ["y"], threads=threads)["y"]
        assert _word() == before
    assert before & FLUSH == FLUSH
    assert found.any() == (not flush)


@MODE
@THREADS
def test_the_mode_after_a_run_that_fails(threads: int) -> None:
    """An index that a kernel finds outside of its axis, when other kernels have run."""
    nodes = [Node(lookup("Mul")(), ("x", "x"), ("y",)), Node(lookup("Gather")(), ("y", "i"), ("z",))]
    graph = Graph(nodes, {"x": Spec((7,), F32), "i": Spec((1,), np.dtype(np.int64))}, {"z": None}, {})
    model, before = Model(graph), _word()
    model.run({"x": R(7), "i": np.array([6])}, threads=threads)
    with pytest.raises(ModelError):
        model.run({"x": R(7), "i": np.array([7])}, threads=threads)
    assert _word() == before


@MODE
def test_the_mode_in_callbacks() -> None:
    """What the caller gives to be called, between the phases of a training step and when a run is done, sees its own."""
    model, before, seen = _learner(True), _word(), []
    trainer = Trainer(model, loss=lambda to, logits, targets: to.add(lookup("ReduceMean")(keepdims=0), logits))
    finite = trainer._finite
    trainer._finite = lambda *told: (seen.append(_word()), finite(*told))[1]  # type: ignore[method-assign]
    trainer.step(R(2, 3), np.zeros(2, np.int64))
    trainer.step(R(2, 3), np.zeros(2, np.int64), budget_ms=1e4)
    model.run_async({"x": R(2, 3)}).add_done_callback(lambda future: seen.append(_word()))
    assert _word() == before
    assert set(seen) == {before} and len(seen) >= 2


# Models with options of their own


def test_models_at_once() -> None:
    """Models that differ, run by several threads of which some have helpers: each gets what it asked for."""
    models = [times(flush, threads) for flush in (True, False) for threads in (1, 2)]
    x = np.ones(20000, F32)

    def many(i: int) -> int:
        model = models[i % 4]
        return sum(model.run({"x": x}, ["y"])["y"].all() != (not model.flush_denormals) for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(many, range(8))) == [0] * 8


def test_models_in_turns_on_one_thread() -> None:
    models = [times(flush) for flush in (True, False)]
    for threads in (2, 1, 2, 2):
        got = [m.run({"x": np.ones(20000, F32)}, ["y"], threads=threads)["y"] for m in models]
        assert [y.any() for y in got] == [False, True]


def test_the_option_stays_with_a_model(tmp_path: Path) -> None:
    """In copies, and with a program that is kept: the file says nothing of it."""
    pytest.importorskip("onnx")
    path, x = tmp_path / "model.onnx", np.ones(8, F32)
    nbconv.save(times(True), path)
    for flush in (True, False, True, False):  # from the second on the program is found
        model = nbconv.load(path, flush_denormals=flush)
        assert model.flush_denormals == flush
        for other in (model, copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.run({"x": x})["y"].any() == (not flush)
        assert nbconv.load(path).flush_denormals


def test_bodies_and_stages_do_as_the_model(tmp_path: Path) -> None:
    """Programs that steps hold, and those of a run whose shapes depend on values, new and found in the cache."""
    onnx = pytest.importorskip("onnx")
    text = """<ir_version: 8, opset_import: ["" : 18]> agraph (float[n] x, bool c) => (float[n] y, float[m] z)
        <float w = {1e-39}> {
        y = If (c) <then_branch = one () => (float[n] a) { a = Mul(x, w) },
                    else_branch = two () => (float[n] b) { b = Identity(x) }>
        places = NonZero(x)
        row = Squeeze(places)
        some = Gather(x, row)
        z = Mul(some, w)
    }"""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    for flush in (True, False, True, False):
        found = nbconv.load(path, flush_denormals=flush).run({"x": np.array([1, 0, 2], F32), "c": np.array(True)})
        assert [v.any() for v in found.values()] == [not flush] * 2


# Training


def _learner(flush: bool) -> Model:
    """Two columns of denormals in a layer: they learn where they are kept."""
    graph = Graph([Node(lookup("Gemm")(), ("x", "w"), ("y",))], {"x": Spec(("n", 3), F32)}, {"y": None}, {"w": small(3, 2)})
    return Model(graph, flush_denormals=flush)


@KEEP
@pytest.mark.parametrize("budget", [None, 1e-3], ids=["whole", "in parts"])
def test_training_steps(flush: bool, budget: float | None) -> None:
    """An update that is denormal: written, or 0. In parts as in a whole."""
    trainer = Trainer(
        _learner(flush),
        loss=lambda to, logits, targets: to.add(lookup("ReduceMean")(keepdims=0), logits),
        optimizer=SGD(1e-39),
    )
    before, loss = trainer.state["w"].copy(), None
    while loss is None:
        loss = trainer.step(np.ones((4, 3), F32), np.zeros(4, np.int64), budget_ms=budget)
    assert (loss != 0) == (not flush)
    assert before.any() and trainer.state["w"].any() == (not flush)
    assert trainer.predict(np.ones((4, 3), F32)).any() == (not flush)
