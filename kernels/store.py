"""Where kernel libraries are kept and how they are opened: prebuilt folders first, then the user's
cache.

A library is code, so nothing is opened that is not ours: its key hashes the sources it was compiled
from, its checksum is verified over the very bytes that are opened, and it lies in a folder that
only its owner (we or root) can write.

A library is two files: ``<family>-<key>.json``, the manifest (kernels and their arguments, target,
toolchain, checksum), and ``<family>-<checksum>.so`` (``.o`` where no shared library can be made),
named by its content: whoever replaces a manifest at the same moment, the two always fit.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbconv.kernels import LOOP_ABI
from nbconv.kernels.load import Symbols, open_image, say, sha256
from nbconv.kernels.target import PLANNING, Target

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = os.path.dirname(os.path.abspath(__file__))
"""The installed package: sources in ``cpu/``, libraries that a wheel carries in
``prebuilt/<target>/``."""

LARGEST = 1 << 28
"""Bytes; no kernel library is near that."""

UNKNOWN = "unknown"
"""The version of a package that does not tell it, as in a frozen application that carries no metadata."""

_IMPORT = rb"(?:from\s+\.|cpu\.|shared_source\(\")(\w+)|(?:from\s+\.|cpu)\s+import\s+(\([^)]*\)|[^\n]*)"
_ABOVE = rb"(?:from\s+\.\.|nbconv\.kernels\.)(\w+)"
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


# Sources and keys


def modules(of: str = "cpu") -> list[str]:
    """Names of the files in kernels/cpu (or kernels/cuda), shared ones (leading underscore)
    included."""
    return [name[len(of) + 1 : -3] for name in _listing(f"{of}/") if name.count("/") == 1]


def _listing(within: str = "") -> list[str]:
    """Names of the package's sources, ``cpu/conv.py``, whatever their folder."""
    folder = os.path.join(FOLDER, *within.split("/")[:-1])
    try:
        entries = [(entry.name, entry.is_dir()) for entry in os.scandir(folder)]
    except OSError:  # inside a zip
        import pkgutil

        entries = [(m.name if m.ispkg else f"{m.name}.py", m.ispkg) for m in pkgutil.iter_modules([folder])]
    found = []
    for name, deeper in sorted(entries):
        if deeper and name.isidentifier() and name != "__pycache__":
            found += _listing(f"{within}{name}/")
        elif not deeper and name.endswith(".py") and name[:-3].isidentifier() and name != "__init__.py":
            found.append(within + name)
    return found


def source(name: str) -> bytes | None:
    """The text of a file of the package, ``cpu/conv.py``; None in a frozen application that carries
    no sources."""
    try:
        return __loader__.get_data(os.path.join(FOLDER, *name.split("/")))  # type: ignore[name-defined]
    except (OSError, AttributeError):
        return None


class Sources:
    """The package's sources as they are now: what the libraries' keys are made of.
    Reads each file once."""

    def __init__(self) -> None:
        self._names = _listing()
        self._digests: dict[str, str] = {}
        self._imports: dict[str, set[str]] = {}
        self._read([name for name in self._names if not name.startswith("cuda/")])

    def _read(self, names: list[str]) -> None:
        for name in names:
            text = source(name)
            if text is not None:
                self._digests[name] = sha256(text)
                beside = re.findall(r"\w+", str(re.findall(_IMPORT, text)))
                above = re.findall(r"\w+", str(re.findall(_ABOVE, text)))
                self._imports[name] = {f"{of}{m}.py" for m in beside for of in ("cpu/", "cuda/")} | {
                    f"{m}.py" for m in above
                }

    def __bool__(self) -> bool:
        return "_numba.py" in self._digests

    def key(self, family: str, goal: Target) -> str | None:
        """What a library is looked up by: 32 hex digits over everything that its code depends on
        but the toolchain: its `files`, the loop's ABI and the target.
        None where there is no such source."""
        files = [(name, self._digests[name]) for name in self.files(family, goal)]
        if not files:
            return None
        fields = [v for name, v in goal._asdict().items() if name not in PLANNING and name not in ("needs", "os")]
        machine = [] if goal.gpu else [sorted(goal.needs), goal.os]
        return sha256(json.dumps([family, LOOP_ABI, fields, *machine, files]).encode())[:32]

    def files(self, family: str, goal: Target) -> list[str]:
        """Names of the sources that a library's code depends on: the family's, the shared ones,
        those in folders that are no family's, what any of them imports, and for processors the
        compiler and the linker. [] where there is no such family."""
        if goal.gpu and not any(name.startswith("cuda/") for name in self._digests):
            self._read([name for name in self._names if name.startswith("cuda/")])
        there = {name for name in self._digests if goal.gpu or not name.startswith("cuda/")}
        there -= {"target.py"}  # its fields are in the key
        used = {"_numba.py", "elf.py"} & there
        if goal.gpu:  # cuda/_numba.py stands for these
            there, used = there - used, set()
        own = {f"{of}/{family}.py" for of in ("cpu", "cuda")} & there
        if not own:
            return []
        todo = own | {name for name in there if name not in used and _shared(name)}
        while todo:
            used |= todo
            todo = {other for name in todo for other in self._imports[name]} & there - used
        return sorted(used)


