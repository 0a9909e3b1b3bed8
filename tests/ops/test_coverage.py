"""No op without a case."""

from __future__ import annotations

import importlib
import pkgutil

import tests.ops
from nbconv.ops import REGISTRY


def test_every_op_has_a_case() -> None:
    modules = [importlib.import_module(f"tests.ops.{m.name}") for m in pkgutil.iter_modules(tests.ops.__path__)]
    checked = {(row.op.domain, row.op.type) for module in modules for row in getattr(module, "CASES", [])}
    bare = sorted(type for domain, type in REGISTRY if domain == "" and (domain, type) not in checked)
    assert not bare, f"ops without a case in tests/ops: {', '.join(bare)}"
