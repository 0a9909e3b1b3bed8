"""`nbconv doctor` and `load` tell before a run what a model lacks, and `doctor` what it would do slowly."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.parser
import pytest

import nbconv
from nbconv.cli import main
from nbconv.commands._examine import FEW
from nbconv.converters.importer import import_graph
from nbconv.converters.onnx import survey
from nbconv.converters.weights import Source
from nbconv.errors import DataDependentError, ModelError, UnsupportedError
from nbconv.graph import OBJECT, OPSET, Spec
from nbconv.graph.infer import DTYPES
from nbconv.lowering.weights import Weights
from nbconv.ops import REGISTRY, Op
from nbconv.ops.constant import Range
from nbconv.ops.select import Unique
from nbconv.passes.fold import fold
from tests.check import Case, node_model
from tests.models import small_model

ROOT = Path(__file__).resolve().parent.parent
LOADING = {"__init__", "fallback"}
"""Files of nbconv/ops that refuse operators, when they are looked up."""


def parsed(text: str) -> bytes:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')
    return model.SerializeToString()


# What ops refuse

REFUSED = {
    "MatMulInteger": """g (int16[2, 3] x, int16[3, 4] w) => (int32[2, 4] y) {
        [the_node] y = MatMulInteger (x, w)
    }""",
    "QuantizeLinear to int32": """g (float[4] x, float s, int32 z) => (int32[4] y) {
        [the_node] y = QuantizeLinear (x, s, z)
    }""",
}


def sites() -> set[str]:
    """file:line of everything in nbconv/ops that refuses a node, gradients apart."""
    found = set()
    for file in (ROOT / "nbconv" / "ops").glob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name != "gradient" and file.stem not in LOADING:
                raised = (n.exc for n in ast.walk(function) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call))
                calls = (c for c in raised if isinstance(c.func, ast.Name) and c.func.id == "UnsupportedError")
                found |= {f"{file.name}:{call.lineno}" for call in calls}
    return found


def infer_alone(model: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """What planning says of a model that is read as if nothing looked at what ops refuse; "" where it says nothing."""
    with monkeypatch.context() as patch:
        patch.setattr("nbconv.converters.importer.refusals", lambda graph, told: [])
        graph, _ = import_graph(Source(model))
    inputs = {n: Spec(tuple(d if isinstance(d, int) else 2 for d in s.shape), s.dtype) for n, s in graph.inputs.items()}
    try:
        fold(graph, inputs, Weights(), frozenset(graph.values()))
    except UnsupportedError as error:
        return str(error)
    return ""


def told_before(model: bytes, node: str, text: str) -> None:
    """Both `survey`, which doctor prints, and `load` name the node and say what is lacking."""
    (problem,) = {p for p in survey(model) if p.node == node}
    assert problem.problem in text
    with pytest.raises(UnsupportedError, match=node) as caught:
        nbconv.load(model)
    assert problem.problem in str(caught.value)


def test_every_refusal_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place in nbconv/ops that refuses a node has a model in REFUSED that gets there."""
    reached: set[str] = set()
    init = UnsupportedError.__init__

    def noted(self: Any, *arguments: Any) -> None:
        frame = sys._getframe(1)
        reached.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        init(self, *arguments)

    monkeypatch.setattr(UnsupportedError, "__init__", noted)
    for text in REFUSED.values():
        model = parsed(text)
        said = infer_alone(model, monkeypatch)
        if said:
            told_before(model, "the_node", said)
    missing = sites() - reached
    assert not missing, f"add models to REFUSED that reach {', '.join(sorted(missing))}"


def cases() -> Iterator[Case]:
    """A call of each op of ONNX's, from its table in tests/ops."""
    seen = set()
    for file in sorted((ROOT / "tests" / "ops").glob("test_*.py")):
        for case in getattr(importlib.import_module(f"tests.ops.{file.stem}"), "CASES", ()):
            if not case.op.domain and not case.op.bodies() and case.op.type not in seen and case.inputs:
                seen.add(case.op.type)
                yield case


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.op.type)
def test_types_that_an_op_refuses_are_told_before_a_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first = case.inputs[0]
    if first is None or first.dtype.kind not in "fiu" or not onnx.defs.has(case.op.type, OPSET, ""):
        return
    for dtype in (d for d in DTYPES.values() if d not in (first.dtype, OBJECT)):
        with np.errstate(invalid="ignore"):
            inputs = tuple(x.astype(dtype) if x is not None and x.dtype == first.dtype else x for x in case.inputs)
        try:
            case.op.infer(*(None if x is None else Spec(x.shape, x.dtype, value=x) for x in inputs))
            continue
        except UnsupportedError as error:
            text = str(error)
        except ModelError:
            continue
        try:
            model = node_model(case.op, inputs, [first.dtype])
            problems = survey(model)
        except ModelError:  # ONNX does not have it either
            continue
        assert [p.op for p in problems] == [case.op.type]
        assert problems[0].problem == text


