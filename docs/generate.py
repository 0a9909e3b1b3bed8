"""Writes what of the documentation comes from code and measurements: ``python -m docs.generate``, ``make docs``.

Operators in docs/onnx.md; onnx's backend suite in docs/conformance.md; kernels and ResNet-50's layers in docs/cuda.md;
latencies, of which ``benchmarks/results`` holds the measurements, in README.md and docs/benchmarks.md.

Which ops have kernels and gradients is not written down anywhere: it is asked of the ops, for every case of theirs in
tests/ops.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import tests.ops
from benchmarks import picture
from benchmarks.gpu import LAYERS
from nbconv.converters.contrib import DOMAIN, RULES
from nbconv.errors import ModelError
from nbconv.graph import CHANNELS_FIRST, Graph, Node, Spec, spec_of
from nbconv.kernels.compile import ON_PROCESSORS, families, libraries
from nbconv.kernels.ptx import PtxLibrary
from nbconv.kernels.store import source
from nbconv.kernels.target import target
from nbconv.model import Model
from nbconv.ops import REGISTRY, Op
from nbconv.ops.conv import Conv
from nbconv.passes.expand import expanded
from nbconv.plan.plan import Plan
from nbconv.tools.gradcheck import Call
from tests import conformance
from tests.check import Case, as_tuple
from tests.gradients import arguments, aside

PAGE = Path(__file__).resolve().parent / "onnx.md"
CUDA_PAGE = PAGE.with_name("cuda.md")
CONFORMANCE_PAGE = PAGE.with_name("conformance.md")
SPEED_PAGE = PAGE.with_name("benchmarks.md")
README = PAGE.parent.parent / "README.md"
BEGIN, END = "<!-- made by docs/generate.py -->", "<!-- end -->"


def main() -> None:
    renew(PAGE, table())
    reports = picture.measured()
    renew(README, picture.sentences(reports))
    renew(SPEED_PAGE, picture.markdown(reports))
    renew(CONFORMANCE_PAGE, *conformance.tables(list(conformance.outcomes())))
    if find_spec("numba_cuda"):
        renew(CUDA_PAGE, cuda_table(), layers_table())
    else:
        print("numba-cuda is not installed: docs/cuda.md stays as it is")


def renew(page: Path, *tables: list[str]) -> None:
    page.write_text(with_tables(page.read_text(encoding="utf-8"), *tables), encoding="utf-8")


def with_tables(text: str, *tables: list[str]) -> str:
    """The page with what stands between its pairs of marks replaced, by lines."""
    head, *parts = text.split(BEGIN)
    made = ("\n".join((BEGIN, *lines, END)) + part.split(END)[1] for lines, part in zip(tables, parts, strict=True))
    return head + "".join(made)


def table() -> list[str]:
    """The lines of the table: one an operator of ONNX's own domain or onnxruntime's, and one for each of onnxruntime's that
    is rewritten when a model is read."""
    cases = all_cases()
    rows = ["| operator | computed by | gradient | |", "|---|---|---|---|"]
    for (domain, name), op in sorted(REGISTRY.items()):
        if domain in ("", DOMAIN):
            known = cases.get((domain, name), [])
            rows.append(f"| {full(domain, name)} | {runs_on(known)} | {gradient(op, known)} | {summary(op)} |")
    rewritten = [(full(*key), summary(rule)) for key, rule in sorted(RULES.items()) if key[0]]
    return [*rows, *(f"| {name} | ONNX's | ONNX's | {told} |" for name, told in rewritten)]


def full(domain: str, name: str) -> str:
    """An operator's name with its domain, where that is not ONNX's."""
    return f"{domain}.{name}" if domain else name


def cuda_table() -> list[str]:
    """The lines of the table of kernels: one a family of the CPU's."""
    rows = ["| family | kernels | source | a unit is done by |", "|---|---|---|---|"]
    goal = target("cuda")
    theirs = libraries(families(goal), goal)
    for family in families():
        if family not in theirs:
            rows.append(f"| {family} | {', '.join(libraries([family])[family].kernels)} | {NO_TWIN[family]} | |")
            continue
        found = theirs[family]
        assert isinstance(found, PtxLibrary)
        own = "`kernels/cuda`" if source(f"cuda/{family}.py") is not None else "the CPU's"
        widths = {launch.width for kernel in found.kernels for _, launch in found.launches(kernel)}
        who = ", ".join({1: "a thread", 32: "a warp"}.get(w, f"{w} threads") for w in sorted(widths))
        rows.append(f"| {family} | {', '.join(found.kernels)} | {own} | {who} |")
    return rows


