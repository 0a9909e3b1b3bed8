"""Loops as steps that hold a program: as onnxruntime has them, kept in files, refused where they were tampered with."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import nbconv
from nbconv.errors import ModelError, UnsupportedError
from nbconv.plan.cost import cost
from nbconv.plan.repeat import RepeatStep
from tests.check import sampler
from tests.test_program import _rewritten, digest
from tests.test_runtime import python

r = sampler(31)

HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
MODELS = {
    # An even and an odd number of turns; a state that stays, one that two others swap, one that nobody reads.
    **{f"carried{n}": f"""g (float[2, 3] x, float[2, 3] z) => (float[2, 3] a, float[2, 3] b) {{
        n = Constant <value = int64 {{{n}}}> ()
        a, b, unread, still = Loop (n, , x, z, x, z) <body = step (int64 i, bool c, float[2, 3] p, float[2, 3] q,
            float[2, 3] u, float[2, 3] s) => (bool more, float[2, 3] p2, float[2, 3] q2, float[2, 3] u2, float[2, 3] s2) {{
            more = Identity (c)
            p2 = Identity (q)
            turn = Cast <to = 1> (i)
            m = Add (p, turn)
            q2 = Mul (m, s)
            u2 = Add (u, q)
            s2 = Identity (s)
        }}>
    }}""" for n in (0, 1, 2, 5)},
    # Turns until a condition fails, of at most so many; there may be none. Rows along the first axis, of numbers too.
    "condition": """g (float[1, 4, 6, 5] x, int64 most, bool go) => (float[1, 4, 6, 5] y) {
        w = Constant <value = float[4, 4, 1, 1] {1,0,0,0.5,0,1,0.5,0,0,-0.5,1,0,0.5,0,0,-1}> ()
        y = Loop (most, go, x) <body = step (int64 i, bool c, float[1, 4, 6, 5] h) => (bool more, float[1, 4, 6, 5] next) {
            a = Conv (h, w)
            next = Relu (a)
            top = ReduceMax <keepdims = 0> (next)
            high = Constant <value = float {30}> ()
            more = Less (top, high)
        }>
    }""",
    "rows": """g (float[2, 3] x) => (float[2, 3] y, float[4, 2, 3] all, float[4] sums, int64[4] turns) {
        n = Constant <value = int64 {4}> ()
        go = Constant <value = bool {1}> ()
        y, all, sums, turns = Loop (n, go, x) <body = step (int64 i, bool c, float[2, 3] h) =>
            (bool more, float[2, 3] next, float[2, 3] row, float sum, int64 turn) {
            next = Tanh (h)
            row = Neg (next)
            sum = ReduceSum <keepdims = 0> (row)
            turn = Identity (i)
            more = Identity (c)
        }>
    }""",
    # Slices along other axes and from the end, read and written; what is read around the body.
    "axes": """g (float[3, 2] h0, float[3, 5, 2] xs, float[5, 2] zs, float[3, 2] k) =>
        (float[3, 2] h, float[3, 5, 2] ys, float[5, 3] sums, float[3, 2, 5] last) {
        h, ys, sums, last = Scan (h0, xs, zs) <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
            scan_output_axes = [1, 0, -1], scan_output_directions = [1, 0, 1],
            body = step (float[3, 2] a, float[3, 2] b, float[2] z) =>
            (float[3, 2] c, float[3, 2] d, float[3] e, float[3, 2] f) {
            c0 = Add (a, b)
            c1 = Add (c0, z)
            c = Tanh (c1)
            d = Mul (c, k)
            axis = Constant <value = int64[1] {1}> ()
            e = ReduceSum <keepdims = 0> (c0, axis)
            f = Identity (b)
        }>
    }""",
    # A loop in a branch in a loop, with a step in NumPy.
    "nested": """g (float[2, 3] x) => (float[2, 3] y) {
        n = Constant <value = int64 {3}> ()
        two = Constant <value = int64 {2}> ()
        y = Loop (n, , x) <body = step (int64 i, bool c, float[2, 3] h) => (bool more, float[2, 3] next) {
            more = Identity (c)
            odd = Mod (i, two)
            zero = Constant <value = int64 {0}> ()
            even = Equal (odd, zero)
            next = If (even) <then_branch = t () => (float[2, 3] u) {
                u = Loop (two, , h) <body = in (int64 j, bool d, float[2, 3] g) => (bool on, float[2, 3] v) {
                    on = Identity (d)
                    f = Round (g)
                    v = Add (f, x)
                }>
            }, else_branch = e () => (float[2, 3] w) { w = Neg (h) }>
        }>
    }""",
}  # fmt: skip


def content(name: str) -> bytes:
    return onnx.parser.parse_model(HEAD + MODELS[name]).SerializeToString()


def feeds(name: str, k: int) -> dict[str, np.ndarray]:
    if name == "condition":
        return {"x": np.abs(r(1, 4, 6, 5)), "most": np.array([100, 3, 2, 0, 100][k]), "go": np.array(k != 4)}
    shapes = {"h0": (3, 2), "xs": (3, 5, 2), "zs": (5, 2), "k": (3, 2), "x": (2, 3), "z": (2, 3)}
    return {port.name: r(*shapes[port.name]) for port in nbconv.load(content(name)).inputs}


@pytest.mark.parametrize("name", MODELS)
def test_as_onnxruntime_has_it(name: str) -> None:
    """One plan does it, on two threads bit for bit as on one."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content(name), providers=["CPUExecutionProvider"])
    model = nbconv.load(content(name))
    names = [port.name for port in model.outputs]
    for k in range(5 if name == "condition" else 2):
        given = feeds(name, k)
        got = model.run(given, threads=1)
        for output, want in zip(names, session.run(names, given), strict=True):
            assert got[output].dtype == want.dtype and got[output].shape == want.shape, output
            np.testing.assert_allclose(got[output], want, rtol=0, atol=1e-5 * np.abs(want).max(initial=1), err_msg=output)
        assert digest(model.run(given, threads=2)) == digest(got)
    assert model._staged is None and len(model._plans) == 1


