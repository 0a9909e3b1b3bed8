"""Checkpoint files beside the safetensors package, which reads and writes the same ones."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from nbconv.train.checkpoint import read_tensors, write_tensors
from tests.train.models import batch, convolutional, mlp, model, node

ROOT = Path(__file__).resolve().parent.parent.parent
ARRAYS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a scalar": np.array(np.nan, np.float32),
    "naïve": np.array([-0.0, np.inf, 1e-45], np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}
METADATA = {"nbconv": json.dumps({"steps": 3}), "naïve": "ü"}


def written(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    write_tensors(file, arrays, metadata)
    return file.getvalue()


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name].dtype, found[name].shape) == (np.float32, value.shape), name
        assert found[name].tobytes() == value.tobytes(), name


def test_theirs_reads_ours() -> None:
    same(safetensors.numpy.load(written(ARRAYS, METADATA)), ARRAYS)


def test_theirs_reads_a_training(tmp_path: Path) -> None:
    trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01))
    trainer.step(*batch(6, (2, 7, 9)))
    trainer.save_checkpoint(tmp_path / "c")
    same(safetensors.numpy.load_file(tmp_path / "c"), dict(trainer.state))
    with safetensors.safe_open(tmp_path / "c", "numpy") as file:
        assert json.loads(file.metadata()["nbconv"])["steps"] == 1


def test_its_seed_holds_in_a_trainer_that_has_stepped(tmp_path: Path) -> None:
    graph, data = mlp(), batch()
    graph.nodes[-1] = node("Gemm", "d w2 b2", "y", "fc2", transB=1)
    graph.nodes.insert(-1, node("Dropout", "r", "d", "drop"))
    one, other = (nbconv.Trainer(model(graph), seed=seed) for seed in (1, 2))
    one.save_checkpoint(tmp_path / "c")
    loss = one.step(*data)
    assert other.step(*data) != loss
    other.load_checkpoint(tmp_path / "c")
    assert other.step(*data) == loss


def test_ours_reads_theirs(tmp_path: Path) -> None:
    arrays = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in ARRAYS.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "c", METADATA)
    found, metadata = read_tensors(tmp_path / "c")
    same(found, arrays)
    assert metadata == METADATA
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "c")
    with pytest.raises(ValueError, match="float32"):
        read_tensors(tmp_path / "c")


WHOLE = written({"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 1), np.float32)}, {"k": "v"})
HEADER = WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")]
TOLD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The file with a few bytes changed, or words of its header."""
    data = bytearray(WHOLE)
    if draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(list(b'0123489-.e"[]{},: \xff')))
        return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])
    words = ["16", "0", "24", "4", "2", "F32", '"a"', '"b"', "{", "[4]", "[2, 1]", "[0, 16]", "[16, 24]", '"shape"', '"v"']
    old, new = draw(st.sampled_from(words)), draw(st.sampled_from([*words, "-1", "1.0", "I32", "null", "true", "1e400"]))
    header = HEADER.decode().replace(old, new, draw(st.integers(1, 2))).encode()
    return len(header).to_bytes(8, "little") + header + bytes(data[8 + len(HEADER) :])


def verdicts(data: bytes, path: Path) -> tuple[dict[str, np.ndarray] | None, dict[str, np.ndarray] | None]:
    """What ours and theirs make of a file; None where it is refused."""
    path.write_bytes(data)
    try:
        ours = read_tensors(path)[0]
    except ValueError:
        ours = None
    try:
        theirs = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, OverflowError):
        theirs = None
    return ours, theirs


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=damaged())
def test_what_theirs_refuses_so_does_ours(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, theirs = verdicts(data, tmp_path_factory.getbasetemp() / "damaged")
    if ours is not None:
        assert theirs is not None
        same(ours, theirs)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**TOLD, "data_offsets": [4, 12]}},
        {"a": TOLD, "b": TOLD},
        {"a": {**TOLD, "shape": [-1]}},
        {"a": {**TOLD, "shape": [2, 2]}},
        {"a": {**TOLD, "data_offsets": [0, 16]}},
        {"a": {**TOLD, "data_offsets": [8, 0]}},
        {"a": TOLD, "__metadata__": {"k": 1}},
        {"a": TOLD, "__metadata__": []},
        [],
    ],
)
def test_refused(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    assert verdicts(len(text).to_bytes(8, "little") + text + bytes(8), tmp_path / "c") == (None, None)


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    entry = json.dumps(TOLD)
    text = f'{{"a": {entry}, "a": {entry}}}'.encode()
    assert verdicts(len(text).to_bytes(8, "little") + text + bytes(8), tmp_path / "c")[0] is None


NUMPY_ALONE = """
import sys
lacking = ("numba", "llvmlite", "onnx", "google", "PIL", "safetensors", "onnxruntime")
if sys.argv[1] == "alone":
    sys.modules.update(dict.fromkeys(lacking))  # imports of these fail
import numpy as np
import nbconv
model, path = sys.argv[2:]
x, y = np.random.default_rng(0).standard_normal((6, 2, 7, 9), np.float32), np.arange(6) % 3
def trainer():
    return nbconv.Trainer(nbconv.load(model, threads=1), optimizer=nbconv.Adam(0.01), seed=1)
first = trainer()
first.step(x, y)
first.save_checkpoint(path)
losses = [first.step(x, y) for _ in range(2)]
second = trainer()
second.load_checkpoint(path)
assert losses == [second.step(x, y) for _ in range(2)]
print(losses, [name for name in lacking if sys.modules.get(name)] if sys.argv[1] == "alone" else [])
"""


def test_a_device_trains_with_numpy_alone(tmp_path: Path) -> None:
    """Where the caches were filled, steps, checkpoints and going on from one need no other package."""
    file = tmp_path / "m.onnx"
    nbconv.save(convolutional(), file)
    outputs = []
    for where in ("filling", "alone"):
        command = [sys.executable, "-c", NUMPY_ALONE, where, str(file), str(tmp_path / "c")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ})
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and outputs[0].endswith(" []\n")
