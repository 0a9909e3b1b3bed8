"""Other libraries' data, known by what it can do: none of them is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from nbconv.base.image import load_image
from nbconv.train.data.base import Batch, Data, kind_named, layout_named, scale, targets
from nbconv.train.data.pictures import Pictures
from nbconv.train.targets import Weighted, joined, samples

SAMPLES = ("image", "images", "img", "pixel_values", "picture", "x", "input", "inputs", "audio", "features")
TARGETS = ("label", "labels", "target", "targets", "y", "class", "fine_label", "annotation", "mask")


def array(value: Any) -> np.ndarray:
    """An array of an array, a tensor, or numbers."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach()
        value = value.cpu() if hasattr(value, "cpu") else value
        try:
            value = value.numpy()
        except TypeError:  # bfloat16, which NumPy has not
            value = value.float().numpy()
    return np.asarray(value)


def pair(item: Any, what: str) -> tuple[Any, Any]:
    """(sample, target) of an item or a batch: two things, or a dict with usual names. ValueError, with ``what``, else."""
    if isinstance(item, Mapping):
        keys = [next((k for k in names if k in item), None) for names in (SAMPLES, TARGETS)]
        if None in keys:
            missing = "sample" if keys[0] is None else "target"
            raise ValueError(f"{what} has {', '.join(map(str, item))}: none is called as a {missing} usually is")
        return item[keys[0]], item[keys[1]]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        got = f"{len(item)} things" if isinstance(item, (tuple, list)) else type(item).__name__
        raise ValueError(f"{what} is {got}, wanted a pair: samples and targets")
    return item[0], item[1]


def as_batches(given: Iterable[Any] | Callable[[], Iterable[Any]]) -> Iterator[tuple[Any, Any]]:
    """The batches of an iterable, or of what a function returns, as arrays (or dicts of them); the third thing of a batch,
    where there is one, is the weights of its samples."""
    source = given if isinstance(given, Iterable) else given()
    for k, batch in enumerate(source):
        weights = None
        if isinstance(batch, (tuple, list)) and len(batch) == 3:
            batch, weights = batch[:2], batch[2]
        x, y = pair(batch, f"batch {k} of the data")
        yield _arrays(x), _arrays(y) if weights is None else Weighted(_arrays(y), array(weights))


def gathered(pairs: Iterator[tuple[Any, Any]], count: int) -> Iterator[tuple[Any, Any, int]]:
    """So many batches as one, fewer at the end, with the samples of the largest; with 0 where one is not of several."""
    while batches := list(islice(pairs, count)):
        x, y = [x for x, _ in batches], [y for _, y in batches]
        if count == 1:
            yield *batches[0], 0
        elif isinstance(x[0], Mapping):
            yield {n: np.concatenate([part[n] for part in x]) for n in x[0]}, joined(y), max(map(samples, y))
        else:
            yield np.concatenate(x), joined(y), max(map(samples, y))


def _arrays(value: Any) -> Any:
    return {name: array(v) for name, v in value.items()} if isinstance(value, Mapping) else array(value)


def is_dataset(given: Any) -> bool:
    """Whether it gives its items by number, as PyTorch's and Hugging Face's data sets do; what can be gone through without
    being Hugging Face's is batches."""
    if isinstance(given, (str, bytes, tuple, list, Mapping, np.ndarray)) or hasattr(given, "__array__"):
        return False
    by_number = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    return by_number and (not isinstance(given, Iterable) or hasattr(given, "features"))


def from_dataset(
    dataset: Any,
    *,
    image: str | None = None,
    label: str | None = None,
    size: tuple[int, int] | None = None,
    mean: Any = None,
    std: Any = None,
    channels: int | None = None,
    resize: str = "crop",
    classes: Sequence[str] = (),
    layout: str = "auto",
    kind: str = "auto",
) -> Items:
    """A data set that gives its items by number: PyTorch's ``Dataset``, Hugging Face's, or any object with ``len`` and
    ``[i]``. `Trainer.fit` takes them as they are; this says more.

    Items are pairs of sample and target, or dicts; ``image`` and ``label`` are then the keys, by default those with usual
    names. A sample is a PIL image or uint8 (h, w, 3), resized and normalised as `Pictures` says (``std`` 255 unless given),
    a tensor (c, …), or a float array as the model takes it. ``classes``: by default what the data set says. Items are read
    one after the other, in any order: what is random in the data set itself is not decided by the trainer's seed.
    """
    return Items(dataset, image, label, size, mean, std, channels, resize, classes, layout, kind)


