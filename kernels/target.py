"""The machines that kernels are compiled for, and which of them this process can run on.

Detection needs neither llvmlite nor numba, and asks the system rather than the CPU: a feature
counts when the operating system saves its registers too.
"""

from __future__ import annotations

import os
import sys
from math import inf
from typing import NamedTuple


class Tile(NamedTuple):
    """Sums that a GEMM micro-kernel keeps in registers: ``rows`` x (``vectors`` · lanes), or
    ``rows_wider`` x ((``vectors`` + 1) · lanes).
    They are as high as leaves no sum in memory (tests/kernels/test_spills.py)."""

    rows: int
    vectors: int
    rows_wider: int


class Target(NamedTuple):
    """A machine to compile for.
    ``cpu`` and ``features`` are LLVM's names; ``needs`` uses those of Linux's /proc/cpuinfo.

    ``lanes`` float32 values fill a vector, of which ``registers`` hold one each; ``gemm`` has the
    `Tile` for each element type that a product can have, see `tile`.
    ``chunk``: elements that a unit of an elementwise kernel does.
    ``winograd``: whether convolutions may go through Winograd's filtering.
    ``units`` a step should have at least, so that all of the machine finds work.

    On a GPU ``cpu`` is its architecture, a vector is a warp, and a block of matrix kernels takes
    one of ``tiles``, which are (rows, columns, how fast it multiplies, 1 being float32's
    multiply-adds and nothing else: counted in main loops by `tests/cuda/test_sass.py`); the rows of
    its `Tile` are those of the smallest.
    ``tf32``: tensor cores multiply, numbers rounded to TF32.
    That is no target of its own: the kernels for it are in the same libraries.

    ``dot``: "vnni" where the processor adds up products of bytes in an instruction, "amx" where it
    also multiplies matrices of them.
    Kernels for it are in the target's libraries, too.
    """

    name: str
    triple: str
    cpu: str
    features: str
    lanes: int
    gemm: tuple[tuple[str, Tile], ...]
    registers: int
    needs: frozenset[str]
    os: str
    chunk: int = 4096
    winograd: bool = True
    units: int = 16
    tiles: tuple[tuple[int, int, float], ...] = ()
    tf32: bool = False
    dot: str = ""

    def identity(self) -> tuple[tuple[str, object], ...]:
        """Every field with its name, written alike in every process: a part of the key of what is
        kept for a target."""
        return tuple((name, sorted(v) if isinstance(v, frozenset) else v) for name, v in self._asdict().items())

    def tile(self, dtype: str = "float32") -> Tile:
        """The register tile of products of this element type; ValueError where there is no kernel
        for them."""
        for name, tile in self.gemm:
            if name == dtype:
                return tile
        there = ", ".join(name for name, _ in self.gemm)
        raise ValueError(f"{self.name} has no matrix kernel for {dtype}, but for {there}")

    @property
    def gpu(self) -> bool:
        """Whether its kernels are PTX, which no processor of this machine runs."""
        return self.triple.startswith("nvptx")

    @property
    def columns(self) -> int:
        """Columns of a full panel of packed weights."""
        return self.lanes * self.tile().vectors

    @property
    def line(self) -> float:
        """Elements of a row that a unit of a kernel on strided rows does at most, where the row can
        be cut."""
        return self.chunk if self.gpu else inf

    @property
    def run(self) -> float:
        """Vectors that a unit of a reduction does one after another at most, where there are few
        units."""
        return 32 if self.gpu else inf

    @property
    def pixels(self) -> int:
        """Pixels of a part of a sum over an image, at least; 0 where what a core's cache holds
        decides."""
        return 64 if self.gpu else 0

    @property
    def sums(self) -> int:
        """Bytes of a weight's gradient that a unit sums in its cache; 0 where it sums in registers
        alone."""
        return 0 if self.gpu else 512 << 10


PLANNING = frozenset(("chunk", "winograd", "units", "tiles", "tf32", "dot"))
"""Fields that plans depend on, and no kernel's code."""

# What LLVM may use for -mcpu=x86-64-v2, -v3 and -v4 beyond the baseline (x86-64 psABI, "Micro-architecture levels").
_V2 = frozenset(("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"))
_V3 = _V2 | frozenset(("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"))
_V4 = _V3 | frozenset(("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"))

