"""Models as they were prepared in an earlier process: what they want and give, packed weights, programs.

A warm start reads these and imports neither ops nor passes nor onnx. They lie in a folder a model, in the user's cache,
named by a digest of the model's bytes, of nbconv's own sources and of the target, so they are never stale. A program holds
offsets, so its checksum is verified before it runs; weights are numbers, which are mapped and only checked for size.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import mmap
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph.dtypes import text_of
from nbconv.kernels.compile import libraries
from nbconv.kernels.load import sha256
from nbconv.kernels.store import cache_folder
from nbconv.plan.program import Program, plain
from nbconv.runtime import ports

if TYPE_CHECKING:
    from nbconv.graph import Spec
    from nbconv.kernels.target import Target
    from nbconv.lowering.weights import Weights

MOST_BYTES = 256 << 20
"""Packed weights beyond this are not kept for one model."""
ALL_BYTES = 1 << 30
"""What all kept models together may take; those changed longest ago go first."""
MOST_PROGRAMS = 64
"""Files (programs for sets of input shapes, mostly) kept for one model."""
MOST_NOTES = 256
"""Files of stages (see `nbconv.runtime.stage_files`) kept for one model."""
WEIGHTS = ("weights", *(f"weights.{k}" for k in range(1, 8)))
"""Files of packed weights: the first program's, and what programs of other stages read."""
EXTRA = 1 << 20
"""Most bytes of constants that a program brings beside the model's weights."""


def digest(path: str | os.PathLike | None, data: Any) -> str:
    """A digest of a model's bytes. For a file it is remembered with the file's identity, size and times of change, so that
    an unchanged file is not read again (a file changed within the last two seconds is not trusted to be settled)."""
    ticket = _ticket(path) if path is not None else None
    if ticket is None:
        return _large(data)
    place, now = ticket
    try:
        kept = json.loads(_read(place))
        if kept[:-1] == now and isinstance(kept[-1], str):
            return kept[-1]
    except (OSError, ValueError, TypeError, IndexError):
        pass
    found = _large(data)
    if time.time_ns() - max(now[1:3]) > 2_000_000_000:
        _write(place, json.dumps([*now, found]).encode())
    return found


