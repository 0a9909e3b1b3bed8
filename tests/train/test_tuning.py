"""finetune's tasks, and that its command has what the call has: options, a file of them, a dry run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbconv
from nbconv.cli import main
from nbconv.edit.meaning import meaning
from nbconv.graph import Graph, Spec
from nbconv.train import schedules, tuning
from tests.train.models import F32, batch, convolutional, mlp, model, node
from tests.train.test_meaning import averaging, coloured


def pixels() -> Graph:
    """(n, 3, h, w) to (n, 2, h, w): a class a pixel."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w b", "h", "conv", pads=(1, 1, 1, 1)),
        node("Relu", "h", "r"),
        node("Conv", "r v c", "y", "head"),
    ]
    sizes = {"w": (4, 3, 3, 3), "b": (4,), "v": (2, 4, 1, 1), "c": (2,)}
    constants = {n: (rng.standard_normal(s) * 0.3).astype(np.float32) for n, s in sizes.items()}
    return Graph(nodes, {"x": Spec(("n", 3, 8, 8), F32)}, {"y": Spec(("n", 2, 8, 8), F32)}, constants)


def halves(folder: Path) -> Path:
    """Pictures that are bright at one side, and masks that say where."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(12):
        mask = np.zeros((8, 8), np.uint8)
        mask[:, : rng.integers(2, 7)] = 1
        x = np.repeat((mask * 150 + rng.integers(0, 60, (8, 8)))[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(x).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
    return folder


def test_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nbconv.save(pixels(), tmp_path / "m.onnx")
    data, out = halves(tmp_path / "d"), tmp_path / "m2.onnx"
    command = ["finetune", str(tmp_path / "m.onnx"), str(data), "-o", str(out), "--epochs", "40", "--lr", "0.05"]
    assert main([*command, "--batch", "4", "--layers", "all", "--schedule", "cosine", "--task", "segment"]) == 0
    said = re.search(r"held-out jaccard (\S+) before, (\S+) after", capsys.readouterr().out)
    assert said is not None and float(said[2]) > 0.9 > float(said[1])
    assert main([*command, "--metrics", "iou,f1", "--epochs", "1", "-o", str(tmp_path / "m3.onnx")]) == 0
    assert re.fullmatch(r"epoch 1/1 loss \S+ .*iou \S+ .*val_iou \S+ val_f1 \S+.*\n", capsys.readouterr().err)
    told = meaning(nbconv.load(out).graph.metadata)
    assert told.task == "segment" and told.metrics["jaccard"] > 0.9
    assert main(["run", str(out), str(data / "images" / "0.png")]) == 0
    shares = [float(line.split("%")[0]) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert sum(shares) == pytest.approx(100, abs=0.1)


def test_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, _ = batch(40)
    y = x.mean(axis=(1, 2, 3)) * 2 + 1
    np.savez(tmp_path / "d.npz", x=x, y=y.astype(np.float32))
    nbconv.save(mlp(), tmp_path / "m.onnx")
    command = ["finetune", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "-o", str(tmp_path / "m2.onnx"), "--std", "1"]
    assert main([*command, "--task", "regress", "--layers", "all", "--lr", "0.02", "--epochs", "40", "--loss", "mse"]) == 0
    said = re.search(r"held-out loss (\S+) before, (\S+) after", capsys.readouterr().out)
    assert said is not None and float(said[2]) < 0.2 * float(said[1])
    assert nbconv.load(tmp_path / "m2.onnx")(x).shape == (40, 1)
    before = sorted(tmp_path.iterdir())
    for option in ("--html", "--png"):
        assert main([*command[:4], str(tmp_path / "m3.onnx"), "--task", "regress", option, str(tmp_path / "c")]) == 2
        said = capsys.readouterr().err
        assert "there is no confusion matrix of such targets" in said and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert main([*command, "--task", "detect"]) == 2
    assert "task is 'detect', and the targets are no boxes" in capsys.readouterr().err
    assert main([*command, "--task", "segment"]) == 2
    assert "the targets are no masks" in capsys.readouterr().err
    assert main([*command, "--size", "9x9"]) == 2
    assert "size is 9x9, and the model takes pictures of 4x4 alone: leave size out" in capsys.readouterr().err


def test_a_file_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over the file, and both give the bits of the call."""
    pytest.importorskip("tomllib")
    monkeypatch.chdir(tmp_path)
    data = coloured(tmp_path / "data")
    nbconv.save(averaging(), "m.onnx")
    Path("tune.toml").write_text(
        'model = "m.onnx"\ndata = "data"\nout = "m2.onnx"\nepochs = 9\nbatch = 6\nlr = 0.05\nlayers = "all"\n'
        'mean = [124, 116, 104]\nstd = 60\nsize = "12x16"\nschedule = "cosine"\nbalance = 1.0\npatience = 3\n'
        'resume = "c.safetensors"\n'
        'memory-mb = 20\nchannels = 3\nlayout = "NCHW"\nloss = "cross_entropy"\nrepair = false\ntask = "classify"\n'
        'optimizer = "adamw"\n'
    )
    assert main(["finetune", "--config", "tune.toml", "--epochs", "4"]) == 0
    report = nbconv.finetune(
        "m.onnx", data, "m3.onnx", epochs=4, batch_size=6, optimizer=nbconv.AdamW(0.05), layers="all", mean=(124, 116, 104),
        std=60, size=(12, 16), schedule="cosine", balance=1.0, patience=3, memory_mb=20, channels=3, layout="NCHW",
    )  # fmt: skip
    theirs, ours = (nbconv.load(name).graph.constants for name in ("m2.onnx", "m3.onnx"))
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)
    assert len(report.history["lr"]) == 4 and report.history["lr"][-1] < 0.03
    capsys.readouterr()
    assert main(["finetune", "--config", "tune.toml", "--repair"]) == 2
    assert "repair: no convolution with a bias trains" in capsys.readouterr().err
    for line, message in (
        ("epoch = 3", "tune.toml: there is no option 'epoch'"),
        ("epochs = 0", "tune.toml: epochs: '0': wanted a positive integer"),
        ("repair = 1", "tune.toml: repair is 1, wanted true or false"),
        ('schedule = "sine"', "tune.toml: schedule is 'sine', wanted one of"),
        ("epochs =", "tune.toml is no TOML file"),
    ):
        Path("tune.toml").write_text(line)
        assert main(["finetune", "m.onnx", "data", "-o", "m4.onnx", "--config", "tune.toml"]) == 2
        assert capsys.readouterr().err.startswith(f"nbconv: {message}")
    assert main(["finetune", "m.onnx"]) == 2
    assert "the data and the out are not given" in capsys.readouterr().err
    assert not Path("m4.onnx").exists()


