"""What the documentation says of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import nbconv
from benchmarks import picture
from nbconv.cli import COMMANDS
from nbconv.kernels.compile import families
from nbconv.kernels.target import TARGETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for folder in (".", "docs", "models", "examples") for page in sorted((ROOT / folder).glob("*.md"))]
WIDTH = 200
"""Characters of a line of Markdown, tables and code excepted."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_operators() -> None:
    """Each row of docs/onnx.md is true; operators that it lacks are added by ``make docs``."""
    from docs.generate import BEGIN, END, table

    rows = read("docs/onnx.md").split(BEGIN)[1].split(END)[0].strip().splitlines()
    assert set(rows) <= set(table()), "run make docs"
    assert len(rows) > 100


def test_conformance() -> None:
    """docs/conformance.md counts all of onnx's tests, and says of each that does not pass why."""
    from docs.generate import BEGIN, END
    from tests import conformance

    parts = [part.split(END)[0].strip().splitlines() for part in read("docs/conformance.md").split(BEGIN)[1:]]
    total = len(conformance.cases())
    for part in parts[1:3]:
        assert sum(int(row.split("|")[3]) for row in part[2:]) == total, "run make docs"
    lacking = [[cell.strip() for cell in row.split("|")[1:3]] for row in parts[3][2:]]
    assert lacking == [[c.name, why] for c in conformance.cases() if (why := conformance.skipped(c.name))], "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:nbconv|kernels|converters|tests|docs)/[\w/]+\.(?:py|md))`", text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_lines_are_short(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not [line for line in text.splitlines() if len(line) > WIDTH and not line.startswith("|")]


def test_the_front_page_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 150


def test_speed() -> None:
    """What README.md, docs/benchmarks.md and the picture say is what benchmarks/results holds."""
    from docs.generate import BEGIN, END

    reports = picture.measured()
    assert [report["threads"] for report in reports] == [1, 2]
    for page, lines in (("README.md", picture.sentences(reports)), ("docs/benchmarks.md", picture.markdown(reports))):
        assert read(page).split(BEGIN)[1].split(END)[0].strip().splitlines() == lines, "run make docs"
    assert read("docs/latency.svg") == picture.picture(reports), "run benchmarks/picture.py"


def test_the_picture_is_well_formed() -> None:
    root = ElementTree.fromstring(read("docs/latency.svg"))
    labels = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"nbconv", "onnxruntime", "OpenVINO", "1 thread", "2 threads", "resnet50", "geometric mean"} <= set(labels)


def test_names() -> None:
    """What docs/architecture.md names is there: each word of a dotted name or a path is one of the sources'."""
    files = [file for folder in ("nbconv", "kernels", "converters", "tests") for file in (ROOT / folder).rglob("*.py")]
    words = set(re.findall(r"\w+", " ".join(file.read_text(encoding="utf-8") for file in files)))
    words |= {part for file in files for part in (*file.relative_to(ROOT).parent.parts, file.stem)}
    names = re.findall(r"`(_?[A-Za-z][\w.]*)(?:\.py|\(.*?\))?`", read("docs/architecture.md"))
    assert len(names) > 100
    assert {word for name in names for word in name.split(".")} <= words


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
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.M))
    assert {"demo", "test", "picture"} <= names
    for name in names:
        assert re.search(rf"^{name}:", read("Makefile"), re.M), name


def test_example(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of README.md run: the first prints what it says, the second goes on from it and writes a model."""
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", read("README.md"), re.S)
    names: dict[str, Any] = {}
    exec(compile(first, "README.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[-1] == "Egyptian cat"
    names["y"] = np.array([3])
    exec(compile(second, "README.md", "exec"), names)
    assert names["loss"] > 0
    assert nbconv.load("m2.onnx")(names["x"]).shape == (1, 9)