def _large(data: Any) -> str:
    """`sha256` of many bytes: OpenSSL's takes 3 ms to load, but is several times as fast."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _ticket(path: str | os.PathLike) -> tuple[str, list[int]] | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        path = os.path.realpath(os.fspath(path))
        stat = os.stat(path)
    except OSError:
        return None
    name = sha256(os.fsencode(path))[:32]
    return os.path.join(folder, "files", f"{name}.json"), [
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
        stat.st_ino,
        stat.st_dev,
    ]


_code: list[str] = []


def code() -> str:
    """A digest of all code of nbconv, its kernels and converters, whatever its folder: what is prepared from a model depends
    on it. "" where none can be read, as in an application that is compiled as a whole: nothing is kept then."""
    if not _code:
        try:
            files = _code_files()
            _code.append((_remembered_code(files) or _hash_code(files)) if files else "")
        except OSError:
            _code.append("")
    return _code[0]


def _code_files() -> list[tuple[str, str]]:
    """(name, path) of each file of code. A package that does not lie in a folder, or of which only a part does, is in an
    archive or in the executable."""
    names = ("nbconv", "nbconv.kernels", "nbconv.converters")
    specs = [spec for name in names if (spec := importlib.util.find_spec(name)) is not None]
    packages = [(spec.name, root) for spec in specs for root in spec.submodule_search_locations or ()]
    apart = ("nbconv/kernels", "nbconv/converters", "nbconv/models")  # in a checkout they lie elsewhere
    found = [file for name, root in packages for file in _sources(root, name, apart)]
    if not any(name.startswith("nbconv/model.py") for name, _ in found):
        whole = next((path for _, path in packages), "")
        while whole and not os.path.exists(whole):
            whole = os.path.dirname(whole)
        if not os.path.isfile(whole):
            whole = sys.executable if getattr(sys, "frozen", False) else ""
        found = [("nbconv", whole)] if whole else []
    return found


def _sources(folder: str, package: str, apart: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(name, path) of the Python files of a folder and of those in it, without the packages ``apart``."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # a file without suffix, or a folder that is not to be read
        return []
    found = []
    for name in names:
        stem, _, suffix = name.partition(".")
        if not stem.isidentifier() or stem == "__pycache__":
            continue
        path = f"{folder}{os.sep}{name}"
        if suffix in ("py", "pyc"):
            found.append((f"{package}/{name}", path))
        elif not suffix and f"{package}/{name}" not in apart:
            found += _sources(path, f"{package}/{name}")
    return found


def _code_ticket(files: list[tuple[str, str]]) -> tuple[str, int] | None:
    """Where the digest of these files, as they stand now, is remembered; and the time of their last change."""
    folder = cache_folder()
    if folder is None:
        return None
    stats = [os.stat(path) for _, path in files]
    marks = [(f[1], s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for f, s in zip(files, stats)]
    changed = max(max(s.st_mtime_ns, s.st_ctime_ns) for s in stats)
    return os.path.join(folder, "files", sha256(repr(marks).encode())[:32] + ".code"), changed


def _remembered_code(files: list[tuple[str, str]]) -> str | None:
    ticket = _code_ticket(files)
    try:
        found = _read(ticket[0]).decode() if ticket else ""
    except (OSError, ValueError):
        return None
    return found if len(found) == 64 else None


def _hash_code(files: list[tuple[str, str]]) -> str:
    parts = []
    for name, path in files:
        text = _read(path)
        parts += [f"{name} {len(text)}\n".encode(), text]
    found, ticket = sha256(b"".join(parts)), _code_ticket(files)
    if ticket and time.time_ns() - ticket[1] > 2_000_000_000:
        _write(ticket[0], found.encode())
    return found


class PlanCache:
    """What is kept of one model. Nothing here raises for a cache that is missing, damaged or full: it is then as if
    nothing had been kept."""

    def __init__(self, name: str, target: Target) -> None:
        folder = cache_folder() if code() else None
        name = sha256(f"{name} {code()} {target.identity()}".encode())[:32]
        self._folder = None if folder is None else os.path.join(folder, "prepared", name)
        self._weights: dict[str, np.ndarray] | None = None
        self._identity = ""
        """of the file of packed weights, which another process may have written anew"""

    def card(self) -> dict[str, Any] | None:
        """What `Model` needs before a graph: {"name", "inputs", "outputs", "optional"}, see `keep_card`."""
        if self._folder is None:
            return None
        try:
            checksum, _, body = _read(self._folder, "card.json").partition(b"\n")
            return json.loads(body) if sha256(body).encode() == checksum else None
        except (OSError, ValueError):
            return None

    def keep_card(
        self, name: str, inputs: dict[str, Spec], outputs: dict[str, Spec | None], optional: dict[str, Spec]
    ) -> None:
        """Remember a model that was read: it is valid, and these are its inputs and outputs."""
        if self._folder is None:
            return

        parts = {"inputs": inputs, "outputs": outputs, "optional": optional}
        body: Any = {"name": name, **{k: ports.encode(part) for k, part in parts.items()}}
        body = json.dumps(body).encode()
        _write(os.path.join(self._folder, "card.json"), sha256(body).encode() + b"\n" + body)
        _trim(self._folder)

    def program(self, key: Any, weights: Weights) -> tuple[Program, dict[str, np.ndarray]] | None:
        """The program of these shapes and results and its constants by name; None when it was not kept."""
        if self._folder is None:
            return None
        try:
            data = _read(self._folder, _program_name(key))
            checksum, _, rest = data.partition(b"\n")
            if sha256(rest).encode() != checksum:
                return None
            head_size, table_size = (int(v) for v in rest[:32].split())
            head = json.loads(rest[32 : 32 + head_size])
            extra, keys, own, identity = (head.pop(k) for k in ("extra", "keys", "own", "weights"))
            tables = np.frombuffer(rest, np.int64, table_size // 8, 32 + head_size)
            held = rest[32 + head_size + table_size :]
            program = _decoded(head, tables)
            program.keys = {str(f): str(k) for f, k in keys.items()}
            arrays = {}
            for name in program.constant_names():
                if name in extra:
                    dtype, shape, at, size = extra[name]
                    arrays[name] = np.frombuffer(held[at : at + size], plain(dtype)).reshape(shape)
                elif name not in own:
                    arrays[name] = weights.get(name, lambda name=name: self._packed()[name])
                else:
                    arrays[name] = self._packed()[name]
                    if identity != self._identity:
                        return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return None
        return program, arrays

    def _packed(self) -> dict[str, np.ndarray]:
        """The packed weights, views of the mapped files."""
        if self._weights is None:
            found: dict[str, np.ndarray] = {}
            for k, name in enumerate(WEIGHTS):
                try:
                    arrays, identity = self._mapped(name)
                except OSError:
                    if not k:
                        raise
                    break
                found = {**arrays, **found}
                self._identity = self._identity if k else identity
            self._weights = found
        return self._weights

    def _mapped(self, name: str) -> tuple[dict[str, np.ndarray], str]:
        """The arrays of a file of weights, and its identity."""
        assert self._folder is not None
        with open(os.path.join(self._folder, name), "rb") as f:
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        head_size = int(data[:16])
        start = 16 + head_size
        head = json.loads(data[16:start])
        arrays = {
            name: np.frombuffer(data, plain(dtype), _size(shape), start + at).reshape(shape)
            for name, (dtype, shape, at) in head["arrays"].items()
        }
        return arrays, head["identity"]

    def keep_program(self, key: Any, program: Program, arrays: dict[str, np.ndarray], own: set[str], target: Target) -> None:
        """Keep an unbound program. The first one of a model brings its packed weights, later ones what these lack, in
        another file of weights where that is much; ``own`` names constants that are others for other shapes."""
        if self._folder is None or sum(a.nbytes for a in arrays.values()) > MOST_BYTES:
            return
        try:
            files = os.listdir(self._folder) if os.path.isdir(self._folder) else []
            if WEIGHTS[0] not in files:
                self._keep_weights({n: a for n, a in arrays.items() if n not in own or a.dtype.kind == "f"})
            missing = self._missing(arrays, own)
            more = {n: a for n, a in missing.items() if n not in own}  # a later stage's weights
            free = [name for name in WEIGHTS[1:] if name not in files]
            if free and sum(a.nbytes for a in more.values()) > EXTRA:
                self._keep_weights(more, free[0])
                self._weights = None
                missing = self._missing(arrays, own)
            if sum(a.nbytes for a in missing.values()) > EXTRA or self._programs() >= MOST_PROGRAMS:
                return
            extra, held = {}, b""
            for name, a in missing.items():
                extra[name] = (text_of(a.dtype), a.shape, len(held), a.nbytes)
                held += a.tobytes()
            parts: list[np.ndarray] = []
            encoded = program.encode(parts)
            encoded["keys"] = {name: lib.key for name, lib in libraries(program.families, target).items()}
            encoded |= {"extra": extra, "own": sorted(own.intersection(arrays)), "weights": self._identity}
            head, tables = json.dumps(encoded, separators=(",", ":")).encode(), b"".join(t.tobytes() for t in parts)
            head += b" " * (-len(head) % 8)
            rest = f"{len(head)} {len(tables)}".ljust(32).encode() + head + tables + held
            _write(os.path.join(self._folder, _program_name(key)), _large(rest).encode() + b"\n" + rest)
        except (OSError, ValueError, KeyError, TypeError):
            return

    def _missing(self, arrays: dict[str, np.ndarray], own: set[str]) -> dict[str, np.ndarray]:
        """Those that the files of weights do not have."""
        packed = self._packed()
        return {n: a for n, a in arrays.items() if n not in packed or not _same(packed[n], a, n in own)}

    def _programs(self) -> int:
        return sum(not name.endswith(".stage") for name in os.listdir(self._folder))

    def has_program(self, key: Any) -> bool:
        """Whether a program was kept under this key."""
        return self._folder is not None and os.path.exists(os.path.join(self._folder, _program_name(key)))

    def note(self, key: Any) -> Any:
        """What `keep_note` kept; None where that is nothing."""
        if self._folder is None:
            return None
        try:
            checksum, _, body = _read(self._folder, _note_name(key)).partition(b"\n")
            return json.loads(body) if sha256(body).encode() == checksum else None
        except (OSError, ValueError):
            return None

    def keep_note(self, key: Any, note: Any) -> None:
        """Keep JSON values under a key."""
        if self._folder is None:
            return
        try:
            body = json.dumps(note, separators=(",", ":")).encode()
            if len(self._notes()) < MOST_NOTES:
                _write(os.path.join(self._folder, _note_name(key)), sha256(body).encode() + b"\n" + body)
        except (OSError, ValueError, TypeError):
            return

    def has_notes(self) -> bool:
        """Whether there are any."""
        try:
            return bool(self._notes())
        except OSError:
            return False

    def _notes(self) -> list[str]:
        return [n for n in os.listdir(self._folder) if n.endswith(".stage")] if self._folder else []

    def _keep_weights(self, arrays: dict[str, np.ndarray], file: str = WEIGHTS[0]) -> None:
        index, at = {}, 0
        for name, a in arrays.items():
            index[name] = (text_of(a.dtype), a.shape, at)
            at += -(-a.nbytes // 64) * 64
        head = json.dumps({"identity": os.urandom(8).hex(), "arrays": index}).encode()
        head += b" " * (-(16 + len(head)) % 64)
        parts: list[bytes | memoryview] = [str(len(head)).ljust(16).encode(), head]
        for a in arrays.values():
            parts += [memoryview(np.ascontiguousarray(a).reshape(-1).view(np.uint8)), b"\0" * (-a.nbytes % 64)]  # pyright: ignore
        assert self._folder is not None
        _write(os.path.join(self._folder, file), *parts)


def _same(kept: np.ndarray, array: np.ndarray, closely: bool) -> bool:
    """Whether the array that was kept will do for this one: those that all shapes share are equal if they are as large."""
    if kept.shape != array.shape or kept.dtype != array.dtype:
        return False
    if not closely or kept is array:
        return True
    old, new = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (kept, array))
    return np.array_equal(old, new)


def _size(shape: list[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def _decoded(head: dict[str, Any], tables: np.ndarray) -> Program:
    """The program of these words; NumPy's steps and control flow are imported only for a program that has them."""
    if not (head["host_steps"] or head["copies"] or head["checks"]):
        return Program.decode(head, tables)
    from nbconv.plan.call import decode

    return decode(head, tables)


