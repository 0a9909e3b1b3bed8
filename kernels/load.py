"""Opening a kernel library whose bytes were verified: from its file, from memory, or through
llvmlite."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbconv.kernels import KernelError
from nbconv.kernels.target import Target

if TYPE_CHECKING:
    from logging import Logger

Symbols = Callable[[str], int]
"""Address of a library's symbol; keeps the library open."""

_said: set[str] = set()
_hash: list[Callable] = []
_opened = 0


def say(text: str) -> None:
    """Logs a warning, once a process."""
    if text not in _said:
        _said.add(text)
        logger().warning("%s", text)


def logger() -> Logger:
    """nbconv's one logger, "nbconv": quiet unless the application adds a handler.
    `logging` is imported when it is first wanted."""
    import logging

    log = logging.getLogger("nbconv")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    return log


def sha256(data: bytes) -> str:
    """Hex digest."""
    if not _hash:
        # the interpreter's own module is there in 0.2 ms; hashlib loads OpenSSL, which takes 3 ms
        own = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
        try:
            _hash.append(__import__("hashlib" if "hashlib" in sys.modules else own).sha256)
        except ImportError:
            _hash.append(__import__("hashlib").sha256)
    return _hash[0](data).hexdigest()


def open_image(image: bytes, goal: Target, name: str, fd: int = -1) -> Symbols:
    """Opens a library whose bytes are known to be good: from descriptor ``fd`` of its file, else
    from memory, else from a private temporary folder.
    Raises OSError when the system allows none of them."""
    if goal.os != "linux":
        return load_object(image, goal)
    if fd >= 0:
        try:
            return _symbols(_dlopen(fd))
        except OSError:
            say(f"kernel libraries in {os.path.dirname(name)} cannot be opened there (noexec?), only from memory")
    try:
        memory = os.memfd_create("nbconv-kernels", os.MFD_CLOEXEC)
        try:
            write_all(memory, image)
            return _symbols(_dlopen(memory))
        finally:
            os.close(memory)
    except (OSError, AttributeError):
        return _from_temporary(image)


def _from_temporary(image: bytes) -> Symbols:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nbconv-") as folder:
        path = os.path.join(folder, "kernels.so")
        with open(path, "xb") as f:
            f.write(image)
        return _symbols(ctypes.CDLL(path))


def _dlopen(fd: int) -> ctypes.CDLL:
    """Opens the very file that was read.
    The loader takes two equal names for one library, and descriptors are used again, so that each
    path must be spelt as no path was before: "//" and "/./" spell the bits of a counter."""
    global _opened
    _opened += 1
    spelling = "".join("/." if bit == "1" else "/" for bit in f"{_opened:b}")
    return ctypes.CDLL(f"/proc/self/fd{spelling}/{fd}")


def _symbols(library: ctypes.CDLL) -> Symbols:
    def address(name: str) -> int:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0

    return address


def load_object(image: bytes, goal: Target) -> Symbols:
    """Loads relocatable object code into this process through llvmlite.
    Raises KernelError where that is missing."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        raise KernelError(f"on {goal.os} kernels are loaded through llvmlite: pip install llvmlite") from None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(goal.triple).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(image))
    engine.finalize_object()
    return engine.get_function_address


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
