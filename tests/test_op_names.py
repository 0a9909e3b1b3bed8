"""Lists of ops by name: each name is an op's that there is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbconv.ops import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
OPS = {type for _, type in REGISTRY}
FILES = sorted(f for folder in ("nbconv", "tests", "benchmarks", "docs") for f in (ROOT / folder).rglob("*.py"))


def is_type(node: ast.AST) -> bool:
    """Whether this is ``op.type`` or ``node.op.type``."""
    if not isinstance(node, ast.Attribute) or node.attr != "type":
        return False
    return getattr(node.value, "attr", getattr(node.value, "id", "")) == "op"


def texts(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def listed(node: ast.AST) -> set[str]:
    """The names in a display of a list: of a dict, in its keys."""
    if isinstance(node, ast.Dict):
        keys = [key if key is not None else value for key, value in zip(node.keys, node.values)]
        return set[str]().union(*(listed(key) for key in keys))
    if isinstance(node, ast.Call):  # frozenset((…)), dict.fromkeys((…), value)
        return listed(node.args[0]) if node.args else set()
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return set[str]().union(*map(listed, node.elts))
    if isinstance(node, (ast.BoolOp, ast.BinOp, ast.IfExp, ast.Starred, ast.Subscript)):
        return set[str]().union(*map(listed, ast.iter_child_nodes(node)))
    return texts(node) if isinstance(node, ast.Constant) else set()


def held_to_a_type(tree: ast.AST) -> Iterator[tuple[int, ast.AST]]:
    """Everything that the type of an op is compared with, looked up in, or matched with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and is_type(node.left):
            yield from ((node.lineno, other) for other in node.comparators)
        elif isinstance(node, ast.Subscript) and is_type(node.slice):
            yield node.lineno, node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args and is_type(node.args[0]):
            if node.func.attr == "get":
                yield node.lineno, node.func.value
        elif isinstance(node, ast.Match) and is_type(node.subject):
            for case in node.cases:
                yield from ((p.value.lineno, p.value) for p in ast.walk(case.pattern) if isinstance(p, ast.MatchValue))
                if case.guard is not None:
                    compared = [
                        n for n in ast.walk(case.guard) if isinstance(n, ast.Compare) and isinstance(n.left, ast.Name)
                    ]
                    yield from (
                        (n.lineno, other) for n in compared for other in n.comparators if isinstance(other, ast.Name)
                    )


def constants(tree: ast.Module) -> dict[str, ast.AST]:
    """A module's names and what they are first set to."""
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.setdefault(node.target.id, node.value)
    return found


def imported(tree: ast.Module, trees: dict[Path, ast.Module]) -> dict[str, ast.AST]:
    """What a module's names from others of these files are set to."""
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        source = trees.get(ROOT / f"{(node.module or '').replace('.', '/')}.py")
        if source is not None:
            there = constants(source)
            found |= {alias.asname or alias.name: there[alias.name] for alias in node.names if alias.name in there}
    return found


def names() -> dict[str, set[str]]:
    """The op names that a line of code holds a type to, by file and line."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    everywhere = {name: value for tree in trees.values() for name, value in constants(tree).items() if name.isupper()}
    found: dict[str, set[str]] = {}
    for file, tree in trees.items():
        lists = {**everywhere, **imported(tree, trees), **constants(tree)}
        for line, other in held_to_a_type(tree):
            where = found.setdefault(f"{file.relative_to(ROOT)}, line {line}", set())
            where |= listed(other)
            for name in {n.id for n in ast.walk(other) if isinstance(n, ast.Name)} & lists.keys():
                where |= listed(lists[name])
    return {where: ops for where, ops in found.items() if ops}


def test_every_op_that_a_list_names_exists() -> None:
    found = names()
    assert len(found) > 20
    unknown = {where: sorted(ops - OPS) for where, ops in found.items() if ops - OPS}
    assert not unknown


@pytest.mark.parametrize(
    "text",
    [
        "op.type == 'Conf'",
        "op.type in ('Conv', 'Conf')",
        "node.op.type not in {'Conf'}",
        "match op.type:\n case 'Conv' | 'Conf': pass",
    ],
)
def test_a_wrong_name_is_seen(text: str) -> None:
    found = [name for _, other in held_to_a_type(ast.parse(text)) for name in listed(other) | texts(other)]
    assert set(found) - OPS == {"Conf"}


def test_names_of_dicts_are_their_keys() -> None:
    value = ast.parse("{'Conv': 'x', **dict.fromkeys(('Relu', 'Conf'), 'y')}").body[0]
    assert isinstance(value, ast.Expr)
    assert listed(value.value) == {"Conv", "Relu", "Conf"}
