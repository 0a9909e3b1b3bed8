"""What the documentation says of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nbconv.cli import COMMANDS
from nbconv.kernels.compile import families
from nbconv.kernels.target import TARGETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_operators() -> None:
    """Each row of docs/onnx.md is true; operators that it lacks are added by ``make docs``."""
    from docs.generate import BEGIN, END, table

    rows = read("docs/onnx.md").split(BEGIN)[1].split(END)[0].strip().splitlines()
    assert set(rows) <= set(table()), "run make docs"
    assert len(rows) > 100


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:nbconv|kernels|converters|tests|docs)/[\w/]+\.(?:py|md))`", text):
        assert (ROOT / name).is_file(), name


def test_commands() -> None:
    told = set(re.findall(r"^\| `nbconv (\w+)", read("docs/cli.md"), re.M))
    assert told == set(COMMANDS)


def test_targets() -> None:
    for name in TARGETS:
        assert f"`{name}`" in read("docs/cli.md")
        assert f"`{name}`" in read("docs/architecture.md")


def test_the_way_of_one_op() -> None:
    """The kernel and the case that docs/architecture.md shows are those in the sources."""
    text = read("docs/architecture.md")
    kernel = re.search(r"```python\n(.*?)```", text, re.S)
    assert kernel is not None
    lines = [line.strip() for line in kernel[1].strip().splitlines()]
    sources = [line.strip() for line in read("kernels/cpu/activation.py").splitlines()]
    assert lines == sources[sources.index(lines[1]) - 1 :][: len(lines)]
    case = re.search(r"`(case\(Clip.*?\))`", text)
    assert case is not None
    assert case[1] in read("tests/ops/test_activation.py")
    assert "activation" in families()


def test_make_targets() -> None:
    for name in re.findall(r"\bmake ([\w-]+)", read("README.md") + read("docs/architecture.md")):
        assert re.search(rf"^{name}:", read("Makefile"), re.M), name


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The example of README.md runs and prints what it says."""
    example = re.search(r"```python\n(.*?)```", read("README.md"), re.S)
    assert example is not None
    exec(compile(example[1], "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "Egyptian cat"
