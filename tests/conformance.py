"""onnx's own backend suite through nbconv, counted: ``python -m tests.conformance [PATTERN] [--json]``.

Each test is a model with inputs and the outputs that onnx's authors wrote down: of one node, of what a function expands to,
small models, those converted from PyTorch, and those of well-known nets with onnx's reference as the judge.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import unittest
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.defs
from onnx.backend.test import BackendTest
from onnx.backend.test.loader import load_model_tests

import nbconv.compat.onnx_backend
from nbconv.converters.guard import graphs
from nbconv.errors import ModelError

KINDS = {
    "node": "Node", "simple": "Simple", "pytorch-converted": "PyTorchConverted", "pytorch-operator": "PyTorchOperator",
    "real": "Real",
}  # fmt: skip
"""The suite's folders, and what its runner calls them."""

RANDOM = frozenset(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"))
"""Operators whose values ONNX leaves open: of a test with one of them shapes and types are compared."""

NO_CNN = frozenset(("text", "traditionalml", "training", "preview", "sequence", "optional"))
STORAGE = frozenset((8, *range(17, 27)))
"""Strings, 8-bit floats and what is smaller than a byte, by TensorProto's numbers."""

SKIPPED = {
    r"gradient_of_add": "the operator Gradient trains: nbconv.Trainer does that, and onnx's reference lacks it",
}
"""Tests that do not pass (regular expressions), and why."""


class Everything(nbconv.compat.onnx_backend.NbconvBackend):
    """nbconv, which the runner does not ask before it tries."""

    is_compatible = None  # type: ignore[assignment]
    device = "CPU"
    """what runs the models, whichever the runner asks for"""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Any:
        return super().prepare(model, cls.device, **kwargs)


class Suite(BackendTest):
    """The suite, whose comparison knows sequences of scalars, and results that are random."""

    random = False

    def assert_similar_outputs(
        self, ref_outputs: Sequence[Any], outputs: Sequence[Any], rtol: float, atol: float, model_dir: str | None = None
    ) -> None:
        np.testing.assert_equal(len(outputs), len(ref_outputs))
        for wanted, got in zip(ref_outputs, outputs, strict=True):
            if isinstance(wanted, (list, tuple)):
                assert isinstance(got, (list, tuple)), f"{type(got).__name__}, wanted a sequence"
                self.assert_similar_outputs(wanted, got, rtol, atol, model_dir)
            elif self.random:
                assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
            else:
                super().assert_similar_outputs([wanted], [got], rtol, atol, model_dir)


class Case(NamedTuple):
    """A test of the suite."""

    name: str
    kind: str
    """one of `KINDS`"""
    family: str
    """what onnx files the operator under, or the kind"""
    cnn: bool
    """whether it belongs to the part that CNNs use"""
    run: Callable[[], None]

    def __str__(self) -> str:
        return self.name


class Outcome(NamedTuple):
    """What came of a test."""

    case: Case
    result: str
    """"passed", "wrong", "refused" (a ModelError) or "failed" (another error)"""
    why: str


@cache
def cases() -> list[Case]:
    """The suite's tests for the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suite = Suite(Everything, __name__)  # type: ignore[arg-type]
        models = {kind: {row.name: _model(row) for row in load_model_tests(kind=kind)} for kind in KINDS}
    found = []
    for kind, of in KINDS.items():
        tests = suite.test_cases[f"OnnxBackend{of}ModelTest"]
        for name in dir(tests):
            if name.startswith("test_") and name.endswith("_cpu"):
                found.append(_case(name.removesuffix("_cpu"), kind, models[kind], suite, getattr(tests, name)))
    return found


def _model(row: Any) -> onnx.ModelProto:
    if row.model is not None:
        return row.model
    if row.model_dir is None:  # a net, which comes as a file
        return onnx.ModelProto()
    return onnx.load(os.path.join(row.model_dir, "model.onnx"), load_external_data=False)


def _case(name: str, kind: str, models: dict[str, onnx.ModelProto], suite: Suite, run: Callable) -> Case:
    model, expanded = models[name], re.search(r"_expanded(_ver\d+)?$", name)
    base = models.get(name[: expanded.start()], model) if expanded else model
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    families = [_family(node) for node in nodes]
    first = next((node for node in base.graph.node if node.op_type != "Constant"), None) or next(iter(base.graph.node), None)
    family = _family(first) if kind == "node" and first is not None else kind
    types = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    cnn = not expanded and NO_CNN.isdisjoint((*families, family)) and STORAGE.isdisjoint(types)
    random = not RANDOM.isdisjoint(node.op_type for node in nodes)

    def alone() -> None:
        suite.random = random
        run(None)

    return Case(name, kind, family, cnn, alone)


def _family(node: onnx.NodeProto) -> str:
    """The folder of onnx/defs that has the operator."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not onnx.defs.has(node.op_type, domain):
        return "other"
    return onnx.defs.get_schema(node.op_type, domain).file.replace("\\", "/").split("/")[-2]


def skipped(name: str) -> str:
    """Why a test does not pass; "" for one that does."""
    return next((why for pattern, why in SKIPPED.items() if re.search(pattern, name)), "")


def outcome(case: Case) -> Outcome:
    """The test, done now."""
    try:
        case.run()
    except unittest.SkipTest as error:
        return Outcome(case, "failed", f"skipped: {error}")
    except ModelError as error:
        return Outcome(case, "refused", _line(error))
    except AssertionError as error:
        return Outcome(case, "wrong", _line(error))
    except Exception as error:
        return Outcome(case, "failed", f"{type(error).__name__}: {_line(error)}")
    return Outcome(case, "passed", "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def outcomes(pattern: str = "") -> Iterator[Outcome]:
    """Those of the tests whose names have the pattern."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        os.environ.setdefault("ONNX_MODELS", folder)  # where the runner writes
        for case in cases():
            if re.search(pattern, case.name):
                yield outcome(case)


def counted(found: Iterable[Outcome]) -> dict[str, dict[str, list[int]]]:
    """{"kind" or "family" or "part": {its name: [passed, all]}}."""
    counts: dict[str, Counter[tuple[str, str]]] = {"passed": Counter(), "all": Counter()}
    for case, result, _ in found:
        rows = [("kind", case.kind), ("family", case.family), ("part", "all"), *([("part", "CNN")] if case.cnn else [])]
        for row in rows:
            counts["all"][row] += 1
            counts["passed"][row] += result == "passed"
    made: dict[str, dict[str, list[int]]] = {"kind": {}, "family": {}, "part": {}}
    for (what, name), total in sorted(counts["all"].items()):
        made[what][name] = [counts["passed"][what, name], total]
    return made


def tables(found: Sequence[Outcome]) -> list[list[str]]:
    """What docs/conformance.md has of these outcomes, by lines: counts, and each test that does not pass with its reason."""
    counts = counted(found)
    made = []
    for what, head in (("part", "part"), ("kind", "kind of test"), ("family", "family of operators")):
        rows = [f"| {name} | {passed} | {total} |" for name, (passed, total) in counts[what].items()]
        made.append([f"| {head} | passed | of |", "|---|---:|---:|", *rows])
    lacking = [f"| {o.case.name} | {skipped(o.case.name) or o.why} |" for o in found if o.result != "passed"]
    return [*made, ["| test | why |", "|---|---|", *lacking]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pattern", nargs="?", default="", help="a regular expression for names of tests")
    parser.add_argument("--json", action="store_true", help="print counts and what does not pass as JSON")
    parser.add_argument("--device", default="CPU", help="CPU (the default), or CUDA where there is a GPU")
    args = parser.parse_args()
    if not Everything.supports_device(args.device):
        parser.error(f"device {args.device!r} is not available")
    Everything.device = args.device
    found: list[Outcome] = []
    for one in outcomes(args.pattern):
        found.append(one)
        if one.result != "passed" and not args.json:
            print(f"{one.result:8} {one.case.name}: {one.why}", flush=True)
    counts = counted(found)
    if args.json:
        lacking = {
            o.case.name: {"result": o.result, "why": skipped(o.case.name) or o.why} for o in found if o.result != "passed"
        }
        print(json.dumps({**counts, "lacking": lacking}, indent=1))
        return
    for what in ("family", "kind"):
        print("\n" + "\n".join(f"{name:18} {passed:4} of {total:4}" for name, (passed, total) in counts[what].items()))
    for name, (passed, total) in counts["part"].items():
        print(f"\npassed {passed} of {total}" + (f": the part that CNNs use ({name})" if name != "all" else ""), end="")
    print()


if __name__ == "__main__":
    main()