_OS = {"darwin": "macos", "win32": "windows", "cygwin": "windows"}.get(sys.platform, "linux")
_TRIPLE = {
    "linux": "{}-unknown-linux-gnu",
    "macos": "{}-apple-macosx11.0.0",
    "windows": "{}-pc-windows-msvc",
}[_OS]
_X86, _ARM = _TRIPLE.format("x86_64"), _TRIPLE.format("arm64" if _OS == "macos" else "aarch64")


def _float32(rows: int, vectors: int, rows_wider: int) -> tuple[tuple[str, Tile], ...]:
    """`Target.gemm` of a target that multiplies float32 alone."""
    return (("float32", Tile(rows, vectors, rows_wider)),)


# Best first within an architecture. LLVM tunes x86-64-v4 for 256-bit vectors unless told otherwise.
TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("x86-64-v4", _X86, "x86-64-v4", "-prefer-256-bit", 16, _float32(12, 2, 8), 32, _V4, _OS),
        Target("x86-64-v3", _X86, "x86-64-v3", "", 8, _float32(6, 2, 4), 16, _V3, _OS),
        Target("x86-64", _X86, "x86-64", "", 4, _float32(4, 2, 2), 16, frozenset(), _OS),
        Target("aarch64", _ARM, "generic", "+neon", 4, _float32(8, 2, 6), 32, frozenset(), _OS),
    )
}
"""By name.
The triples are those of this operating system: a library is built on the system it will run on."""

_PTX = "nvptx64-nvidia-cuda"
_TILES = ((128, 128, 0.84), (64, 64, 0.76), (256, 32, 0.72))
GPUS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("cuda", _PTX, "sm_80", "", 32, _float32(64, 2, 64), 255, frozenset(), "cuda", 128, True, 512, _TILES),
        Target("cuda-sm_75", _PTX, "sm_75", "", 32, _float32(64, 2, 64), 255, frozenset(), "cuda", 128, True, 512, _TILES),
    )
}
"""By name.
The driver translates PTX for its GPU: "cuda" serves compute capability 8.0 and up, "cuda-sm_75"
7.5."""
_TF32_TILES = ((128, 128, 7.4), (64, 64, 4.5), (256, 32, 2.9))


def with_tf32(goal: Target) -> Target:
    """A GPU's target whose products are done by tensor cores."""
    return goal._replace(tf32=True, winograd=False, tiles=_TF32_TILES)


_detected: list[tuple[str, frozenset[str]]] = []
_permitted: list[bool] = []


def target(name: str) -> Target:
    """The target of that name, a processor's or a GPU's; ValueError lists the names there are."""
    if name not in TARGETS and name not in GPUS:
        raise ValueError(f"unknown target {name!r}: choose one of {', '.join((*TARGETS, *GPUS))}")
    return TARGETS.get(name) or GPUS[name]


def host() -> Target:
    """The best target that this process can run, or the one that ``$NBCONV_TARGET`` names.

    Raises ValueError when no target fits the machine, or when the named one is unknown or needs
    what the CPU lacks.
    """
    wanted = os.environ.get("NBCONV_TARGET")
    if wanted:
        goal = target(wanted)
        if goal.gpu:
            raise ValueError(f"NBCONV_TARGET={wanted} is no processor: load the model with device='cuda'")
        if not runs_here(goal):
            lacks = _lacks(goal)
            raise ValueError(f"NBCONV_TARGET={wanted}: this machine is {_machine()[0]} and lacks {', '.join(lacks)}")
        return _extended(goal)
    for goal in TARGETS.values():
        if runs_here(goal):
            return _extended(goal)
    raise ValueError(f"there are no kernels for this machine ({_machine()[0]}): nbconv runs on {', '.join(TARGETS)}")


_DOT = {"x86-64-v4": "avx512_vnni", "x86-64-v3": "avx_vnni"}
"""What adds up products of bytes, as /proc/cpuinfo calls it, by target."""


