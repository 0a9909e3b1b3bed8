"""Every use of Numba's and llvmlite's private or semi-private parts: kernels (Python) → LLVM IR →
object code.

Nothing else in nbconv reaches below Numba's public API (`kernels/cpu/_simd.py` uses the extension
API).
What is used is what `numba.pycc` uses; `tests/test_numba_internals.py` guards it.
Importing this module imports numba.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import codegen, types
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from nbconv.kernels.params import fields, is_group
from nbconv.kernels.target import Target

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()

Ints = types.CPointer(types.int64)
Floats = types.CPointer(types.float32)
Bytes = types.CPointer(types.uint8)
Int8s = types.CPointer(types.int8)
Shorts = types.CPointer(types.uint16)
Int32s = types.CPointer(types.int32)
Int = types.int64
Float = types.float32
KINDS = {
    Ints: "int64*",
    Floats: "float32*",
    Bytes: "uint8*",
    Int8s: "int8*",
    Shorts: "uint16*",
    Int32s: "int32*",
    Int: "int64",
    Float: "float32",
}
"""Types a kernel's arguments may have, and what the manifest calls them."""
TYPES = {name: kind for kind, name in KINDS.items()}

UNDEFINED: frozenset[str] = frozenset()
"""Symbols that an object may leave undefined: none, a library must need nothing."""

EXTENSIONS = {"vnni": {8: "+avxvnni", 16: "+avx512vnni"}, "amx": {16: "+amx-tile,+amx-int8"}}
"""LLVM's features beyond the target's that a function has whose name begins with such a word, by
the target's lanes: for processors of the target that have more than it asks for, of which the plan
knows."""

_target: list[Target] = []


class _IRLibrary(codegen.AOTCodeLibrary):
    """Collects IR; neither optimises it for this machine nor loads it."""

    def _optimize_functions(self, ll_module: object) -> None: ...

    def _optimize_final_module(self) -> None: ...

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _IRCodegen(codegen.AOTCPUCodegen):
    _library_class = _IRLibrary


def target() -> Target:
    """The target that is being compiled for; kernels read their vector width from it when they are
    imported."""
    return _target[0]


def kernel(function: Callable) -> Callable:
    """Marks a function of a family file as a kernel: its annotated arguments end in ``first: Int,
    last: Int``, or in ``first: Int, last: Int, slot: Int`` where it wants to know which thread it
    runs on (0 for the caller)."""
    function.__kernel__ = True  # type: ignore[attr-defined]
    return function


def _parameters(function: Callable) -> dict[str, Any]:
    """A kernel's parameters and their types, in order; a NamedTuple of `nbconv.kernels.params` is
    one, which Numba passes field by field."""
    return {
        name: types.BaseTuple.from_types([TYPES[k] for k in fields(name, kind).values()], kind) if is_group(kind) else kind
        for name, kind in inspect.get_annotations(function).items()
        if name != "return"
    }


def _arguments(function: Callable) -> dict[str, types.Type]:
    """A kernel's arguments, a word each, and their types, in order."""
    found: dict[str, types.Type] = {}
    for name, kind in inspect.get_annotations(function).items():
        if is_group(kind):
            found |= {field: TYPES[k] for field, k in fields(name, kind).items()}
        elif name != "return":
            found[name] = kind
    return found


@global_compiler_lock
def _kernel_ir(function: Callable, symbol: str) -> str:
    """Target-neutral IR text that defines ``symbol`` as void(i64*, i64, i64, i64) around the typed
    kernel."""
    arguments = _arguments(function)
    typing_context = cpu_target.typing_context
    cpu_target.target_context.refresh()
    typing_context.refresh()
    context = cpu_target.target_context.subtarget(_internal_codegen=_IRCodegen(symbol), aot_mode=True)
    flags = Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    library = context.codegen().create_library(symbol)
    taken = tuple(_parameters(function).values())
    result = compile_extra(typing_context, context, function, taken, types.void, flags, locals={}, library=library)
    inner = result.fndesc.llvm_func_name
    library.finalize()
    module = library._final_module
    for f in module.functions:
        if not f.is_declaration:
            f.linkage = "internal"
    return _neutral(str(module)) + _entry_ir(symbol, inner, tuple(arguments.values()), list(arguments).index("first"))


def _neutral(text: str) -> str:
    """IR text without the triple, data layout and CPU of the machine that made it; loops must not
    become calls of memset or memcpy, since kernels may need no symbol from outside."""
    text = re.sub(r"^(define .*) \{$", r'\1 "no-builtins" {', text, flags=re.M)
    text = re.sub(r"^target (triple|datalayout) = .*$", "", text, flags=re.M)
    return re.sub(r'"(target-cpu|target-features|tune-cpu)"="[^"]*"', "", text)