def test_refusals_in_bodies_and_behind_values() -> None:
    """A product of int16 in a body that may run, and one behind a node whose result is there only when it has run; but not
    one in a body that a constant leaves out."""
    text = """g (int16[2, 2] x, int16[2] s, bool c) => (int32[a, b] y, int32[d, e] z) {
        no = Constant <value = bool {0}> ()
        y = If (%s) <then_branch = t () => (int32[2, 2] u) { [inside] u = MatMulInteger (x, x) },
                     else_branch = e () => (int32[2, 2] v) { v = Cast <to = 6> (x) }>
        where = NonZero (s)
        two = Constant <value = int64[2] {-1, 1}> ()
        picked = Reshape (where, two)
        narrow = Cast <to = 5> (picked)
        [behind] z = MatMulInteger (narrow, narrow)
    }"""
    assert [p.node for p in survey(parsed(text % "c"))] == ["inside", "behind"]
    assert [p.node for p in survey(parsed(text % "no"))] == ["behind"]


def test_what_only_a_trial_size_breaks_is_no_refusal() -> None:
    text = """g (float[N, C, H, 7] x) => (float[a, b] y) {
        shape = Constant <value = int64[2] {-1, 49}> ()
        y = Reshape (x, shape)
    }"""
    assert survey(parsed(text)) == []
    x = np.zeros((1, 2, 7, 7), np.float32)
    assert nbconv.load(parsed(text)).run({"x": x})["y"].shape == (2, 49)


# What it says of models that run


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Runs the command on a model's bytes: its report as JSON, and as text."""

    def call(model: bytes, *words: str) -> tuple[dict[str, Any], str]:
        path = tmp_path / "model.onnx"
        path.write_bytes(model)
        code = main(["doctor", str(path), *words, "--json"])
        report = json.loads(capsys.readouterr().out)
        assert main(["doctor", str(path), *words]) == code
        return report, capsys.readouterr().out

    return call


STAGED = """g (float[1, 3, 8, 8] x, int64 times) => (float[k] y, float[1, 4, 8, 8] z) {
    w = Constant <value = float[4, 3, 1, 1] {1,2,-1,0.5,-2,1,1,-1,1,2,2,-3}> ()
    zero = Constant <value = float {0}> ()
    a = Conv (x, w)
    high = GreaterOrEqual (a, zero)
    [found] where = NonZero (high)
    places = Transpose <perm = [1, 0]> (where)
    [picked] y = GatherND (a, places)
    go = Constant <value = bool {1}> ()
    [times_over] z = Loop (times, go, a) <body = step (int64 i, bool c, float[1, 4, 8, 8] h) =>
        (bool more, float[1, 4, 8, 8] next) {
        more = Identity (c)
        [inside] next = Det2 (h)
    }>
}"""


def test_a_model_that_is_planned_in_stages(doctor) -> None:
    """Nodes in the body of a Loop are counted, and a NonZero, which a kernel does, is not."""
    report, text = doctor(parsed(STAGED.replace("Det2", "Sign")))
    assert report["problems"] == []
    nodes = {s["node"] for s in report["stages"]["nodes"]}
    assert "found" in nodes and "times_over" not in nodes, "each turn has the same shapes: a step holds the body"
    assert all(s["why"] for s in report["stages"]["nodes"])
    assert {s["node"]: s["by"] for s in report["numpy_steps"]} == {"z.body/inside": "NumPy"}
    assert "planned while it runs" in text
    assert report["steps"] > len(report["numpy_steps"])


def test_steps_by_onnx_reference_are_named(doctor) -> None:
    text = """g (float[1, 4, 1] x) => (float[1, 4, 2] y) { a = Relu (x) [far] y = DFT (a) }"""
    assert ("", "DFT") not in REGISTRY
    report, said = doctor(parsed(text))
    assert [(s["node"], s["op"], s["by"]) for s in report["numpy_steps"]] == [("far", "DFT", "onnx.reference")]
    assert "1 by onnx.reference, which is very slow" in said


def test_sizes_from_a_value(doctor) -> None:
    """Zeros are no sizes: other inputs are tried."""
    text = """g (float[1, 1, 4, 4] x, int64[4] sizes) => (float[a, b, c, d] y) { [grown] y = Resize (x, , , sizes) }"""
    report, _ = doctor(parsed(text))
    assert (report["unplanned"], report["numpy_steps"]) == ("", [])
    assert [s["node"] for s in report["stages"]["nodes"]] == ["grown"]