def test_nothing_is_copied() -> None:
    """The last state and what is scanned are written to the caller's arrays, by kernels; states need one more place."""
    model = nbconv.load(content("rows"))
    program = model.plan({"x": (2, 3)}).program
    (step,) = program.host_steps.values()
    assert isinstance(step, RepeatStep) and not program.copies and not step.program.host_steps
    assert [b.kind for c in step.carried for b in (c.first, c.last, c.other)] == ["input", "result", "arena"]
    assert [(s.whole.kind, s.part) for s in step.scanned] == [("result", None)] * 3
    assert {k for k, _ in step.program.copies} == {3}, "the number of the turn alone"
    (held,) = (s for s in model.plan({"x": (2, 3)}).steps if s.kernel == "")
    assert cost(model.plan({"x": (2, 3)}), held).flops == 4 * (6 + 6 + 6 + 1 + 1)


def test_turns_that_only_a_run_knows() -> None:
    """Rows want their number: the node waits for it, then a step holds the body; the same number plans nothing."""
    text = (
        MODELS["rows"].replace("(float[2, 3] x)", "(float[2, 3] x, int64 n)").replace("[4]", "[k]").replace("[4, ", "[k, ")
    )
    text = text.replace("n = Constant <value = int64 {4}> ()", "")
    model = nbconv.load(onnx.parser.parse_model(HEAD + text).SerializeToString())
    fixed = nbconv.load(content("rows"))
    x = r(2, 3)
    want = fixed.run({"x": x})
    for n in (4, 2, 4, 0):
        got = model.run({"x": x, "n": np.array(n)})
        assert got["all"].shape == (n, 2, 3) and got["sums"].shape == (n,)
        np.testing.assert_array_equal(got["all"], want["all"][:n])
        np.testing.assert_array_equal(got["turns"], np.arange(n))
    assert model._staged is not None and not model._staged.bodies
    planned = model._staged.planned
    model.run({"x": -x, "n": np.array(2)})
    assert model._staged.planned == planned


def test_states_of_growing_shape_are_no_step() -> None:
    text = """g (float[2, 3] x) => (float[a, 3] y) {
        n = Constant <value = int64 {3}> ()
        y = Loop (n, , x) <body = step (int64 i, bool c, float[r, 3] h) => (bool more, float[s, 3] next) {
            more = Identity (c)
            next = Concat <axis = 0> (h, x)
        }>
    }"""
    model = nbconv.load(onnx.parser.parse_model(HEAD + text).SerializeToString())
    x = r(2, 3)
    np.testing.assert_array_equal(model.run({"x": x})["y"], np.concatenate([x] * 4))


def test_an_error_in_a_turn() -> None:
    """It leaves the model as it was."""
    text = (
        MODELS["rows"]
        .replace("row = Neg (next)", "row = Reshape (next, size)")
        .replace("float[2, 3] x)", "float[2, 3] x, int64[2] size)")
    )
    model = nbconv.load(onnx.parser.parse_model(HEAD + text.replace("[4, 2, 3]", "[4, a, b]")).SerializeToString())
    x = r(2, 3)
    for _ in range(2):
        with pytest.raises(ModelError, match="Reshape"):
            model.run({"x": x, "size": np.array([5, 5])})
        assert model.run({"x": x, "size": np.array([3, 2])})["all"].shape == (4, 3, 2)


ABSENT = ("onnx", "numba", "nbconv.passes", "nbconv.plan.plan", "nbconv.plan.hold", "nbconv.ops.control", "nbconv.ops.conv")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, dict[str, np.ndarray], str]]:
    """Of some models: the file, that of its one program, inputs, and the digest of what comes of them."""
    found = {}
    for name in ("condition", "axes", "nested"):
        path = tmp_path_factory.mktemp(name) / "model.onnx"
        path.write_bytes(content(name))
        model, given = nbconv.load(path), feeds(name, 0)
        want = digest(model.run(given))
        assert model._plan_cache is not None and model._plan_cache._folder is not None
        (program,) = Path(model._plan_cache._folder).glob("*.program")
        found[name] = path, program, given, want
    return found


