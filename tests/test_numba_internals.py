"""What kernels/_numba.py takes from Numba and llvmlite, and what comes out: IR without licences, objects without needs.

Skipped where numba is not installed. The family that compiles fastest stands for all where one is enough.
"""

from __future__ import annotations

import inspect
import re

import pytest

pytest.importorskip("numba")

import llvmlite.binding as llvm
from numba.core import codegen, compiler
from numba.core.registry import cpu_target

from nbconv.kernels import elf
from nbconv.kernels.compile import families
from nbconv.kernels.target import TARGETS, host, target

FAST = re.compile(r"\b(fast|nnan|ninf|nsz|arcp|afn|reassoc)\b")
FLOATING = re.compile(r"^\s*%\S+ = (?:\w*tail\s)?(fadd|fsub|fmul|fdiv|frem|fneg|fcmp|select|phi|call)\b(.*)$", re.M)


def test_private_parts_are_there() -> None:
    """Names, bases and arguments that _numba.py relies on."""
    assert issubclass(codegen.AOTCPUCodegen, codegen.CPUCodegen)
    assert codegen.AOTCPUCodegen._library_class is codegen.AOTCodeLibrary
    for name in ("_optimize_functions", "_optimize_final_module", "_finalize_final_module", "finalize"):
        assert callable(getattr(codegen.AOTCodeLibrary, name)), name
    assert list(inspect.signature(codegen.AOTCodeLibrary._optimize_functions).parameters) == ["self", "ll_module"]
    arguments = inspect.signature(compiler.compile_extra).parameters
    assert list(arguments)[:7] == ["typingctx", "targetctx", "func", "args", "return_type", "flags", "locals"]
    assert "library" in arguments
    flags = compiler.Flags()
    for name in ("no_compile", "no_cpython_wrapper", "no_cfunc_wrapper", "error_model"):
        assert hasattr(flags, name), name
    context = cpu_target.target_context.subtarget(_internal_codegen=codegen.AOTCPUCodegen("probe"), aot_mode=True)
    library = context.codegen().create_library("probe")
    assert hasattr(library, "_final_module")
    assert hasattr(library, "_finalized")
    assert {"create_target_machine", "from_triple"} <= set(dir(llvm.Target))


def test_a_kernel_of_the_smallest_kind() -> None:
    """The road of every kernel, with an addition: IR for any machine, the entry around it, an object that runs."""
    from nbconv.kernels import _numba

    def double(x: _numba.Floats, n: _numba.Int, first: _numba.Int, last: _numba.Int) -> None:
        for i in range(first, last):
            x[i] = x[i] + x[i] * n

    double.__annotations__ = {"x": _numba.Floats, "n": _numba.Int, "first": _numba.Int, "last": _numba.Int, "return": None}
    text = _numba._kernel_ir(double, "double")
    assert "target triple" not in text
    assert "target-cpu" not in text
    assert re.search(r"^define void @double\(ptr %args, i64 %first, i64 %last, i64 %slot\)", text, re.M)
    assert len(re.findall(r"^define (?!internal)", text, re.M)) == 1, "more than the entry is exported"
    module, machine = _numba._optimised([text], {"double"}, host())
    assert re.findall(r"^define (?!internal)[^@]*@(\w+)", str(module), re.M) == ["double"]
    assert machine.emit_object(module)


def test_memory_on_the_stack_is_not_cleared() -> None:
    """LLVM makes a store an element of it, and looks through them all whenever one changes: minutes of compiling."""
    from nbconv.kernels import _numba

    text = _numba._kernel_ir(_numba.kernels_of("conv_grad", host())["conv_grad_weight"], "conv_grad_weight")
    assert "alloca [" in text
    assert not re.search(r"store \[\d{3,} x ", text)


@pytest.fixture(scope="module", params=families())
def compiled(request: pytest.FixtureRequest) -> tuple[str, str, bytes, dict]:
    """A family for this machine: (name, optimised IR, object code, manifest)."""
    from nbconv.kernels import _numba

    module, machine, manifest = _numba.compile_family(request.param, host())
    return request.param, str(module), machine.emit_object(module), manifest


