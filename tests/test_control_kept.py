"""Programs in programs: kept and loaded, refused where they were tampered with, run as a control says."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.model import Model
from nbconv.plan.call import CONTROLS, Body, Calls, CallStep, Control
from nbconv.plan.host import Binding, HostStep
from nbconv.plan.program import bind
from nbconv.runtime.executor import Workspace
from tests.check import sampler
from tests.test_control import CHOICES, F32, chosen, feeds
from tests.test_program import _rewritten, digest, load, node
from tests.test_runtime import python

ABSENT = ("onnx", "numba", "nbconv.passes", "nbconv.plan.plan", "nbconv.ops.control", "nbconv.ops.conv")


def test_a_program_in_a_program_is_kept(tmp_path: Path) -> None:
    """A fresh process runs it with equal bits, without onnx, passes and plans, and, of the ops, Sign's family alone."""
    model, _ = load(chosen(), tmp_path)
    want = [digest(model.run(feeds(c, d))) for c, d in CHOICES]
    for i, key in enumerate(CHOICES):
        np.savez(tmp_path / f"{i}.npz", **feeds(*key))  # pyright: ignore[reportArgumentType]
    code = f"""
    import sys, hashlib
    import numpy as np
    import nbconv
    model = nbconv.load({str(tmp_path / "model.onnx")!r})
    for i in range(4):
        for threads in (1, 2):
            found = model.run(dict(np.load({str(tmp_path)!r} + f"/{{i}}.npz")), threads=threads)
            parts = (repr((n, a.shape, a.dtype.str)).encode() + a.tobytes() for n, a in found.items())
            print(hashlib.sha256(b"".join(parts)).hexdigest())
    print([n for n in {ABSENT!r} if n in sys.modules])
    """
    *got, heavy = python(textwrap.dedent(code)).splitlines()
    assert got == [d for d in want for _ in range(2)]
    assert heavy == "[]"


def _inner(change: Callable) -> Callable:
    """A change of the first step that holds programs, or of one of its bodies."""

    def changed(head: dict) -> None:
        step = next(step for _, step in head["host_steps"] if "control" in step)
        change(step)

    return changed


def _bodies(change: Callable) -> Callable:
    def changed(step: dict) -> None:
        for held in step["bodies"]:
            change(held)

    return _inner(changed)


WRONG: dict[str, Callable] = {
    "a control that is none": _inner(lambda step: step.update(control="system")),
    "less memory than a body needs": _inner(lambda step: step["arena"].__setitem__(2, [64])),
    "memory behind the arena": _inner(lambda step: step["arena"].__setitem__(1, 1 << 40)),
    "memory that is a result": _inner(lambda step: step.update(arena=["result", 0, step["arena"][2], "|u1"])),
    "an operand that is not there": _inner(lambda step: step.update(operands=[["input", "z", [], "|b1"]])),
    "no operand": _inner(lambda step: step.update(operands=[])),
    "one body": _inner(lambda step: step["bodies"].pop()),
    "a body in more memory than there is": _bodies(lambda held: held[0].update(arena=1 << 40)),
    "a body's tables that are not there": _bodies(lambda held: held[0].update(at=1 << 40)),
    "a body's input that is not given": _bodies(lambda held: held[1].clear()),
    "a body's input of another program": _bodies(lambda held: held[1].update(a=["arena", 1 << 40, [1], "<f4"])),
    "a body's result too few": _bodies(lambda held: held[2].clear()),
    "a body's result in an input": _bodies(lambda held: held[2].__setitem__(0, ["input", "x", held[2][0][2], "<f4"])),
    "a body's result of another shape": _bodies(lambda held: held[2][0][2].append(1)),
    "a body's step that is tampered with": _bodies(lambda held: held[0].update(segments=[[0, 99]])),
}


@pytest.fixture(scope="module")
def tampered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes, str]:
    folder = tmp_path_factory.mktemp("tampered")
    model, kept = load(chosen(), folder)
    want = digest(model.run(feeds(False, True)))
    (path,) = kept.glob("*.program")
    return folder / "model.onnx", path, path.read_bytes(), want


@pytest.mark.parametrize("change", [lambda head: None, *WRONG.values()], ids=["none", *WRONG])
def test_tampered_programs_are_refused(change: Callable, tampered) -> None:
    model, path, content, want = tampered
    path.write_bytes(_rewritten(content, change))
    again = nbconv.load(model)
    assert digest(again.run(feeds(False, True))) == want
    assert (again._graph is None) == (change not in WRONG.values())


# The mechanism beyond If


class Repeated(Op):
    """What `test_values_that_calls_carry` puts a step that holds a program in the place of."""

    domain = "tests"

    def infer(self, x: Spec) -> tuple[Spec, Spec]:
        return x, Spec((5,), F32)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, np.zeros(5, F32)


def test_values_that_calls_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control may run a body as often as it likes, with arrays of its own for values that it names: here a loop that
    carries one value, with a condition, and gathers what each turn gives."""
    inner = Graph(
        [
            node("MatMul", "s,w", "m"), node("Sign", "m", "sign"), node("Sum", "m,sign", "next"),
            node("ReduceMax", "next", "top", keepdims=0),
        ],
        {"s": Spec((40, 64), F32)}, dict.fromkeys(("next", "top")), {"w": 0.1 * sampler(8)(64, 64)},
    )  # fmt: skip
    outer = Graph(
        [node("Neg", "x", "s"), Node(Repeated(), ("s",), ("last", "tops")), node("Relu", "last", "y")],
        {"x": Spec((40, 64), F32)}, dict.fromkeys(("y", "tops")), {},
    )  # fmt: skip
    part, plan = Model(inner).plan({"s": (40, 64)}), Model(outer).plan({"x": (40, 64)})
    program = plan.program
    ((number, host),) = program.host_steps.items()
    assert isinstance(host, HostStep) and part.arena and part.numpy_steps()
    operands = [b for b in (*host.inputs, *host.outputs) if b is not None]
    arena = Binding("arena", program.arena, (part.arena,), np.dtype(np.uint8))
    program.arena += part.arena
    program.host_steps[number] = CallStep("test loop", [Body(part.program, {}, [])], operands, arena)

    def loop(calls: Calls) -> None:
        state, last, tops = (calls.operand(i) for i in range(3))
        turn = 0
        while turn < len(tops):
            following = np.empty_like(state)
            calls.run(0, {"s": state}, {0: following, 1: tops[turn : turn + 1].reshape(())})
            state, turn = following, turn + 1
        np.copyto(last, state)

    monkeypatch.setitem(CONTROLS, "test loop", Control(loop, 3, 1))
    bound = bind(program, plan.target, {**plan.arrays, **part.arrays})
    x, state, tops = sampler(2)(40, 64), -sampler(2)(40, 64), []
    for _ in range(5):
        m = state @ inner.constants["w"]
        state = m + np.sign(m)
        tops.append(state.max())
    seen = set()
    for threads in (1, 2, 1):
        space = Workspace(bound)
        results = [np.empty((40, 64), F32), np.empty(5, F32)]
        space.run({"x": x}, results, threads)
        np.testing.assert_allclose(results[0], np.maximum(state, 0), atol=1e-4)
        np.testing.assert_allclose(results[1], tops, atol=1e-4)
        seen.add(digest(dict(zip("yt", results, strict=True))))
    assert len(seen) == 1
