"""Epochs: cached features, callbacks, order of data; checkpoints, and going on from one as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.train import checkpoint, schedules
from nbconv.train.data import Arrays, batches, order, prefetch
from tests.train.models import batch, convolutional, mlp, model


def trained(tmp_path: Path, epochs: int = 4, **options) -> nbconv.Trainer:
    x, y = batch(20, (2, 7, 9))
    optimizer = nbconv.Adam(0.01)
    trainer = nbconv.Trainer(model(convolutional()), optimizer=optimizer, schedule=schedules.Plateau(0.5, 0), seed=3)
    trainer.fit((x, y), (x, y), epochs=epochs, batch_size=6, augment=nbconv.Augment(flip=0.5, crop=1), **options)
    return trainer


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    whole = trained(tmp_path)
    path = tmp_path / "c.safetensors"

    class Stop(nbconv.ModelCheckpoint):
        def batch_end(self, trainer, logs) -> None:
            super().batch_end(trainer, logs)
            if trainer.steps == 7:  # in the midst of the second epoch
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, callbacks=[Stop(path, every=7)], resume=path)
    again = trained(tmp_path, callbacks=[nbconv.ModelCheckpoint(path, every=7)], resume=path)
    assert again.steps == whole.steps == 16
    assert dict(again.run.history) == dict(whole.run.history)
    for name, value in whole.state.items():
        np.testing.assert_array_equal(again.state[name], value, err_msg=name)


def test_cached_features_are_the_same_training() -> None:
    x, y = batch(20, (2, 7, 9))
    trainers = [nbconv.Trainer(model(convolutional()), optimizer=nbconv.SGD(0.1), trainable="head") for _ in range(2)]
    histories = [t.fit((x, y), (x, y), epochs=3, batch_size=6, cache=c) for t, c in zip(trainers, (True, False))]
    assert [h.report["cached"] for h in histories] == [True, False]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(histories[0]["val_loss"], histories[1]["val_loss"], rtol=1e-5)
    with pytest.raises(ValueError, match="cached features and augmentation exclude each other"):
        trainers[0].fit((x, y), cache=True, augment=nbconv.Augment(flip=0.5))
    with pytest.raises(ValueError, match="nothing to cache: the first layer trains"):
        nbconv.Trainer(model(convolutional())).fit((x, y), cache=True)


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val_map50", "max"), ("val_map", "max"), ("val_iou", "max"), ("out_top5", "max"), ("val_loss", "min"), ("mae", "min")],
)
def test_what_is_better_goes_by_the_metric(monitor: str, mode: str) -> None:
    assert nbconv.EarlyStopping(monitor).mode == mode


def test_callbacks(tmp_path: Path) -> None:
    x, y = batch(30)
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(1e-9))
    log = tmp_path / "log.csv"
    stop = nbconv.EarlyStopping(patience=2, least=0.1)
    slower = nbconv.ReduceLROnPlateau(patience=0, factor=0.5, least=0.1)
    history = trainer.fit((x, y), (x, y), epochs=9, callbacks=[stop, slower, nbconv.CSVLogger(log)])
    assert len(history["loss"]) == 3
    assert trainer.lr_scale == 0.25
    assert len(log.read_text().splitlines()) == 4
    with pytest.raises(ValueError, match="EarlyStopping watches 'val_loss', there is"):
        trainer.fit((x, y), callbacks=[nbconv.EarlyStopping()])
    wrong = np.full_like(x, np.inf)
    assert trainer.fit((wrong, y), callbacks=[nbconv.TerminateOnNaN()]) == {}
    with pytest.raises(nbconv.NonFiniteLoss):
        trainer.fit((wrong, y))
    found = nbconv.Trainer(model(mlp())).lr_find((x, y), steps=40, most=10.0)
    assert 1e-6 < found["suggestion"] < 10


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()
    trainer, path = nbconv.Trainer(model(mlp())), tmp_path / "c"
    trainer.save_checkpoint(path)
    kept = path.read_bytes()
    trainer.step(x, y)

    def full(file, arrays, metadata) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        with pytest.raises(OSError, match="No space"):
            trainer.save_checkpoint(path)
    assert path.read_bytes() == kept and os.listdir(tmp_path) == ["c"]
    trainer.load_checkpoint(path)
    assert trainer.steps == 0
    path.write_bytes(kept[:-4])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        trainer.load_checkpoint(path)
    other = nbconv.Trainer(model(mlp()), optimizer=nbconv.Adam())
    path.write_bytes(kept)
    with pytest.raises(ValueError, match="of another training"):
        other.load_checkpoint(path)


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"__metadata__": {"nbconv": "' + b"[" * 100_000 + b'"}}'])
def test_deeply_nested_headers_are_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"no whole safetensors file|no checkpoint of nbconv's"):
        nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1)).load_checkpoint(path)


KILLED = """
import builtins, os, signal, sys
import nbconv
from nbconv.base import files
from tests.train.models import batch, mlp, model
at, path, seen = int(sys.argv[1]), sys.argv[2], 0
def point():
    global seen
    seen += 1
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)
def guarded(f):
    def call(*a, **k):
        point()
        return f(*a, **k)
    return call
