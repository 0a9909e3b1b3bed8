"""What is installed: the wheel's contents, a device that has the wheel and numpy alone, what a warm process imports."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import nbconv

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"nbconv": "nbconv", "kernels": "nbconv/kernels", "converters": "nbconv/converters", "models": "nbconv/models"}
COMPILERS = ("numba", "llvmlite", "onnx")

ONE_RUN = """
import sys
import numpy as np
import nbconv
from nbconv.models import efficientnet_lite0
logits = nbconv.load(efficientnet_lite0()).run({"input": np.load(sys.argv[1])})["logits"][0]
"""
ANSWER = """
likely = np.exp(logits - logits.max())
likely /= likely.sum()
print(" ".join(f"{i}:{likely[i]:.4f}" for i in np.argsort(-likely)[:3]))
print(" ".join(m for m in ("numba", "llvmlite", "onnx", "PIL", "onnxruntime") if m in sys.modules))
"""


class Device(NamedTuple):
    """A folder with nothing but the wheel, a folder with nothing but numpy, and a cache that was filled elsewhere."""

    site: Path
    packages: Path
    cache: Path
    picture: Path

    def python(self, *arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess:
        """Run Python there: ``-S`` keeps this installation's packages away."""
        path = os.pathsep.join(map(str, (self.site, self.packages)))
        environment = {**_environment(), "PYTHONPATH": path, "NBCONV_CACHE": str(cache or self.cache)}
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.packages)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NBCONV_KERNELS", "NBCONV_CACHE")}


def _do(*command: object, **environment: object) -> str:
    """Run a command away from the sources, which ``python -c`` would find in the current folder."""
    given = {**_environment(), **{k: str(v) for k, v in environment.items()}}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=given, cwd=tempfile.gettempdir())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def families() -> set[str]:
    """The kernel families that EfficientNet-Lite0 needs."""
    from nbconv.models import efficientnet_lite0

    plan = nbconv.load(efficientnet_lite0()).plan({"input": (1, 3, 224, 224)})
    return {step.kernel.split(".")[0] for step in plan.steps} | {"loop"}


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory: pytest.TempPathFactory, families: set[str]) -> Path:
    """A folder of kernels built by the command line."""
    folder = tmp_path_factory.mktemp("prebuilt")
    chosen = [word for name in sorted(families) for word in ("--family", name)]
    _do(sys.executable, "-m", "nbconv", "kernels", "build", "--into", folder, *chosen)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, prebuilt: Path) -> Path:
    """A wheel that carries kernels, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "prebuilt"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(prebuilt, source / "kernels" / "prebuilt")
    setuptools = int(importlib.metadata.version("setuptools").split(".")[0])
    alone = ["--no-build-isolation"] if setuptools >= 77 else []  # else pip fetches one
    out = source / "dist"
    _do(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *alone, "--wheel-dir", out, source)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, wheel: Path, prebuilt: Path) -> Device:
    """A device set up as README.md says: the wheel installed with --no-deps, numpy, a cache filled on this machine."""
    from nbconv.image import load_image
    from nbconv.models import photograph

    base = tmp_path_factory.mktemp("device")
    made = Device(base / "site", base / "packages", base / "cache", base / "x.npy")
    _do(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", made.site, wheel)
    made.packages.mkdir()
    beside = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (beside / name).exists():
            (made.packages / name).symlink_to(beside / name)
    np.save(made.picture, load_image(photograph(), (224, 224), mean=127, std=128))
    _do(sys.executable, "-c", ONE_RUN, made.picture, PYTHONPATH=made.site, NBCONV_CACHE=made.cache)
    assert not list(made.cache.glob("*.so")), "the wheel's own kernels were not used"
    return made


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_version() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert nbconv.__version__ == declared[1] == importlib.metadata.version("nbconv")


def test_repository_is_small() -> None:
    """What is tracked is sources and the few models and pictures that tests and the demo use."""
    git = shutil.which("git")
    listed = git and subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if not listed or listed.returncode:
        pytest.skip("not a checkout, or no git")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert sum(sizes.values()) < 18e6


def test_wheel_contents(wheel: Path, families: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = {
        f"{inside}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for pattern in ("*.py", "*.onnx", "*.npz", "*.png", "*.txt", "*.html", "py.typed")
        for file in (ROOT / folder).rglob(pattern)
        if "__pycache__" not in file.parts
    }
    assert wanted <= names, "packages and package-data in pyproject.toml lack these"
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"nbconv"}
    assert not [name for name in names if "test" in name]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    for family in families:
        assert sum(name.startswith("nbconv/kernels/prebuilt/") and f"/{family}-" in name for name in names) == 2


def test_wheel_metadata(wheel: Path) -> None:
    metadata = _metadata(wheel)
    assert metadata["Version"] == nbconv.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    requires = metadata.get_all("Requires-Dist") or []
    plain = {re.split(r"[^\w-]", line)[0].lower() for line in requires if "extra ==" not in line}
    assert plain == {"numpy", "numba", "onnx", "pillow"}
    assert {"test", "bench", "all"} <= set(metadata.get_all("Provides-Extra") or [])


def test_wheel_tells_pyinstaller_of_its_hook(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt"))
        assert "[pyinstaller40]\nhook-dirs = nbconv._pyinstaller:get_hook_dirs" in archive.read(name).decode()
        assert "nbconv/_pyinstaller/hook-nbconv.py" in archive.namelist()


def test_device_has_numpy_alone(device: Device) -> None:
    found = "import importlib.util as u; print([n for n in ('numba', 'llvmlite', 'onnx', 'PIL') if u.find_spec(n)])"
    done = device.python("-c", found)
    assert done.stdout.strip() == "[]", done.stderr


def test_device_runs(device: Device) -> None:
    done = device.python("-c", ONE_RUN + ANSWER, str(device.picture))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answers = [pair.split(":") for pair in done.stdout.splitlines()[0].split()]
    assert [int(i) for i, _ in answers] == [285, 282, 281]  # Egyptian cat, tiger cat, tabby
    assert float(answers[0][1]) == pytest.approx(0.385, abs=0.01)
    assert done.stdout.splitlines()[1] == ""


def test_device_runs_other_shapes(device: Device) -> None:
    """A batch that was never run where the cache was filled is planned on the device, from the structure in the cache."""
    many = ONE_RUN.replace("np.load(sys.argv[1])", "np.repeat(np.load(sys.argv[1]), 3, 0)")
    done = device.python("-c", many + ANSWER, str(device.picture))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("285:0.38"), done.stdout


def test_device_without_the_structure(device: Device, tmp_path: Path) -> None:
    """Says what is missing and what to do about it."""
    (tmp_path / "empty").mkdir(mode=0o700)
    model = device.site / "nbconv/models/mtcnn_pnet.onnx"
    done = device.python("-m", "nbconv", "check", str(model), cache=tmp_path / "empty")
    assert done.returncode in (1, 2)
    text = done.stdout + done.stderr
    assert "pip install onnx" in text, text
    assert "Traceback" not in text


def test_import_is_light() -> None:
    text = _do(sys.executable, "-c", "import nbconv, sys; print(sorted(sys.modules))")
    for name in (*COMPILERS, "PIL", "onnxruntime", "nbconv.ops", "nbconv.passes"):
        assert f"'{name}'" not in text


def test_warm_run_compiles_and_parses_nothing(device: Device) -> None:
    """Where numba and onnx are installed a warm process leaves them alone, too."""
    text = _do(sys.executable, "-c", ONE_RUN + ANSWER, device.picture, PYTHONPATH=device.site, NBCONV_CACHE=device.cache)
    assert text.splitlines()[1] == ""
