"""Every use of numba.cuda: kernels (Python) → PTX.
Importing this module imports numba and numba-cuda.

A kernel may have variants, for tiles of another size: functions of the same name and arguments,
compiled apart, as registers and shared memory are those of an entry.
Its attribute ``__variants__`` is (the argument that decides, [(its value, function)]).

With ``NUMBA_ENABLE_CUDASIM=1`` kernels are Python functions of Numba's simulator instead: arrays
stand for pointers.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from numba import config, cuda, types

from nbconv.kernels.params import fields, is_group

SIMULATED = bool(config.ENABLE_CUDASIM)
"""whether kernels run in Numba's simulator"""
if not SIMULATED:
    # what `_operators` and `_vector` make types and functions of the language from
    from llvmlite import ir  # noqa: F401
    from numba.cuda import cgutils, dispatcher  # noqa: F401
    from numba.cuda.cudadecl import registry as typing_registry  # noqa: F401
    from numba.cuda.cudaimpl import registry as lowering_registry  # noqa: F401
    from numba.cuda.extending import intrinsic, models, register_model  # noqa: F401
    from numba.cuda.typing.templates import AbstractTemplate, signature  # noqa: F401

    # Device functions are typed for the GPU that is there, which is none; the entry's capability decides the code.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(8, 0))

Ints = types.CPointer(types.int64)
Floats = types.CPointer(types.float32)
Bytes = types.CPointer(types.uint8)
Int = types.int64
Float = types.float32
KINDS = {Ints: "int64*", Floats: "float32*", Bytes: "uint8*", Int: "int64", Float: "float32"}
TYPES = {name: kind for kind, name in KINDS.items()}
WARP = 32
VECTOR = "__vector__"
"""Attribute of the functions of the language that a whole warp must reach together."""


def kernel(function: Callable) -> Callable:
    """Marks a function as a kernel, as `nbconv.kernels._numba.kernel` does."""
    function.__kernel__ = True  # type: ignore[attr-defined]
    return function


def tiled(threads: int, blocks_per_sm: int = 1) -> Callable[[Callable], Callable]:
    """Marks a kernel that is written for blocks of ``threads`` threads, each block a unit at a
    time: it is called with the unit's number in the place of ``first``, by all of them.
    ``blocks_per_sm`` blocks must fit an SM's registers."""

    def mark(function: Callable) -> Callable:
        function.__tiled__ = (threads, blocks_per_sm)  # type: ignore[attr-defined]
        return kernel(function)

    return mark


def on_tensor_cores(function: Callable) -> Callable:
    """Marks a tiled kernel as the twin, of numbers rounded to TF32, of the one that has its
    name."""
    function.__name__ += "_tf32"
    function.__needs__ = (8, 0)  # type: ignore[attr-defined]
    return function


def inline(function: Callable) -> Callable:
    """A helper whose body is copied into its callers; a plain function in the simulator."""
    if SIMULATED:
        return function
    made: Any = cuda.jit(device=True, forceinline=True)
    return made(function)


def context() -> Any:
    """numba.cuda as it is inside the kernel that the simulator runs."""
    from numba.cuda.simulator import kernel as simulator

    return simulator._get_kernel_context()


def simulate(function: Callable, grid: int, block: int, given: list[Any]) -> None:
    """Run a kernel in the simulator: its arguments (`_simulated.Pointer`, numbers), then
    ``units``."""
    made: Any = cuda.jit(entry(function))
    made[grid, block](*given)


def shared_source(family: str) -> ModuleType:
    """The CPU's file of a family as a module of this package, for a file of this package that
    replaces parts of it."""
    name = f"{__package__}._shared_{family}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / "cpu" / f"{family}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def kernels_of(family: str, capability: tuple[int, int] = (8, 0)) -> dict[str, Callable]:
    """The kernels of a family by name, that GPUs of this compute capability can run."""
    found = vars(importlib.import_module(f"{__package__}.{family}"))
    return {
        n: f for n, f in found.items() if getattr(f, "__kernel__", False) and capability >= getattr(f, "__needs__", (0,))
    }


def parameters(function: Callable) -> dict[str, Any]:
    """A kernel's parameters and their types, without ``first``, ``last`` and ``slot``."""
    found = inspect.get_annotations(function)
    return {name: kind for name, kind in found.items() if name not in ("first", "last", "slot", "return")}