def _extended(goal: Target) -> Target:
    """The target with what this machine has beyond it, and kernels know to use; ``$NBCONV_DOT``
    names the most that is wanted."""
    features, most = _machine()[1], os.environ.get("NBCONV_DOT") or "amx"
    if most not in ("none", "vnni", "amx"):
        raise ValueError(f"NBCONV_DOT={most}: choose one of none, vnni, amx")
    if most == "none" or _DOT.get(goal.name) not in features:
        return goal
    squares = most == "amx" and goal.name == "x86-64-v4" and "amx_int8" in features
    return goal._replace(dot="amx" if squares and _tiles_permitted() else "vnni")


def _tiles_permitted() -> bool:
    """Whether Linux saves AMX's registers for this process: it wants to be asked."""
    if not _permitted:
        import ctypes

        request, data = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XTILEDATA
        arch_prctl = 158
        _permitted.append(ctypes.CDLL(None).syscall(arch_prctl, request, data) == 0)
    return _permitted[0]


def runs_here(goal: Target) -> bool:
    """Whether this process can run the target's code: its architecture, its operating system, all
    of its features."""
    return goal.os == _OS and not _lacks(goal)


def _lacks(goal: Target) -> list[str]:
    machine, features = _machine()
    architecture = goal.triple.partition("-")[0]
    if machine != {"arm64": "aarch64"}.get(architecture, architecture):
        return [architecture]
    return sorted(goal.needs - features)


def _machine() -> tuple[str, frozenset[str]]:
    """The process's architecture (LLVM's name) and the CPU features it may use, in /proc/cpuinfo's
    names."""
    if not _detected:
        _detected.append(_detect())
    return _detected[0]


def _detect() -> tuple[str, frozenset[str]]:
    if sys.platform == "win32":
        # sys.version tells what the interpreter was built for; the machine may be emulating it
        machine = "x86_64" if "AMD64" in sys.version else "aarch64" if "ARM64" in sys.version else "i686"
        return machine, _windows_features() if machine == "x86_64" else frozenset()
    machine = os.uname().machine
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if sys.maxsize < 1 << 32:
        machine = f"32-bit {machine}"  # a 32-bit interpreter on a 64-bit kernel
    if sys.platform == "darwin":
        return machine, _macos_features() if machine == "x86_64" else frozenset()
    return machine, _linux_features()


def _linux_features(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """The flags of the first processor.
    The kernel hides those whose registers it does not save, and on hybrid machines those that not
    every core has."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return frozenset()
    try:
        # a read returns whole processors' records as they fit; all of a large machine's would take milliseconds
        text = b""
        while len(text) < 1 << 16 and (part := os.read(fd, 4096)):
            text += part
            for line in text.split(b"\n")[:-1]:
                name, _, value = line.partition(b":")
                if name.strip() in (b"flags", b"Features"):
                    return frozenset(value.decode("ascii", "replace").split())
    except OSError:
        pass
    finally:
        os.close(fd)
    return frozenset()


def _macos_features() -> frozenset[str]:
    """From the sysctls machdep.cpu.*features, whose names differ from Linux's in the few listed
    here."""
    import ctypes

    libc = ctypes.CDLL(None)
    found: set[str] = set()
    for name in (b"machdep.cpu.features", b"machdep.cpu.leaf7_features", b"machdep.cpu.extfeatures"):
        size = ctypes.c_size_t(4096)
        text = ctypes.create_string_buffer(size.value)
        if libc.sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            found.update(text.value.decode("ascii", "replace").lower().split())
    return frozenset(_from_macos(found))


def _from_macos(found: set[str]) -> set[str]:
    renamed = {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "avx1.0": "avx", "lzcnt": "abm", "lahf": "lahf_lm"}
    return {renamed.get(name, name) for name in found}


def _windows_features() -> frozenset[str]:
    """From IsProcessorFeaturePresent, which has no numbers for FMA, BMI or AVX-512BW: at most
    x86-64-v3 is chosen, and where both AVX2 (40) and BMI2 (60, a Haswell feature like FMA) are
    there.
    Older Windows does not know 60: baseline."""
    import ctypes

    present = ctypes.WinDLL("kernel32").IsProcessorFeaturePresent  # type: ignore[attr-defined]
    return _V3 if present(40) and present(60) else frozenset()
