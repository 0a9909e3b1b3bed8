"""Check a model's gradients, node by node: what they come to in float64 against differences of the node's forward along a
random direction, and the compiled kernels against that. The values are the model's own, of random input."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nbconv.commands import _model
from nbconv.commands._text import dump, plural, style, table

if TYPE_CHECKING:
    from nbconv.tools.gradcheck import Finding


def add(parser: argparse.ArgumentParser) -> None:
    _model.add_model(parser)
    _model.add_shape(parser)
    _model.add_seed(parser, "the random input and directions")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.epilog = f"""{_model.SHAPES}

columns:
  DIFFERENCES: the gradient's reference against central differences, as a fraction of what is summed
  KERNELS: the compiled gradient against its reference, as a fraction of the greatest element

A smaller --shape checks as much, sooner.

exit code: 0 all gradients are right, 1 one is not or is missing, or nothing can train,
2 a file or --shape is wrong

examples:
  nbconv gradcheck model.onnx
  nbconv gradcheck model.onnx --shape 2,3,64,96 --json"""


def run(args: argparse.Namespace) -> int:
    from nbconv.errors import ModelError
    from nbconv.graph import spec_of
    from nbconv.tools.gradcheck import KERNEL_RTOL, RTOL, check_model
    from nbconv.train.trainable import trainable

    graph = _model.open_graph(args.model)
    shapes, notes = _model.input_shapes(graph, args.shape)
    feeds = _model.random_feeds(graph, shapes, args.seed)
    try:
        findings = list(_told(check_model(graph, feeds, args.seed)))
        refused = trainable(graph, {n: spec_of(x)._replace(value=None) for n, x in feeds.items()}).refused
    except ModelError as error:
        raise ValueError(f"{args.model}: {'; '.join([str(error), *notes])}") from None
    wrong = [f for f in findings if not f.ok]
    if not findings and not refused:
        refused = "it has no gradient to check"
    if args.json:
        rows = [{**f._asdict(), "slope": _number(f.slope), "kernel": _number(f.kernel)} for f in findings]
        limits, ok = {"slope": RTOL, "kernel": KERNEL_RTOL}, not wrong and not refused
        dump({"model": args.model, "limits": limits, "ok": ok, "refused": refused, "nodes": rows})
        return 0 if ok else 1
    head = ("NODE", "OP", "BY", "DIFFERENCES", "KERNELS", "")
    table(
        head,
        [(f.node, f.op, ", ".join(f.wrt), _error(f.slope), _error(f.kernel), _verdict(f)) for f in findings],
        (3, 4),
        150,
    )
    print()
    if wrong:
        print(style(f"{args.model}: {len(wrong)} of {plural(len(findings), 'node')} fail", "red"))
    if refused:
        print(style(f"{args.model}: nothing can train: {refused}", "red"))
    if wrong or refused:
        return 1
    print(style(f"{args.model}: the gradients of all {plural(len(findings), 'node')} are right", "green"))
    return 0


def _told(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, with the number of them so far on a terminal's line."""
    import sys

    live = sys.stderr.isatty()
    for i, finding in enumerate(findings, 1):
        if live:
            print(f"\r{plural(i, 'node')}: {finding.node}"[:99].ljust(99), end="", file=sys.stderr, flush=True)
        yield finding
    if live:
        print(f"\r{'':99}\r", end="", file=sys.stderr, flush=True)


def _error(x: float | None) -> str:
    return "" if x is None else f"{x:.1e}"


def _number(x: float | None) -> float | None:
    """For JSON, which has no infinity: null."""
    return x if x is not None and math.isfinite(x) else None


def _verdict(f: Finding) -> str:
    parts = ["ok" if f.ok else "FAILS", f.note]
    if f.numpy:
        parts.append(f"NumPy runs {', '.join(f.numpy)}")
    return "; ".join(part for part in parts if part)
