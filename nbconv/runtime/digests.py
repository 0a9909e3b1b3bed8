"""What the plan cache's names are made of: digests of a model's bytes and of nbconv's own code; and how its files are read
and written."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
from typing import Any

from nbconv.kernels.load import sha256
from nbconv.kernels.store import cache_folder


def digest(path: str | os.PathLike | None, data: Any) -> str:
    """A digest of a model's bytes. For a file it is remembered with the file's identity, size and times of change, so that
    an unchanged file is not read again (a file changed within the last two seconds is not trusted to be settled)."""
    ticket = _ticket(path) if path is not None else None
    if ticket is None:
        return sha256_of_many(data)
    place, now = ticket
    try:
        kept = json.loads(read(place))
        if kept[:-1] == now and isinstance(kept[-1], str):
            return kept[-1]
    except (OSError, ValueError, TypeError, IndexError):
        pass
    found = sha256_of_many(data)
    if time.time_ns() - max(now[1:3]) > 2_000_000_000:
        write(place, json.dumps([*now, found]).encode())
    return found


def sha256_of_many(data: Any) -> str:
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
        found = read(ticket[0]).decode() if ticket else ""
    except (OSError, ValueError):
        return None
    return found if len(found) == 64 else None


def _hash_code(files: list[tuple[str, str]]) -> str:
    parts = []
    for name, path in files:
        text = read(path)
        parts += [f"{name} {len(text)}\n".encode(), text]
    found, ticket = sha256(b"".join(parts)), _code_ticket(files)
    if ticket and time.time_ns() - ticket[1] > 2_000_000_000:
        write(ticket[0], found.encode())
    return found


def read(*path: str) -> bytes:
    """The bytes of a file."""
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def write(path: str, *parts: Any) -> None:
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