def _shared(name: str) -> bool:
    """Whether all families may use this source."""
    folder, _, file = name.rpartition("/")
    return bool(folder) and (folder not in ("cpu", "cuda") or file.startswith("_"))


def toolchain(goal: Target | None = None) -> dict[str, str] | None:
    """Versions of the installed numba and llvmlite, and for a GPU numba-cuda, without importing
    them; None where one is not installed."""
    from importlib.util import find_spec

    found = {}
    for name in ("numba", "numba_cuda") if goal is not None and goal.gpu else ("numba", "llvmlite"):
        try:
            spec = find_spec(name)
        except ValueError:
            return None
        if spec is None or not spec.origin:
            return None
        found[name] = _version(name, os.path.join(os.path.dirname(spec.origin), "_version.py"))
    return found


def _version(name: str, path: str) -> str:
    try:
        with open(path, "rb") as f:
            match = re.search(rb"[\"_]version[\"']?\s*[:=]\s*[\"']([^\"'\s]+)[\"']", f.read(1 << 16))
        if match:
            return match[1].decode("ascii", "replace")
    except OSError:
        pass
    from importlib import metadata  # 20 times as slow

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN


# Folders


def cache_folder() -> str | None:
    """The user's cache folder for nbconv, made with mode 0700 where it is missing; None when there
    is none to trust.

    ``$NBCONV_CACHE``, else ``$XDG_CACHE_HOME/nbconv``, else ``~/.cache/nbconv`` (Windows:
    ``%LOCALAPPDATA%\\nbconv``).
    A folder that others own or can write is refused, with a warning.
    """
    path = os.environ.get("NBCONV_CACHE")
    if not path:
        base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", "")
        base = base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".cache")
        path = os.path.join(base, "nbconv")
        if not os.path.isabs(path):
            return None
    path = os.path.abspath(path)
    try:
        if not os.path.isdir(path):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as e:
        say(f"there is no cache folder for compiled kernels: {path}: {e.strerror}")
        return None
    reason = _distrust(path)
    if reason:
        say(f"the cache folder {path} is not used: {reason}; set NBCONV_CACHE to a folder of your own (mode 0700)")
        return None
    return path


def cache_dir() -> Path | None:
    """`cache_folder` as a Path."""
    from pathlib import Path

    path = cache_folder()
    return None if path is None else Path(path)


def _distrust(path: str) -> str | None:
    """Why a folder, or the link that leads to it, is not to be trusted."""
    if os.name != "posix":
        return None
    try:
        link, found = os.lstat(path), os.stat(path)
    except OSError as e:
        return str(e.strerror)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0):
        return "it is a link that belongs to somebody else"
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a folder"
    return _foreign(found)


def _foreign(found: os.stat_result) -> str | None:
    if os.name != "posix":
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & 0o022:
        return f"others can write it (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def folders(goal: Target) -> Iterator[tuple[str, str]]:
    """(kind, path) of the places to look, in order: "package", "given" (``$NBCONV_KERNELS``) and
    "cache"."""
    yield "package", os.path.join(FOLDER, "prebuilt", goal.name)
    given = os.environ.get("NBCONV_KERNELS")
    if given:
        path = os.path.join(os.path.abspath(given), goal.name)
        reason = _distrust(path)
        if reason:
            say(f"NBCONV_KERNELS: {path} is not used: {reason}")
        else:
            yield "given", path
    cache = cache_folder()
    if cache:
        yield "cache", cache


# Loading


def suffix(goal: Target) -> str:
    """Shared libraries are made for Linux; elsewhere the object code itself is kept, and llvmlite
    loads it.
    GPUs' drivers take PTX."""
    if goal.gpu:
        return ".ptx"
    return ".so" if goal.os == "linux" else ".o"


