"""Models with control flow: steps that hold programs, planned, run, kept and written."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import nbconv
from nbconv.converters.onnx import read, survey, write
from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.bodies import captured
from nbconv.kernels.target import target
from nbconv.model import Model
from nbconv.ops.control import If
from nbconv.ops.pointwise import Unary
from nbconv.plan.call import CallStep
from tests.check import sampler
from tests.test_program import digest, load, node
from tests.test_runtime import python

F32, BOOL = np.dtype(np.float32), np.dtype(np.bool_)


def choice(cond: str, then: Graph, other: Graph, outputs: str) -> Node:
    inputs = (cond, *captured((then, other)))
    return Node(If(then_branch=then, else_branch=other), inputs, tuple(outputs.split(",")))


def body(nodes: list[Node], outputs: str, **constants: Any) -> Graph:
    return Graph(nodes, {}, dict.fromkeys(outputs.split(",")), {k: np.asarray(v) for k, v in constants.items()})


def chosen() -> Graph:
    """A convolution between values that lie channels last in each branch, of one weight around both and one of its own (by
    the same name in both); a step of NumPy in one; inside of the other the same once more; a result of the graph that a
    branch makes, and an output that nobody reads."""
    r = sampler(3)
    deep = choice("d", body([node("Add", "h,k", "s")], "s", k=np.array(3, F32)), body([node("Neg", "h", "s")], "s"), "deep")
    then, other = (
        body([node("Conv", "a,w", "h", pads=(1, 1, 1, 1)), *nodes], "h2,n", v=r(8, 8, 1, 1))
        for nodes in (
            [node("Relu", "h", "h1"), node("Conv", "h1,v", "h2"), node("Abs", "h2", "n")],
            [deep, node("Sign", "deep", "h1"), node("Conv", "h1,v", "h2"), node("Relu", "h1", "n")],
        )
    )
    nodes = [node("Conv", "x,u", "a", pads=(1, 1, 1, 1)), choice("c", then, other, "y,z")]
    nodes.append(node("MaxPool", "y", "p", kernel_shape=(2, 2)))
    inputs = {"x": Spec(("N", 3, 9, 7), F32), "c": Spec((), BOOL), "d": Spec((1,), BOOL)}
    return Graph(nodes, inputs, dict.fromkeys(("p", "y")), {"u": r(4, 3, 3, 3), "w": r(8, 4, 3, 3)})


def feeds(c: bool, d: bool, n: int = 2) -> dict[str, np.ndarray]:
    return {"x": sampler(n)(n, 3, 9, 7), "c": np.array(c), "d": np.array([d])}


CHOICES = [(True, True), (True, False), (False, True), (False, False)]


def test_as_onnxruntime_has_it() -> None:
    """The very graph, what is read of it when written, and that read once more from the structure cache."""
    onnxruntime = pytest.importorskip("onnxruntime")
    content = write(chosen())
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    graphs = [chosen(), read(content), read(content)]
    assert [write(graph) for graph in graphs] == [content] * 3
    models, seen = [Model(graph, threads=2) for graph in graphs], set()
    for c, d in CHOICES:
        given = feeds(c, d)
        got = models[0].run(given, threads=1)
        for (name, y), want in zip(got.items(), session.run(["p", "y"], given), strict=True):
            np.testing.assert_allclose(y, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=name)
        assert {digest(model.run(given)) for model in models} == {digest(got)}
        seen.add(digest(got))
    assert len(seen) == 3  # the inner condition counts where the outer one does not hold


def test_the_plan() -> None:
    """Bodies run on kernels but for what has none, in scratch memory of the step, of which there is one for both."""
    plan = Model(chosen()).plan({"x": (2, 3, 9, 7), "c": (), "d": (1,)})
    assert [n.op.type for n in plan.numpy_steps()] == ["Sign"]
    ((held, plans),) = plan.bodies.items()
    assert held.op.type == "If" and list(plans) == ["then_branch", "else_branch"]
    (step,) = (s for s in plan.program.host_steps.values() if isinstance(s, CallStep))
    assert step.arena.nbytes == max(p.arena for p in plans.values()) > 0
    assert set(plans["then_branch"].inputs) == {"a#first"}, "w is a constant of the body"
    shared = {*plans["then_branch"].program.constants} & {*plans["else_branch"].program.constants}
    assert any(n.startswith("w") for n in shared) and not any(n.startswith("v") for n in shared)


def test_the_authored_graph_stays() -> None:
    graph = chosen()
    before = write(graph)
    model = Model(graph)
    model.run(feeds(True, True))
    for same in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert digest(same.run(feeds(False, True))) == digest(model.run(feeds(False, True)))
    assert write(graph) == before


def test_runs_at_once() -> None:
    """Each run has memory of its own for its bodies."""
    model = Model(chosen(), threads=2)
    want = {(c, d): digest(model.run(feeds(c, d))) for c, d in CHOICES}
    failed: list[Any] = []

    def work(k: int) -> None:
        for i in range(40):
            key = CHOICES[(k + i) % 4]
            if digest(model.run(feeds(*key))) != want[key]:
                failed.append((k, i, key))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# What a condition that is known decides


def squeezed() -> Graph:
    """As exporters write a squeeze of an axis that may be longer than 1."""
    nodes = [
        node("Shape", "x", "size", start=1, end=2), node("Equal", "size,one", "single"),
        choice("single", body([node("Squeeze", "x,one", "s")], "s"), body([node("Identity", "x", "s")], "s"), "q"),
        node("Relu", "q", "y"),
    ]  # fmt: skip
    return Graph(nodes, {"x": Spec((2, "C", 3), F32)}, {"y": None}, {"one": np.array([1])})


@pytest.mark.parametrize("channels", [1, 4])
def test_a_known_condition_leaves_one_branch(channels: int) -> None:
    model, x = Model(squeezed()), sampler(1)(2, channels, 3)
    plan = model.plan({"x": x.shape})
    assert not plan.bodies and not plan.numpy_steps()
    y = model.run({"x": x})["y"]
    assert y.shape == ((2, 3) if channels == 1 else (2, 4, 3))
    np.testing.assert_array_equal(y, np.maximum(x.reshape(y.shape), 0))


def test_what_only_the_other_branch_reads_is_not_computed() -> None:
    nodes = [
        node("Exp", "x", "e"), node("Neg", "x", "n"),
        choice("c", body([node("Relu", "e", "s")], "s"), body([node("Relu", "n", "s")], "s"), "y"),
    ]  # fmt: skip
    graph = Graph(nodes, {"x": Spec((3,), F32)}, {"y": None}, {"c": np.array(False)})
    plan = Model(graph).plan({"x": (3,)})
    assert "Exp" not in {step.node.op.type for step in plan.steps}
    x = np.array([-1, 2, -3], np.float32)
    np.testing.assert_array_equal(Model(graph).run({"x": x})["y"], [1, 0, 3])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("c", [True, False])
def test_branches_that_compute_nothing(known: bool, c: bool) -> None:
    """Their outputs are a constant, a value around them, the same value twice under other names, a value fetched besides."""
    then = body([node("Identity", "x", "i"), node("Identity", "i", "j")], "i,k,j", k=np.array([5, 6], F32))
    other = body([node("Neg", "x", "i"), node("Identity", "w", "k"), node("Identity", "x", "j")], "i,k,j")
    nodes = [choice("c", then, other, "a,b,d"), node("Add", "a,d", "y")]
    inputs = {"x": Spec((2,), F32), **({} if known else {"c": Spec((), BOOL)})}
    constants = {"w": np.array([7, 8], F32), **({"c": np.array(c)} if known else {})}
    model, x = Model(Graph(nodes, inputs, dict.fromkeys("yabd"), constants)), np.array([1, -2], F32)
    for threads in (1, 2):
        got = model.run({"x": x} if known else {"x": x, "c": np.array(c)}, threads=threads)
        np.testing.assert_array_equal(got["a"], x if c else -x)
        np.testing.assert_array_equal(got["b"], [5, 6] if c else [7, 8])
        np.testing.assert_array_equal(got["d"], x)
        np.testing.assert_array_equal(got["y"], 2 * x if c else [0, 0])


def test_what_shapes_decide_around_a_branch(tmp_path: Path) -> None:
    """A constant that another shape makes another one is not shared between plans through the branch that reads it."""
    then = body(
        [node("Add", "size,one", "more"), node("Cast", "more", "real", to=1), node("Mul", "x,real", "s")], "s", one=1
    )
    other = body([node("Expand", "x,size", "s")], "s")
    nodes = [node("Shape", "x", "size"), choice("c", then, other, "y")]
    graph = Graph(nodes, {"x": Spec(("N",), F32), "c": Spec((), BOOL)}, {"y": None}, {})
    model, _ = load(graph, tmp_path)
    for _ in range(2):
        for n in (3, 5, 4):
            x = sampler(n)(n)
            np.testing.assert_array_equal(model.run({"x": x, "c": np.array(True)})["y"], x * (n + 1))
            np.testing.assert_array_equal(model.run({"x": x, "c": np.array(False)})["y"], x)
        model = nbconv.load(tmp_path / "model.onnx")
    assert model._graph is None


# What cannot be


def test_branches_of_other_shapes() -> None:
    nodes = [choice("c", body([node("Flatten", "x", "s")], "s"), body([node("Neg", "x", "s")], "s"), "y")]
    model = Model(Graph(nodes, {"x": Spec((2, 3, 4), F32), "c": Spec((), BOOL)}, {"y": None}, {}))
    with pytest.raises(
        DataDependentError, match=r"y \(If\): output 0 is float32\(2, 12\) in then_branch, float32\(2, 3, 4\) in"
    ):
        model.plan({"x": (2, 3, 4), "c": ()})
    x = sampler(1)(2, 3, 4)
    for cond, want in ((True, x.reshape(2, 12)), (False, -x), (True, x.reshape(2, 12))):
        np.testing.assert_array_equal(model.run({"x": x, "c": np.array(cond)})["y"], want, strict=True)


def test_a_gpu_is_refused() -> None:
    with pytest.raises(DataDependentError, match=r"y \(If\): a GPU's plan holds no programs"):
        Model(chosen()).plan({"x": (2, 3, 9, 7), "c": (), "d": (1,)}, target=target("cuda"))


def test_no_gradient() -> None:
    model = Model(chosen())
    with pytest.raises(ModelError, match=r"If has no gradient"):
        nbconv.Trainer(model, loss="mse", output="y").step(feeds(True, True), np.zeros((2, 8, 9, 7), np.float32))


def test_what_a_branch_lacks_is_listed() -> None:
    proto = onnx.load_from_string(write(chosen()))
    held = next(n for n in proto.graph.node if n.op_type == "If")
    held.attribute[1].g.node[0].op_type = "Nonsense"
    held.attribute[1].g.node[1].attribute[0].g.node[0].op_type = "NoSense"
    found = [(p.op, p.problem) for p in survey(proto.SerializeToString())]
    assert found == [(n, f"operator {n} is not supported") for n in ("Nonsense", "NoSense")]


def test_a_branch_that_reads_what_is_nowhere() -> None:
    proto = onnx.load_from_string(write(chosen()))
    held = next(n for n in proto.graph.node if n.op_type == "If")
    held.attribute[0].g.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="reads 'nowhere', which is no input"):
        read(proto.SerializeToString())


def test_damaged_branches() -> None:
    """Whatever a changed byte makes of a model with branches, it is read, or refused with a ModelError."""
    content, rng, read_again = write(chosen()), np.random.default_rng(4), 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            read(bytes(damaged))
            read_again += 1
        except ModelError:
            continue
    assert 0 < read_again < 300


def test_branches_of_an_older_opset() -> None:
    """Attributes that became inputs are rewritten in branches, too; their constants are the branches' own."""
    onnxruntime = pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    info = helper.make_tensor_value_info
    then, other = (
        helper.make_graph(
            [helper.make_node("Clip", ["x"], ["k"], min=low, max=high), helper.make_node("Squeeze", ["k"], [out], axes=[1])],
            out, [], [info(out, kind.FLOAT, (3,))],
        )
        for out, low, high in (("t", -1.0, 0.5), ("e", 0.0, 2.0))
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)], "old",
        [info("x", kind.FLOAT, (3, 1)), info("c", kind.BOOL, (1,))], [info("y", kind.FLOAT, (3,))],
    )  # fmt: skip
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8).SerializeToString()
    session, model = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), nbconv.load(content)
    for c in (True, False):
        given = {"x": np.array([[-3], [0.25], [3]], F32), "c": np.array([c])}
        np.testing.assert_array_equal(model.run(given)["y"], session.run(None, given)[0])


