"""Finding, compiling and prebuilding libraries, in child processes over a small package with two families.

The package has the real modules, but its ``_numba.py`` makes the kernel ``scale`` (args[0] *= FACTOR; args[0] += last) from
the constant FACTOR of a family's file, and notes each compilation.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from nbconv.kernels import store

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and platform.machine() == "x86_64"), reason="opens x86-64 shared libraries"
)

COMPILER = """
import os, time
import llvmlite.binding as llvm

def object_code(family, goal):
    with open(os.environ["COMPILED"], "a") as f:
        f.write(f"{family} {goal.name} {os.getpid()}\\n")
    scope = {"os": os, "time": time}
    with open(os.path.join(os.path.dirname(__file__), "cpu", family + ".py")) as f:
        exec(f.read(), scope)
    print("noise on standard output")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(goal.triple).create_target_machine(cpu=goal.cpu, reloc="pic", codemodel="default")
    module = llvm.parse_assembly(f'''target triple = "{goal.triple}"
    define void @scale(ptr %args, i64 %first, i64 %last) {{
      %x = load i64, ptr %args
      %y = mul i64 %x, {scope["FACTOR"]}
      %z = add i64 %y, %last
      store i64 %z, ptr %args
      ret void
    }}''')
    toolchain = {"numba": "NUMBA", "llvmlite": "LLVMLITE"}
    return machine.emit_object(module), {"kernels": {"scale": [["x", "int64*"]]}, "toolchain": toolchain}
"""

USE = """
import ctypes, logging, sys
logging.basicConfig()
from nbconv.kernels import compile
def scale(x, *names, last=2):
    out = []
    for name, library in compile.libraries(names).items():
        args = (ctypes.c_int64 * 1)(x)
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        signature(library.address("scale"))(ctypes.addressof(args), 0, last)
        out.append(args[0])
    return out
"""


class Package:
    def __init__(self, folder) -> None:
        self.folder = folder
        self.kernels = folder / "site" / "nbconv" / "kernels"
        self.cache = folder / "cache"
        self.log = folder / "compiled"
        shutil.copytree(store.FOLDER, self.kernels, ignore=shutil.ignore_patterns("__pycache__", "prebuilt", "cpu", "cuda"))
        (self.kernels / "cpu").mkdir()
        compiler = COMPILER.replace("NUMBA", version("numba")).replace("LLVMLITE", version("llvmlite"))
        for name, text in {
            "../__init__.py": "",
            "_numba.py": compiler,
            "cpu/__init__.py": "",
            "cpu/_common.py": "",
            "cpu/tiny.py": "FACTOR = 3\n",
            "cpu/large.py": "# longer, so it comes first\nFACTOR = 5\n",
        }.items():
            (self.kernels / name).write_text(text)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("NBCONV_")}
        self.environment |= {
            "PYTHONPATH": str(folder / "site"), "NBCONV_CACHE": str(self.cache), "COMPILED": str(self.log),
            "NBCONV_TARGET": "x86-64", "PYTHONWARNINGS": "error",
        }  # fmt: skip

    def start(self, code: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", USE + code]
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment, cwd=self.folder)

    def run(self, code: str) -> str:
        process = self.start(code)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        return out.strip()

    def fail(self, code: str) -> str:
        process = self.start(code)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 1
        return err.strip()

    def compiled(self) -> list[str]:
        """ "family target" of each compilation so far."""
        return sorted(line.rpartition(" ")[0] for line in self.log.read_text().splitlines()) if self.log.exists() else []


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


BARE = "sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
"""As if neither were installed."""


def test_compiled_once_then_found(package):
    code = "print(scale(7, 'tiny', 'large'), compile.families(), 'llvmlite' in sys.modules)"
    assert package.run(code) == "[23, 37] ['large', 'tiny'] False"
    assert package.compiled() == ["large x86-64", "tiny x86-64"]
    assert package.run(code) == "[23, 37] ['large', 'tiny'] False"
    assert package.run(BARE + "print(scale(7, 'large'))") == "[37]"
    assert package.compiled() == ["large x86-64", "tiny x86-64"]
    assert not list(package.cache.glob("*.part"))


def test_what_a_library_says(package):
    out = package.run("""
library = compile.libraries(["tiny"])["tiny"]
print(library.family, library.target.name, library.kernels, library.arguments("scale"))
assert compile.libraries(["tiny"])["tiny"] is library
assert library.address("scale") == library.address("scale") != 0
for ask in (library.address, library.arguments):
    try:
        ask("rotate")
    except compile.KernelError as e:
        print(e)
