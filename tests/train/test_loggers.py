"""Event files as TensorBoard reads them, and callbacks of packages that are not there."""

from __future__ import annotations

import struct
import sys
import types
import warnings
from pathlib import Path

import pytest

import nbconv
from nbconv.train.loggers import crc32c
from tests.train.models import batch, mlp, model


def test_checksums_are_the_standards() -> None:
    """RFC 3720, B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


def fields(data: bytes) -> list[tuple[int, object]]:
    """(number, value) of a message's fields."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        n, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value: object = varint()
        elif key & 7 == 2:
            size = varint()
            value = data[at : at + size]
            at += size
        else:
            size, kind = (8, "<d") if key & 7 == 1 else (4, "<f")
            value = struct.unpack(kind, data[at : at + size])[0]
            at += size
        found.append((key >> 3, value))
    return found


def test_events(tmp_path: Path) -> None:
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    history = trainer.fit(
        batch(), batch(), epochs=200, batch_size=12, callbacks=[nbconv.TensorBoard(tmp_path / "t", every=50)]
    )
    (path,) = (tmp_path / "t").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    data, at, scalars = path.read_bytes(), 0, {}
    while at < len(data):
        (size,) = struct.unpack("<Q", data[at : at + 8])
        record = data[at + 12 : at + 12 + size]
        for part, place in ((data[at : at + 8], at + 8), (record, at + 12 + size)):
            crc = crc32c(part)
            wanted = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", data[place : place + 4])[0] == wanted
        event = dict(fields(record))
        for _, value in fields(event.get(5, b"")):  # type: ignore[arg-type]
            scalar = dict(fields(value))  # type: ignore[arg-type]
            scalars[scalar[1].decode(), event[2]] = scalar[2]  # type: ignore[union-attr]
        at += 16 + size
    for k in (0, 150, 199):
        assert scalars["epoch/val_loss", k + 1] == pytest.approx(history["val_loss"][k], rel=1e-6)
    assert [n for name, n in scalars if name == "step/loss"] == [50, 100, 150, 200]
    with pytest.raises(ValueError, match="every is 0"):
        nbconv.TensorBoard(tmp_path, every=0)


@pytest.mark.parametrize(("name", "package"), [("MLflow", "mlflow"), ("WandB", "wandb")])
def test_packages_of_others(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"{name} wants {package}: pip install {package}"):
        getattr(nbconv, name)()
    told: list[tuple[dict, int]] = []
    fake = types.SimpleNamespace(
        log=lambda numbers, step: told.append((numbers, step)),
        log_metrics=lambda numbers, step: told.append((numbers, step)),
    )
    monkeypatch.setitem(sys.modules, package, fake)
    history = nbconv.Trainer(model(mlp())).fit(batch(), epochs=2, callbacks=[getattr(nbconv, name)()])
    assert [(numbers["loss"], step) for numbers, step in told] == list(zip(history["loss"], (0, 1)))


def test_a_plot_of_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = nbconv.Trainer(model(mlp())).lr_find(batch(), steps=20)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        with pytest.raises(ImportError, match="plot wants matplotlib"):
            found.plot(tmp_path / "r.png")
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_warnings_that_teach(tmp_path: Path) -> None:
    from tests.train.test_meaning import averaging, coloured

    data = nbconv.image_folder(coloured(tmp_path), size=(8, 8))
    trainer = nbconv.Trainer(model(averaging()), "cross_entropy", trainable="all")
    trainer.model.replace_head(3)
    trainer = nbconv.Trainer(trainer.model)
    train, held = data.split(0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(train, held)
    with pytest.warns(UserWarning, match=f"{len(held)} files are in the training data and in the validation data"):
        trainer.fit(data, held)
    x, _ = batch(24)
    rising = nbconv.Trainer(model(mlp()), "mse", nbconv.SGD(20.0))
    with pytest.warns(UserWarning, match="the loss rises, from .* the learning rate 20 may be too high"):
        rising.fit((x, x.reshape(24, 16)[:, :3]), epochs=8, batch_size=24, callbacks=[nbconv.TerminateOnNaN()])
