"""Writing kernel libraries, and what the cache holds: kept, listed, removed.
How they are found stands in store.py."""

from __future__ import annotations

import json
import os
import re

from nbconv.kernels import LOOP_ABI
from nbconv.kernels.load import sha256, write_all
from nbconv.kernels.store import Sources, cache_folder, suffix
from nbconv.kernels.target import GPUS, TARGETS, Target

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NAME = r"[A-Za-z0-9_]+-[0-9a-f]{32}\.(json|so|o|ptx)"


def _write(path: str, data: bytes, mode: int) -> None:
    """Writes a file aside, and moves it into place when it is on the disk."""
    aside = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.part"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def keep(
    folder: str,
    family: str,
    goal: Target,
    wanted: str,
    image: bytes,
    manifest: dict,
    mode: int = 0o600,
) -> None:
    """Writes a library and then its manifest into a folder. Raises OSError."""
    checksum = sha256(image)
    whole = {
        "family": family,
        "target": goal.name,
        "os": goal.os,
        "abi": LOOP_ABI,
        "key": wanted,
        "kernels": manifest["kernels"],
        "toolchain": manifest["toolchain"],
        **({"launch": manifest["launch"]} if goal.gpu else {}),
        "size": len(image),
        "sha256": checksum,
    }
    _write(os.path.join(folder, f"{family}-{checksum[:32]}{suffix(goal)}"), image, mode)
    _write(os.path.join(folder, f"{family}-{wanted}.json"), json.dumps(whole, indent=1).encode(), mode)


def listing() -> list[dict]:
    """The libraries in the cache: their manifests, with ``current``: whether the sources still ask
    for them."""
    folder = cache_folder()
    found = []
    sources = Sources()
    for name in sorted(os.listdir(folder)) if folder else []:
        if re.fullmatch(_NAME, name) and name.endswith(".json"):
            try:
                manifest = json.loads(_bytes(folder, name))
                goal = {**TARGETS, **GPUS}.get(manifest["target"])
                current = goal is not None and sources.key(manifest["family"], goal) == manifest["key"]
                found.append({**manifest, "current": current})
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return found


def _bytes(folder: str | None, name: str) -> bytes:
    with open(os.path.join(folder or "", name), "rb") as f:
        return f.read()


def forget(folder: str, family: str) -> None:
    """Removes a family's libraries from a folder."""
    for name in os.listdir(folder):
        if re.fullmatch(_NAME, name) and name.rpartition("-")[0] == family:
            os.unlink(os.path.join(folder, name))


def clear() -> tuple[int, int]:
    """Removes the libraries, and what unfinished writes left, from the cache; returns how many
    files and bytes.
    Programs that have a library open keep it."""
    folder = cache_folder()
    files = size = 0
    for name in os.listdir(folder) if folder else []:
        if re.fullmatch(_NAME, name) or (name.endswith(".part") and re.match(_NAME, name)):
            try:
                size += os.path.getsize(os.path.join(folder, name))  # type: ignore[arg-type]
                os.unlink(os.path.join(folder, name))  # type: ignore[arg-type]
                files += 1
            except OSError:
                continue
    return files, size