class Fragile(Unary):
    """Raises when it meets a negative number."""

    domain = "tests.control"

    def formula(self, x: np.ndarray) -> np.ndarray:
        if (x < 0).any():
            raise ArithmeticError("negative")
        return x


def test_an_error_in_a_branch() -> None:
    nodes = [choice("c", body([Node(Fragile(), ("x",), ("s",))], "s"), body([node("Neg", "x", "s")], "s"), "y")]
    model = Model(Graph(nodes, {"x": Spec((3,), F32), "c": Spec((), BOOL)}, {"y": None}, {}))
    x = np.array([1, 2, 3], F32)
    for _ in range(3):
        with pytest.raises(ArithmeticError, match="negative"):
            model.run({"x": -x, "c": np.array(True)})
        np.testing.assert_array_equal(model.run({"x": x, "c": np.array(True)})["y"], x)
        np.testing.assert_array_equal(model.run({"x": x, "c": np.array(False)})["y"], -x)


def test_interrupts_leave_the_model_usable() -> None:
    python(
        textwrap.dedent("""
        import signal
        import numpy as np
        import nbconv.runtime.executor
        from nbconv.model import Model
        from tests.test_control import chosen, digest, feeds
        model = Model(chosen(), threads=2)
        given = feeds(False, True, 64)
        want = digest(model.run(given))
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for i in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0003 * i)
                while True: model.run(given)
            except KeyboardInterrupt:
                pass
            assert digest(model.run(given)) == want
        assert not nbconv.runtime.executor._loop()._busy._is_owned()
        """)
    )


def test_commands(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(write(chosen()))
    for command, wanted in (("doctor", "runs, but 1 of "), ("inspect", "If"), ("check", "ok"), ("profile", "programs")):
        done = subprocess.run(
            [sys.executable, "-m", "nbconv", command, str(path), "--shape", "x=2,3,9,7"], capture_output=True, text=True
        )
        assert wanted in done.stdout, (command, done.stdout, done.stderr)
