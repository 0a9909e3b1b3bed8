"""Files for the user that are whole or not there: models, checkpoints, results and reports are written by `replace`."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_writing: set[str] = set()
"""Names of the files aside that this process is writing now."""


def replace(path: str | os.PathLike, put: Callable[[Any], Any]) -> None:
    """Make or replace a file by what ``put`` writes into the binary file it is given: written aside in the same folder,
    synced, renamed, the folder synced. On failure what was there stays, and nothing else is left (but after a kill: a hidden
    file, which the next time removes). What is no regular file, such as /dev/stdout, is written to as it is. Raises what
    ``put`` raises, and OSError that names ``path``.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            put(file)
        return
    _clean(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    _writing.add(aside.name)
    try:
        with open(aside, "xb") as file:
            put(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(aside)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        _writing.discard(aside.name)
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check(path: str | os.PathLike) -> None:
    """The OSError that `replace` would raise as things are, to be told before the work whose result goes there."""
    path = Path(path)
    problem = 0
    if path.is_dir():
        problem = errno.EISDIR
    elif not path.parent.is_dir():
        problem = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    elif not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        problem = errno.EACCES
    if problem:
        raise OSError(problem, os.strerror(problem), str(path))


def _clean(path: Path) -> None:
    """Remove what processes that were killed left of this file."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        writer = old.name.split(".")[-2].partition("-")[0]
        if old.name not in _writing and not (writer.isdigit() and _lives(int(writer))):
            with contextlib.suppress(OSError):
                old.unlink()


def _lives(process: int) -> bool:
    """Whether another process of this number may be writing. Where it cannot be asked, an open file cannot be removed."""
    if process == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
