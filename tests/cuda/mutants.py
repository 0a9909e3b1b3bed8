"""Mutants of kernels: their source with one fault put in, such as people make. A gate that lets one pass checks too little.

Three kinds: a barrier that is dropped, a comparison or a loop's end that is off by one, two names of an index that are
swapped.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

STRICT = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
INDEXED = {"load": 1, "store": 1, "get": 1, "put": 1, "at": 1, "load_part": 1, "store_part": 1, "load4": 1, "store4": 1}
"""Functions of the kernels' language, and which argument is an index."""
BARRIERS = ("barrier", "syncthreads", "syncwarp")
BETWEEN = {"_products": ("_tile",)}
"""Files that families import by way of others."""
Fault = tuple[int, str]
"""A fault's line and what is there without it."""
_numbers = itertools.count()


class Mutant(NamedTuple):
    """One fault: in which function of a family's file, of which kind, at what, in which line, and the file's source
    with it."""

    family: str
    function: str
    kind: str
    place: str
    line: str
    source: str

    def __str__(self) -> str:
        return f"{self.family}.{self.function}: {self.kind}: {self.place}, in: {self.line}"


def file_of(family: str) -> Path:
    """The source of a family of CUDA kernels."""
    module = importlib.import_module(f"nbconv.kernels.cuda.{family}")
    assert module.__file__ is not None
    return Path(module.__file__)


def mutants(family: str, each: int) -> Iterator[Mutant]:
    """At most ``each`` faults of a kind in each function of a family's file, those in other functions, too, spread over the
    function. A mutant's function is the outermost."""
    text = file_of(family).read_text()
    tree, lines = ast.parse(text), text.splitlines()
    for number, function in enumerate(tree.body):
        if not isinstance(function, ast.FunctionDef):
            continue
        for kind, faults in (("barrier", _barriers), ("off by one", _bounds), ("swapped", _swaps)):
            for k in _chosen(function, [line for line, _ in faults(copy.deepcopy(function))], each):
                changed = copy.deepcopy(tree)
                target = changed.body[number]
                assert isinstance(target, ast.FunctionDef)
                line, at = list(faults(target, apply=k))[k]
                source = ast.unparse(ast.fix_missing_locations(changed))
                yield Mutant(family, function.name, kind, at, lines[line - 1].strip(), source)


def places(family: str) -> Iterator[tuple[str, str, str]]:
    """(outermost function, place, line) of all bounds of a family's file that `mutants` may make off by one."""
    text = file_of(family).read_text()
    lines = text.splitlines()
    for function in ast.parse(text).body:
        if isinstance(function, ast.FunctionDef):
            yield from ((function.name, at, lines[line - 1].strip()) for line, at in _bounds(function))


def _chosen(function: ast.FunctionDef, faults: list[int], each: int) -> list[int]:
    """Numbers of the faults, of which the lines are given, that are tried: ``each`` in each innermost function."""
    inner = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef)]
    found: dict[int, list[int]] = {}
    for k, line in enumerate(faults):
        owner = max((n for n in inner if n.lineno <= line <= (n.end_lineno or 0)), key=lambda n: n.lineno)
        found.setdefault(owner.lineno, []).append(k)
    return [
        numbers[round(k * (len(numbers) - 1) / max(each - 1, 1))] if len(numbers) > each else numbers[k]
        for numbers in found.values() for k in range(min(each, len(numbers)))
    ]  # fmt: skip


def _barriers(function: ast.FunctionDef, apply: int = -1) -> Iterator[Fault]:
    """Barriers; the ``apply``-th is taken out."""
    k = 0
    for node in ast.walk(function):
        for body in (getattr(node, name, None) for name in ("body", "orelse")):
            for i, one in enumerate(body if isinstance(body, list) else ()):
                if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call) and _name(one.value.func) in BARRIERS:
                    if k == apply:
                        body[i] = ast.Pass()
                    yield one.lineno, ast.unparse(one)
                    k += 1


