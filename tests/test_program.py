"""Programs that are kept in files: steps that NumPy does, copies, constants that shapes decide; files that are not to be
trusted."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.converters.onnx import write
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.model import Model
from nbconv.ops import family_of, lookup, of_family
from nbconv.plan.host import decode_attribute, encode_attribute
from tests.check import sampler
from tests.ops.test_coverage import cases
from tests.test_runtime import python

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    return Node(lookup(op)(**attributes), tuple(inputs.split(",")), tuple(outputs.split(",")))


def mixed() -> Graph:
    """Kernels; NumPy's steps with attributes of all sorts; results that no step writes (an input, a constant, another result
    under another shape); a factor that the input's shape decides."""
    r = sampler(5)
    nodes = [
        node("Conv", "x,w", "c", pads=(1, 1, 1, 1)), node("Cast", "c", "wide", to=11),
        node("LpPool", "wide", "norms", kernel_shape=(2, 2), p=3, auto_pad="VALID"), node("Cast", "norms", "l", to=1),
        node("Shape", "l", "size"), node("Cast", "size", "real", to=1), node("ReduceMean", "real", "factor", keepdims=0),
        node("Mul", "l,factor", "m"), node("Pad", "m,pads", "e", mode="reflect"), node("Sigmoid", "e", "s"),
        node("Mod", "s,half", "y", fmod=1), node("Flatten", "y", "f", axis=0), node("ArgMax", "f", "top", axis=1),
        node("Identity", "x", "same"), node("Identity", "w", "weights"),
    ]  # fmt: skip
    outputs: dict[str, Spec | None] = dict.fromkeys(("y", "f", "top", "same", "weights"))
    constants = {"w": r(4, 3, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 0, 2]), "half": np.array([0.3], F32)}
    return Graph(nodes, {"x": Spec((1, 3, "H", "W"), F32)}, outputs, constants)


def load(graph: Graph, tmp_path: Path) -> tuple[Model, Path]:
    """The model, of which nothing is kept yet, and the folder for what will be."""
    path = tmp_path / "model.onnx"
    path.write_bytes(write(graph))
    model = nbconv.load(path)
    assert model._plan_cache is not None and model._plan_cache._folder is not None
    folder = Path(model._plan_cache._folder)
    shutil.rmtree(folder)
    return nbconv.load(path), folder


