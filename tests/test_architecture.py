"""Imports point down, lazy and typed ones counted: a module imports its own layer and those below it, and none imports
itself through others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOMES = {
    "nbconv": ROOT / "nbconv", "nbconv.kernels": ROOT / "kernels",
    "nbconv.converters": ROOT / "converters", "nbconv.models": ROOT / "models",
}  # fmt: skip
LAYERS = (
    "errors base", "kernels", "graph", "lowering", "ops", "passes", "plan", "runtime", "converters", "vision", "edit",
    "model", "train", "tools compat models", "commands cli _pyinstaller",
)  # fmt: skip
"""Folders and files of nbconv, lowest first."""
RANK = {f"nbconv.{name}": i for i, names in enumerate(LAYERS) for name in names.split()}
FILES = {"__init__", "__main__", "model", "errors", "cli"}
"""All that stands beside the folders, but other names of a module."""
ALIASES = {"ort", "backend", "image"}


def rank(module: str) -> int | None:
    """The number of a module's layer; None for nbconv itself, its ``__main__`` and what is only another name."""
    return RANK.get(".".join(module.split(".")[:2]))


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package, folder in HOMES.items():
        for file in folder.rglob("*.py"):
            inside = file.relative_to(folder)
            if not any((folder / parent).is_symlink() for parent in inside.parents):
                parts = inside.with_suffix("").parts
                found[".".join((package, *(p for p in parts if p != "__init__")))] = file
    return found


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Every import of a module of nbconv, at the top, in functions and under TYPE_CHECKING, with its line."""
    known, file = modules(), modules()[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name in known)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *filter(None, [node.module])])
            for a in node.names:
                name = f"{base}.{a.name}"
                if name in known or base in known:
                    yield (name if name in known else base), node.lineno


def upward(module: str, rank=rank) -> list[str]:
    mine = rank(module)
    return [
        f"{module}, line {line}: imports {other}, which is a layer above"
        for other, line in imports(module)
        if mine is not None and (theirs := rank(other)) is not None and theirs > mine
    ]


@pytest.mark.parametrize("layer", [name for names in LAYERS for name in names.split()])
def test_imports_point_down(layer: str) -> None:
    found = [m for m in modules() if m == f"nbconv.{layer}" or m.startswith(f"nbconv.{layer}.")]
    assert found, f"nbconv has no {layer}"
    up = [line for module in found for line in upward(module)]
    assert not up, "\n".join(up)


def test_an_import_that_points_up_is_found() -> None:
    """Turned round, the layers have many."""
    turned = {name: -i for name, i in RANK.items()}
    assert sum(len(upward(m, lambda other: turned.get(".".join(other.split(".")[:2])))) for m in modules()) > 100


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, by Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges.get(module, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            at = stack.index(module)
            members = stack[at:]
            del stack[at:]
            if len(members) > 1 or module in edges.get(module, ()):
                found.append(sorted(members))

    for module in edges:
        if module not in index:
            visit(module)
    return found


def test_no_circle_of_modules() -> None:
    edges = {m: {other for other, _ in imports(m)} for m in modules()}
    assert circles(edges) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_all_but_the_front_stands_in_a_folder() -> None:
    assert {file.stem for file in (ROOT / "nbconv").glob("*.py")} == FILES | ALIASES
    for name in ALIASES:
        text = ast.parse((ROOT / "nbconv" / f"{name}.py").read_text(encoding="utf-8"))
        assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(text)), f"{name} is a module"


def test_every_folder_has_a_layer_and_is_installed() -> None:
    folders = {f.parent.relative_to(ROOT / "nbconv") for f in (ROOT / "nbconv").rglob("*.py")}
    packages = {".".join(("nbconv", *folder.parts)) for folder in folders}
    assert all(rank(package) is not None for package in packages - {"nbconv"})
    said = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not [package for package in packages if f'"{package}"' not in said]