def layers_table() -> list[str]:
    """The lines of the table of what plans for a GPU do with each of ResNet-50's convolutions."""
    rows = ["| ResNet-50's convolution | batch of 1 | batch of 32 |", "|---|---|---|"]
    for ci, co, side, k, stride in LAYERS:
        weights = {"w": np.zeros((co, ci, k, k), np.float32)}
        op = Conv(pads=(k // 2,) * 4, strides=(stride, stride))
        how = []
        for n in (1, 32):
            x = Spec((n, ci, side, side), np.dtype(np.float32))
            graph = Graph([Node(op, ("x", "w"), ("y",))], {"x": x}, {"y": None}, weights)
            how.append(algorithm(Model(graph).plan({"x": x.shape}, target=target("cuda"))))
        rows.append(f"| {k}×{k} {ci}→{co} at {side}²{f', stride {stride}' * (stride > 1)} | {how[0]} | {how[1]} |")
    return rows


HOST = "none: the host does it"
NO_TWIN = {
    "loop": "none: the run loop of CPU threads",
    "roof": "none: measures a processor",
    **dict.fromkeys(ON_PROCESSORS - {"loop", "roof"}, HOST),
}
"""Families that a GPU has no use for, and why."""


def algorithm(plan: Plan) -> str:
    """How a plan does a convolution: by Winograd's filtering, in parts of k, or neither; and the blocks of its product."""
    steps = {step.kernel: step for step in plan.steps}
    product = steps.get("gemm.gemm") or steps["conv.conv"]
    sizes = [s.arguments["tiles.size"] for k, s in steps.items() if k == "winograd.transform_input"]
    found = [f"F({size}×{size})" for size in sizes]
    found += [f"{s.arguments['parts.parts']} parts" for k, s in steps.items() if k == "gemm.finish"]
    return ", ".join([*found, f"{product.units} blocks"])


def all_cases() -> dict[tuple[str, str], list[Case]]:
    """The rows of every CASES table of tests/ops, by domain and operator."""
    found: dict[tuple[str, str], list[Case]] = {}
    for module in pkgutil.iter_modules(tests.ops.__path__):
        for row in getattr(importlib.import_module(f"tests.ops.{module.name}"), "CASES", []):
            found.setdefault((row.op.domain, row.op.type), []).append(row)
    return found


def runs_on(cases: list[Case]) -> str:
    """What computes the op where its first input is float32 and not known before the run; its other inputs (shapes, axes,
    limits) are constants, as in most models."""
    if not cases:  # it works on values that are no tensors
        return "NumPy"
    answers = {where(case) for case in cases if any(x is not None and x.dtype == np.float32 for x in case.inputs)}
    answers = answers or {where(case) for case in cases}
    answers = answers - {"nothing"} or answers
    if answers == {"kernel", "NumPy"}:
        return "kernel, at times NumPy"
    return next(a for a in ("planning", "kernel", "NumPy", "nothing") if a in answers or a == "nothing")


def where(case: Case) -> str:
    """As `nbconv.passes.fold` and `nbconv.plan` decide it."""
    if case.op.control:
        return "kernel"  # what its bodies hold has a row of its own
    if case.op.bound():
        return "kernel"
    given = tuple(None if x is None else Spec(x.shape, x.dtype) if i == 0 else spec_of(x) for i, x in enumerate(case.inputs))
    try:
        found = as_tuple(case.op.infer(*given))[: case.options.get("outputs", 1)]
    except ModelError:  # an input that has to be known when planning
        return "planning"
    if not given or case.op.known(*given) is not None:
        return "planning"
    if case.op.bypass(given):
        return "nothing"
    node = Node(case.op, tuple(f"x{i}" if s else "" for i, s in enumerate(given)), tuple(f"y{i}" for i in range(len(found))))
    others = bool(expanded(node, given, found)[0])
    kernel = others or case.op.layouts(given, found, tuple(CHANNELS_FIRST for _ in given)) is not None
    return "kernel" if kernel else "NumPy"


def gradient(op: type[Op], cases: list[Case]) -> str:
    """What computes the gradient, as `runs_on` says it of the forward; "0" where it is that everywhere, nothing where
    `differentiable` says that there is none."""
    calls = [(case, wrt) for case in cases if (wrt := arguments(case.op, case.inputs))]
    calls = [(case, wrt) for case, wrt in calls if all(np.size(case.inputs[i]) for i in wrt)]
    if not calls:
        return ""
    if op.gradient is Op.gradient:
        return "none yet"
    answers = set()
    for case, wrt in calls:
        outputs = case.options.get("outputs", 1)
        call = Call(case.op, case.inputs, outputs, wrt, aside(case.op, outputs))
        if call.gradients:
            answers.add("NumPy" if any(in_numpy(node, call) for node in call.graph.nodes[1:]) else "kernel")
    return "kernel, at times NumPy" if len(answers) == 2 else next(iter(answers), "0")


def in_numpy(node: Node, call: Call) -> bool:
    """As `nbconv.plan` decides it of a node that no constants fold away."""
    given, found = (tuple(call.specs[n] if n else None for n in names) for names in (node.inputs, node.outputs))
    if all(spec is None or spec.constant for spec in given) or node.op.bypass(given) or expanded(node, given, found)[0]:
        return False
    return node.op.layouts(given, found, tuple(CHANNELS_FIRST for _ in given)) is None


def summary(op: Any) -> str:
    """The first sentence of an op's own docstring, or of a rule's."""
    text = (
        " ".join(((op.__dict__.get("__doc__") if isinstance(op, type) else op.__doc__) or "").split())
        .replace("|", "\\|")
        .replace("``", "`")
    )
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


if __name__ == "__main__":
    main()