def arguments(function: Callable) -> dict[str, types.Type]:
    """A kernel's arguments, a word each, and their types."""
    found: dict[str, types.Type] = {}
    for name, kind in parameters(function).items():
        words = fields(name, kind) if is_group(kind) else {}
        found |= {field: TYPES[k] for field, k in words.items()} or {name: kind}
    return found


def width(function: Callable) -> int:
    """How many threads do a unit: a block's, a warp's, or 1 where the kernel does nothing by
    vectors."""
    bounds = getattr(function, "__tiled__", None)
    if bounds is not None:
        return bounds[0]
    return WARP if _by_vectors(function, set()) else 1


def _by_vectors(function: Callable, seen: set[int]) -> bool:
    """Whether a function calls what a warp does together, itself or through others."""
    function = getattr(function, "py_func", function)
    if getattr(function, VECTOR, False):
        return True
    if id(function) in seen or not inspect.isfunction(function):
        return False
    seen.add(id(function))
    names = set(function.__code__.co_names)
    found = [v for n, v in function.__globals__.items() if n in names]
    found += [getattr(v, n) for v in found if inspect.ismodule(v) for n in names if hasattr(v, n)]
    found += [c.cell_contents for c in function.__closure__ or ()]
    return any(_by_vectors(f, seen) for f in found if callable(f))


def entry(function: Callable) -> Callable:
    """The function that is launched: the kernel's arguments, a word each, then ``units``.
    Blocks, warps or threads take units in turn."""
    names = ", ".join(name.replace(".", "_") for name in arguments(function))
    groups = {name: kind for name, kind in parameters(function).items() if is_group(kind)}
    given = ", ".join(_call(name, groups[name]) if name in groups else name for name in parameters(function))
    tail = ", 0" if "slot" in inspect.get_annotations(function) else ""
    wide = width(function)
    if hasattr(function, "__tiled__"):
        mine, step = "Int(cuda.blockIdx.x)", "Int(cuda.gridDim.x)"
    elif wide == WARP:
        mine = "(Int(cuda.blockIdx.x) * Int(cuda.blockDim.x) + Int(cuda.threadIdx.x)) // 32"
        step = "Int(cuda.gridDim.x) * Int(cuda.blockDim.x) // 32"
    else:
        mine = "Int(cuda.blockIdx.x) * Int(cuda.blockDim.x) + Int(cuda.threadIdx.x)"
        step = "Int(cuda.gridDim.x) * Int(cuda.blockDim.x)"
    source = f"def {function.__name__}({names}, units):\n    unit = {mine}\n    while unit < units:\n"
    source += f"        body({given}, unit, unit + 1{tail})\n        unit += {step}\n"
    space = {"cuda": cuda, "Int": int if SIMULATED else Int, "body": inline(function)}
    space |= {kind.__name__: kind for kind in groups.values()}
    exec(compile(source, f"<entry of {function.__name__}>", "exec"), space)
    return space[function.__name__]


def _call(name: str, kind: type) -> str:
    """The text that makes a parameter of its words."""
    return f"{kind.__name__}({', '.join(word.replace('.', '_') for word in fields(name, kind))})"


def compile_kernel(function: Callable, capability: tuple[int, int]) -> str:
    """PTX of a module with one entry, named as the kernel."""
    kinds = [*arguments(function).values(), Int]
    bounds = getattr(function, "__tiled__", None)
    text, _ = cuda.compile(
        entry(function), types.void(*kinds), device=False, cc=capability, abi="numba", launch_bounds=bounds, output="ptx"
    )
    return _tidy(text if isinstance(text, str) else text.decode(), function.__name__)


def _tidy(text: str, name: str) -> str:
    """The entry under the kernel's name, without comments and the symbols of Numba's environments,
    which nothing reads."""
    mangled = re.search(r"\.entry (\S+)\(", text)
    assert mangled is not None
    text = text.replace(mangled[1], name)
    text = re.sub(r"^\.common \.global .*NumbaEnv.*\n", "", text, flags=re.M)
    text = re.sub(r"^\s*//.*\n", "", text, flags=re.M)
    return re.sub(r"\n{3,}", "\n\n", text.replace("\0", "")).strip() + "\n"