""")
    missing = "the library tiny has no kernel rotate: it has scale"
    assert out.splitlines() == ["tiny x86-64 ('scale',) (('x', 'int64*'),)", missing, missing]


def test_four_processes_at_once(package):
    package.cache.mkdir(mode=0o700)
    processes = [package.start("print(scale(7, 'tiny', 'large'))") for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert (process.returncode, out.strip()) == (0, "[23, 37]"), err
    assert package.compiled() == ["large x86-64", "tiny x86-64"]  # the others waited
    assert not list(package.cache.glob("*.part"))


@pytest.mark.parametrize("obstacle", ["compile.LOCK_SECONDS = 0", "fcntl.flock = refuse", "os.open = refuse_lock"])
def test_without_the_lock_it_is_right_too(package, obstacle):
    code = f"""
import fcntl, os
real = os.open
def refuse(*args): raise OSError(38, "Function not implemented")
def refuse_lock(path, *args): return refuse() if path.endswith(".compiling") else real(path, *args)
{obstacle}
print(scale(7, 'tiny'))"""
    processes = [package.start(code) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert out.strip() == "[23]", err
    assert package.run(BARE + "print(scale(7, 'tiny'))") == "[23]"
    assert not list(package.cache.glob("*.part"))


def test_many_threads_compile_once(package):
    out = package.run("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda _: compile.libraries(["tiny", "large"]), range(8)))
print(all(f["tiny"] is found[0]["tiny"] and f["large"] is found[0]["large"] for f in found))
""")
    assert out == "True"
    assert package.compiled() == ["large x86-64", "tiny x86-64"]


def test_an_edited_source_is_compiled_anew(package):
    assert package.run("print(scale(7, 'tiny', 'large'))") == "[23, 37]"
    (package.kernels / "cpu" / "tiny.py").write_text("FACTOR = 4\n")
    assert package.run("print(scale(7, 'tiny', 'large'))") == "[30, 37]"
    assert package.compiled() == ["large x86-64", "tiny x86-64", "tiny x86-64"]
    (package.kernels / "cpu" / "_common.py").write_text("x = 1\n")
    package.run("scale(7, 'tiny', 'large')")
    assert len(package.compiled()) == 5


def test_a_newer_toolchain_compiles_anew_where_it_is_installed(package):
    package.run("scale(7, 'tiny')")
    manifest = next(package.cache.glob("*.json"))
    older = {**json.loads(manifest.read_text()), "toolchain": {"numba": "0.1", "llvmlite": "0.1"}}
    manifest.write_text(json.dumps(older))
    assert package.run(BARE + "print(scale(7, 'tiny'))") == "[23]"
    assert len(package.compiled()) == 1
    assert package.run("print(scale(7, 'tiny'))") == "[23]"
    assert len(package.compiled()) == 2
    assert json.loads(manifest.read_text())["toolchain"]["numba"] == version("numba")


def test_a_damaged_library_is_compiled_anew(package):
    package.run("scale(7, 'tiny')")
    library = next(package.cache.glob("*.so"))
    library.write_bytes(library.read_bytes()[:-1] + b"!")
    assert package.run("print(scale(7, 'tiny'))") == "[23]"
    assert len(package.compiled()) == 2
    assert package.run(BARE + "print(scale(7, 'tiny'))") == "[23]"


def test_without_numba_the_error_says_how_to_prebuild(package):
    error = package.fail(BARE + "scale(7, 'tiny')").splitlines()[-1]
    for part in ("KernelError", "tiny", "numba", "nbconv kernels build --target x86-64", "NBCONV_KERNELS"):
        assert part in error


def test_unknown_families_and_targets(package):
    error = package.fail("scale(7, 'tiny', 'rotate')").splitlines()[-1]
    assert "rotate: there are large, tiny" in error
    error = package.fail("compile.libraries(['tiny'], compile.target('aarch64'))").splitlines()[-1]
    assert error.startswith("ValueError: ")
    assert "aarch64" in error
    assert package.compiled() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise TypeError('no such type: f33')", "the kernels tiny do not compile: TypeError: no such type: f33"),
        ("FACTOR = 'nonsense'", "the kernels tiny do not compile: RuntimeError"),
        ("os.write(2, b'LLVM ERROR: out of luck'); os.abort()", "stopped with status -6\nLLVM ERROR: out of luck"),
        ("import sys; os._exit(3)", "stopped with status 3"),
    ],
)
def test_a_family_that_does_not_compile(package, text, message):
    (package.kernels / "cpu" / "tiny.py").write_text(text)
    error = package.fail("scale(7, 'tiny')")
    assert message in error
    assert not list(package.cache.glob("tiny*"))
    assert package.run("print(scale(7, 'large'))") == "[37]"