class Items(Data):
    """See `from_dataset`."""

    def __init__(
        self,
        dataset: Any,
        image: str | None,
        label: str | None,
        size: tuple[int, int] | None,
        mean: Any,
        std: Any,
        channels: int | None,
        resize: str,
        classes: Sequence[str],
        layout: str,
        kind: str,
    ) -> None:
        self.dataset = dataset
        if not len(dataset):
            raise ValueError("the data set is empty")
        self.keys = _columns(dataset, image, label)
        sample, target = self._item(0)
        names = tuple(map(str, classes)) or _names(dataset, self.keys[1])
        known = _labels(dataset, self.keys[1])
        if known is None and isinstance(target, str):
            known = [self._item(i)[1] for i in range(len(dataset))]
        if known is not None:
            self.labels, self.classes = targets(known, names)
        else:
            self.classes = names
        self.pictures = _is_image(sample)
        self.size, self.channels, self.resize = size, channels, resize
        self.layout, self.kind = layout_named(layout), kind_named(kind)
        self.mean, self.std = scale(
            0.0 if mean is None else mean, std if std is not None else 255.0 if self.pictures else 1.0
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def _open(self, name: str) -> bool:
        return super()._open(name) or (self.pictures and name in ("size", "channels") and getattr(self, name) is None)

    def _item(self, i: int) -> tuple[Any, Any]:
        item = self.dataset[i]
        if isinstance(item, Mapping) and self.keys[0] in item and self.keys[1] in item:
            return item[self.keys[0]], item[self.keys[1]]
        return pair(item, f"item {i} of the data set")

    def read(self, numbers: np.ndarray) -> Batch:
        found = [self._item(int(i)) for i in numbers]
        try:
            x = np.stack([self._sample(sample) for sample, _ in found])
        except ValueError as error:
            raise ValueError(f"items {', '.join(map(str, numbers[:5]))} … of the data set: {error}") from None
        if hasattr(self, "labels"):
            return x, self.labels[numbers]
        return x, targets(np.stack([array(target) for _, target in found]))[0]

    def _sample(self, sample: Any) -> np.ndarray:
        """(c, …) float32."""
        if self.pictures:
            if self.size is None:
                raise ValueError("pictures want size=(height, width), the model does not say its own")
            picture = sample if hasattr(sample, "getexif") else _drawn(array(sample))
            options: dict[str, Any] = {"mean": 0.0, "std": 1.0, "channels": self.channels or 3, "resize": self.resize}
            return load_image(picture, self.size, **options)[0]
        x = np.asarray(array(sample), np.float32)
        return np.moveaxis(x, -1, 0) if self.layout == "NHWC" and x.ndim > 1 and not hasattr(sample, "detach") else x


def _is_image(sample: Any) -> bool:
    if hasattr(sample, "getexif"):
        return True
    x = sample if isinstance(sample, np.ndarray) else None
    return x is not None and x.dtype == np.uint8 and (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3)))


def _drawn(x: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x)


def _columns(dataset: Any, image: str | None, label: str | None) -> tuple[str | None, str | None]:
    """The keys of samples and targets, where items are dicts."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        first = dataset[0]
        if not isinstance(first, Mapping):
            return image, label
        features = dict.fromkeys(first)
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    for name, argument in ((image, "image"), (label, "label")):
        if name is not None and name not in kinds:
            raise ValueError(f"{argument} is {name!r}, the data set has {', '.join(kinds)}")
    image = image or next((n for n, kind in kinds.items() if kind == "Image"), None)
    image = image or next((n for n in SAMPLES if n in kinds), None)
    labels = [n for n, kind in kinds.items() if kind == "ClassLabel"]
    label = label or (labels[0] if len(labels) == 1 else next((n for n in TARGETS if n in kinds), None))
    if image is None or label is None:
        raise ValueError(f"the data set has {', '.join(kinds)}: say which are the samples and targets, image=…, label=…")
    return image, label


def _names(dataset: Any, label: str | None) -> tuple[str, ...]:
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        return tuple(map(str, getattr(features.get(label), "names", None) or ()))
    inner = dataset if hasattr(dataset, "classes") else getattr(dataset, "dataset", None)  # a Subset's
    names = getattr(inner, "classes", None)
    return tuple(names) if isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names) else ()


def _labels(dataset: Any, label: str | None) -> Any:
    """All targets, where the data set has them at hand, unchanged."""
    if isinstance(getattr(dataset, "features", None), Mapping):
        values = list(dataset[label])
        return values if values and isinstance(values[0], (int, str, float)) else None
    found = getattr(dataset, "targets", None)
    if found is None or getattr(dataset, "target_transform", None) is not None:
        return None
    found = array(found)
    return found if found.shape == (len(dataset),) and found.dtype.kind == "i" else None


def frame(given: Any, **options: Any) -> Pictures | None:
    """What a pandas frame names, by the usual names of columns; None for other things. Options are those of `image_list`."""
    from nbconv.train.data.table import image_list

    return image_list(given, **options) if hasattr(given, "columns") and hasattr(given, "iloc") else None