def _bounds(function: ast.FunctionDef, apply: int = -1) -> Iterator[Fault]:
    """Comparisons between integers' bounds, and loops over a range, whose last turn is left out."""
    k = 0
    values = {
        id(n) for w in ast.walk(function) for n in ast.walk(w)
        if isinstance(w, ast.Assert) or (isinstance(w, ast.Call) and _name(w.func) == "where")
    }  # fmt: skip
    for node in ast.walk(function):
        if id(node) in values:
            continue
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in STRICT and not _floats(node):
            place = ast.unparse(node)
            if k == apply:
                node.ops = [STRICT[type(node.ops[0])]()]
            yield node.lineno, place
            k += 1
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Call) and _name(node.iter.func) == "range":
            place = f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
            if k == apply:
                arguments = node.iter.args
                at = 0 if len(arguments) == 1 else 1
                step = copy.deepcopy(arguments[2]) if len(arguments) == 3 else ast.Constant(1)
                arguments[at] = ast.BinOp(arguments[at], ast.Sub(), step)
            yield node.lineno, place
            k += 1


def _floats(node: ast.Compare) -> bool:
    """Whether a comparison names a float: those are values, not bounds."""
    return any(isinstance(n, ast.Constant) and isinstance(n.value, float) for n in ast.walk(node))


def _swaps(function: ast.FunctionDef, apply: int = -1) -> Iterator[Fault]:
    """Indices that name two things or more; the first two whose places matter are swapped."""
    k = 0
    for node in ast.walk(function):
        index: ast.expr | None = None
        if isinstance(node, ast.Subscript):
            index = node.slice
        elif isinstance(node, ast.Call) and (i := INDEXED.get(_name(node.func))) is not None and i < len(node.args):
            index = node.args[i]
        pair = _pair(index) if index is not None else None
        if pair is None:
            continue
        place = ast.unparse(node)
        if k == apply:
            pair[0].id, pair[1].id = pair[1].id, pair[0].id
        yield node.lineno, place
        k += 1


def _pair(index: ast.expr) -> tuple[ast.Name, ast.Name] | None:
    """Two names of an index that are not the operands of one sum or product, nor terms of the same sum."""
    terms: list[ast.expr] = [index]
    while any(isinstance(t, ast.BinOp) and isinstance(t.op, ast.Add) for t in terms):
        terms = [
            u for t in terms for u in ((t.left, t.right) if isinstance(t, ast.BinOp) and isinstance(t.op, ast.Add) else (t,))
        ]
    named = [[n for n in ast.walk(t) if isinstance(n, ast.Name)] for t in terms]
    products = [names for names in named if len(names) > 1]
    for names in products:
        for other in (o for others in named if others is not names for o in others):
            if other.id not in {n.id for n in names}:
                return names[0], other
    return None


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def load(mutant: Mutant, family: str = "") -> ModuleType:
    """The mutant's file as a module beside the families; or, where it is one that families import, ``family`` with it."""
    module = _module(mutant.family, mutant.source, str(mutant))
    if not family:
        return module
    before = dict(sys.modules)
    try:
        sys.modules[f"nbconv.kernels.cuda.{mutant.family}"] = module
        for between in BETWEEN.get(mutant.family, ()):
            sys.modules[f"nbconv.kernels.cuda.{between}"] = _module(between, file_of(between).read_text(), str(mutant))
        return _module(family, file_of(family).read_text(), str(mutant))
    finally:
        sys.modules.update(before)


def _module(family: str, source: str, about: str) -> ModuleType:
    """A family's file, with this source, under a name of its own."""
    name = f"nbconv.kernels.cuda._mutant{next(_numbers)}"
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__package__ = "nbconv.kernels.cuda"
    module.__file__ = str(file_of(family))
    sys.modules[name] = module
    try:
        exec(compile(source, f"<{about}>", "exec", dont_inherit=True), vars(module))
    finally:
        del sys.modules[name]
    return module