def _program_name(key: Any) -> str:
    return sha256(repr(key).encode())[:32] + ".program"


def _note_name(key: Any) -> str:
    return sha256(repr(key).encode())[:32] + ".stage"


def _read(*path: str) -> bytes:
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def _write(path: str, *parts: Any) -> None:
    """Write a file aside, then rename it; a folder that cannot be written is no error."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(aside, "xb") as f:
            for part in parts:
                f.write(part)
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(aside)


def entries() -> list[tuple[str, int, float]]:
    """(folder, bytes, time of last change) of each kept model."""
    root = cache_folder()
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(os.path.join(root or "", "prepared")) if root else ():
            files = [f.stat() for f in os.scandir(entry.path)]
            found.append((entry.path, sum(f.st_size for f in files), max((f.st_mtime for f in files), default=0.0)))
    return found


def clear() -> tuple[int, int]:
    """Remove everything kept of models; how many files and bytes. Running programs keep what they have open."""
    root, files, size = cache_folder(), 0, 0
    folders = [path for path, _, _ in entries()] + ([os.path.join(root, "files")] if root else [])
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                size += entry.stat().st_size
                os.unlink(entry.path)
                files += 1
            os.rmdir(folder)
    return files, size


def _trim(keep: str) -> None:
    """Remove what was not changed for longest while all together take too much."""
    found = sorted(entries(), key=lambda entry: entry[2])
    total = sum(size for _, size, _ in found)
    for folder, size, _ in found:
        if total <= ALL_BYTES:
            break
        if folder != keep:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)
            total -= size