def _entry_ir(symbol: str, inner: str, argument_types: tuple, own: int) -> str:
    """The exported entry: reads the kernel's ``own`` arguments from the table (one 64-bit word
    each) and calls it."""
    reads, passed = [], []
    for i, kind in enumerate(argument_types[:own]):
        reads.append(f"  %s{i} = getelementptr i64, ptr %args, i64 {i}\n  %r{i} = load i64, ptr %s{i}")
        if isinstance(kind, types.CPointer):
            reads.append(f"  %a{i} = inttoptr i64 %r{i} to ptr")
            passed.append(f"ptr %a{i}")
        elif kind is Float:
            reads.append(f"  %t{i} = trunc i64 %r{i} to i32\n  %a{i} = bitcast i32 %t{i} to float")
            passed.append(f"float %a{i}")
        else:
            passed.append(f"i64 %r{i}")
    given = ["i64 %first", "i64 %last", "i64 %slot"][: len(argument_types) - len(passed)]
    arguments = ", ".join(["ptr %ret", "ptr %exc", *passed, *given])
    head = f"\ndefine void @{symbol}(ptr %args, i64 %first, i64 %last, i64 %slot) {{"
    call = f'  %code = call i32 @"{inner}"({arguments})'
    return "\n".join([head, "  %ret = alloca ptr", "  %exc = alloca ptr", *reads, call, "  ret void", "}"]) + "\n"


def _extended(text: str, goal: Target) -> str:
    """IR text whose functions have the features that their names ask for."""
    for word, more in EXTENSIONS.items():
        features = ",".join(filter(None, (goal.features, more.get(goal.lanes))))
        text = re.sub(rf'^(define .* @"?{word}_.*) \{{$', rf'\1 "target-features"="{features}" {{', text, flags=re.M)
    return text


def _machine(goal: Target) -> llvm.TargetMachine:
    return llvm.Target.from_triple(goal.triple).create_target_machine(
        cpu=goal.cpu, features=goal.features, opt=3, reloc="pic", codemodel="default"
    )


def _optimised(
    texts: list[str],
    exports: set[str],
    goal: Target,
) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """One module of all kernels, optimised with the target's own cost model."""
    machine = _machine(goal)
    head = f'target triple = "{goal.triple}"\ntarget datalayout = "{machine.target_data}"\n'
    module = llvm.parse_assembly(head)
    for text in texts:
        part = llvm.parse_assembly(head + _extended(text, goal))
        part.verify()
        module.link_in(part)
    for f in module.functions:
        if not f.is_declaration:
            f.linkage = "external" if f.name in exports else "internal"
    for g in module.global_variables:
        if not g.is_declaration:
            g.linkage = "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = options.loop_interleaving = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    module.verify()
    return module, machine


def kernels_of(family: str, goal: Target) -> dict[str, Callable]:
    """The kernels that a family's file defines, freshly imported for the target."""
    if not _target or _target[0] != goal:
        for name in [n for n in sys.modules if n == "nbconv.kernels.cpu" or n.startswith("nbconv.kernels.cpu.")]:
            del sys.modules[name]  # the package too: it holds its modules as attributes
        _target[:] = [goal]
    module = importlib.import_module(f"nbconv.kernels.cpu.{family}")
    return {
        name: f for name, f in vars(module).items() if getattr(f, "__kernel__", False) and f.__module__ == module.__name__
    }


def compile_family(family: str, goal: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine, dict]:
    """The optimised module of a family, its target machine and its manifest."""
    kernels = kernels_of(family, goal)
    if not kernels:
        raise ValueError(f"kernels/cpu/{family}.py defines no kernel")
    texts, manifest = [], {}
    for name, function in kernels.items():
        arguments = list(_arguments(function).items())
        names = [a for a, _ in arguments]
        if names[-2:] != ["first", "last"] and names[-3:] != ["first", "last", "slot"]:
            raise TypeError(f"{family}.{name}: the last arguments must be first and last, or first, last and slot")
        manifest[name] = [[a, KINDS[kind]] for a, kind in arguments[: names.index("first")]]
        texts.append(_kernel_ir(function, name))
    module, machine = _optimised(texts, set(kernels), goal)
    toolchain = {"numba": numba.__version__, "llvmlite": llvmlite.__version__}
    return module, machine, {"kernels": manifest, "toolchain": toolchain}


def object_code(family: str, goal: Target) -> tuple[bytes, dict]:
    """Relocatable object code of every kernel of ``kernels/cpu/<family>.py``, and the manifest of
    their arguments.

    Each kernel is exported as ``void name(int64_t *args, int64_t first, int64_t last,
    int64_t slot)``. Raises RuntimeError when the code
    needs a symbol from outside.
    """
    module, machine, manifest = compile_family(family, goal)
    needed = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")} - UNDEFINED
    if needed:
        raise RuntimeError(
            f"kernels/cpu/{family}.py for {goal.name}: needs {', '.join(sorted(needed))}, kernels may need nothing"
        )
    return machine.emit_object(module), manifest


def assembly(family: str, goal: Target) -> str:
    """Assembly text of a family, for tests and curious people."""
    module, machine, _ = compile_family(family, goal)
    return machine.emit_assembly(module)


f32 = ir.FloatType()
i32, i64 = ir.IntType(32), ir.IntType(64)
