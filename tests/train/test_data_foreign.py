"""Data of other libraries, by what they can do: stand-ins with their interfaces, and PyTorch itself where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import nbconv
from nbconv.edit.pictured import PictureInput
from nbconv.train.data import as_data
from tests.train.models import batch, mlp, model


class Tensor:
    """As much of PyTorch's as is asked for."""

    def __init__(self, value: Any, half: bool = False) -> None:
        self.value, self.half = np.asarray(value), half

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.value)

    def numpy(self) -> np.ndarray:
        if self.half:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.value


class Listed:
    """A map-style data set."""

    def __init__(self, items: list, **more: Any) -> None:
        self.items = items
        self.__dict__.update(more)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class ClassLabel:
    names = ["cat", "dog"]


class HuggingFace(Listed):
    def __init__(self, columns: dict[str, list], features: dict[str, Any]) -> None:
        super().__init__([dict(zip(columns, row)) for row in zip(*columns.values())], features=features)
        self.columns_ = columns

    def __getitem__(self, i: Any) -> Any:
        return self.columns_[i] if isinstance(i, str) else self.items[i]

    def __iter__(self):
        return iter(self.items)


class Loader:
    """Goes through batches anew each time, and knows no numbers."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def losses(data: Any, epochs: int = 2, **options: Any) -> list[float]:
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    return trainer.fit(data, epochs=epochs, batch_size=4, shuffle=False, **options)["loss"]


def test_the_same_samples_are_the_same_training() -> None:
    """Whatever brings them."""
    x, y = batch(8)
    wanted = losses((x, y))
    parts = [(x[k : k + 4], y[k : k + 4]) for k in (0, 4)]
    for data in [
        Listed([(Tensor(a), int(b)) for a, b in zip(x, y)]),
        Listed([(a, Tensor(b)) for a, b in zip(x, y)], targets=Tensor(y)),
        Listed([{"pixel_values": a, "labels": b} for a, b in zip(x, y)]),
        Loader(parts), Loader([list(map(Tensor, p)) for p in parts]), lambda: iter(parts),
        Loader([{"image": Tensor(a), "label": Tensor(b)} for a, b in parts]),
    ]:  # fmt: skip
        assert losses(data) == wanted
    halves = Loader([(Tensor(a, half=True), Tensor(b)) for a, b in parts])
    assert losses(halves) == wanted
    trainer = nbconv.Trainer(model(mlp()))
    wanted_ = trainer.evaluate((x, y))
    assert trainer.evaluate(Loader(parts), 4)["accuracy"] == wanted_["accuracy"]
    assert trainer.evaluate(Listed([(Tensor(a), int(b)) for a, b in zip(x, y)]))["loss"] == wanted_["loss"]


def test_pictures_of_hugging_face() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (4, 6, 5, 3), np.uint8)
    columns = {"id": list("abcd"), "img": [Image.fromarray(p) for p in pixels], "fine": [0, 1, 1, 0]}
    given = HuggingFace(columns, {"id": None, "img": type("Image", (), {})(), "fine": ClassLabel()})
    data = as_data(given)
    assert data is not None and data.classes == ("cat", "dog") and data.labels.tolist() == [0, 1, 1, 0]
    bound = data.bound(PictureInput("NHWC", (6, 5), 3))
    np.testing.assert_allclose(bound.batch(np.array([2, 0]))[0], pixels[[2, 0]] / np.float32(255))
    sized = nbconv.from_dataset(given, image="img", label="fine", size=(3, 4), mean=1, std=2, channels=1)
    assert sized.batch(np.arange(4))[0].shape == (4, 1, 3, 4) and len(sized.split(0.5)[0]) == 2
    with pytest.raises(ValueError, match="label is 'kind', the data set has id, img, fine"):
        nbconv.from_dataset(given, label="kind")
    texts = HuggingFace({"image": columns["img"], "label": ["b", "a", "b", "b"]}, {"image": None, "label": None})
    assert nbconv.from_dataset(texts).classes == ("a", "b")
    report = nbconv.finetune(
        model(mlp()),
        {"train": (pixels[:, :4, :4, 0], [0, 1, 0, 1]), "validation": (pixels[:2, :4, :4, 0], [0, 1])},
        epochs=1,
    )
    assert report.confusion.sum() == 2


def test_a_frame_is_a_list_of_pictures(tmp_path) -> None:
    class Frame(dict):
        iloc = None
        columns = property(lambda self: list(self))

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    data = as_data(Frame(path=[str(tmp_path / "a.png")] * 2, label=np.array([3, 5])))
    assert isinstance(data, nbconv.Pictures) and data.classes == ("3", "5")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Listed([]), "the data set is empty"),
        (Listed([3]), "item 0 of the data set is int, wanted a pair"),
        (Listed([{"a": 1, "b": 2}]), "the data set has a, b: say which are the samples and targets"),
        (Listed([(np.zeros((1, 4, 4)), 0), (np.zeros((1, 5, 4)), 0)]), "of the data set: all input arrays must have"),
        (Loader([{"image": 1}]), "batch 0 of the data has image: none is called as a target usually is"),
        (Loader([(1, 2, 3, 4)]), "batch 0 of the data is 4 things, wanted a pair"),
        ({"train": (1, 2), "val": 3}, r"train is splits, train, val: give one"),
    ],
)
def test_what_cannot_be_read(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nbconv.Trainer(model(mlp())).fit(given)


def test_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x, y = batch(8)
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    wanted = losses((x, y))
    assert losses(dataset) == losses(torch.utils.data.DataLoader(dataset, batch_size=4)) == wanted
    assert losses(torch.utils.data.Subset(dataset, range(8)), validation=dataset) == wanted
