"""Every op nbconv knows. A family is a file in this folder; adding one is enough for it to be found."""

from __future__ import annotations

import importlib
import pkgutil

from nbconv.errors import UnsupportedError
from nbconv.graph.op import REGISTRY, Op

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def lookup(type: str, domain: str = "") -> type[Op]:
    """The class of an operator; UnsupportedError when nbconv has none."""
    domain = "" if domain == "ai.onnx" else domain
    try:
        return REGISTRY[domain, type]
    except KeyError:
        raise UnsupportedError(f"operator {f'{domain}.' if domain else ''}{type} is not supported") from None


__all__ = ["REGISTRY", "Op", "lookup"]
