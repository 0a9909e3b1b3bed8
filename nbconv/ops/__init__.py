"""Every op nbconv knows. A family is a file in this folder; adding one is enough for it to be found.

Families are imported when an op is looked up that is not there yet, all of them, or the one that is named.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from nbconv.errors import UnsupportedError
from nbconv.graph import op as _op
from nbconv.graph.op import Op

FAMILIES = frozenset(module.name for module in pkgutil.iter_modules(__path__))

_all: list[bool] = []
"""not empty when all families have been imported"""


def _import_all() -> None:
    if not _all:
        for name in sorted(FAMILIES):
            importlib.import_module(f"{__name__}.{name}")
        _all.append(True)


def __getattr__(name: str) -> Any:
    if name != "REGISTRY":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _import_all()
    return _op.REGISTRY


def lookup(type: str, domain: str = "") -> type[Op]:
    """The class of an operator; UnsupportedError when nbconv has none."""
    key = "" if domain == "ai.onnx" else domain, type
    if key not in _op.REGISTRY:
        _import_all()
    if key in _op.REGISTRY:
        return _op.REGISTRY[key]
    fallback = importlib.import_module(f"{__name__}.fallback")
    if key[0] not in fallback.DOMAINS:
        raise UnsupportedError(f"operator {domain}.{type} is not supported")
    return fallback.of_schema(type, key[0])


def family_of(op: Op, bodies: bool = False) -> str | None:
    """The family by which `of_family` finds the op's class in another process, where its attributes make it again;
    ``bodies``: those that are graphs, too."""
    cls, family = type(op), type(op).__module__.removeprefix(f"{__name__}.")
    ours = (
        family in FAMILIES
        and _op.REGISTRY.get((op.domain, op.type)) is cls
        and cls.__init__ is Op.__init__
        and (bodies or not op.bodies())
    )
    return family if ours else None


def of_family(family: str, kind: str, domain: str) -> type[Op]:
    """The class of an operator that a family defines, of which only that file is imported; ValueError for others."""
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}")
    importlib.import_module(f"{__name__}.{family}")
    found = _op.REGISTRY.get((domain, kind))
    if found is None or found.__module__ != f"{__name__}.{family}":
        raise ValueError(f"no operator {domain}.{kind} in {family}")
    return found