def test_only_contraction_is_licensed(compiled: tuple) -> None:
    _, text, _, _ = compiled
    assert not licensed(text)
    assert not re.search(r'"(unsafe-fp-math|no-nans-fp-math|no-infs-fp-math|approx-func-fp-math)"="true"', text)
    assert "denormal-fp-math" not in text


def licensed(text: str) -> list[str]:
    """Lines of IR with a fast-math flag other than contract."""
    return [m.group(0).strip() for m in FLOATING.finditer(text) if FAST.search(m.group(2).split("@")[0].split("!")[0])]


def test_licences_are_seen() -> None:
    lines = (
        "  %a = fadd contract <8 x float> %x, %y",
        "  %b = fmul nnan contract float %x, %y",
        "  %c = tail call fast float @llvm.sqrt.f32(float %x)",
    )
    assert licensed("\n".join(lines)) == [line.strip() for line in lines[1:]]


def test_needs_nothing_from_outside(compiled: tuple) -> None:
    """No libm, no memcpy, no Python, no allocation: nothing is declared that LLVM does not itself provide."""
    family, text, image, manifest = compiled
    declared = set(re.findall(r"^declare .*@([\w.$]+)\(", text, re.M))
    assert not {name for name in declared if not name.startswith("llvm.")}
    if host().os == "linux":
        assert elf.link(image, manifest["kernels"]), family  # refuses undefined symbols
    symbols = {s for s in undefined(image) if s}
    assert not symbols, symbols


def undefined(image: bytes) -> set[str]:
    """Names of the undefined symbols of a 64-bit little-endian ELF object."""
    import struct

    if image[:6] != b"\x7fELF\x02\x01":
        return set()
    (offset,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, offset + i * size) for i in range(count)]
    found = set()
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind == 2:  # SHT_SYMTAB
            names = sections[link][4]
            for at in range(start, start + length, 24):
                name, _, _, section = struct.unpack_from("<IBBH", image, at)
                if section == 0:
                    begin = names + name
                    found.add(image[begin : image.index(b"\0", begin)].decode())
    return found


def test_manifest_is_what_the_source_says(compiled: tuple) -> None:
    """Every marked function, its arguments in order, by name and kind."""
    from nbconv.kernels import _numba, params

    family, text, _, manifest = compiled
    kernels = _numba.kernels_of(family, host())
    assert list(manifest["kernels"]) == list(kernels)
    for name, function in kernels.items():
        annotated = []
        for k, v in inspect.get_annotations(function).items():
            if v in _numba.KINDS:
                annotated.append([k, _numba.KINDS[v]])
            elif v is not None:  # a NamedTuple: a word a field
                annotated += [[f"{k}.{field}", params.KINDS[v.__annotations__[field]]] for field in v._fields]
        assert len({k.split(".")[0] for k, _ in annotated}) == len(inspect.signature(function).parameters), name
        own = [k for k, _ in annotated].index("first")
        assert manifest["kernels"][name] == annotated[:own]
        assert [k for k, _ in annotated[own:]] in (["first", "last"], ["first", "last", "slot"])
        assert re.search(rf"^define void @{name}\(ptr", text, re.M)
    exported = set(re.findall(r"^define (?!internal|private)[^@]*@([\w.$]+)\(", text, re.M))
    assert exported == set(kernels)


def test_every_target_compiles() -> None:
    """For machines other than this one too."""
    from nbconv.kernels import _numba

    for name in TARGETS:
        code, manifest = _numba.object_code("move", target(name))
        assert len(code) > 1000
        assert "copy" in manifest["kernels"]


def test_undefined_symbols_are_refused() -> None:
    """A kernel that calls libm."""
    import math

    from nbconv.kernels import _numba

    def power(x: _numba.Floats, first: _numba.Int, last: _numba.Int) -> None:
        for i in range(first, last):
            x[i] = math.lgamma(x[i])

    power.__annotations__ = {"x": _numba.Floats, "first": _numba.Int, "last": _numba.Int, "return": None}
    module, machine = _numba._optimised([_numba._kernel_ir(power, "power")], {"power"}, host())
    image = machine.emit_object(module)
    assert undefined(image)
    if host().os == "linux":
        with pytest.raises(Exception, match="lgamma"):
            elf.link(image, {"power": []})
