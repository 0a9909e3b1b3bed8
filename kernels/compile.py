"""The kernel libraries that a plan needs: found in a prebuilt folder or the cache, else compiled by
child processes.

Numba is imported in the children only (``python -m nbconv.kernels.compile``): each reads names of
families from its standard input, and answers with a line of JSON followed by the library's bytes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nbconv.kernels import KernelError, store
from nbconv.kernels.library import Library
from nbconv.kernels.load import Symbols, load_object, open_image, say
from nbconv.kernels.target import Target, host, runs_here, target

if TYPE_CHECKING:
    import queue
    import subprocess

LOCK_SECONDS = 180
"""How long to wait for another process that compiles, before compiling as well."""


_open: dict[tuple[str, Target], Library] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


ON_PROCESSORS = frozenset(
    ("loop", "roof", "elements", "order", "cast", "recurrent", "recurrent_grad", "scan", "sample", "volume", "volume_conv",
     "volume_grad", "deform", "roi", "columns", "integers", "indices", "rank", "select", "quantised", "quantised_depthwise",
     "quantised_winograd", "requantise", "grouped", "grouped_grad", "ctc")
)  # fmt: skip
"""Families that a GPU has no use for, or whose nodes the host does there."""


def families(goal: Target | None = None) -> list[str]:
    """Names of the kernel families: the files of kernels/cpu that are not shared ones.
    On a GPU the run loop and what measures a processor have no meaning, and nodes of other types
    than float32 are done by the host."""
    names = {*store.modules(), *(store.modules("cuda") if goal is not None and goal.gpu else ())}
    left_out = {"simd", *(ON_PROCESSORS if goal is not None and goal.gpu else ())}
    return sorted(name for name in names - left_out if not name.startswith("_"))


def libraries(
    families: Iterable[str], target: Target | None = None, keys: dict[str, str] | None = None
) -> dict[str, Library]:
    """The open libraries of these families for a target of this machine (by default its best), by
    family.
    ``keys`` may say what they are looked up by, from an earlier process that had the same sources.

    What is in no prebuilt folder and not in the cache is compiled, in parallel child processes.
    Raises KernelError when that fails or numba is missing, ValueError for a target that this
    machine cannot run.
    """
    goal = target or host()
    names = [name for name in dict.fromkeys(families) if not goal.gpu or name != "loop"]
    if any((name, goal) not in _open for name in names):
        if not goal.gpu and not runs_here(goal):
            raise ValueError(f"this machine cannot run code for {goal.name}")
        with _lock:
            missing = [name for name in names if (name, goal) not in _open]
            if keys and all(name in keys for name in missing):
                missing = _load(missing, goal, {**keys})
            missing = _load(missing, goal)
            if missing:
                _obtain(missing, goal)
    return {name: _open[name, goal] for name in names}


def build(
    families: Iterable[str] | None = None,
    target: Target | None = None,
    into: str | os.PathLike | None = None,
) -> list[str]:
    """Compiles families (by default all) for a target, this machine's or another, whether or not
    they are cached.

    They go to the folder ``into/<target>``, where they replace older ones: ``into`` is what
    ``$NBCONV_KERNELS`` names on another machine, or `store.FOLDER`/prebuilt for a wheel.
    By default they go to the user's cache.
    Returns the manifests' paths.
    Raises KernelError or OSError.
    """
    from nbconv.kernels.cache import forget, keep

    goal = target or host()
    names = list(dict.fromkeys(families if families is not None else globals()["families"](goal)))
    keys = _keys(names, goal, required=True)
    if into is None:
        cache = store.cache_dir()
        if cache is None:
            raise KernelError("there is no cache folder to build kernels into: name a folder with --into")
        folder, mode = str(cache), 0o600
    else:
        folder, mode = os.path.join(os.path.abspath(into), goal.name), 0o644
        os.makedirs(folder, mode=0o755, exist_ok=True)
    written = []
    for name, image, manifest in _compiled(names, goal):
        wanted = keys[name] or ""
        if into is not None:
            forget(folder, name)
        keep(folder, name, goal, wanted, image, manifest, mode)
        written.append(os.path.join(folder, f"{name}-{wanted}.json"))
    return written


def _keys(names: list[str], goal: Target, *, required: bool = False) -> dict[str, str | None]:
    sources = store.Sources()
    keys = {name: sources.key(name, goal) for name in names}
    unknown = [name for name in names if keys[name] is None and (required or sources)]
    if unknown:
        raise KernelError(f"there are no sources of the kernels {', '.join(unknown)}: there are {', '.join(families())}")
    return keys


def _load(names: list[str], goal: Target, keys: dict[str, str | None] | None = None) -> list[str]:
    """Opens those that are prebuilt or cached; returns the others."""
    if not names:
        return []
    keys = keys or _keys(names, goal)
    versions = store.toolchain(goal)
    for name in names:
        found = store.load(name, goal, keys[name], versions)
        if found:
            _open[name, goal] = _opened(name, goal, *found)
    return [name for name in names if (name, goal) not in _open]


def _opened(name: str, goal: Target, image: Any, manifest: dict) -> Library:
    if not goal.gpu:
        return Library(name, goal, image, manifest["kernels"], manifest["key"])
    from nbconv.kernels.ptx import PtxLibrary  # nothing that runs on CPUs needs it

    return PtxLibrary(name, goal, image, manifest)


def _obtain(missing: list[str], goal: Target) -> None:
    """Compiles and opens families, and keeps them in the cache if there is one."""
    from nbconv.kernels.cache import keep

    folder = store.cache_dir()
    if folder is None:
        say("compiled kernels are not kept: there is no cache folder; every process compiles its own")
    with _turn(folder, lambda: not _load(missing, goal)):
        missing = _load(missing, goal)
        keys = _keys(missing, goal)
        for name, image, manifest in _compiled(missing, goal):
            found = None
            if folder:
                try:
                    keep(str(folder), name, goal, keys[name] or "", image, manifest)
                    found = store.load(name, goal, keys[name], None)
                except OSError as e:
                    say(f"compiled kernels are not kept in {folder}: {e.strerror}; every process compiles its own")
            opened = found[0] if found else image if goal.gpu else _open_fresh(name, image, goal)
            _open[name, goal] = _opened(name, goal, opened, {**manifest, "key": keys[name] or ""})


def _open_fresh(name: str, image: bytes, goal: Target) -> Symbols:
    try:
        return open_image(image, goal, name)
    except OSError as e:
        say(f"shared libraries cannot be opened here ({e}): every process compiles kernels, and loads them through llvmlite")
        from nbconv.kernels import _numba

        return load_object(_numba.object_code(name, goal)[0], goal)


@contextmanager
def _turn(folder: os.PathLike | None, finished: Callable[[], bool]) -> Iterator[None]:
    """Waits while another process compiles, until it is done or ``finished`` says so; never for
    ever.
    The lock is only there to save work, and ends with the process that holds it."""
    try:
        import fcntl

        if folder is None:
            raise OSError
        fd = os.open(os.path.join(folder, ".compiling"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (ImportError, OSError):  # Windows; a read-only folder; none
        yield
        return
    try:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end or finished():
                    break
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(fd)


def _compiled(names: list[str], goal: Target) -> Iterator[tuple[str, bytes, dict]]:
    """(family, library, manifest) of each family, as they get ready.
    Raises KernelError; leaves no child behind."""
    if not names:
        return
    if goal.gpu and store.toolchain(goal) is None:
        raise KernelError(
            f"the kernels {', '.join(names)} for {goal.name} are not prebuilt, and numba-cuda, which compiles them, is not "
            f"installed: pip install nbconv[cuda], or run `nbconv kernels build --target {goal.name} --into DIR` where it "
            "is, and set NBCONV_KERNELS=DIR"
        )
    if store.toolchain(goal) is None:
        raise KernelError(
            f"the kernels {', '.join(names)} for {goal.name} are not prebuilt, and numba, which compiles them, is not "
            f"installed: pip install numba, or run `nbconv kernels build --target {goal.name} --into DIR` where numba is "
            "installed, and set NBCONV_KERNELS=DIR"
        )
    names = sorted(names, key=lambda name: -len(store.source(f"cpu/{name}.py") or store.source(f"cuda/{name}.py") or b""))
    processes = _spawn(min(len(names), _cpus()), goal)
    with _progress(names, goal) as step:
        if not processes:
            for name in names:
                yield name, *_library(name, goal)
                step(1)
            return
        try:
            yield from _collect(processes, names, step)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.log is not None:  # type: ignore[attr-defined]
                    process.log.close()  # type: ignore[attr-defined]


def _collect(
    processes: list[subprocess.Popen], names: list[str], step: Callable[[int], None]
) -> Iterator[tuple[str, bytes, dict]]:
    import queue

    todo: queue.SimpleQueue = queue.SimpleQueue()
    done: queue.SimpleQueue = queue.SimpleQueue()
    for name in names:
        todo.put(name)
    for process in processes:
        threading.Thread(target=_feed, args=(process, todo, done), name="nbconv-compile", daemon=True).start()
    waiting = len(names)
    while waiting:
        try:
            name, image, answer = done.get(timeout=0.5)  # a timeout lets Ctrl-C through on every system
        except queue.Empty:
            step(0)
            continue
        if "error" in answer:
            raise KernelError(f"the kernels {name} do not compile: {answer['error']}")
        yield name, image, answer["manifest"]
        waiting -= 1
        step(1)


def _feed(process: subprocess.Popen, todo: queue.SimpleQueue, done: queue.SimpleQueue) -> None:
    """Hands families to one child until none is left, or it fails."""
    import queue

    assert process.stdin
    assert process.stdout
    name = ""
    try:
        with process.stdin, process.stdout:
            while True:
                name = todo.get_nowait()
                process.stdin.write(f"{name}\n".encode())
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                image = process.stdout.read(answer["size"])
                if len(image) != answer["size"]:
                    raise EOFError
                done.put((name, image, answer))
    except queue.Empty:
        return
    except (OSError, ValueError, KeyError, EOFError):
        done.put((name, b"", {"error": f"the compiler stopped with status {process.wait()}\n{_last_words(process)}"}))


def _last_words(process: subprocess.Popen) -> str:
    log = getattr(process, "log", None)
    if log is None:
        return ""
    try:
        log.seek(0)
        return log.read()[-2000:].decode("utf-8", "replace").strip()
    except ValueError:  # closed: the child was ended because another failed
        return ""


def _spawn(count: int, goal: Target) -> list[subprocess.Popen]:
    """Children that compile; none where the interpreter cannot be started again (embedded, frozen,
    no processes)."""
    import subprocess
    import tempfile

    if getattr(sys, "frozen", False) or not os.path.basename(sys.executable or "").lower().startswith(("python", "pypy")):
        return []
    # the child sees the modules that we see; PYTHONSAFEPATH: and none that happen to lie in the current folder
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, "-m", "nbconv.kernels.compile", "--target", goal.name]
    processes = []
    for _ in range(count):
        try:
            log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        except OSError:
            log = None
        try:
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log or subprocess.DEVNULL, env=environment)
        except OSError:
            break
        process.log = log  # type: ignore[attr-defined]
        processes.append(process)
    return processes


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _progress(names: list[str], goal: Target) -> Iterator[Callable[[int], None]]:
    """One line on a terminal, log records elsewhere."""
    from nbconv.kernels.load import logger

    terminal = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
    start, done = time.monotonic(), 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        text = f"compiled {done} of {len(names)} kernel libraries for {goal.name}, {time.monotonic() - start:.0f} s"
        if terminal:
            terminal.write(f"\r\x1b[Knbconv: {text}")
            terminal.flush()
        elif more:
            logger().info("%s", text)

    step(0)
    try:
        yield step
    finally:
        if terminal:
            terminal.write("\n")


def _library(family: str, goal: Target) -> tuple[bytes, dict]:
    """Compiles one family in this process. Raises KernelError with the compiler's message."""
    from nbconv.kernels import elf

    try:
        if goal.gpu:
            from nbconv.kernels.cuda._family import compile_family

            return compile_family(family, goal)
        from nbconv.kernels import _numba

        obj, manifest = _numba.object_code(family, goal)
        return (elf.link(obj, manifest["kernels"]) if goal.os == "linux" else obj), manifest
    except Exception as e:  # whatever Numba raises
        raise KernelError(f"{type(e).__name__}: {e}") from e


def main() -> None:
    """The child: ``python -m nbconv.kernels.compile --target NAME``."""
    goal = target(sys.argv[sys.argv.index("--target") + 1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets between the answers
    for line in sys.stdin:
        try:
            image, manifest = _library(line.strip(), goal)
            answer = {"size": len(image), "manifest": manifest}
        except KernelError as e:
            image, answer = b"", {"size": 0, "error": str(e)}
        try:
            answers.write(json.dumps(answer).encode() + b"\n" + image)
            answers.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(1)


if __name__ == "__main__":
    main()