def test_a_fresh_process_takes_them(kept) -> None:
    """With equal bits, without onnx, passes and plans."""
    code = "import sys, hashlib\nimport numpy as np\nimport nbconv\n"
    for path, _, given, _ in kept.values():
        np.savez(path.with_suffix(".npz"), **given)
        code += textwrap.dedent(f"""
        found = nbconv.load({str(path)!r}).run(dict(np.load({str(path.with_suffix(".npz"))!r})))
        parts = (repr((n, a.shape, a.dtype.str)).encode() + a.tobytes() for n, a in found.items())
        print(hashlib.sha256(b"".join(parts)).hexdigest())
        """)
    *got, heavy = python(code + f"print([n for n in {ABSENT!r} if n in sys.modules])").splitlines()
    assert got == [want for *_, want in kept.values()]
    assert heavy == "[]"


def _inner(change: Callable) -> Callable:
    """A change of the first step that goes in turns."""

    def changed(head: dict) -> None:
        change(next(step for _, step in head["host_steps"] if "turns" in step))

    return changed


WRONG: dict[str, tuple[str, Callable]] = {
    "less memory than the body needs": ("condition", _inner(lambda s: s["arena"].__setitem__(2, [1]))),
    "memory that is a result": ("condition", _inner(lambda s: s.update(arena=["result", 0, s["arena"][2], "|u1"]))),
    "a state too few": ("condition", _inner(lambda s: s["carried"].clear())),
    "a state of another name": ("condition", _inner(lambda s: s["carried"][0].__setitem__(0, "z"))),
    "a state's result that is not there": ("condition", _inner(lambda s: s["carried"][0].__setitem__(1, 7))),
    "a state in the input": ("condition", _inner(lambda s: s["carried"][0].__setitem__(3, s["carried"][0][2]))),
    "a state of another shape": ("condition", _inner(lambda s: s["carried"][0][4][2].append(1))),
    "a condition of another type": ("condition", _inner(lambda s: s["again"][1].__setitem__(3, "<i8"))),
    "a number of turns that is none": ("condition", _inner(lambda s: s.update(most=["lots"]))),
    "a number in the input": ("condition", _inner(lambda s: s["number"].__setitem__(1, s["most"][0]))),
    "turns without a number": ("axes", _inner(lambda s: s.update(turns=None))),
    "more turns than slices": ("axes", _inner(lambda s: s.update(turns=6))),
    "fewer than none": ("axes", _inner(lambda s: s.update(turns=-1))),
    "slices along no axis": ("axes", _inner(lambda s: s["scanned"][0].__setitem__(2, 3))),
    "slices along another axis": ("axes", _inner(lambda s: s["scanned"][0].__setitem__(2, 0))),
    "slices in the input": ("axes", _inner(lambda s: s["scanned"][2].__setitem__(1, s["scanned"][0][1]))),
    "slices in one piece": ("axes", _inner(lambda s: s["scanned"][0].__setitem__(4, None))),
    "slices copied to the input": ("axes", _inner(lambda s: s["scanned"][0].__setitem__(4, ["input", "k", [3, 2], "<f4"]))),
    "slices too few": ("axes", _inner(lambda s: s["scanned"].pop())),
    "what is read around it": ("axes", _inner(lambda s: s["around"].clear())),
    "a body that is tampered with": ("axes", _inner(lambda s: s["body"].update(segments=[[0, 99]]))),
}  # fmt: skip


@pytest.mark.parametrize("what", ["none", *WRONG])
def test_tampered_programs_are_refused(what: str, kept) -> None:
    name, change = WRONG.get(what, ("axes", lambda head: None))
    path, program, given, want = kept[name]
    before = program.read_bytes()
    program.write_bytes(_rewritten(before, change))
    again = nbconv.load(path)
    assert digest(again.run(given)) == want
    assert (again._graph is None) == (what == "none")
    program.write_bytes(before)


@pytest.mark.parametrize("before", [True, False])
def test_training(before: bool) -> None:
    """What stands before all weights needs no gradient; through a loop there is none, which is said by name."""
    loop = """ = Loop (n, , {}) <body = step (int64 i, bool c, float[k, 3] h) => (bool more, float[k, 3] next) {{
        more = Identity (c)
        next = Tanh (h)
    }}>"""
    body = f"t{loop.format('x')} y = MatMul (t, w)" if before else f"t = MatMul (x, w) y{loop.format('t')}"
    text = f"g (float[4, 3] x) => (float[4, 3] y) <int64 n = {{2}}, float[3, 3] w = {{1,2,3,4,5,6,7,8,9}}> {{ {body} }}"
    trainer = nbconv.Trainer(nbconv.load(onnx.parser.parse_model(HEAD + text).SerializeToString()), loss="mse", output="y")
    x, want = r(4, 3), r(4, 3)
    if before:
        losses = [trainer.step(x, want) for _ in range(5)]
        assert losses[-1] < losses[0]
    else:
        with pytest.raises(UnsupportedError, match=r"y \(Loop\): Loop has no gradient"):
            trainer.step(x, want)