def digest(found: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(
        b"".join(repr((n, a.shape, a.dtype.str)).encode() + a.tobytes() for n, a in found.items())
    ).hexdigest()


FRESH = """
import sys
import numpy as np
import nbconv
from hashlib import sha256

model = nbconv.load({path!r})
for size in (7, 6, 7):
    x = np.random.default_rng(size).standard_normal((1, 3, size, 8), np.float32)
    for threads in (1, 2):
        found = model.run({{"x": x}}, threads=threads)
        print(sha256(b"".join(repr((n, a.shape, a.dtype.str)).encode() + a.tobytes() for n, a in found.items())).hexdigest())
print(sorted(n for n in sys.modules if n.split(".")[0] in ("onnx", "numba", "llvmlite") or n.startswith("nbconv.passes")))
print(sorted(n for n in sys.modules if n.startswith("nbconv.ops.") or n == "nbconv.plan.plan"))
"""


def test_numpys_steps_start_warm(tmp_path: Path) -> None:
    """A fresh process finds the programs for two shapes: equal bits, without onnx, passes or plans, and of the ops only the
    families that its steps need."""
    model, folder = load(mixed(), tmp_path)
    want = []
    for size in (7, 6, 7):
        x = np.random.default_rng(size).standard_normal((1, 3, size, 8), np.float32)
        found = model.run({"x": x})
        want += [digest(found)] * 2
        np.testing.assert_array_equal(found["same"], x)
    assert model.plan({"x": (1, 3, 7, 8)}).numpy_steps()
    assert len(list(folder.glob("*.program"))) == 2
    *got, heavy, ops = python(FRESH.format(path=str(tmp_path / "model.onnx"))).splitlines()
    assert got == want
    assert heavy == "[]"
    imported = set(eval(ops))
    assert "nbconv.plan.plan" not in imported and "nbconv.ops.conv" not in imported and "nbconv.ops.pool" in imported


def test_constants_that_shapes_decide_are_the_programs_own(tmp_path: Path) -> None:
    """Another shape's factor is not taken for this one's, from whichever process it comes."""
    nodes = [
        node("Shape", "x", "size", start=2), node("Cast", "size", "real", to=1), node("Mul", "real,w", "scaled"),
        node("GlobalAveragePool", "x", "pool"), node("Flatten", "pool", "flat"), node("Gemm", "flat,scaled", "y"),
    ]  # fmt: skip
    graph = Graph(nodes, {"x": Spec((1, 2, "H", "W"), F32)}, {"y": None}, {"w": sampler(4)(2, 2)})
    model, folder = load(graph, tmp_path)
    given = {s: sampler(s[0])(1, 2, *s) for s in ((2, 3), (5, 4), (3, 2))}
    want = {s: model.run({"x": x})["y"] for s, x in given.items()}
    assert len(list(folder.glob("*.program"))) == 3
    again = nbconv.load(tmp_path / "model.onnx")
    for s in ((5, 4), (3, 2), (2, 3)):
        np.testing.assert_array_equal(again.run({"x": given[s]})["y"], want[s])
    assert again._graph is None, "it was planned anew"
    (folder / "weights").unlink()  # and another process writes them for a shape of its own
    nbconv.load(tmp_path / "model.onnx").run({"x": sampler(9)(1, 2, 6, 6)})
    assert (folder / "weights").exists()
    last = nbconv.load(tmp_path / "model.onnx")
    for s, x in given.items():
        np.testing.assert_array_equal(last.run({"x": x})["y"], want[s])


VALUES = [
    0, -(2**63), 2**64, 0.1, -0.0, float("inf"), struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0], 5e-324, None,
    "", 'ä"\\\n\0', (1, 2), (), (0.5, float("-inf")), ("a", "b"), np.arange(6, dtype=np.int8).reshape(2, 3).T,
    np.array(2.5), np.zeros((0, 3), np.bool_), np.array([1, -2], ">i4"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_attributes_are_kept_bit_for_bit(value: Any) -> None:
    got = decode_attribute(json.loads(json.dumps(encode_attribute(value))))
    assert exact(got) == exact(value)


def exact(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(map(exact, value))
    return (type(value), struct.pack(">d", value)) if isinstance(value, float) else (type(value), value)


def test_every_op_is_made_again_from_what_is_kept() -> None:
    rows = [row.op for row in cases()]
    assert len(rows) > 500
    for op in rows:
        family = family_of(op)
        if op.bodies():
            assert family is None, "a step that holds programs stands for it"
            continue
        assert family is not None, op
        kept = json.loads(json.dumps({k: encode_attribute(v) for k, v in op.attributes().items()}))
        again = of_family(family, op.type, op.domain)(**{k: decode_attribute(v) for k, v in kept.items()})
        assert {k: exact(v) for k, v in again.attributes().items()} == {k: exact(v) for k, v in op.attributes().items()}


def test_ops_of_others_are_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A class that stands in no file of nbconv's could not be found again."""
    monkeypatch.setattr("nbconv.graph.op.REGISTRY", {})

    class Theirs(Op):
        domain = "theirs"

    assert family_of(Theirs()) is None
    for family in ("os", "..host", "op.", "", "conv.Conv"):
        with pytest.raises(ValueError, match="no family"):
            of_family(family, "Conv", "")
    with pytest.raises(ValueError, match="no operator"):
        of_family("conv", "system", "")


# Files that were tampered with


def _host(head: dict, **changes: Any) -> None:
    for _, step in head["host_steps"]:
        step.update(changes)


def _binding(at: int, value: Any, kind: str = "arena", where: str = "inputs") -> Callable[[dict], None]:
    def change(head: dict) -> None:
        found = [b for _, step in head["host_steps"] for b in step[where] if b is not None and b[0] == kind]
        assert found
        for binding in found:
            binding[at] = value

    return change


def _table(field: int, word: int, value: int) -> Callable[[dict, np.ndarray], None]:
    """Change a word of one of the tables (see `nbconv.plan.program.FIELDS`)."""

    def change(head: dict, words: np.ndarray) -> None:
        words[sum(head["sizes"][:field]) + word] = value

    return change


HOSTILE: dict[str, Callable] = {
    "a family that is a module elsewhere": lambda head: _host(head, family="os"),
    "an op of another family": lambda head: _host(head, family="conv"),
    "an op that is none": lambda head: _host(head, type="system"),
    "an attribute that is none": lambda head: _host(head, attributes={"path": "/"}),
    "an attribute of a wrong type": lambda head: _host(head, attributes={"axis": {"float": "00"}}),
    "an offset behind the arena": _binding(1, 1 << 40),
    "an offset before the arena": _binding(1, -64),
    "an offset that is no number": _binding(1, "0"),
    "an offset between elements": _binding(1, 2),
    "more elements than the arena has": _binding(2, [1 << 20, 1 << 20]),
    "a negative dimension": _binding(2, [-1]),
    "objects": _binding(3, "|O"),
    "a structure": _binding(3, "f4,f4"),
    "a kind that is none": _binding(0, "file"),
    "a constant that is not there": _binding(1, 99, "constant"),
    "a constant from behind": _binding(1, -1, "constant"),
    "a result that is not there": _binding(1, 99, "result", "outputs"),
    "a larger result": _binding(2, [999], "result", "outputs"),
    "an input that is written to": lambda head: _host(head, outputs=[["input", "x", [1], "<f4"]]),
    "a copy of another size": lambda head: head.update(copies=[[0, ["input", "x", [1], "<f4"]]]),
    "an input that is not there": lambda head: head.update(input_moves={"z": []}),
    "an address outside of the words": lambda head: head["input_moves"].update(x=[[1 << 40, 0]]),
    "tables that are not there": lambda head: head.update(at=1 << 40),
    "tables from behind": lambda head: head.update(at=-8),
    "a segment over a step in Python": lambda head: head.update(segments=[[0, 3]]),
    "a segment behind the last step": lambda head: head.update(segments=[[0, 1 << 40]]),
    "no segments": lambda head: head.pop("segments"),
    "a smaller arena": lambda head: head.update(arena=64),
    "a field more": lambda head: head.update(more=1),
    "a kernel that is not there": _table(1, 0, 99),
    "arguments that are not there": _table(1, 1, 1 << 40),
    "no units at a time": _table(1, 3, 0),
    "an address in no word": _table(2, 0, -1),
    "an offset behind the arena, for a kernel": _table(3, 0, 1 << 40),
    "a constant that is not there, for a kernel": _table(5, 0, 1 << 40),
}


@pytest.fixture(scope="module")
def tampered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes, dict[str, np.ndarray], np.ndarray]:
    """A model's file, a program's, what the latter holds, and what the model gives for an input."""
    folder = tmp_path_factory.mktemp("tampered")
    model, kept = load(mixed(), folder)
    x = sampler(2)(1, 3, 7, 8)
    want = model.run({"x": x})
    (path,) = kept.glob("*.program")
    return folder / "model.onnx", path, path.read_bytes(), want, x


def _rewritten(content: bytes, change: Callable) -> bytes:
    """A program's file with its head or tables changed, and a checksum that fits."""
    rest = content.partition(b"\n")[2]
    head_size, table_size = (int(v) for v in rest[:32].split())
    end = 32 + head_size
    head, words = json.loads(rest[32:end]), np.frombuffer(rest[end : end + table_size], np.int64).copy()
    change(head, words) if change.__code__.co_argcount == 2 else change(head)
    new = json.dumps(head).encode()
    new += b" " * (-len(new) % 8)
    rest = f"{len(new)} {table_size}".ljust(32).encode() + new + words.tobytes() + rest[end + table_size :]
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def test_a_program_written_again_is_taken(tampered) -> None:
    """What the next test changes is what makes the difference."""
    model, path, content, want, x = tampered
    path.write_bytes(_rewritten(content, lambda head: None))
    again = nbconv.load(model)
    assert digest(again.run({"x": x})) == digest(want)
    assert again._graph is None


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_tampered_programs_are_refused(change: Callable, tampered) -> None:
    model, path, content, want, x = tampered
    path.write_bytes(_rewritten(content, change))
    again = nbconv.load(model)
    assert digest(again.run({"x": x})) == digest(want)
    assert again._graph is not None, "the file was taken"


def test_damaged_programs_are_refused(tampered) -> None:
    model, path, content, want, x = tampered
    for at in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        again = nbconv.load(model)
        assert digest(again.run({"x": x})) == digest(want)
        assert again._graph is not None
