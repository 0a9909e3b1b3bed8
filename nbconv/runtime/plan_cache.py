"""Models as they were prepared in an earlier process: what they want and give, packed weights, programs.

A warm start reads these and imports neither ops nor passes nor onnx. They lie in a folder a model, in the user's cache,
named by a digest of the model's bytes, of nbconv's own sources and of the target, so they are never stale. A program holds
offsets, so its checksum is verified before it runs; weights are numbers, which are mapped and only checked for size.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph.dtypes import text_of
from nbconv.kernels.compile import libraries
from nbconv.kernels.load import sha256
from nbconv.kernels.store import cache_folder
from nbconv.plan.program import Program, plain
from nbconv.runtime import ports
from nbconv.runtime.digests import code, read, sha256_of_many, write

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
            checksum, _, body = read(self._folder, "card.json").partition(b"\n")
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
        write(os.path.join(self._folder, "card.json"), sha256(body).encode() + b"\n" + body)
        _trim(self._folder)

    def program(self, key: Any, weights: Weights) -> tuple[Program, dict[str, np.ndarray]] | None:
        """The program of these shapes and results and its constants by name; None when it was not kept."""
        if self._folder is None:
            return None
        try:
            data = read(self._folder, _program_name(key))
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
            write(os.path.join(self._folder, _program_name(key)), sha256_of_many(rest).encode() + b"\n" + rest)
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
            checksum, _, body = read(self._folder, _note_name(key)).partition(b"\n")
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
                write(os.path.join(self._folder, _note_name(key)), sha256(body).encode() + b"\n" + body)
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
        write(os.path.join(self._folder, file), *parts)


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