class File:
    def __init__(self, file): self.file = file
    def write(self, data):
        self.file.write(data[: len(data) // 2]); self.file.flush(); point(); self.file.write(data[len(data) // 2 :])
    def __getattr__(self, name): return getattr(self.file, name)
    def __enter__(self): return self
    def __exit__(self, *a): self.file.close()
files.open = lambda p, mode: File(builtins.open(p, mode))
os.fsync, os.replace = guarded(os.fsync), guarded(os.replace)
trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
trainer.fit(batch(), epochs=12, batch_size=6, resume=path, callbacks=[nbconv.ModelCheckpoint(path, every=1)])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_at_every_write(tmp_path: Path) -> None:
    whole = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    whole.fit(batch(), epochs=12, batch_size=6)
    path, root = tmp_path / "c", Path(__file__).parents[2]
    for at in range(1, 19):  # each write, sync and rename of two checkpoints
        done = subprocess.run([sys.executable, "-c", KILLED, str(at), str(path)], cwd=root, check=False)
        assert done.returncode == -signal.SIGKILL
        if path.exists():
            nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1)).load_checkpoint(path)
    done = subprocess.run([sys.executable, "-c", KILLED, "0", str(path)], cwd=root, check=True)
    again = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    again.load_checkpoint(path)
    assert again.steps == whole.steps == 24
    for name, value in whole.state.items():
        np.testing.assert_array_equal(again.state[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_order_and_batches() -> None:
    y = np.repeat([0, 1, 2], [12, 6, 2])
    data = Arrays(np.arange(20, dtype=np.float32).reshape(20, 1), y)
    assert sorted(order(data, 0, seed=1)) == list(range(20))
    assert not np.array_equal(order(data, 0, 1), order(data, 1, 1))
    np.testing.assert_array_equal(order(data, 2, 1), order(data, 2, 1))
    even = y[order(data, 0, 1, balance=1.0)]
    assert np.bincount(even).tolist() == [7, 7, 7]
    assert all(np.bincount(even[k : k + 6], minlength=3).max() <= 3 for k in range(0, 18, 6))
    got = list(prefetch(batches(data, np.arange(20), 8)))
    assert [len(b[1]) for b in got] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate([b[0] for b in got]), data.x)

    def broken():
        yield data.batch(np.arange(2))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetch(broken()))
    train, held = data.split(0.25, seed=0)
    assert np.bincount(held.labels).tolist() == [3, 2, 1] and len(train) == 14


def test_the_best_weights_outlive_a_stop(tmp_path: Path) -> None:
    """A run that was stopped at any epoch, and one that was not, end with the same bits, whatever stood where."""
    x, y = batch(20, (2, 7, 9))
    other, noise = batch(12, (2, 7, 9)), np.random.default_rng(0).standard_normal((12, 2, 7, 9))
    other = (other[0] + 2 * noise).astype(np.float32), other[1]

    def run(epochs: int, *, path: Path | None = None, first: bool = True) -> nbconv.Trainer:
        trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.SGD(0.3, momentum=0.9), seed=1)
        stop = nbconv.EarlyStopping("val_loss", patience=4, restore_best=True)
        callbacks: list[nbconv.Callback] = [stop] if path is None else [stop, nbconv.ModelCheckpoint(path)]
        trainer.fit(
            (x, y), other, epochs=epochs, batch_size=6, callbacks=callbacks if first else callbacks[::-1], resume=path
        )
        return trainer

    whole = run(12)
    best, stopped = int(np.argmin(whole.run.history["val_loss"])), len(whole.run.history["val_loss"])
    assert 0 < best < stopped - 1 and stopped < 12, "the training has no best epoch before its last"
    for at in (1, 2, 3, 5, 6, stopped):
        path = tmp_path / f"{at}"
        run(at, path=path, first=at % 2 == 1)
        again = run(12, path=path, first=at % 2 == 1)
        assert dict(again.run.history) == dict(whole.run.history), at
        assert again.steps == whole.steps
        for name, value in whole.state.items():
            np.testing.assert_array_equal(again.state[name], value, err_msg=f"{name} after a stop at {at}")


def test_who_hears_of_a_training_that_does_not_begin() -> None:
    """A callback whose beginning raises ends the training with its error; those after it hear nothing, of the end either."""
    heard = []

    class Ear(nbconv.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def begin(self, trainer: Any, logs: dict[str, Any]) -> None:
            heard.append(("begin", self.name))
            if self.name == "b":
                raise ValueError("not today")

        def end(self, trainer: Any, logs: dict[str, Any]) -> None:
            heard.append(("end", self.name))

    with pytest.raises(ValueError, match="not today"):
        nbconv.Trainer(model(mlp())).fit(batch(6), epochs=1, callbacks=[Ear("a"), Ear("b"), Ear("c")], progress=True)
    assert heard == [("begin", "a"), ("begin", "b"), ("end", "a")]