def load(
    family: str,
    goal: Target,
    wanted: str | None,
    versions: dict[str, str] | None,
) -> tuple[Any, dict] | None:
    """Opens a family's library from the first folder that has it; returns its symbols (a GPU's: its
    PTX) and its manifest.

    ``wanted`` is its key; None (no sources to hash) takes what the prebuilt folders have for the
    family.
    ``versions`` are the `toolchain`'s: a cached library of other versions is passed over, so that
    it is compiled anew; prebuilt libraries are taken as they are.
    Damaged files are passed over, with a warning.
    """
    for kind, folder in folders(goal):
        for name in [f"{family}-{wanted}.json"] if wanted else _any(family, kind, folder):
            manifest = _manifest(kind, os.path.join(folder, name), family, goal, wanted)
            if manifest is None or (kind == "cache" and versions and not _of(manifest["toolchain"], versions)):
                continue
            path = os.path.join(folder, f"{family}-{manifest['sha256'][:32]}{suffix(goal)}")
            try:
                return _open(kind, path, manifest, goal), manifest
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as e:
                say(f"the kernel library {path} is not used: {e}")
    return None


def _of(kept: dict[str, str], versions: dict[str, str]) -> bool:
    """Whether a library was compiled by these versions, as far as they are known."""
    return kept.keys() == versions.keys() and all(v in (kept[name], UNKNOWN) for name, v in versions.items())


def _any(family: str, kind: str, folder: str) -> list[str]:
    if kind == "cache" or not os.path.isdir(folder):
        return []
    return sorted(n for n in os.listdir(folder) if n.startswith(f"{family}-") and n.endswith(".json"))


def _read(kind: str, path: str) -> tuple[bytes, int]:
    """The bytes of a file and its open descriptor (-1 when it lies in a zip).
    Raises OSError or ValueError."""
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except NotADirectoryError:
        data = source(os.path.relpath(path, FOLDER).replace(os.sep, "/")) if kind == "package" else None
        if data is None:
            raise FileNotFoundError(path) from None
        return data, -1
    try:
        found = os.fstat(fd)
        # what the package carries is as trustworthy as the Python files beside it, whoever installed them
        reason = None if kind == "package" else _foreign(found)
        if reason or not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise ValueError(reason or "it is not a library")
        parts = []
        while part := os.read(fd, LARGEST):
            parts.append(part)
    except BaseException:
        os.close(fd)
        raise
    return b"".join(parts), fd


def _manifest(kind: str, path: str, family: str, goal: Target, wanted: str | None) -> dict | None:
    """A manifest that is whole and is for that family and target, else None."""
    try:
        data, fd = _read(kind, path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        say(f"the manifest {path} is not used: {e}")
        return None
    if fd >= 0:
        os.close(fd)
    try:
        found: Any = json.loads(data)
        if [found["family"], found["target"], found["os"], found["abi"]] != [family, goal.name, goal.os, LOOP_ABI]:
            return None
        if wanted and found["key"] != wanted:
            return None
        kernels = [(k, a, t) for k, arguments in found["kernels"].items() for a, t in arguments]
        texts = [found["sha256"], *found["toolchain"].values(), *(x for row in kernels for x in row)]
        if not all(type(x) is str for x in texts) or type(found["size"]) is not int:
            raise ValueError
        if not re.fullmatch("[0-9a-f]{64}", found["sha256"]):
            raise ValueError
        if goal.gpu and not _launches(found):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        say(f"the manifest {path} is damaged and not used")
        return None
    return found


def _launches(manifest: dict) -> bool:
    """Whether a manifest of PTX says for each kernel how to launch it (see
    `nbconv.kernels.ptx.Launch`)."""
    if manifest["launch"].keys() != manifest["kernels"].keys():
        return False
    for kernel, found in manifest["launch"].items():
        integers = {a for a, kind in manifest["kernels"][kernel] if kind == "int64"}
        if found["by"] not in {"", *integers} or not found["variants"]:
            return False
        for value, (entry, width, threads, begin, end) in found["variants"]:
            numbers = all(type(v) is int for v in (width, threads, begin, end)) and type(value) in (int, type(None))
            if type(entry) is not str or not numbers or not 0 < width <= threads <= 1024 or not 0 <= begin < end:
                return False
            if end > manifest["size"]:
                return False
    return True


def _open(kind: str, path: str, manifest: dict, goal: Target) -> Symbols | bytes:
    """Verifies a library file and opens what was verified; PTX as it is."""
    image, fd = _read(kind, path)
    try:
        if len(image) != manifest["size"] or sha256(image) != manifest["sha256"]:
            raise ValueError("its checksum is wrong")
        return image if goal.gpu else open_image(image, goal, path, fd)
    finally:
        if fd >= 0:
            os.close(fd)