@pytest.mark.parametrize("cache", ["file/cache", "file"])
def test_without_a_cache_folder(package, cache):
    (package.folder / "file").write_text("")
    package.environment["NBCONV_CACHE"] = str(package.folder / cache)
    process = package.start("print(scale(7, 'tiny', 'large'))")
    out, err = process.communicate(timeout=100)
    assert out.strip() == "[23, 37]", err
    assert err.count("not kept") == 1
    assert not package.cache.exists()


def test_a_cache_that_cannot_be_written(package):
    process = package.start("""
from nbconv.kernels import cache
def full(*args): raise OSError(30, "Read-only file system")
cache._write = full
print(scale(7, 'tiny', 'large'))
""")
    out, err = process.communicate(timeout=100)
    assert out.strip() == "[23, 37]", err
    assert err.count("Read-only file system") == 1


@pytest.mark.parametrize(
    "obstacle",
    [
        "compile._spawn = lambda count, goal: []",
        "sys.frozen = True",
        "sys.executable = ''",
        "sys.executable = '/opt/editor/editor'",
        "sys.executable = '/nowhere/python'",
    ],
)
def test_without_child_processes(package, obstacle):
    assert package.run(f"{obstacle}\nprint(scale(7, 'tiny', 'large'), 'llvmlite' in sys.modules)").endswith("[23, 37] True")


def test_where_nothing_can_be_opened_llvmlite_loads_the_object(package):
    process = package.start("""
import llvmlite.binding  # it opens a library of its own
def refuse(name): raise OSError("Operation not permitted")
ctypes.CDLL = refuse
print(scale(7, 'tiny'))
""")
    out, err = process.communicate(timeout=100)
    assert out.strip().endswith("[23]"), err
    assert "llvmlite" in err


def test_prebuilt_for_another_machine(package):
    into = package.folder / "kernels"
    code = f"print(*compile.build(target=compile.target('{{}}'), into={str(into)!r}), sep='\\n')"
    written = package.run(code.format("aarch64")).splitlines()
    assert len(written) == 2
    for path in written:
        manifest = json.loads(Path(path).read_text())
        assert manifest["target"] == "aarch64"
        library = into / "aarch64" / f"{manifest['family']}-{manifest['sha256'][:32]}.so"
        assert struct.unpack_from("<H", library.read_bytes(), 18) == (183,)
        assert library.stat().st_mode & 0o777 == 0o644
    assert not package.cache.exists()
    package.run(code.format("x86-64"))
    package.environment["NBCONV_KERNELS"] = str(into)
    assert package.run(BARE + "print(scale(7, 'tiny', 'large'))") == "[23, 37]"
    (package.kernels / "cpu" / "tiny.py").write_text("FACTOR = 4\n")
    assert "KernelError" in package.fail(BARE + "scale(7, 'tiny')")  # never stale
    package.run(code.format("x86-64"))
    assert package.run(BARE + "print(scale(7, 'tiny'))") == "[30]"
    assert len(list((into / "x86-64").glob("tiny-*"))) == 2  # the older one is replaced


def test_prebuilt_inside_the_package_without_sources(package):
    package.run("compile.build(into=compile.store.FOLDER + '/prebuilt')")
    shutil.rmtree(package.kernels / "cpu")
    (package.kernels / "_numba.py").unlink()
    assert package.run(BARE + "print(scale(7, 'tiny', 'large'))") == "[23, 37]"
    assert not package.cache.exists()


def test_build_into_the_cache(package):
    package.run("print(compile.build(['tiny']))")
    assert package.run(BARE + "print(scale(7, 'tiny'))") == "[23]"
    assert package.compiled() == ["tiny x86-64"]


def test_an_interrupt_stops_the_children(package):
    (package.kernels / "cpu" / "tiny.py").write_text("time.sleep(1000)\n")
    (package.kernels / "cpu" / "large.py").write_text("# and longer\ntime.sleep(1000)\n")
    process = package.start("""
import os, signal, threading, time
def interrupt():
    while not os.path.exists(os.environ["COMPILED"]): time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    scale(7, 'tiny', 'large')
except KeyboardInterrupt:
    print("interrupted")
""")
    out, err = process.communicate(timeout=100)
    assert out.strip() == "interrupted", err
    for line in package.log.read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[-1]), 0)


def test_after_a_fork(package):
    out = package.run("""
import os
compile._lock.acquire()  # another thread is loading while this one forks
child = os.fork()
if child == 0:
    os._exit(scale(7, 'tiny')[0])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert out == "23"
