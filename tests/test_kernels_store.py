"""The library cache: whom it trusts, and what it opens."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import platform
import sys

import pytest

from nbconv.kernels import load as loading
from nbconv.kernels import store
from nbconv.kernels.cache import clear, keep, listing
from nbconv.kernels.elf import link
from nbconv.kernels.target import host
from tests.test_kernels_elf import compiled

linux_x86 = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and platform.machine() == "x86_64"), reason="opens x86-64 shared libraries"
)
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes")
KEY = "0123456789abcdef" * 2
VERSIONS = {"numba": "1.2.3", "llvmlite": "4.5.6"}
MANIFEST = {"kernels": {"seven": [["x", "float32*"], ["n", "int64"]]}, "toolchain": VERSIONS}


def image(value: int = 7) -> bytes:
    """A library whose function ``seven`` returns a number."""
    return link(compiled(f"define i64 @seven() {{\n ret i64 {value}\n}}"), ["seven"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder; messages that are said once a process are said again."""
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NBCONV_KERNELS", raising=False)
    monkeypatch.delenv("NBCONV_TARGET", raising=False)
    monkeypatch.setattr(loading, "_said", set())
    return tmp_path / "cache"


@pytest.fixture
def kept(cache):
    """The cache with one library in it; its file."""
    keep(str(store.cache_dir()), "tiny", host(), KEY, image(), MANIFEST)
    return next(cache.glob("tiny-*.so"))


@pytest.fixture
def opened(monkeypatch):
    """The names that were given to the system's loader."""
    names = []
    real = ctypes.CDLL

    def cdll(name):
        names.append(name)
        return real(name)

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    return names


def call(found) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64)(found[0]("seven"))()


# Folders


@posix
def test_the_cache_folder_is_made_private(cache):
    os.umask(os.umask(0o022))
    assert store.cache_dir() == cache
    assert cache.stat().st_mode & 0o777 == 0o700


def test_the_cache_folder_follows_the_environment(cache, tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("XDG is not for Windows")
    monkeypatch.setenv("NBCONV_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.cache_dir() == tmp_path / "xdg" / "nbconv"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG text: relative paths are ignored
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.cache_dir() == tmp_path / "home" / ".cache" / "nbconv"


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_can_write_is_refused_once(cache, caplog, mode):
    cache.mkdir()
    cache.chmod(mode)
    with caplog.at_level(logging.WARNING, "nbconv"):
        assert store.cache_dir() is None
        assert store.cache_dir() is None
    assert len(caplog.records) == 1
    assert str(cache) in caplog.text
    assert f"{mode:04o}" in caplog.text


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_somebody_else_is_refused(cache, tmp_path):
    cache.mkdir(mode=0o700)
    assert store.cache_dir() == cache
    os.chown(cache, 12345, 12345)
    assert store.cache_dir() is None
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    cache.rmdir()
    cache.symlink_to(mine)
    assert store.cache_dir() == cache
    os.lchown(cache, 12345, 12345)
    assert store.cache_dir() is None


def test_no_folder_where_none_can_be(cache, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "file" / "cache"))
    assert store.cache_dir() is None
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path / "file"))
    assert store.cache_dir() is None
    assert "no cache folder" in caplog.text
    assert listing() == []
    assert clear() == (0, 0)


# What is opened


@linux_x86
def test_what_is_kept_is_found(kept):
    found = store.load("tiny", host(), KEY, VERSIONS)
    assert found
    assert call(found) == 7
    assert found[1]["kernels"] == MANIFEST["kernels"]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert store.load("tiny", host(), KEY[::-1], VERSIONS) is None
    assert store.load("other", host(), KEY, VERSIONS) is None


@linux_x86
def test_another_library_under_the_same_descriptor_is_another_library(cache):
    folder = str(store.cache_dir())
    found = []
    for value in (7, 8, 9):
        keep(folder, "tiny", host(), KEY, image(value), MANIFEST)
        found.append(store.load("tiny", host(), KEY, VERSIONS))
    assert [call(f) for f in found] == [7, 8, 9]


@linux_x86
@pytest.mark.parametrize("damage", ["flip", "short", "long", "empty", "replaced"])
def test_a_damaged_library_is_never_opened(kept, opened, caplog, damage):
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    contents = {"flip": data, "short": data[:-1], "long": data + b"x", "empty": b"", "replaced": image(8)}
    kept.write_bytes(contents[damage])
    assert store.load("tiny", host(), KEY, VERSIONS) is None
    assert opened == []
    assert "checksum" in caplog.text


@linux_x86
def test_what_is_opened_is_what_was_verified(kept, monkeypatch):
    """The file is exchanged between the check and the opening: the verified one is opened."""
    real = ctypes.CDLL

    def exchange(name):
        kept.unlink()
        kept.write_bytes(image(8))
        return real(name)

    monkeypatch.setattr(ctypes, "CDLL", exchange)
    found = store.load("tiny", host(), KEY, VERSIONS)
    assert call(found) == 7