def test_values_that_inputs_must_have(doctor, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Where no usual input will do, doctor says what to give; commands that run a model take it, too."""
    text = """g (float[1, 6] x, int64 rate) => (float[a, b] y) {
        parts = Constant <value = int64[2] {7, 8}> ()
        one = Constant <value = int64[1] {1}> ()
        r = Reshape (rate, one)
        sizes = Sub (r, parts)
        [split] y = Reshape (x, sizes)
    }"""
    report, said = doctor(parsed(text))
    assert "--value NAME=NUMBER" in report["unplanned"] and "--value NAME=NUMBER" in said
    report, _ = doctor(parsed(text), "--value", "rate=9")  # 2 rows, 1 column
    assert report["unplanned"]
    report, _ = doctor(parsed(text), "--value", "rate=10")  # 3 rows, 2 columns
    assert report["unplanned"] == "" and report["steps"]
    path = str(tmp_path / "model.onnx")
    for command in (["inspect"], ["check"], ["bench", "--runs", "2"]):
        assert main([command[0], path, *command[1:], "--value", "rate=10"]) == 0, capsys.readouterr()
        for wrong, says in (
            ("rate=x", "wanted a whole number"),
            ("rate=1" + 20 * "0", "int64"),
            ("ratio=1", "no input 'ratio'"),
            ("rate", "NAME="),
        ):
            assert main([command[0], path, "--value", wrong]) in (1, 2)
            told = capsys.readouterr()
            assert says in told.out + told.err


def test_steps_are_grouped_by_operator(doctor) -> None:
    nodes = " ".join(f"[wave{i}] x{i + 1} = Sin (x{i})" for i in range(30))
    report, text = doctor(parsed(f"g (double[4] x0) => (double[4] x30) {{ {nodes} }}"))
    assert len(report["numpy_steps"]) == 30
    (line,) = (line for line in text.splitlines() if line.startswith("Sin"))
    assert line.split()[1] == "30"
    assert "wave0, wave1, wave2 and 27 more" in line


@pytest.mark.parametrize("dilation, slow", [(1, False), (2, True)])
def test_kernels_that_are_known_to_be_slow(doctor, dilation: int, slow: bool) -> None:
    text = f"""g (float[1, 8, 16, 16] x, float[8, 1, 3, 3] w) => (float[1, 8, a, b] y) {{
        [deep] y = Conv <group = 8, dilations = [{dilation}, {dilation}]> (x, w)
    }}"""
    report, said = doctor(parsed(text))
    assert [s["node"] for s in report["slow_steps"]] == (["deep"] if slow else [])
    assert ("known to be slow" in said) == slow


def test_other_commands_on_a_staged_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """They work, or refuse in one line that says where to look."""
    path = tmp_path / "model.onnx"
    path.write_bytes(parsed(STAGED.replace("Det2", "Relu")))
    with pytest.raises(DataDependentError):
        nbconv.load(path).plan({"x": (1, 3, 8, 8), "times": ()})
    for words in (["inspect"], ["bench", "--runs", "3"], ["check"], ["profile", "--runs", "2"]):
        assert main([words[0], str(path), *words[1:]]) == 0, capsys.readouterr()
    told = capsys.readouterr().out
    assert "NonZero" in told
    assert "values decide shapes" in told
    for words in (["inspect", "--stage", "plan"], ["inspect", "--stage", "optimised"]):
        assert main([words[0], str(path), *words[1:]]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "no single plan" in said and "nbconv doctor" in said


def test_a_good_model_has_nothing_to_tell(doctor) -> None:
    report, said = doctor(small_model().SerializeToString())
    assert not any(report[k] for k in ("problems", "numpy_steps", "slow_steps", "stages", "unplanned"))
    assert "on compiled kernels" in said


def test_why_numpy_does_a_step(doctor) -> None:
    """What the page says of it, by operator or by size."""
    text = """g (float[1, 64] x, int64 n) => (float[1, 64] y, int64[k] z, int64[m] u) {
        zero = Constant <value = int64 {0}> ()
        one = Constant <value = int64 {1}> ()
        y = Sin (x)
        z = Range (zero, n, one)
        u = Unique (z)
    }"""
    report, said = doctor(parsed(text), "--value", "n=40")
    why = {s["op"]: s["why"] for s in report["numpy_steps"]}
    assert why == {"Sin": "no kernel yet", "Range": Range.in_numpy, "Unique": Unique.in_numpy}
    assert "no kernel yet" in said


def test_the_page_says_what_stays_in_numpy() -> None:
    section = (ROOT / "docs/onnx.md").read_text(encoding="utf-8").split("## What NumPy does")[1].split("\n## ")[0]
    stays = {f"| {name} | {op.in_numpy} |" for (_, name), op in REGISTRY.items() if op.in_numpy}
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert stays == {row for row in rows if not row.startswith(("| any", "| all"))}
    assert f"at most {FEW} bytes" in section
    assert not [op for op in REGISTRY.values() if op.in_numpy and op.lower is not Op.lower]