@pytest.mark.parametrize("layers", ["head", "all"])
def test_a_dry_run(layers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coloured(tmp_path / "data")
    nbconv.save(averaging(), tmp_path / "m.onnx")
    before = sorted(p.name for p in tmp_path.iterdir())
    command = ["finetune", str(tmp_path / "m.onnx"), str(data), "--size", "12x16", "--layers", layers, "--batch", "6"]
    assert main([*command, "--dry-run", "--schedule", "cosine"]) == 0
    out = capsys.readouterr().out
    count = 27 if layers == "head" else 51
    assert f"trains   {count} of 51 parameters: " in out and "steps an epoch" in out and "MiB for a step" in out
    assert ("once " in out) == (layers == "head")
    assert "nothing was trained or written" in out and sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_rehearsal_changes_nothing() -> None:
    from nbconv.train.rehearsal import rehearse

    x, y = batch(20, (2, 7, 9))
    data = nbconv.Arrays(x, y)
    for trainable in ("all", "head"):
        trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01), trainable=trainable)
        plain = nbconv.Trainer(model(convolutional()), optimizer=nbconv.Adam(0.01), trainable=trainable)
        found = rehearse(trainer, data, data, 6)
        assert found.steps == 4 and found.epoch_s > 0 and found.activations_mb > 0
        assert trainer.steps == 0
        assert dict(trainer.fit(data, data, batch_size=6)) == dict(plain.fit(data, data, batch_size=6))
        for name, value in plain.state.items():
            np.testing.assert_array_equal(trainer.state[name], value)


@pytest.mark.parametrize("name", schedules.NAMES)
def test_schedules_by_name(name: str) -> None:
    x, y = batch(8)
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1), schedule=name)
    with pytest.raises(ValueError, match=f"schedule '{name}', a name, goes over the epochs of fit"):
        trainer.step(x, y)
    rates: list[float] = []

    class Rates(nbconv.Callback):
        def batch_end(self, trainer, logs) -> None:
            rates.append(trainer.lr)

    trainer.fit((x, y), epochs=4, batch_size=4, callbacks=[Rates()])
    assert len(rates) == 8 and (len(set(rates)) > 1) == (name not in ("constant", "plateau"))
    assert 0 <= min(rates) <= max(rates) <= 0.1 + 1e-9
    with pytest.raises(ValueError, match="schedule is 'sine', wanted one of constant, cosine"):
        nbconv.Trainer(model(mlp()), schedule="sine")
    assert set(tuning.LOSSES) == set(tuning.METRICS)


def test_the_commands_choices_are_what_there_is() -> None:
    """They stand in the command itself, which imports no training to show its help."""
    from nbconv.commands import finetune as command
    from nbconv.train import goals, optimizers, schedules

    assert command.SCHEDULES == schedules.NAMES
    assert set(command.LOSSES) < set(goals.LOSSES)
    assert all(issubclass(getattr(optimizers, name), optimizers.Optimizer) for name in command.OPTIMIZERS.values())
