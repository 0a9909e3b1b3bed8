"""A model's bytes, mapped and never copied, and the places in them where its weights lie."""

from __future__ import annotations

import mmap
import os
import stat
from typing import NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph.dtypes import BITS, packed_size, unpacked

_COPY = "it may lead to another's file; put a copy there"


class Place(NamedTuple):
    """Where a constant's bytes are: in the model (``file`` is ""), in a file beside it, or here in ``array``."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str = ""
    offset: int = 0
    array: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """In a file, where several elements of few bits share one."""
        return packed_size(self.dtype, self.size)

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n


class Source:
    """A model to read: ``data`` is its bytes (a path's file is mapped), ``label`` what messages call it.

    A mapped file must not be shortened while the arrays viewing it live (the system ends the process); replacing it by
    rename, as `nbconv.save` does, is safe.
    """

    def __init__(self, source: str | os.PathLike | bytes) -> None:
        self._files: dict[str, np.ndarray] = {}
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.label, self.folder = "the given data", None
            if len(source) == 0:
                raise ModelError(f"{self.label} is empty")
            self._files[""] = np.frombuffer(bytes(source), np.uint8)
        else:
            path = os.fspath(source)
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            self.label, self.folder = os.path.basename(path) or path, os.path.dirname(os.path.abspath(path))
            self._files[""] = _map(path, self.label)
        self.data = memoryview(self._files[""])  # pyright: ignore[reportArgumentType]

    def drop(self) -> None:
        """Tell the system that the mapped files' pages are not needed now: they leave this process's memory, and are read
        again when a view is."""
        for file in self._files.values():
            mapped = getattr(file.base, "obj", file.base)
            if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def external(self) -> bool:
        """Whether weights were read from files beside the model."""
        return len(self._files) > 1

    def view(self, name: str, place: Place) -> np.ndarray:
        """The constant ``name`` at ``place``: a read-only array of its shape. ModelError where it does not fit."""
        if place.array is not None:
            place.array.flags.writeable = False
            return place.array
        if min(place.shape, default=0) < 0:
            raise ModelError(f"{name}: the shape {list(place.shape)} has a negative dimension")
        file = self._file(name, place.file)
        if place.offset < 0 or place.offset + place.nbytes > len(file):
            where = f"{place.file!r}, which has {len(file)} bytes" if place.file else f"a file of {len(file)} bytes"
            raise ModelError(f"{name}: its {place.nbytes} bytes at {place.offset} reach outside {where}")
        if place.dtype == np.bool_:
            flags = file[place.offset : place.offset + place.nbytes]
            array = flags.view(np.bool_) if flags.max(initial=0) <= 1 else flags != 0
            array.flags.writeable = False
            return array.reshape(place.shape)
        if place.dtype.name in BITS:
            array = unpacked(file[place.offset : place.offset + place.nbytes], place.dtype, place.size)
            array.flags.writeable = False
            return array.reshape(place.shape)
        little = place.dtype.newbyteorder("<")
        size = place.size
        array = np.frombuffer(file, little, size, place.offset) if size else np.empty(0, place.dtype)
        array.flags.writeable = False
        return array.reshape(place.shape)

    def _file(self, name: str, location: str) -> np.ndarray:
        if location not in self._files:
            self._files[location] = _map(self._inside(name, location), location, name)
        return self._files[location]

    def _inside(self, name: str, location: str) -> str:
        """The path of an external-data file, which must lie in the model's folder, not behind a link."""
        if self.folder is None:
            raise ModelError(f"{name}: its data is in the file {location!r}, but a model given as bytes has no folder")
        parts = location.replace("\\", "/").split("/")
        path = os.path.realpath(self.folder)
        outside = not location or "\0" in location or ".." in parts or os.path.isabs(location) or parts[0][1:2] == ":"
        for part in () if outside else parts:
            path = os.path.join(path, part)
            if os.path.islink(path):
                raise ModelError(f"{name}: its data is in {location!r}, and {part!r} is a link: {_COPY}")
        folder, real = os.path.realpath(self.folder), os.path.realpath(path)
        if outside or os.path.commonpath([folder, real]) != folder or real == folder:
            raise ModelError(f"{name}: its data is in {location!r}, which is not inside the model's folder")
        if not os.path.exists(path):
            raise ModelError(f"{name}: its data is in {location!r}, which does not exist")
        return path


def _map(path: str, label: str, tensor: str = "") -> np.ndarray:
    """A file's bytes, mapped read-only; ModelError unless it is a regular file with something in it. For data of a
    ``tensor`` the file must have no other name: a hard link may lead to a file that the model's sender cannot read."""
    mode = os.stat(path).st_mode  # before opening: opening a pipe would wait
    if not stat.S_ISREG(mode):
        raise ModelError(f"{label} is not a file")
    with open(path, "rb", opener=_opener if tensor else None) as file:
        found = os.fstat(file.fileno())
        if tensor and found.st_nlink > 1:
            raise ModelError(f"{tensor}: its data is in {label!r}, a file with {found.st_nlink} hard links: {_COPY}")
        if found.st_size == 0:
            raise ModelError(f"{label} is empty")
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _opener(path: str, flags: int) -> int:
    """Not through a link that was put there since it was looked for."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