@linux_x86
def test_a_library_that_others_can_write_is_never_opened(kept, opened, caplog):
    kept.chmod(0o620)
    assert store.load("tiny", host(), KEY, VERSIONS) is None
    assert opened == []
    assert "0620" in caplog.text
    kept.chmod(0o600)
    kept.with_name(f"tiny-{KEY}.json").chmod(0o602)
    assert store.load("tiny", host(), KEY, VERSIONS) is None
    assert opened == []


@linux_x86
@pytest.mark.parametrize(
    "change",
    [
        {"family": "other"},
        {"target": "aarch64"},
        {"os": "windows"},
        {"abi": 0},
        {"key": KEY[::-1]},
        {"sha256": "../../../../tmp/evil"},
        {"sha256": 5},
        {"size": "8"},
        {"size": True},
        {"kernels": ["seven"]},
        {"kernels": {"seven": [["x"]]}},
        {"kernels": {"seven": [["x", 3]]}},
        {"toolchain": None},
    ],
)
def test_a_manifest_of_something_else_is_ignored(kept, opened, change):
    path = kept.with_name(f"tiny-{KEY}.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert store.load("tiny", host(), KEY, None) is None
    assert opened == []


@linux_x86
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000, b'{"family": "tiny"}'])
def test_a_damaged_manifest_is_ignored(kept, opened, text):
    kept.with_name(f"tiny-{KEY}.json").write_bytes(text)
    assert store.load("tiny", host(), KEY, None) is None
    assert opened == []


@linux_x86
def test_other_versions_of_the_toolchain_count_only_where_it_is_installed(kept, tmp_path, monkeypatch):
    newer = {**VERSIONS, "numba": "1.3.0"}
    assert store.load("tiny", host(), KEY, newer) is None
    assert call(store.load("tiny", host(), KEY, None)) == 7
    untold = dict.fromkeys(VERSIONS, store.UNKNOWN)  # in a frozen application without metadata
    assert call(store.load("tiny", host(), KEY, untold)) == 7
    assert store.load("tiny", host(), KEY, {**untold, "numba": "1.3.0"}) is None
    given = tmp_path / "given" / host().name
    given.mkdir(parents=True)
    keep(str(given), "tiny", host(), KEY, image(9), MANIFEST, 0o644)
    monkeypatch.setenv("NBCONV_KERNELS", str(tmp_path / "given"))
    assert call(store.load("tiny", host(), KEY, newer)) == 9  # prebuilt: taken as it is
    given.chmod(0o777)
    assert store.load("tiny", host(), KEY, newer) is None


@linux_x86
def test_prebuilt_libraries_need_no_sources(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FOLDER", str(tmp_path))
    prebuilt = tmp_path / "prebuilt" / host().name
    prebuilt.mkdir(parents=True)
    keep(str(prebuilt), "tiny", host(), KEY, image(9), MANIFEST, 0o664)
    assert store.Sources().key("tiny", host()) is None
    assert call(store.load("tiny", host(), None, None)) == 9
    assert store.load("other", host(), None, None) is None


@linux_x86
@pytest.mark.parametrize("failures", [1, 2])
def test_where_files_cannot_be_opened_memory_or_a_temporary_folder_is(kept, monkeypatch, caplog, failures):
    real, names = ctypes.CDLL, []

    def noexec(name):
        names.append(name)
        if len(names) <= failures:
            raise OSError("failed to map segment from shared object")
        return real(name)

    monkeypatch.setattr(ctypes, "CDLL", noexec)
    assert call(store.load("tiny", host(), KEY, VERSIONS)) == 7
    assert call(store.load("tiny", host(), KEY, VERSIONS)) == 7
    assert len(caplog.records) == 1
    assert "noexec" in caplog.text
    assert not os.path.exists(names[-1]) or "/proc/" in names[-1]


@linux_x86
def test_object_code_is_loaded_through_llvmlite():
    text = "@table = constant i64 7\ndefine i64 @seven() {\n %x = load volatile i64, ptr @table\n ret i64 %x\n}"
    assert call((loading.load_object(compiled(text), host()), {})) == 7


# Listing, clearing, writing


def test_listing_and_clear(kept, cache):
    (cache / "model.bin").write_bytes(b"of somebody else")
    (cache / f"tiny-{KEY}.json.77-aabbccdd.part").write_bytes(b"left behind")
    listed = listing()
    assert [(m["family"], m["target"], m["current"]) for m in listed] == [("tiny", host().name, False)]
    assert listed[0]["size"] == kept.stat().st_size
    files, size = clear()
    assert files == 3
    assert size > listed[0]["size"]
    assert [p.name for p in cache.iterdir()] == ["model.bin"]


def test_a_failed_write_leaves_nothing(cache, monkeypatch):
    folder = str(store.cache_dir())

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        keep(folder, "tiny", host(), KEY, b"x", MANIFEST)
    assert os.listdir(folder) == []
